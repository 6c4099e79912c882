"""Text and media become the tensors that the model reads, and nothing fits by accident."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus import BLUE, GREEN, RED, red_blue, video
from PIL import Image
from tiny import tiny_config, tiny_model, tiny_processor, tiny_tokenizer
from transformers import AutoProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llava_mini import LlavaMiniProcessor
from llava_mini.errors import InputError, LlavaMiniError, MediaError
from llava_mini.inputs.chat import read_template

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def plain(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


def normal(colour: tuple[int, int, int]) -> torch.Tensor:
    """What a plain colour is after normalisation."""
    return (torch.tensor(colour) / 255 - MEAN) / STD


def question(*media: dict[str, Any], words: str = "What is this?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*media, {"type": "text", "text": words}]}]


def image(picture: Any) -> dict[str, Any]:
    return {"type": "image", "image": picture}


def prepared(processor: LlavaMiniProcessor, *conversations: Any) -> Any:
    return processor.apply_chat_template(
        list(conversations), tokenize=True, return_dict=True, add_generation_prompt=True
    )


@pytest.mark.parametrize("colour", [RED, GREEN, (7, 120, 200)])
def test_a_plain_picture_becomes_its_normalised_colour(colour: tuple[int, int, int]) -> None:
    pixels = tiny_processor().prepare_frames([plain(colour)])
    assert pixels.shape == (1, 1, 3, 56, 56)
    torch.testing.assert_close(pixels[0, 0], normal(colour)[:, None, None].expand(3, 56, 56), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("aspect", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(90, 30), (30, 90), (56, 56), (60, 300)])
def test_any_proportion_becomes_square(aspect: str, size: tuple[int, int]) -> None:
    processor = tiny_processor(tiny_config(image_aspect_ratio=aspect))
    pixels = processor.prepare_frames([plain(BLUE, size)])
    assert pixels.shape == (1, 1, 3, 56, 56)
    torch.testing.assert_close(pixels[0, 0, :, 28, 28], normal(BLUE), rtol=1e-5, atol=1e-5)
    edge = pixels[0, 0, :, 0, 0]
    if aspect == "pad" and size[0] != size[1]:
        assert edge.abs().max() < 0.02  # the mean colour becomes zero
    else:
        torch.testing.assert_close(edge, normal(BLUE), rtol=1e-5, atol=1e-5)


def test_a_picture_of_one_column_keeps_its_shape() -> None:
    assert tiny_processor().prepare_frames([plain(BLUE, (1, 300))]).shape == (1, 1, 3, 56, 56)


def test_tiles_stand_before_the_whole() -> None:
    processor = tiny_processor(tiny_config(tiles=2, compression_size=2, image_aspect_ratio="stretch"))
    pixels = processor.prepare_frames([red_blue(64, 64), plain(GREEN)])
    assert pixels.shape == (2, 5, 3, 56, 56)
    for part, colour in enumerate([RED, BLUE, RED, BLUE]):
        torch.testing.assert_close(pixels[0, part, :, 28, 28], normal(colour), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pixels[0, 4, :, 28, 5], normal(RED), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pixels[0, 4, :, 28, 50], normal(BLUE), rtol=1e-4, atol=1e-4)


def test_rows_are_padded_on_the_left_and_frames_at_the_end() -> None:
    processor = tiny_processor()
    clip = {"type": "video", "video": [plain(RED), plain(GREEN), plain(BLUE)]}
    batch = prepared(processor, question(image(plain())), question(clip, words="How many are there?"), question())
    assert {name: value.shape[0] for name, value in batch.items()} == {
        "input_ids": 3,
        "attention_mask": 3,
        "instruction_mask": 3,
        "pixel_values": 3,
    }
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert (ids == processor.image_token_id).sum(dim=1).tolist() == [1, 3, 0]
    assert (ids[mask == 0] == processor.tokenizer.pad_token_id).all()
    assert mask.diff(dim=1).min() >= 0  # once a row has begun it does not stop
    assert mask[:, -1].all()
    assert torch.equal(batch["instruction_mask"], mask)
    pixels = batch["pixel_values"]
    assert pixels.shape == (3, 3, 1, 3, 56, 56)
    torch.testing.assert_close(pixels[1, 2, 0, :, 0, 0], normal(BLUE), rtol=1e-5, atol=1e-5)
    assert not pixels[0, 1:].any()
    assert not pixels[2].any()


def test_a_row_alone_is_the_row_of_a_batch() -> None:
    processor = tiny_processor()
    short = question(image(plain()))
    batch = prepared(processor, short, question(words="What colour is the star? " * 3))
    alone = prepared(processor, short)
    length = alone["input_ids"].shape[1]
    assert torch.equal(batch["input_ids"][0, -length:], alone["input_ids"][0])
    assert torch.equal(batch["pixel_values"][0], alone["pixel_values"][0])


def test_a_picture_holds_as_many_places_as_it_has_tokens() -> None:
    forms: list[dict[str, Any]] = [{"compression_size": 3}, {"compression": "none", "fusion_layers": 0}]
    for form, places in zip(forms, (9, 16), strict=True):
        processor = tiny_processor(tiny_config(**form))
        batch = prepared(processor, question(image(plain()), image(plain(BLUE))))
        assert (batch["input_ids"] == processor.image_token_id).sum() == 2 * places
        assert tiny_model(**form)(**batch).logits.isfinite().all()


def test_a_conversation_with_answers_masks_them() -> None:
    processor = tiny_processor()
    talk = [*question(image(plain())), {"role": "assistant", "content": "It is a cat."}]
    batch = processor.apply_chat_template(talk, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    answer = batch["input_ids"][batch["assistant_masks"] == 1]
    assert processor.decode(answer) == "It is a cat.<|im_end|>"
    assert torch.equal(batch["instruction_mask"], 1 - batch["assistant_masks"])


def test_a_video_file_gives_a_frame_a_second(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(video([RED] * 8 + [GREEN] * 8 + [BLUE] * 8))
    for part in ({"type": "video", "video": str(clip)}, {"type": "video", "path": clip}):
        batch = prepared(tiny_processor(), question(part))
        assert batch["pixel_values"].shape == (1, 3, 1, 3, 56, 56)
        for frame, colour in enumerate([RED, GREEN, BLUE]):
            assert (batch["pixel_values"][0, frame, 0, :, 28, 28] - normal(colour)).abs().max() < 0.1


def test_pictures_come_as_files_bytes_arrays_or_pillow(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    plain().save(path)
    processor = tiny_processor()
    expected = prepared(processor, question(image(plain())))["pixel_values"]
    for source in (path, str(path), path.read_bytes(), np.asarray(plain()), plain().convert("RGBA")):
        assert torch.equal(prepared(processor, question(image(source)))["pixel_values"], expected)
    frames = np.stack([np.asarray(plain())] * 2)
    assert prepared(processor, question({"type": "video", "video": frames}))["pixel_values"].shape[1] == 2


def test_a_prompt_with_placeholders_and_its_media_is_the_same_as_the_conversation() -> None:
    processor = tiny_processor()
    talk = question(image(plain()), {"type": "video", "video": [plain(GREEN), plain(BLUE)]})
    prompt = processor.apply_chat_template(talk, add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>user\nPicture: <image>.\nVideo: <video>.\nWhat is this?<|im_end|>\n<|im_start|>assistant\n"
    )
    expected = prepared(processor, talk)
    for images, videos in (
        (plain(), [[plain(GREEN), plain(BLUE)]]),
        ([plain()], [[plain(GREEN), plain(BLUE)]]),
        ([[plain()]], [[[plain(GREEN), plain(BLUE)]]]),
    ):
        batch = processor(text=prompt, images=images, videos=videos)
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_pictures_are_given_to_texts_flat_or_a_list_a_text() -> None:
    processor, texts = tiny_processor(), ["<image>a", "b", "<image><image>c"]
    flat = processor(text=texts, images=[plain(RED), plain(GREEN), plain(BLUE)])
    nested = processor(text=texts, images=[[plain(RED)], [], [plain(GREEN), plain(BLUE)]])
    assert torch.equal(flat["pixel_values"], nested["pixel_values"])
    torch.testing.assert_close(flat["pixel_values"][2, 0, 0, :, 0, 0], normal(GREEN), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("texts", "images"),
    [
        ("<image>", None),
        ("a", [plain()]),
        ("<image>", [plain(), plain()]),
        (["<image>", "<image>"], [plain()]),
        (["<image>", "<image>"], [[plain(), plain()], []]),
        (["<image>", "<image>"], [[plain(), plain()], [plain()]]),
        (["<image>", "<image>"], [[plain()], [plain()], [plain()]]),
    ],
)
def test_a_wrong_number_of_pictures_is_refused_in_one_line(texts: Any, images: Any) -> None:
    with pytest.raises(InputError, match="given") as caught:
        tiny_processor()(text=texts, images=images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [7, None, object(), np.zeros((2, 2, 2, 2, 2)), [[]], torch.zeros(3)])
def test_what_is_no_picture_or_video_is_refused_in_one_line(source: Any) -> None:
    for kind in ("image", "video"):
        with pytest.raises(LlavaMiniError) as caught:
            prepared(tiny_processor(), question({"type": kind, kind: source}))
        assert "\n" not in str(caught.value)


def test_a_part_without_a_file_an_address_and_no_text_are_refused() -> None:
    processor = tiny_processor()
    with pytest.raises(InputError, match="a video part names no file; add 'path' or 'video'"):
        prepared(processor, question({"type": "video"}))
    with pytest.raises(MediaError, match="remote addresses are not opened"):
        prepared(processor, question({"type": "image", "url": "https://a.b/c.png"}))
    with pytest.raises(InputError, match="the processor got no text"):
        processor(images=plain())
    with pytest.raises(InputError, match="a video has no frames"):
        prepared(processor, question({"type": "video", "video": []}))


def test_a_processor_survives_its_folder(tmp_path: Path) -> None:
    processor = tiny_processor(tiny_config(tiles=2, compression_size=2, image_aspect_ratio="crop"))
    processor.fps, processor.max_frames = 2.0, 7
    processor.save_pretrained(tmp_path)
    loaded = LlavaMiniProcessor.from_pretrained(tmp_path)
    for name in (
        "tiles",
        "tokens_per_frame",
        "image_aspect_ratio",
        "chat_template",
        "image_token_id",
        "video_token_id",
    ):
        assert getattr(loaded, name) == getattr(processor, name), name
    assert (loaded.fps, loaded.max_frames) == (2.0, 7)
    talk = question(image(red_blue()))
    first, second = prepared(processor, talk), prepared(loaded, talk)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first.keys() == second.keys()


def test_a_siglip_image_processor_resizes_to_the_towers_square() -> None:
    siglip = SiglipImageProcessorPil(size={"height": 56, "width": 56})
    processor = LlavaMiniProcessor.from_config(
        tiny_config(vision="siglip"), siglip, tiny_tokenizer(), read_template("chatml")
    )
    assert processor.prepare_frames([Image.new("RGB", (90, 31))]).shape == (1, 1, 3, 56, 56)


def test_batches_are_padded_on_the_left_whatever_side_the_tokenizer_comes_with(tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.padding_side = "right"
    made = LlavaMiniProcessor.from_config(
        tiny_config(), tiny_processor().image_processor, tokenizer, read_template("chatml")
    )
    made.save_pretrained(tmp_path)
    for processor in (made, AutoProcessor.from_pretrained(tmp_path)):
        batch = processor(text=["What is this? What is this?", "What"])
        assert batch["attention_mask"][1].tolist() == sorted(batch["attention_mask"][1].tolist())
