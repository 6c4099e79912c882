"""Three ways to read a video, side by side on the same frames and words, with equal results.

*together*: frames in chunks, vision states computed once, nothing of the last layer that nobody reads. *one by one*:
the same model, a frame at a time. *released*: a frame at a time, vision rows run again beside the words, all layers in
full, as the released program does it (LLaVA-Mini, `llava_arch.py`; our restatement).
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava_mini.assistant import Assistant
from llava_mini.errors import ConfigError
from llava_mini.model.chunking import frames_per_chunk
from llava_mini.profiling.flops import count_run
from llava_mini.profiling.machine import matmul_rate


@dataclass(frozen=True)
class Way:
    """What one way of reading reaches."""

    name: str
    frames_per_second: float
    """Median over the repeats."""
    spread: float
    """Largest minus smallest rate of the repeats."""
    gflops_per_frame: float
    """10⁹ additions and multiplications a frame, as torch counts them."""
    matmul_share: float
    """Share of the rate at which this machine multiplies matrices of 1024 × 1024 in the same precision."""
    max_difference: float
    """Largest difference of the fused words to those of `together`."""


@dataclass(frozen=True)
class Part:
    """What one part of reading together costs."""

    name: str
    ms_per_frame: float
    gflops_per_frame: float
    matmul_share: float
    """As in `Way`: how near the part comes to this machine's plain matrix multiplication."""


@torch.no_grad()
def divide(assistant: Assistant, frames: int = 64, words: int = 60, repeats: int = 5) -> list[Part]:
    """Time the parts of reading together one after the other, in the same chunks: what limits?"""
    core, (pixels, text) = assistant.model.model, _made(assistant, frames, words)
    every = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    size = frames_per_chunk(core.config, core.dtype)
    chunks = [pixels[:, start : start + size] for start in range(0, frames, size)]
    features = [core.get_vision_features(chunk) for chunk in chunks]
    prefixes = [core.encode_images(vision_features=one) for one in features]
    parts: dict[str, Callable[[], object]] = {
        "vision tower": lambda: [core.get_vision_features(chunk) for chunk in chunks],
        "compression, projector, patches in pre-fusion": lambda: [
            core.encode_images(vision_features=one) for one in features
        ],
        "words in pre-fusion": lambda: core.fuse(text, every, prefixes),
    }
    made = []
    for name, run in parts.items():
        flops, seconds, speed = count_run(run), [], []
        for _ in range(repeats):
            speed.append(matmul_rate(core.device, core.dtype))
            began_s = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began_s)
        spent = statistics.median(seconds)
        share = flops / spent / statistics.median(speed)
        made.append(Part(name, round(1e3 * spent / frames, 2), round(flops / frames / 1e9, 6), round(share, 3)))
    return made


@torch.no_grad()
def compare_ways(assistant: Assistant, frames: int = 64, words: int = 60, repeats: int = 5) -> list[Way]:
    """Read random frames with random words in three ways, by turns, and time each.

    Raises:
        ConfigError: when the model has no pre-fusion, or numbers make no sense.
    """
    if frames < 1 or words < 1 or repeats < 1:
        raise ConfigError(f"frames ({frames}), words ({words}) and repeats ({repeats}) must be 1 or more")
    core = assistant.model.model
    if core.pre_fusion is None:
        raise ConfigError(f"{assistant.name} has no pre-fusion: nothing is read")
    pixels, text = _made(assistant, frames, words)
    ways: dict[str, Callable[[], Tensor]] = {
        "together": lambda: _together(core, pixels, text),
        "one by one": lambda: _one_by_one(core, pixels, text),
        "released": lambda: _released(core, pixels, text),
    }
    fused = {name: run() for name, run in ways.items()}
    flops = {name: count_run(run) / frames for name, run in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    speed = []
    for _ in range(repeats):
        speed.append(matmul_rate(core.device, core.dtype))
        for name, run in ways.items():
            began_s = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began_s)
    rates = {name: [frames / s for s in measured] for name, measured in seconds.items()}
    return [
        Way(
            name,
            round(statistics.median(rate), 2),
            round(max(rate) - min(rate), 2),
            round(flops[name] / 1e9, 6),
            round(statistics.median(rate) * flops[name] / statistics.median(speed), 3),
            float((fused[name] - fused["together"]).abs().max()),
        )
        for name, rate in rates.items()
    ]


def _made(assistant: Assistant, frames: int, words: int) -> tuple[Tensor, Tensor]:
    """Draw pixels `(1, F, P, 3, H, W)` and words `(1, L, d)`."""
    core, config = assistant.model.model, assistant.model.config
    generator = torch.Generator().manual_seed(0)
    side, parts = config.vision.image_size, config.parts_per_frame
    pixels = torch.randn(1, frames, parts, 3, side, side, generator=generator).to(core.device, core.dtype)
    ids = torch.randint(0, min(1000, config.text.vocab_size), (1, words), generator=generator).to(core.device)
    return pixels, core.get_input_embeddings()(ids)


def _together(core: Any, pixels: Tensor, text: Tensor) -> Tensor:
    every = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    words: Tensor = core.fuse(text, every, core.encode_in_chunks(pixels)).words
    return words


def _one_by_one(core: Any, pixels: Tensor, text: Tensor) -> Tensor:
    every = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    chunks = (core.encode_images(pixels[:, i : i + 1]) for i in range(pixels.shape[1]))
    words: Tensor = core.fuse(text, every, chunks).words
    return words


def _released(core: Any, pixels: Tensor, text: Tensor) -> Tensor:
    total = torch.zeros(text.shape, dtype=torch.float32, device=text.device)
    for index in range(pixels.shape[1]):
        features = core.get_vision_features(pixels[:, index : index + 1])[0]
        projected = core._project(features)
        rows = [core._rows_to_read(projected)]
        tokens = core._vision_tokens(features, projected)
        rows += [tokens] if core.config.fuse_compressed and core.config.compression != "none" else []
        sequence = torch.cat([*rows, text], dim=1)
        out = core.pre_fusion.decoder(inputs_embeds=sequence, use_cache=False).last_hidden_state
        out = out[:, -text.shape[1] :]
        total += (out if core.pre_fusion.norm is None else text + core.pre_fusion.norm(out)).float()
    return (total / pixels.shape[1]).to(text.dtype)
