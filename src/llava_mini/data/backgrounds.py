"""Grounds for scenes: plain, gradients, textures, landscapes; and, never in training, corners of photographs."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_mini.data.colours import draw_colour, shade

Pixels = NDArray[np.floating[Any]]


class _Canvas(NamedTuple):
    """Hold what every family draws with."""

    rng: random.Random
    noise: np.random.Generator
    side: int
    avoid: list[str]

    def tone(self) -> Pixels:
        """Draw one colour of the ground."""
        return _tone(self.rng, self.avoid)

    def smooth(self, cells: int, channels: int = 1) -> Pixels:
        """Draw smooth noise in [0, 1]: a small grid of numbers, enlarged."""
        grid = self.noise.integers(0, 256, (channels, cells, cells), dtype=np.uint8)
        size = (self.side, self.side)
        layers = [np.asarray(Image.fromarray(layer).resize(size, Image.Resampling.BICUBIC)) for layer in grid]
        return np.stack(layers, axis=-1).astype(np.float32) / 255


_Family = Callable[[_Canvas], Pixels]


def draw_background(rng: random.Random, side: int, avoid: list[str], *, calm: bool) -> tuple[Image.Image, str | None]:
    """Draw a ground that the objects stand out from.

    Args:
        rng: the source of chance.
        side: side in pixels.
        avoid: colour words of the objects.
        calm: leave out landscapes, so that shapes stay easy to see.

    Returns:
        The RGB picture, and the colour word when it is plain.
    """
    noise = np.random.default_rng(rng.getrandbits(63))
    if rng.random() < (0.5 if calm else 0.3):
        word = draw_colour(rng, avoid)
        return Image.new("RGB", (side, side), shade(rng, word)), word
    families: tuple[_Family, ...] = (_gradient, _texture)
    if not calm:
        families = (*families, _octaves, _horizon, _horizon, _blobs)
    pixels = rng.choice(families)(_Canvas(rng, noise, side, avoid))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), None


def cut_corner(rng: random.Random, photograph: Image.Image, side: int) -> Image.Image:
    """Cut a corner out of a photograph, half as wide as its shorter side: its surroundings more than its subject."""
    length = min(photograph.size) // 2
    left, top = rng.choice((0, photograph.width - length)), rng.choice((0, photograph.height - length))
    corner = photograph.crop((left, top, left + length, top + length))
    return corner.resize((side, side), Image.Resampling.BICUBIC)


def _tone(rng: random.Random, avoid: list[str]) -> Pixels:
    """Draw a colour away from the objects, two times of three paler, duller or darker than a named one."""
    blends = [value for word, value in (("white", 255), ("gray", 128), ("black", 40)) if word not in avoid]
    if "gray" in avoid:  # between black and white lies gray
        avoid = [*avoid, "black", "white"]
    if "brown" in avoid and 40 in blends:
        blends.remove(40)
    colour = np.array(shade(rng, draw_colour(rng, avoid)), dtype=np.float32)
    towards = np.float32(rng.choice(blends or [200]))
    tone: Pixels = colour + (towards - colour) * np.float32(rng.choice((0.0, 0.3, 0.6)))
    return tone


def _gradient(canvas: _Canvas) -> Pixels:
    """Blend two tones along a direction."""
    ramp = np.linspace(0, 1, canvas.side, dtype=np.float32)
    tilt = canvas.rng.random()
    mix = (ramp[:, None] * tilt + ramp[None, :] * (1 - tilt))[..., None]
    ground: Pixels = canvas.tone() * (1 - mix) + canvas.tone() * mix
    return ground


def _texture(canvas: _Canvas) -> Pixels:
    """Roughen one tone with fine and middling grain: paper, wall, cloth."""
    grain = canvas.noise.normal(0, canvas.rng.uniform(3, 16), (canvas.side, canvas.side, 1)).astype(np.float32)
    patches = (canvas.smooth(canvas.rng.choice((8, 16, 32))) - 0.5) * canvas.rng.uniform(10, 50)
    return canvas.tone() + grain + patches


def _octaves(canvas: _Canvas) -> Pixels:
    """Add coloured noise of several scales: foliage, gravel, clouds."""
    first, second = canvas.tone(), canvas.tone()
    mix: Pixels = canvas.smooth(3) / 2
    for cells, scale in ((7, 4), (17, 8), (41, 8)):
        mix = mix + canvas.smooth(cells) / scale
    return first * (1 - mix) + second * mix + (canvas.smooth(5, 3) - 0.5) * 40


def _horizon(canvas: _Canvas) -> Pixels:
    """Lay sky over grass, sand, sea, snow or a floor."""
    ramp = np.linspace(0, 1, canvas.side, dtype=np.float32)[:, None, None]
    sky = canvas.rng.choice(((90, 150, 225), (150, 190, 235), (200, 205, 210), (240, 180, 130), (225, 215, 200)))
    ground = canvas.rng.choice(
        ((80, 130, 50), (120, 150, 70), (205, 180, 130), (40, 95, 140), (235, 238, 245), (130, 95, 65))
    )
    above = np.array(sky, np.float32) + 50 * ramp + 40 * (canvas.smooth(4) - 0.5)
    rough = canvas.smooth(canvas.rng.choice((20, 40, 90))) + canvas.smooth(8) - 1
    below = np.array(ground, np.float32) * (1.15 - 0.3 * ramp) + canvas.rng.uniform(15, 45) * rough
    line = canvas.rng.uniform(0.3, 0.75) + 0.08 * (canvas.smooth(6)[canvas.side // 2][None, :, :] - 0.5)
    cover = np.clip((ramp - line) * canvas.rng.choice((15, 40, 100)), 0, 1)
    scene: Pixels = above * (1 - cover) + below * cover
    return scene


def _blobs(canvas: _Canvas) -> Pixels:
    """Blur a few patches of colour, as behind a photograph's subject."""
    tones = np.stack([canvas.tone() for _ in range(4)])
    picked = tones[canvas.noise.integers(0, 4, (canvas.rng.choice((3, 4, 6)),) * 2)]
    small = Image.fromarray(np.clip(picked, 0, 255).astype(np.uint8))
    blurred = small.resize((canvas.side, canvas.side), Image.Resampling.BICUBIC)
    grain = canvas.noise.normal(0, 4, (canvas.side, canvas.side, 1))
    return np.asarray(blurred, dtype=np.float32) + grain.astype(np.float32)
