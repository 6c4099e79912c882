"""A video in chunks is the video at once, and a chunk is as large as memory allows."""

from typing import Any

import pytest
import torch
from tiny import EMBEDDED, pixels, row, tiny_model

from llava_mini import VisionPrefix
from llava_mini.errors import ConfigError
from llava_mini.model import llava_mini as model_file
from llava_mini.model.chunking import frame_bytes, frames_per_chunk, kept_bytes

FORMS: dict[str, dict[str, Any]] = {
    "released": {},
    "embedded": EMBEDDED | {"projector_class_channels": 16},
    "hd": {"tiles": 2, "compression_size": 2},
    "no pre-fusion": {"fusion_layers": 0},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@torch.no_grad()
def test_a_video_in_chunks_equals_the_video_at_once(form: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(**FORMS[form])
    config = model.config
    shown = pixels(7, config.parts_per_frame, batch=2)
    shown[1, 3:] = 0  # the second row has three frames
    long = row(7, 6, tokens_per_frame=config.tokens_per_frame)
    short = row(3, 6, tokens_per_frame=config.tokens_per_frame)
    gap = long.shape[1] - short.shape[1]
    ids = torch.cat([long, torch.nn.functional.pad(short, (gap, 0))])
    mask = torch.ones_like(ids)
    mask[1, :gap] = 0
    given = {"input_ids": ids, "pixel_values": shown, "attention_mask": mask}
    whole = model(**given).logits
    prefix = model.encode_images(shown, frames=torch.tensor([7, 3]))
    monkeypatch.setattr(model_file, "frames_per_chunk", lambda *_: size)
    seen: list[int] = []
    model.model.vision_tower.register_forward_hook(lambda _module, args, _out: seen.append(len(args[0])))
    chunked = model(**given).logits
    torch.testing.assert_close(chunked[mask.bool()], whole[mask.bool()], atol=2e-5, rtol=0)
    assert sum(seen) == 10 * config.parts_per_frame  # padding is not encoded
    assert max(seen) == size * config.parts_per_frame
    again = model.encode_images(shown, frames=torch.tensor([7, 3]))
    assert again.frames.tolist() == [7, 3]
    torch.testing.assert_close(again.tokens, prefix.tokens, atol=1e-5, rtol=0)


@torch.no_grad()
def test_chunks_that_are_forgotten_give_what_a_kept_prefix_gives() -> None:
    model, shown, ids = tiny_model(), pixels(6), row(6, 5)
    kept = model.model.embed(ids, model.encode_images(shown))
    chunks = (model.encode_images(shown[:, i : i + 2]) for i in range(0, 6, 2))
    torch.testing.assert_close(model.model.embed(ids, chunks), kept, atol=1e-6, rtol=0)


@torch.no_grad()
def test_of_a_forgotten_chunk_only_its_tokens_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    model, shown, ids = tiny_model(), pixels(6), row(6, 5)
    states: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def encoded() -> Any:
        for i in range(6):
            gc.collect()
            alive.append(sum(one() is not None for one in states))
            chunk: VisionPrefix = model.encode_images(shown[:, i : i + 1])
            states.append(weakref.ref(chunk.states[0].keys))
            yield chunk
            del chunk

    model.model.embed(ids, encoded())
    assert max(alive) <= 1  # the one that is being let go


def test_gradients_are_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for size in (99, 2):
        monkeypatch.setattr(model_file, "frames_per_chunk", lambda *_, size=size: size)
        model, ids = tiny_model(), row(5, 6)
        labels = torch.full_like(ids, -100)
        labels[:, -2:] = ids[:, -2:]
        model(input_ids=ids, pixel_values=pixels(5), labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-3)
    assert any("compressor" in name for name in gradients[0])


def test_more_memory_takes_more_frames_and_tiles_take_fewer() -> None:
    small, large = (tiny_model(frame_memory_mb=mb).config for mb in (1, 64))
    assert 1 <= frames_per_chunk(small, torch.float32) < frames_per_chunk(large, torch.float32)
    hd = tiny_model(tiles=2).config
    assert frame_bytes(hd, torch.float32) > 3 * frame_bytes(small, torch.float32)
    assert frames_per_chunk(large, torch.bfloat16) > frames_per_chunk(large, torch.float32)
    with pytest.raises(ConfigError, match="frame_memory_mb is 0; it must be at least 1"):
        tiny_model(frame_memory_mb=0)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_what_a_prefix_keeps_is_foreseen_to_the_byte(form: str) -> None:
    model = tiny_model(**FORMS[form])
    prefix = model.encode_images(pixels(3, model.config.parts_per_frame))
    assert prefix.nbytes == 3 * kept_bytes(model.config, torch.float32)
