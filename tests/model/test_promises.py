"""Batches, places and ways of generating never disturb each other, whatever language model is inside."""

from typing import Any

import pytest
import torch
from tiny import TEXT, pixels, row, tiny_config, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from llava_mini.errors import InputError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration

IMAGE = int(tiny_config().image_token_id)
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
GREEDY["suppress_tokens"] = [IMAGE]
HD: dict[str, Any] = {"tiles": 2, "compression_size": 2}
Row = tuple[Tensor, Tensor | None]


def interleaved(tokens: int, pictures: int, seed: int) -> Tensor:
    """Words, a picture, words, a picture, … words."""
    pieces = [torch.randint(10, 300, (1, 3), generator=torch.Generator().manual_seed(seed))]
    for index in range(pictures):
        words = torch.randint(10, 300, (1, 2), generator=torch.Generator().manual_seed(seed + index + 1))
        pieces += [torch.full((1, tokens), IMAGE), words]
    return torch.cat(pieces, dim=1)


def rows(model: LlavaMiniForConditionalGeneration) -> list[Row]:
    """A picture, a video, two pictures between words, words alone."""
    tokens, parts = model.config.tokens_per_frame, model.config.parts_per_frame
    return [
        (row(1, 4, tokens_per_frame=tokens, seed=1), pixels(1, parts, seed=1)),
        (row(3, 7, tokens_per_frame=tokens, seed=2), pixels(3, parts, seed=2)),
        (interleaved(tokens, 2, seed=3), pixels(2, parts, seed=3)),
        (row(0, 6, seed=4), None),
    ]


def batched(given: list[Row], parts: int, *, left: bool) -> dict[str, Tensor]:
    longest = max(ids.shape[1] for ids, _ in given)
    ids, mask = torch.zeros(len(given), longest, dtype=torch.long), torch.zeros(len(given), longest, dtype=torch.long)
    shown = torch.zeros(len(given), 3, parts, 3, 56, 56)
    for index, (text, picture) in enumerate(given):
        place = slice(longest - text.shape[1], None) if left else slice(0, text.shape[1])
        ids[index, place], mask[index, place] = text[0], 1
        if picture is not None:
            shown[index, : picture.shape[1]] = picture[0]
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": shown}


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("form", [{}, HD], ids=["standard", "high resolution"])
@pytest.mark.parametrize("text", TEXT)
@torch.no_grad()
def test_a_mixed_batch_equals_its_rows_in_any_order(text: str, form: dict[str, Any], left: bool) -> None:
    model = tiny_model(text=text, **form)
    given = rows(model)
    alone = [model(input_ids=ids, pixel_values=shown).logits[0] for ids, shown in given]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        inputs = batched([given[i] for i in order], model.config.parts_per_frame, left=left)
        together = model(**inputs).logits
        for index, number in enumerate(order):
            present = inputs["attention_mask"][index].bool()
            torch.testing.assert_close(together[index, present], alone[number], atol=2e-5, rtol=0)


@torch.no_grad()
def test_several_pictures_stand_each_at_its_place_and_fuse_words_as_frames_do() -> None:
    model = tiny_model()
    ids, shown = interleaved(1, 2, seed=3), pixels(2, seed=3)
    prefix = model.encode_images(shown)
    embeds = model.model.embed(ids, prefix)
    assert torch.equal(embeds[ids == IMAGE], prefix.tokens.flatten(0, 1))
    words = ids[ids != IMAGE][None]
    raw = model.get_input_embeddings()(ids.masked_fill(ids == IMAGE, 0))
    each = []
    for frame in range(2):
        one = prefix.select(torch.tensor([0]))
        states = [type(s)(s.keys[frame : frame + 1], s.values[frame : frame + 1]) for s in one.states]
        fusion: Any = model.model.pre_fusion
        each.append(fusion.fuse(raw[ids != IMAGE][None], torch.ones_like(words, dtype=torch.bool), states))
    torch.testing.assert_close(embeds[ids != IMAGE][None], (each[0] + each[1]) / 2, atol=1e-5, rtol=0)
    swapped = model.model.embed(ids, model.encode_images(shown.flip(1)))
    torch.testing.assert_close(swapped[ids != IMAGE], embeds[ids != IMAGE], atol=1e-5, rtol=0)
    assert torch.equal(swapped[ids == IMAGE], embeds[ids == IMAGE].flip(0))


