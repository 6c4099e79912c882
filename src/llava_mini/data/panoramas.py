"""Photographs to train on: panoramas under CC0, of which a scene gets a view as its ground."""

import base64
import io
import random
import re
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from llava_mini.data.layouts import Ground
from llava_mini.errors import DataError

PANORAMA_SOURCE = "@pmndrs/assets"
"""Name of the package that panoramas come from."""
_FOLDER = "pmndrs-assets/package/hdri"
_SHOWN = {
    "apartment": "window, door, lamp, house", "bridge": "window, bridge", "city": "office building, tree, bench, car",
    "dawn": "sun, mountain, cloud, leaf", "esplanade": "lamp, light bulb, office building, table, chair",
    "forest": "tree, leaf, sun", "hall": "lamp, light bulb, table", "lab": "window, table, chair, computer, box",
    "lobby": "couch, bench, lamp, light bulb, door", "night": "star, tree, cloud, moon",
    "park": "tree, sun, house, leaf",
    "sky": "cloud, sun", "studio": "umbrella, lamp, light bulb, camera", "sunrise": "sun, tree, cloud, leaf",
    "sunset": "sun, cloud, tree, house, lamp", "venice": "castle, church, sun, boat, lamp, house",
    "warehouse": "lamp, light bulb, box, door, factory", "workshop": "factory, lamp, light bulb, box, table, chair",
}  # fmt: skip
"""What a view of each may hold, so that nobody says that it is not there."""
_BRIGHT = 1e4
"""Where lamps were too bright for half precision."""
_WHITE = 0.9
"""Share of pixels that are darker than white: the files hold light, not colours of a screen."""


def load_panoramas(sources: Path) -> list[Ground]:
    """Read the panoramas, RGB 512 × 256.

    Raises:
        DataError: when their package is missing or damaged.
    """
    grounds = []
    for name, shown in _SHOWN.items():
        path = sources / _FOLDER / f"{name}.exr.js"
        if not path.is_file():
            raise DataError(f"{path} is missing; fetch it with 'llava-mini data fetch --use train'")
        grounds.append(Ground(_develop(path), tuple(shown.split(", "))))
    return grounds


def look_around(rng: random.Random, panorama: Image.Image, side: int) -> Image.Image:
    """Take a square view in some direction, wide or narrow, brighter or darker, more colourful or less."""
    width, height = panorama.size
    length = rng.randint(height // 4, height)
    turned = Image.fromarray(np.roll(np.asarray(panorama), rng.randrange(width), axis=1))
    top = rng.randint(0, height - length)
    view = turned.crop((0, top, length, top + length)).resize((side, side), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        view = ImageOps.mirror(view)
    view = ImageEnhance.Brightness(view).enhance(rng.uniform(0.5, 1.2))
    return ImageEnhance.Color(view).enhance(rng.uniform(0.3, 1.3))


def _develop(path: Path) -> Image.Image:
    """Turn linear light in half precision into colours of a screen: the brightest tenth is white."""
    packed = re.search(r"base64,([A-Za-z0-9+/=]+)", path.read_text(encoding="ascii", errors="replace"))
    try:
        with av.open(io.BytesIO(base64.b64decode(packed[1] if packed else "")), format="exr_pipe") as file:
            frame = next(file.decode(video=0))
    except (av.FFmpegError, StopIteration, ValueError) as error:
        raise DataError(f"{path} holds no picture; delete its package's folder and fetch it again") from error
    green, blue, red = (
        np.frombuffer(plane, dtype="<f2").reshape(frame.height, -1)[:, : frame.width] for plane in frame.planes
    )
    light = np.nan_to_num(np.stack([red, green, blue], axis=-1).astype(np.float32), nan=_BRIGHT, posinf=_BRIGHT).clip(
        min=0
    )
    shown = (light / np.quantile(light, _WHITE)).clip(max=1) ** (1 / 2.2)
    picture = Image.fromarray((255 * shown).round().astype(np.uint8))
    return picture.filter(ImageFilter.MedianFilter(3))  # compression drew dark rings around lamps
