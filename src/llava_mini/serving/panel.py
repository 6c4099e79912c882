"""The panel beside an answer: tokens and FLOPs beside those of a model that keeps every patch, heat maps, key moments.

What `/v1/explanations` tells → HTML that needs nothing from elsewhere.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

MOMENTS = 3
"""Frames of a video that are called its key moments, at most; of a short one, half of its frames."""
_COLOURS = "inferno"  # lightness alone tells more from less, so colour-blind people read it as everybody does
_SIDE_PX = 384

Told = Mapping[str, Any]


def draw(told: Told, first_word_s: float | None = None, *, followed: bool = False) -> str:
    """Return the panel of an explanation.

    Args:
        told: the explanation.
        first_word_s: how long the last question waited for its first word; None: not known.
        followed: whether that question followed others.
    """
    line = " · ".join(part.replace(" ", "&nbsp;") for part in numbers_line(told).split(" · "))
    numbers = f'<p class="line">{line}</p>{_bars(told)}'
    time = "" if first_word_s is None else f'<p class="note">{time_line(told, first_word_s, followed=followed)}</p>'
    return f'<div class="panel">{numbers}{time}{_looked(told["frames"])}</div>'


def say(text: str) -> str:
    """Return a panel of one line."""
    return f'<div class="panel"><p class="note">{html.escape(text)}</p></div>'


def numbers_line(told: Told) -> str:
    """Tell in one line what was saved.

    >>> numbers_line({"vision_tokens": 1, "all_tokens": 81, "tflops": None})
    '1 vision token instead of 81'
    """
    tokens, flops = told["vision_tokens"], told["tflops"]
    line = f"{tokens:,} vision token{'' if tokens == 1 else 's'} instead of {told['all_tokens']:,}"
    if flops is None:
        return line
    unit, scale = _unit(flops)
    first, every, second = (_short(flops[name] * scale) for name in ("first", "all_tokens", "second"))
    return f"{line} · {first} {unit} instead of {every} · second question {second}"


def time_line(told: Told, first_word_s: float, *, followed: bool = False) -> str:
    """Tell what was measured, and apart from it what is estimated."""
    line = f"First word after {_short(first_word_s)} s (measured)."
    if told["tflops"] is None or followed:
        return line
    ratio = told["tflops"]["all_tokens"] / told["tflops"]["first"]
    every = f"With every patch kept, {_short(ratio)} times the FLOPs"
    return f"{line} {every}: about {_short(first_word_s * ratio)} s if time goes as FLOPs do (an estimate)."


def heat_map(picture: Image.Image, looked: Sequence[Sequence[float]]) -> Image.Image:
    """Lay shares over a square picture: light and coloured where most was looked, dark where nothing was."""
    side = max(picture.size)
    grid = Image.fromarray(np.asarray(looked, dtype=np.float32))
    smooth = np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC)).clip(min=0)
    heat = smooth / max(float(smooth.max()), 1e-12)
    colours = matplotlib.colormaps[_COLOURS](heat)[..., :3]
    below = np.asarray(picture.convert("RGB").resize((side, side)), dtype=np.float32) / 255
    mixed = below * (0.35 + 0.25 * heat[..., None]) + colours * 0.55 * heat[..., None]
    return Image.fromarray((mixed.clip(max=1) * 255).round().astype(np.uint8))


def key_moments(frames: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return which frames of a video the answer attended to most, in the order of time."""
    if len(frames) < 2 or any(frame.get("attention") is None for frame in frames):
        return []
    most = sorted(range(len(frames)), key=lambda index: -frames[index]["attention"])
    return sorted(most[: max(1, min(MOMENTS, len(frames) // 2))])


def clock(time_s: float) -> str:
    """Write a time as minutes:seconds.

    >>> clock(83.4)
    '1:23'
    """
    return f"{int(time_s) // 60}:{int(time_s) % 60:02}"


def _looked(frames: Sequence[Mapping[str, Any]]) -> str:
    """Draw what was shown: all pictures, then video by video."""
    files: dict[int, list[Mapping[str, Any]]] = {}
    for frame in frames:
        files.setdefault(frame["file"], []).append(frame)
    pictures = [shown[0] for shown in files.values() if shown[0]["time_s"] is None]
    drawn = _shown("What the model looked at", [_figure(frame) for frame in pictures]) if pictures else ""
    return drawn + "".join(_film(shown) for shown in files.values() if shown[0]["time_s"] is not None)


def _film(frames: Sequence[Mapping[str, Any]]) -> str:
    """Draw the frames of a video; its key moments are framed and named."""
    whole = sum(frame.get("attention") or 0.0 for frame in frames)
    shares = [(frame.get("attention") or 0.0) / whole if whole else None for frame in frames]
    keys = key_moments(frames)
    named = ", ".join(f"{clock(frames[key]['time_s'])} ({shares[key]:.0%})" for key in keys)
    figures = [
        _figure(frame, clock(frame["time_s"]), share, key=place in keys)
        for place, (frame, share) in enumerate(zip(frames, shares, strict=True))
    ]
    title = f"Key moments: {named}" if keys else "What the model looked at"
    return _shown(title, figures, "Share of the answer's attention to this video." if keys else "")


def _shown(title: str, figures: Sequence[str], note: str = "") -> str:
    kind = "one" if len(figures) == 1 else "strip"
    legend = f'<p class="note">Light: looked at most; dark: not at all. {note}</p>'
    return f'<h3>{title}</h3><div class="{kind}">{"".join(figures)}</div>{legend}'


def _figure(frame: Mapping[str, Any], time: str = "", share: float | None = None, *, key: bool = False) -> str:
    """Draw one picture or frame, as large as it is shown at most."""
    data = base64.b64decode(frame["picture"].partition(",")[2])
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    if frame["looked"] is not None:
        picture = heat_map(picture, frame["looked"])
    file = io.BytesIO()
    picture.resize((_SIDE_PX, _SIDE_PX)).save(file, "JPEG", quality=85)
    source = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    told = " · ".join([time, *([] if share is None else [f"{share:.0%}"])]) if time else ""
    caption = f"<figcaption>{told}</figcaption>" if told else ""
    alt = f"heat map{' at ' + time if time else ''}"
    kind = ' class="key"' if key else ""
    return f'<figure{kind}><img src="{source}" alt="{alt}">{caption}</figure>'


def _bars(told: Told) -> str:
    """Draw tokens and FLOPs as bars beside those of a model that keeps every patch."""
    rows = [("vision tokens", told["vision_tokens"], told["all_tokens"])]
    if told["tflops"] is not None:
        unit, scale = _unit(told["tflops"])
        rows.append((unit, told["tflops"]["first"] * scale, told["tflops"]["all_tokens"] * scale))
    bars = [
        f'<tr><th>{name if mine else ""}</th><td><i class="{"ours" if mine else "all"}" style="width:'
        f'{max(1.0, 100 * value / max(ours, every)):.1f}%"></i></td><td>{_short(value)}</td></tr>'
        for name, ours, every in rows
        for mine, value in ((True, ours), (False, every))
    ]
    key = '<span class="ours"></span>this model <span class="all"></span>every patch kept'
    return f'<table>{"".join(bars)}</table><p class="note">{key}</p>'


def _unit(tflops: Mapping[str, float]) -> tuple[str, float]:
    """Return a unit in which the numbers are read easily, and how many of it a TFLOP has."""
    return ("TFLOP", 1.0) if tflops["all_tokens"] >= 1 else ("GFLOP", 1000.0)


def _short(value: float) -> str:
    """Write a number with at most three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}".removesuffix(".0") if value >= 1 else f"{value:.2g}"
