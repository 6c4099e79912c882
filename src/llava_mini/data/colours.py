"""Colours that everybody names alike: their shades, and which ones are too close to stand side by side."""

import colorsys
import random
from collections.abc import Iterable, Sequence

_RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((354, 364), (0.82, 1.0), (0.75, 0.98)),
    "green": ((105, 145), (0.6, 1.0), (0.4, 0.8)),
    "blue": ((214, 235), (0.72, 1.0), (0.6, 0.98)),
    "yellow": ((50, 58), (0.75, 1.0), (0.92, 1.0)),
    "orange": ((24, 34), (0.85, 1.0), (0.94, 1.0)),
    "purple": ((270, 286), (0.6, 0.9), (0.45, 0.75)),
    "pink": ((325, 345), (0.3, 0.5), (0.95, 1.0)),
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.1)),
    "white": ((0, 360), (0.0, 0.03), (0.96, 1.0)),
    "brown": ((20, 30), (0.6, 0.8), (0.34, 0.5)),
    "gray": ((0, 360), (0.0, 0.05), (0.45, 0.62)),
}
COLOURS = tuple(_RANGES)
"""The colour words that are asked for."""
_CLOSE = (
    ("red", "orange"), ("orange", "yellow"), ("orange", "brown"), ("red", "brown"), ("black", "brown"),
    ("blue", "purple"), ("red", "pink"), ("pink", "purple"),
)  # fmt: skip
_HUES = (
    (9, "red"), (19, None), (39, "orange"), (44, None), (63, "yellow"), (80, None), (160, "green"),
    (195, None), (245, "blue"), (260, None), (295, "purple"), (312, None), (342, "pink"), (350, None),
    (361, "red"),
)  # fmt: skip
"""Upper bounds in degrees."""


def shade(rng: random.Random, word: str) -> tuple[int, int, int]:
    """Draw one shade of a colour word as RGB of 0 to 255."""
    hue, saturation, value = (rng.uniform(*bounds) for bounds in _RANGES[word])
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def clashes(one: str, other: str) -> bool:
    """Tell whether two colour words are the same or hard to tell apart."""
    return one == other or (one, other) in _CLOSE or (other, one) in _CLOSE


def draw_colour(rng: random.Random, avoid: Iterable[str]) -> str:
    """Draw a colour that clashes with none of the given ones; all colours come about equally often."""
    avoid = tuple(avoid)
    free = [word for word in COLOURS if not any(clashes(word, used) for used in avoid)]
    free = free or [word for word in COLOURS if word not in avoid]
    weights = [1 + 0.12 * sum(word in pair for pair in _CLOSE) for word in free]
    return rng.choices(free, weights)[0]


def colour_word(rgb: Sequence[float]) -> str | None:
    """Name an RGB colour of 0 to 255 that everybody would call the same; None between two names."""
    red, green, blue = (float(value) / 255 for value in rgb)
    value, low = max(red, green, blue), min(red, green, blue)
    saturation = 0.0 if value == 0 else (value - low) / value
    if value < 0.17:
        return "black"
    if saturation < 0.12:
        return "white" if value > 0.9 else "gray" if 0.3 < value < 0.75 else None
    spread = value - low
    if value == red:
        hue = 60 * (((green - blue) / spread) % 6)
    elif value == green:
        hue = 60 * ((blue - red) / spread + 2)
    else:
        hue = 60 * ((red - green) / spread + 4)
    if saturation < 0.3:
        return None
    if 10 <= hue < 42 and value < 0.62:
        return "brown"
    if (hue >= 315 or hue < 8) and value > 0.85 and saturation < 0.6:
        return "pink"
    if 19 <= hue < 39 and saturation < 0.55:
        return None
    return next(word for bound, word in _HUES if hue < bound)
