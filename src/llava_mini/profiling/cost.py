"""What questions cost as they grow, and what a GPU would need at least: estimates, from counts of real modules.

The roofline (Williams, Waterman and Patterson, "Roofline", 2009): a part takes as long as its operations at a device's
peak, or as reading its weights once at its bandwidth, whichever is longer. No device reaches it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
_MARKERS = {"vision": "o", "projector": "x", "pre_fusion": "s", "llm": "^"}
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
    """Draw the curves, a panel an axis: ours and its parts, LLaVA-v1.5; the ground says which part costs most."""
    axes = tuple(dict.fromkeys(point.axis for point in points))
    rows = -(-len(axes) // 2)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.7 + 2.6 * rows), layout="constrained")
        for number, axis in enumerate(axes, 1):
            panel = figure.add_subplot(rows, 2, number)
            found = [point for point in points if point.axis == axis]
            _draw_curves(panel, found)
            _draw_leaders(panel, found)
            ticks = [point.at for point in found][:: max(1, len(found) // 5)]
            panel.set_xticks(ticks, [str(one) for one in ticks])
            panel.set_xlabel(_LABELS[axis])
            if number % 2:
                panel.set_ylabel("least ms a question")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
        title = f"{model} on {device.name}: an estimate (roofline), not a measurement; ground: the part that costs most"
        save(figure, path, title)


def _draw_curves(panel: Any, found: Sequence[Point]) -> None:
    at = [point.at for point in found]
    panel.plot(at, [1e3 * one.llava_seconds for one in found], color=GREY, linestyle="--", label="LLaVA-v1.5")
    panel.plot(at, [1e3 * sum(one.seconds.values()) for one in found], color="black", linewidth=2, label="ours")
    for part, colour in _COLOURS.items():
        spent = [1e3 * one.seconds[part] for one in found]
        panel.plot(at, spent, color=colour, marker=_MARKERS[part], markersize=3, linewidth=1, label=_NAMES[part])
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xlim(at[0], at[-1])


def _draw_leaders(panel: Any, found: Sequence[Point]) -> None:
    """Colour the ground as the part that costs most, and name it at the top."""
    low, high = panel.get_ylim()
    panel.set_ylim(low, high * (high / low) ** 0.2)  # room for the names
    turns = turning_points(found)
    last = found[-1].at
    for index, (_, start, part) in enumerate(turns):
        end = turns[index + 1][1] if index + 1 < len(turns) else last
        panel.axvspan(start, end, color=_COLOURS[part], alpha=0.12, linewidth=0)
        first = index == 0  # may be narrow: written from its edge on
        panel.annotate(
            _NAMES[part].replace(" ", "\n"),
            (start if first else math.sqrt(start * max(end, start)), 0.98),
            xycoords=panel.get_xaxis_transform(),
            xytext=(3 if first else 0, 0),
            textcoords="offset points",
            fontsize=7.5,
            ha="left" if first else "center",
            va="top",
        )


def _roofline(tflops: float, weight_bytes: int, device: Device) -> float:
    """Return seconds; a part that computes nothing reads nothing."""
    return max(tflops / device.tflops, weight_bytes / device.gb_s / 1e9) if tflops else 0.0
