"""Every form of the model runs, a batch equals its rows, and answers never leak into fused words."""

from typing import Any

import pytest
import torch
from tiny import EMBEDDED, pixels, row, tiny_config, tiny_model
from torch import Tensor

from llava_mini import LlavaMiniForConditionalGeneration
from llava_mini.errors import InputError

FORMS: dict[str, dict[str, Any]] = {
    "all_tokens": {"compression": "none", "fusion_layers": 0},
    "compression_only": {"fusion_layers": 0},
    "released": {},
    "released_wide": {"compression_size": 2},
    "paper": {"compression_first": False, "compression_attention": "plain", "fuse_compressed": False},
    "average": {"compression": "average", "compression_size": 2},
    "high_resolution": {"tiles": 2, "compression_size": 2},
    "embedded": EMBEDDED,
}
TOKENS = {"all_tokens": 16, "released_wide": 4, "average": 4, "high_resolution": 4}
Rows = list[tuple[Tensor, Tensor | None]]


def form(name: str, **changes: Any) -> LlavaMiniForConditionalGeneration:
    return tiny_model(**{**FORMS[name], **changes})


def asked(model: LlavaMiniForConditionalGeneration, frames: int, words: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids `(1, L)` and pixels of one row."""
    ids = row(frames, words, tokens_per_frame=model.config.tokens_per_frame, seed=seed)
    return ids, pixels(frames, model.config.parts_per_frame, seed=seed)


def batched(rows: Rows, parts: int, *, left: bool = True) -> dict[str, Tensor]:
    """Pad rows of ids and pixels into one batch."""
    longest = max(ids.shape[1] for ids, _ in rows)
    frames = max(0 if picture is None else picture.shape[1] for _, picture in rows)
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    stacked = torch.zeros(len(rows), frames, parts, 3, 56, 56)
    for index, (text, picture) in enumerate(rows):
        place = slice(longest - text.shape[1], None) if left else slice(0, text.shape[1])
        ids[index, place], mask[index, place] = text[0], 1
        if picture is not None:
            stacked[index, : picture.shape[1]] = picture[0]
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": stacked}


@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_every_form_runs_and_gives_its_number_of_vision_tokens(name: str) -> None:
    model = form(name)
    tokens = TOKENS.get(name, 1)
    assert model.config.tokens_per_frame == tokens
    ids, picture = asked(model, 2, 5)
    assert model.model.get_image_features(picture).shape == (1, 2, tokens, 32)
    out = model(input_ids=ids, pixel_values=picture)
    assert out.logits.shape == (1, 2 * tokens + 7, 400)
    assert out.logits.isfinite().all()
    answer = model.generate(input_ids=ids, pixel_values=picture, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert answer.shape == (1, ids.shape[1] + 4)
    assert answer[0, ids.shape[1]] == out.logits[0, -1].argmax()


@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_the_picture_matters(name: str) -> None:
    model = form(name)
    ids, picture = asked(model, 1, 5)
    logits = model(input_ids=ids, pixel_values=picture).logits
    other = model(input_ids=ids, pixel_values=pixels(1, model.config.parts_per_frame, seed=7)).logits
    assert (logits[0, -1] - other[0, -1]).abs().max() > 1e-3
    assert torch.equal(model(input_ids=ids, pixel_values=picture).logits, logits)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_a_row_gives_the_same_logits_alone_and_in_a_batch(name: str, left: bool) -> None:
    model = form(name)
    rows: Rows = [asked(model, 1, 9, seed=1), asked(model, 3, 4, seed=2), (row(0, 6, seed=3), None)]
    out = model(**batched(rows, model.config.parts_per_frame, left=left)).logits
    for index, (ids, picture) in enumerate(rows):
        alone = model(input_ids=ids, pixel_values=picture).logits[0]
        there = out[index, -len(alone) :] if left else out[index, : len(alone)]
        torch.testing.assert_close(there, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text", ["mistral", "qwen2"])
@torch.no_grad()
def test_a_batch_equals_its_rows_for_other_language_models(text: str) -> None:
    model = tiny_model(text=text, vision="siglip")
    rows: Rows = [asked(model, 1, 9, seed=1), asked(model, 2, 4, seed=2)]
    out = model(**batched(rows, 1)).logits
    for index, (ids, picture) in enumerate(rows):
        alone = model(input_ids=ids, pixel_values=picture).logits[0]
        torch.testing.assert_close(out[index, -len(alone) :], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["all_tokens", "released", "embedded"])
def test_a_batch_generates_what_its_rows_generate(name: str) -> None:
    model = form(name)
    rows: Rows = [asked(model, 1, 9, seed=1), asked(model, 3, 4, seed=2), (row(0, 6, seed=3), None)]
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = model.generate(**batched(rows, 1), **options)
    for index, (ids, picture) in enumerate(rows):
        pictures = {} if picture is None else {"pixel_values": picture}
        alone = model.generate(input_ids=ids, **pictures, **options)
        assert together[index, -6:].tolist() == alone[0, -6:].tolist()


@pytest.mark.parametrize("options", [{"use_cache": False}, {"num_beams": 2}, {"cache_implementation": "static"}])
def test_generation_without_a_cache_with_beams_or_a_static_cache_keeps_the_picture(options: dict[str, Any]) -> None:
    model = form("released")
    rows: Rows = [asked(model, 1, 9, seed=1), asked(model, 3, 4, seed=2)]
    inputs = batched(rows, 1)
    inputs["instruction_mask"] = inputs["attention_mask"].clone()
    inputs["instruction_mask"][:, -2:] = 0
    common: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    out = model.generate(**inputs, **common, **options)
    prefix = model.model.encode_images(inputs.pop("pixel_values"), frames=torch.tensor([1, 3]))
    kept = model.generate(**inputs, vision_prefix=prefix, **common, **options)
    assert kept.tolist() == out.tolist()
    if "num_beams" not in options:
        plain = model.generate(**inputs, vision_prefix=prefix, **common)
        assert out.tolist() == plain.tolist()


@pytest.mark.parametrize("name", ["released", "paper", "embedded"])
@torch.no_grad()
def test_answers_never_leak_into_fused_words(name: str) -> None:
    model = form(name)
    ids, picture = asked(model, 1, 9)
    instruction = torch.ones_like(ids).bool()
    instruction[:, 5:8] = False  # an answer in the middle, a second question after it
    other = ids.clone()
    other[:, 5:8] += 1
    prefix = model.model.encode_images(picture)
    first, second = (model.model.embed(x, prefix, instruction_mask=instruction)[0] for x in (ids, other))
    assert torch.equal(first[:5], second[:5])
    assert torch.equal(first[8:], second[8:])
    raw = model.get_input_embeddings()(ids)[0]
    assert torch.equal(first[5:8], raw[5:8])
    assert not torch.isclose(first[[0, 1, 3, 4]], raw[[0, 1, 3, 4]]).all(dim=-1).any()


@torch.no_grad()
def test_a_longer_dialogue_changes_no_embedding_of_its_beginning() -> None:
    model = form("released")
    ids, picture = asked(model, 1, 12)
    instruction = torch.ones_like(ids).bool()
    instruction[:, 5:8] = False
    prefix = model.model.encode_images(picture)
    whole = model.model.embed(ids, prefix, instruction_mask=instruction)
    start = model.model.embed(ids[:, :9], prefix, instruction_mask=instruction[:, :9])
    torch.testing.assert_close(whole[:, :9], start, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_fuse_history_fuses_earlier_answers_as_the_released_program_does() -> None:
    model = form("released", fuse_history=True)
    ids, picture = asked(model, 1, 9)
    instruction = torch.ones_like(ids).bool()
    instruction[:, 5:8] = False
    prefix = model.model.encode_images(picture)
    as_if_all_were_instruction = model(ids, vision_prefix=prefix).logits
    assert torch.equal(
        model(ids, vision_prefix=prefix, instruction_mask=instruction).logits, as_if_all_were_instruction
    )
    # In training it masks them, and so does ours.
    labels = ids.masked_fill(instruction, -100)
    trained = model(ids, vision_prefix=prefix, labels=labels).logits
    model.config.fuse_history = False
    assert torch.equal(trained, model(ids, vision_prefix=prefix, instruction_mask=instruction).logits)
    assert not torch.equal(trained, as_if_all_were_instruction)


@torch.no_grad()
def test_the_text_of_a_video_is_the_mean_of_its_frames() -> None:
    model = form("released").model
    ids, video = row(3, 6), pixels(3)
    out = model.embed(ids, model.encode_images(video))[0]
    alone = [model.embed(row(1, 6), model.encode_images(video[:, i : i + 1]))[0] for i in range(3)]
    torch.testing.assert_close(out[5:], torch.stack(alone).mean(dim=0)[3:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[2:5], torch.stack([one[2] for one in alone]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_high_resolution_compresses_the_tiles_and_not_the_whole() -> None:
    model = form("high_resolution", fusion_layers=0)
    picture = pixels(1, 5)
    other = picture.clone()
    other[:, :, 4] = 0
    assert torch.equal(model.model.get_image_features(other), model.model.get_image_features(picture))
    fused = form("high_resolution")
    assert not torch.equal(fused.model.get_image_features(other), fused.model.get_image_features(picture))


def test_image_tokens_and_pictures_that_do_not_fit_are_refused() -> None:
    model = form("released")
    ids, picture = asked(model, 2, 5)
    with pytest.raises(InputError, match="the text holds image tokens but no pictures were given"):
        model(input_ids=ids)
    with pytest.raises(InputError, match="row 0 of the text has places for 2 frames, but 1 were given"):
        model(input_ids=ids, pixel_values=picture[:, :1])
    with pytest.raises(InputError, match=r"pixel_values has shape \(1, 3, 56, 56\); it must be \(B, F, P, 3, H, W\)"):
        model(input_ids=ids, pixel_values=pixels()[0, 0])
    with pytest.raises(InputError, match="neither input_ids nor inputs_embeds"):
        model(pixel_values=picture)
    with pytest.raises(InputError, match="neither pixel_values nor vision_features"):
        model.model.encode_images()


def test_words_alone_need_no_picture_and_equal_the_language_model() -> None:
    model = form("released")
    ids = row(0, 6)
    expected = model.model.language_model(input_ids=ids).last_hidden_state
    assert torch.equal(model(input_ids=ids).logits, model.lm_head(expected))


def test_the_number_of_patches_follows_from_the_tower() -> None:
    config = tiny_config(tiles=3, compression="none")
    assert (config.patches_per_side, config.parts_per_frame, config.tokens_per_frame) == (4, 10, 160)