@torch.no_grad()
def test_token_zero_is_a_word_unless_the_released_behaviour_is_asked_for() -> None:
    ids, shown = row(words=6), pixels()
    ids[0, 5] = 0
    ours, released = tiny_model(), tiny_model(token_zero_is_padding=True)
    raw = ours.get_input_embeddings()(torch.tensor([0]))[0]
    fused = ours.model.embed(ids, ours.encode_images(shown))
    as_released = released.model.embed(ids, released.encode_images(shown))
    assert not torch.equal(fused[0, 5], raw)
    assert torch.equal(as_released[0, 5], raw)
    without = torch.cat([ids[:, :5], ids[:, 6:]], dim=1)
    expected = released.model.embed(without, released.encode_images(shown))
    torch.testing.assert_close(as_released[0, 6:], expected[0, 5:], atol=1e-5, rtol=0)


class AfterThree(StoppingCriteria):
    """Stop after three new tokens."""

    def __init__(self, start: int) -> None:
        self.end = start + 3

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.end)


@torch.no_grad()
def test_generation_stops_at_a_string_and_by_a_criterion() -> None:
    model, tokenizer, shown = tiny_model(), tiny_tokenizer(), pixels()
    for seed in range(40):  # the first answer whose second token is a letter: half a character stops nothing
        ids = row(words=6, seed=seed)
        free = model.generate(input_ids=ids, pixel_values=shown, **GREEDY)[0, ids.shape[1] :]
        letter = tokenizer.decode(free[1])
        if letter.isascii() and letter.isalnum() and letter not in tokenizer.decode(free[0]):
            break
    stopped = model.generate(input_ids=ids, pixel_values=shown, **GREEDY, stop_strings=[letter], tokenizer=tokenizer)[
        0, ids.shape[1] :
    ]
    assert torch.equal(stopped, free[:2])
    by_count = model.generate(
        input_ids=ids, pixel_values=shown, **GREEDY, stopping_criteria=StoppingCriteriaList([AfterThree(ids.shape[1])])
    )
    assert torch.equal(by_count[0, ids.shape[1] :], free[:3])


@torch.no_grad()
def test_a_draft_from_the_prompt_changes_no_token() -> None:
    model = tiny_model()
    ids, shown = row(words=12), pixels()
    plain = model.generate(input_ids=ids, pixel_values=shown, **GREEDY)
    drafted = model.generate(input_ids=ids, pixel_values=shown, **GREEDY, prompt_lookup_num_tokens=2)
    assert torch.equal(drafted, plain)


@torch.no_grad()
def test_the_same_seed_samples_the_same_answer_and_beams_keep_every_row_its_picture() -> None:
    model = tiny_model()
    given = rows(model)[:3]
    options = {**GREEDY, "do_sample": True, "temperature": 1.5}
    inputs = batched(given, 1, left=True)
    torch.manual_seed(3)
    first = model.generate(**inputs, **options)
    torch.manual_seed(3)
    assert torch.equal(model.generate(**inputs, **options), first)
    beams = model.generate(**inputs, **GREEDY, num_beams=3)
    for index, (ids, shown) in enumerate(given):
        alone = model.generate(input_ids=ids, pixel_values=shown, **GREEDY, num_beams=3)
        assert torch.equal(beams[index, inputs["input_ids"].shape[1] :], alone[0, ids.shape[1] :])


