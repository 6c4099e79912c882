"""Figures of an analysis, drawn from its numbers as JSON holds them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from llava_mini.drawing import BLUE, GREEN, GREY, ORANGE, PINK, STYLE, save

COLOURS = {"instruction": BLUE, "vision": ORANGE, "response": GREEN}
GAPS = {"from": ORANGE, "up to": BLUE, "window": GREEN, "hidden": PINK}
_HEAT = "magma"


def shares(profile: Mapping[str, Any], path: Path) -> None:
    """Draw the shares of attention by layer, a panel for each target; dashed: to the very first token alone."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _panels(len(profile["targets"]), "layer")
        for panel, (axis, target) in enumerate(zip(axes, profile["targets"], strict=True)):
            axis.set_title(f"attention of {target} tokens", loc="left")
            for column, source in enumerate(profile["sources"]):
                mean, half = (_numbers(profile["shares"][key])[:, panel, column] * 100 for key in ("mean", "half"))
                if target == source or source != "response":  # nothing sees what comes after it
                    _line(axis, mean, half, COLOURS[source], f"to {source}")
            sink = _numbers(profile["sink"]["mean"])[:, panel] * 100
            axis.plot(sink, color=GREY, linestyle="--", linewidth=1, label="to the first token alone")
            axis.set_ylim(0, 100)
        axes[0].set_ylabel("share of attention, %")
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper right", ncols=4)
        save(figure, path, _title(profile["model"], profile["n"]))


