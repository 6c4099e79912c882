"""What questions cost as they grow, and what a GPU would need at least: estimates, from counts of real modules.

The roofline (Williams, Waterman and Patterson, "Roofline", 2009): a part takes as long as its operations at a device's
peak, or as reading its weights once at its bandwidth, whichever is longer. No device reaches it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.figure import Figure

from llava_mini.config import LlavaMiniConfig
from llava_mini.drawing import BLUE, GREEN, GREY, ORANGE, PINK, STYLE, save
from llava_mini.profiling.flops import PARTS, FlopsOf, Question

Axis = Literal["frames", "text_tokens", "batch_size", "questions"]
AXES: dict[Axis, tuple[int, ...]] = {
    "frames": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    "text_tokens": (8, 16, 32, 64, 128, 256, 512, 1024, 2048),
    "batch_size": (1, 2, 4, 8, 16, 32, 64),
    "questions": (1, 2, 4, 8, 16, 32),
}
"""Frames of a question (a picture is one), words, questions answered together, questions about one picture."""

_LABELS: dict[Axis, str] = {
    "frames": "pictures or frames of a question",
    "text_tokens": "words, tokens",
    "batch_size": "questions at a time",
    "questions": "questions about one picture",
}
_COLOURS = {"vision": GREEN, "projector": PINK, "pre_fusion": BLUE, "llm": ORANGE}
_NAMES = {"vision": "tower", "projector": "projector", "pre_fusion": "pre-fusion", "llm": "language model"}


@dataclass(frozen=True)
class Device:
    """Peak numbers of a maker's data sheet."""

    name: str
    tflops: float
    """16-bit matrix products with 32-bit sums, dense."""
    gb_s: float
    """Memory bandwidth."""


DEVICES = {
    device.name: device
    for device in (
        Device("RTX 3090", 71.0, 936.0),  # NVIDIA Ampere GA102 whitepaper
        Device("A100", 312.0, 1555.0),  # NVIDIA A100 data sheet, 40 GB
        Device("A800", 312.0, 2039.0),  # as A100, 80 GB
    )
}
PAPER_MS = {
    "RTX 3090": {"llava": 198.75, "released": 64.52},
    "A100": {"llava": 113.04, "released": 38.64},
    "A800": {"llava": 87.43, "released": 27.43},
}
"""Table 13 of the paper, measured by its authors on Vicuna-7B."""


@dataclass(frozen=True)
class Point:
    """What one question costs at one place of a curve."""

    axis: Axis
    at: int
    tflops: Mapping[str, float]
    """Of each part, of ours, a question."""
    seconds: Mapping[str, float]
    """Likewise, estimated for a device."""
    llava_tflops: float
    """LLaVA-v1.5's, a question, all parts."""
    llava_seconds: float

    @property
    def largest(self) -> str:
        """The part that takes longest."""
        return max(self.seconds, key=lambda part: self.seconds[part])


def estimate(config: LlavaMiniConfig, question: Question, device: Device) -> dict[str, dict[str, float]]:
    """Return the least milliseconds up to the first token, of each way and part, and in total."""
    counter = FlopsOf(config)
    counted, weights = counter.count(question), counter.weight_bytes()
    made = {}
    for way, flops in counted.items():
        parts = {part: 1e3 * _roofline(flops[part], weights[way][part], device) for part in PARTS}
        made[way] = {"total": sum(parts.values()), **parts}
    return made


def curves(config: LlavaMiniConfig, device: Device, axes: Sequence[Axis] = tuple(AXES)) -> list[Point]:
    """Return what a question of 60 words about one picture costs, and with one thing changed at a time."""
    counter = FlopsOf(config)
    weights = counter.weight_bytes()
    known: dict[Question, dict[str, dict[str, float]]] = {}
    points = []
    for axis in axes:
        for at in AXES[axis]:
            question = Question(
                text_tokens=at if axis == "text_tokens" else 60,
                frames=at if axis == "frames" else 1,
                prefix_tokens=0,
            )
            counted = known.get(question) or counter.count(question)
            known[question] = counted
            times = at if axis == "batch_size" else 1
            later = (at - 1) / at if axis == "questions" else 0.0  # share of the questions whose picture is known

            def cost(way: str, part: str, counted: dict[str, dict[str, float]] = counted, times: int = times) -> float:
                return _roofline(times * counted[way][part], weights[way][part], device) / times

            flops = {part: (1 - later) * counted["first"][part] + later * counted["second"][part] for part in PARTS}
            seconds = {part: (1 - later) * cost("first", part) + later * cost("second", part) for part in PARTS}
            theirs = sum(cost("llava", part) for part in PARTS)
            points.append(Point(axis, at, flops, seconds, counted["llava"]["total"], theirs))
    return points


def turning_points(points: Sequence[Point]) -> list[tuple[Axis, int, str]]:
    """Return where each curve begins and where another part becomes the largest: axis, place, part."""
    found: list[tuple[Axis, int, str]] = []
    for point in points:
        before = next((part for axis, _, part in reversed(found) if axis == point.axis), None)
        if point.largest != before:
            found.append((point.axis, point.at, point.largest))
    return found


def draw(points: Sequence[Point], device: Device, path: Path, *, model: str) -> None:
    """Draw the curves, a panel an axis: parts of ours, all of ours, all of LLaVA-v1.5; dotted: another part leads."""
    axes = tuple(dict.fromkeys(point.axis for point in points))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * len(axes), 3.0), layout="constrained")
        for number, axis in enumerate(axes, 1):
            panel = figure.add_subplot(1, len(axes), number)
            found = [point for point in points if point.axis == axis]
            at = [point.at for point in found]
            panel.plot(at, [1e3 * one.llava_seconds for one in found], color=GREY, linestyle="--", label="LLaVA-v1.5")
            panel.plot(at, [1e3 * sum(one.seconds.values()) for one in found], color="black", label="ours")
            for part, colour in _COLOURS.items():
                panel.plot(
                    at, [1e3 * one.seconds[part] for one in found], color=colour, linewidth=1, label=_NAMES[part]
                )
            for _, place, part in turning_points(found)[1:]:
                panel.axvline(place, color=_COLOURS[part], linestyle=":", linewidth=1)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(at[:: max(1, len(at) // 5)], [str(one) for one in at[:: max(1, len(at) // 5)]])
            panel.set_xlabel(_LABELS[axis])
            if number == 1:
                panel.set_ylabel("least ms a question (estimate)")
                panel.legend(fontsize=7)
        save(figure, path, f"{model}, roofline of {device.name}: an estimate, not a measurement")


def _roofline(tflops: float, weight_bytes: int, device: Device) -> float:
    """Return seconds; a part that computes nothing reads nothing."""
    return max(tflops / device.tflops, weight_bytes / device.gb_s / 1e9) if tflops else 0.0
