"""Drawn shapes: circle, square, triangle, star, heart, diamond, ring, cross and hexagon as soft masks."""

import math

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "ring", "cross", "hexagon")
"""Every shape; the word is also the name of the object."""
_SOFTNESS = 3


def shape_mask(name: str, side: int, tilt: float) -> Image.Image:
    """Draw a shape as a grey mask with smooth edges.

    Args:
        name: one of `SHAPES`.
        side: side of the mask in pixels.
        tilt: degrees; round shapes ignore it.
    """
    big = side * _SOFTNESS
    mask = Image.new("L", (big, big), 0)
    _draw(ImageDraw.Draw(mask), name, big)
    if name not in ("circle", "ring"):
        mask = mask.rotate(tilt, Image.Resampling.BILINEAR)
    return mask.resize((side, side), Image.Resampling.BOX)


def _draw(draw: ImageDraw.ImageDraw, name: str, side: int) -> None:
    """Fill one shape into a square mask, leaving a margin for the tilt."""
    middle, radius = side / 2, 0.47 * side

    def polygon(corners: int, turn: float, inner: float = 1.0) -> None:
        steps = corners * (2 if inner != 1.0 else 1)
        points = []
        for step in range(steps):
            reach = radius * (inner if step % 2 and inner != 1.0 else 1.0)
            angle = math.radians(turn) + 2 * math.pi * step / steps
            points.append((middle + reach * math.cos(angle), middle + reach * math.sin(angle)))
        draw.polygon(points, fill=255)

    if name in ("circle", "ring"):
        draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=255)
        if name == "ring":
            hole = 0.58 * radius
            draw.ellipse((middle - hole, middle - hole, middle + hole, middle + hole), fill=0)
    elif name == "square":
        reach = 0.8 * radius
        draw.rectangle((middle - reach, middle - reach, middle + reach, middle + reach), fill=255)
    elif name == "triangle":
        polygon(3, -90)
    elif name == "star":
        polygon(5, -90, 0.42)
    elif name == "diamond":
        reach = 0.68 * radius
        draw.polygon(
            [
                (middle, middle - radius),
                (middle + reach, middle),
                (middle, middle + radius),
                (middle - reach, middle),
            ],
            fill=255,
        )
    elif name == "hexagon":
        polygon(6, 0)
    elif name == "cross":
        arm = 0.32 * radius
        draw.rectangle((middle - arm, middle - radius * 0.9, middle + arm, middle + radius * 0.9), fill=255)
        draw.rectangle((middle - radius * 0.9, middle - arm, middle + radius * 0.9, middle + arm), fill=255)
    else:
        angles = np.linspace(0, 2 * math.pi, 90)
        xs = 16 * np.sin(angles) ** 3
        ys = 13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)
        draw.polygon(
            [(middle + x / 17 * radius, middle - (y + 2.5) / 17 * radius) for x, y in zip(xs, ys, strict=True)],
            fill=255,
        )