def entropy(profile: Mapping[str, Any], path: Path, *, tokens: int) -> None:
    """Draw the entropy of attention over vision tokens by layer; dashed: all get alike."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _panels(1, "layer")
        for column, target in enumerate(profile["targets"]):
            mean, half = (_numbers(profile["entropy"][key])[:, column] for key in ("mean", "half"))
            _line(axis, mean, half, COLOURS[target], f"of {target} tokens")
        axis.axhline(np.log(tokens), color=GREY, linestyle="--", linewidth=1)
        axis.set_ylabel("entropy over vision tokens, nats")
        axis.legend(loc="best")
        axis.annotate(f"log {tokens}", (0, np.log(tokens)), fontsize=8, va="bottom")
        save(figure, path, _title(profile["model"], profile["n"]))


def removal(rows: Sequence[Mapping[str, Any]], path: Path, *, model: str) -> None:
    """Draw accuracy without vision tokens: from a layer on, up to a layer, and in a window that begins there.

    Full marks: other than with nothing removed, by the paired interval.
    """
    ends = {row["where"]: row for row in rows if row["where"] in ("none", "all")}
    found = {where: [row for row in rows if row["where"] == where] for where in GAPS}
    drawn = {where: own for where, own in found.items() if own}
    with matplotlib.rc_context(STYLE):
        panels = {where: place for place, where in enumerate(where for where in drawn if where != "hidden")}
        figure, axes = _panels(len(panels), "layer", width=3.0)
        for where, own in drawn.items():
            axis = axes[panels["window" if where == "hidden" else where]]
            at = [row["end" if where == "up to" else "first"] for row in own]
            low, mean, high = ([100 * row[key] for row in own] for key in ("low", "accuracy", "high"))
            axis.plot(at, mean, color=GAPS[where], label="computed, but hidden" if where == "hidden" else None)
            for place, height, row in zip(at, mean, own, strict=True):
                face = GAPS[where] if differs(row) else "white"
                axis.plot(
                    place, height, marker="o", markersize=4, color=GAPS[where], markerfacecolor=face, clip_on=False
                )
            if where == "hidden":
                continue
            axis.fill_between(at, low, high, color=GAPS[where], alpha=0.2, linewidth=0)
            for name, line in (("none", "-"), ("all", "--")):
                axis.axhline(
                    100 * ends[name]["accuracy"], color=GREY, linestyle=line, linewidth=1, label=f"{name} removed"
                )
            window = f"removed in {own[0]['end'] - own[0]['first']} layers, the first"
            axis.set_xlabel({"from": "removed from layer … on", "up to": "removed up to layer"}.get(where, window))
            axis.set_xlim(0, ends["all"]["end"])
        axes[0].set_ylabel("right answers, %")
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        save(figure, path, _title(model, ends["all"]["n"]) + "; full marks: differs from none removed")


def differs(row: Mapping[str, Any]) -> bool:
    """Whether the paired interval of a row of `removal` leaves 0 out; of one question there is none."""
    low, high = row["difference_low"], row["difference_high"]
    return low is not None and not low <= 0 <= high


def maps(picture: Image.Image, layers: Mapping[int, Any], path: Path, *, title: str) -> None:
    """Draw attention over one picture, a panel a layer."""
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        count = len(layers)
        figure = Figure(figsize=(1.7 * min(count, 6), 1.95 * -(-count // 6)), layout="constrained")
        for place, (layer, heat) in enumerate(sorted(layers.items()), 1):
            axis = figure.add_subplot(-(-count // 6), min(count, 6), place)
            _heat(axis, picture, np.array(heat))
            axis.set_title(f"layer {layer}", fontsize=8)
        save(figure, path, title)


def strip(pictures: Sequence[Image.Image], heats: Sequence[Any], path: Path, *, title: str) -> None:
    """Draw what compression looked at, a panel a picture or frame."""
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        count = len(pictures)
        figure = Figure(figsize=(1.9 * min(count, 6), 4.0 * -(-count // 6)), layout="constrained")
        rows = 2 * -(-count // 6)
        for place, (picture, heat) in enumerate(zip(pictures, heats, strict=True)):
            row, column = divmod(place, 6)
            above = figure.add_subplot(rows, min(count, 6), 2 * row * min(count, 6) + column + 1)
            above.imshow(picture)
            above.set_axis_off()
            _heat(
                figure.add_subplot(rows, min(count, 6), (2 * row + 1) * min(count, 6) + column + 1),
                picture,
                np.array(heat),
            )
        save(figure, path, title)


def words(reading: Mapping[str, Any], path: Path, *, title: str) -> None:
    """Draw how far pre-fusion moved each word of a question."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(3.5, 0.45 * len(reading["words"])), 2.4), layout="constrained")
        axis = figure.add_subplot()
        places = range(len(reading["words"]))
        axis.bar(places, reading["change"], color=BLUE)
        axis.set_xticks(list(places), reading["words"], rotation=45, ha="right", parse_math=False)
        axis.set_ylabel("change, in lengths\nof the embedding")
        save(figure, path, title)


def _title(model: str, n: int) -> str:
    return f"{model}, {n} questions, bands: 95 %" if n > 1 else f"{model}, 1 question"


def _numbers(values: Any) -> Any:
    """Return nested lists as an array; where JSON has null there is NaN, which is not drawn."""
    return np.array(values, dtype=float)


def _panels(count: int, label: str, *, width: float = 4.2) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * count, 2.8), layout="constrained")
    first = figure.add_subplot(1, count, 1)
    axes = [first, *(figure.add_subplot(1, count, place + 1, sharey=first) for place in range(1, count))]
    for axis in axes:
        axis.set_xlabel(label)
    return figure, axes


def _line(axis: Axes, mean: Any, half: Any, colour: str, label: str) -> None:
    layers = np.arange(len(mean))
    axis.plot(layers, mean, color=colour, label=label)
    axis.fill_between(layers, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)


def _heat(axis: Axes, picture: Image.Image, heat: Any) -> None:
    """Lay a heat map over a picture; what got most is lightest."""
    width, height = picture.size
    axis.imshow(picture.convert("L"), cmap="gray", alpha=0.55, extent=(0, width, height, 0))
    axis.imshow(heat, cmap=_HEAT, alpha=0.6, extent=(0, width, height, 0), interpolation="nearest", vmin=0)
    axis.set_axis_off()