@pytest.mark.parametrize("text", TEXT)
@torch.no_grad()
def test_bfloat16_stays_within_three_hundredths_of_the_spread_of_the_logits(text: str) -> None:
    exact, coarse = tiny_model(text=text), tiny_model(text=text).bfloat16()
    ids, shown = row(2, words=6), pixels(2)
    expected = exact(input_ids=ids, pixel_values=shown).logits
    found = coarse(input_ids=ids, pixel_values=shown).logits.float()
    assert float((found - expected).pow(2).mean().sqrt() / expected.std()) < 0.03


@pytest.mark.parametrize("frames", [1, 3], ids=["a picture", "a video"])
@pytest.mark.parametrize("text", TEXT)
def test_the_gradient_reaches_every_vision_part_from_pictures_and_from_videos(text: str, frames: int) -> None:
    model = tiny_model(text=text)
    ids = row(frames, words=8)
    labels = ids.clone()
    labels[:, :-3] = -100
    model(input_ids=ids, pixel_values=pixels(frames), labels=labels).loss.backward()
    vision = ("compressor", "multi_modal_projector", "pre_fusion", "vision_tower.encoder.encoder")
    still = [
        name
        for name, parameter in model.named_parameters()
        if any(f"model.{part}" in name for part in vision)
        and (parameter.grad is None or not bool(parameter.grad.abs().sum() > 0))
    ]
    # One query's position is one vector for every patch: it cancels (docs/paper_vs_code.md); key biases do as well.
    assert [name for name in still if "k_proj.bias" not in name and "pos_embed" not in name] == []


@torch.no_grad()
def test_a_compiled_forward_gives_the_same_numbers() -> None:
    model = tiny_model()
    inputs = batched(rows(model), 1, left=True)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=2e-5, rtol=0)


@torch.no_grad()
def test_generated_words_are_not_fused_without_a_cache_and_without_a_mask_either() -> None:
    model, ids, shown = tiny_model(), row(words=6), pixels()
    common: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = model.generate(input_ids=ids, pixel_values=shown, **common)
    assert torch.equal(model.generate(input_ids=ids, pixel_values=shown, use_cache=False, **common), cached)
    released = tiny_model(fuse_history=True)
    with pytest.raises(InputError, match="fuse_history needs the cache"):
        released.generate(input_ids=ids, pixel_values=shown, use_cache=False, **common)


@torch.no_grad()
def test_pictures_that_have_no_place_are_refused_and_padding_is_not() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="row 0 of the text has places for 1 frames, but 2 were given"):
        model(input_ids=row(), pixel_values=pixels(2))
    with pytest.raises(InputError, match="row 0 of the text has places for 0 frames, but 1 were given"):
        model(input_ids=row(0), pixel_values=pixels())
    with pytest.raises(InputError, match="2 rows of pictures were given for 1 texts"):
        model(input_ids=row(), pixel_values=pixels(batch=2))
    with pytest.raises(InputError, match="2 rows of pictures were given for 1 texts"):
        model(input_ids=row(), vision_prefix=model.encode_images(pixels(batch=2)))
    for parts in (2, 10):
        with pytest.raises(InputError, match="with P = 5"):
            tiny_model(tiles=2)(input_ids=row(), pixel_values=pixels(1, parts))
    padded = torch.cat([pixels(), torch.zeros_like(pixels())], dim=1)
    expected = model(input_ids=row(), pixel_values=pixels()).logits
    assert torch.equal(model(input_ids=row(), pixel_values=padded).logits, expected)


@torch.no_grad()
def test_a_prompt_of_nothing_but_a_picture_is_answered() -> None:
    model = tiny_model()
    ids = torch.tensor([[IMAGE]])
    out = model(input_ids=ids, pixel_values=pixels())
    assert torch.isfinite(out.logits).all()
    nothing = model(input_ids=row(), pixel_values=pixels(), instruction_mask=torch.zeros_like(row()))
    assert torch.isfinite(nothing.logits).all()
