"""Labelled cut-outs (pictures with transparency) from the training sources, with clean common names."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from llava_mini.data.clipart import named_clipart
from llava_mini.data.colours import colour_word
from llava_mini.data.names import category_of, plain_name
from llava_mini.errors import DataError

Split = Literal["train", "unseen"]

CUTOUT_SOURCES = ("emojibase-data", "@lobehub/fluent-emoji-3d", "openclipart-png")
"""Names of the packages that cut-outs come from."""
_EMOJI_LABELS = "emojibase-data/package/en/data.json"
_EMOJI_PICTURES = "lobehub-fluent-emoji-3d/package/assets"
_CLIPART = "openclipart-png/usr/share/openclipart/png"
_HELD_OUT = 0.16
_COLOUR_SHARE = 0.6


@dataclass(frozen=True)
class Cutout:
    """Name one picture of one thing with a transparent ground; pixels are read when asked for."""

    name: str
    """Common name."""
    path: Path
    """File with an alpha channel."""
    source: str
    """"emoji" or "clipart"."""

    @property
    def category(self) -> str:
        """Return the kind of thing: animal, food, vehicle, ..."""
        return category_of(self.name) or "thing"

    @property
    def image(self) -> Image.Image:
        """Read the picture as RGBA, cut to what is not transparent."""
        with Image.open(self.path) as opened:
            picture = opened.convert("RGBA")
        return picture.crop(picture.getchannel("A").getbbox())

    @cached_property
    def colour(self) -> str | None:
        """Return the colour word of most of the thing, or None when no single word fits."""
        picture = self.image
        picture.thumbnail((48, 48))
        pixels = np.asarray(picture, dtype=np.float32)
        words = Counter(colour_word(pixel[:3]) for pixel in pixels[pixels[..., 3] > 200])
        if not words:
            return None
        word, count = words.most_common(1)[0]
        return word if count / words.total() >= _COLOUR_SHARE else None


def load_cutouts(sources_folder: Path, split: Split) -> list[Cutout]:
    """List the labelled cut-outs of one split, in a fixed order.

    Args:
        sources_folder: where the training sources were fetched to.
        split: "train", or "unseen": never trained on although their names are, and no emoji of a name of which
            another emoji is trained, since emoji of one name are near twins ("red apple", "green apple").

    Raises:
        DataError: when a source is missing.
    """
    found = [*_emoji(sources_folder), *_clipart(sources_folder)]
    found.sort(key=lambda cutout: (cutout.name, cutout.path.name))
    held_out = _held_out(found)
    trained = [cutout for cutout in found if cutout.path not in held_out]
    if split == "train":
        return trained
    twins = {cutout.name for cutout in trained if cutout.source == "emoji"}
    kept = [cutout for cutout in found if cutout.path in held_out]
    return [cutout for cutout in kept if cutout.source != "emoji" or cutout.name not in twins]


def _held_out(cutouts: list[Cutout]) -> set[Path]:
    """Choose about 15 % by a hash of name and file name; a name always keeps something to train on."""
    by_name: dict[str, list[Cutout]] = {}
    for cutout in cutouts:
        by_name.setdefault(cutout.name, []).append(cutout)
    held_out: set[Path] = set()
    for same in by_name.values():
        chosen = {cutout.path for cutout in same if _hash(cutout) < _HELD_OUT}
        if len(chosen) < len(same):
            held_out |= chosen
    return held_out


def _hash(cutout: Cutout) -> float:
    """Give a number in [0, 1), the same for a series of drawings, as "dog_01" and "dog_02"."""
    stem = cutout.path.stem
    series = stem if cutout.source == "emoji" else re.sub(r"[\d_]+", "", stem)[:12]
    digest = hashlib.sha256(f"{cutout.name}/{series}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _emoji(folder: Path) -> Iterator[Cutout]:
    """Yield the emoji whose label is a plain thing."""
    labels, pictures = folder / _EMOJI_LABELS, folder / _EMOJI_PICTURES
    if not labels.is_file() or not pictures.is_dir():
        raise DataError(f"no emoji under {folder}; fetch the sources with 'llava-mini data fetch --use train'")
    for entry in json.loads(labels.read_text(encoding="utf-8")):
        name = plain_name(entry["label"])
        code = entry["hexcode"].lower()
        if name is None:
            continue
        for stem in (code, code.removesuffix("-fe0f"), f"{code}-fe0f"):
            path = pictures / f"{stem}.webp"
            if path.is_file():
                yield Cutout(name, path, "emoji")
                break


def _clipart(folder: Path) -> Iterator[Cutout]:
    """Yield the clip-art whose file name can be trusted."""
    root = folder / _CLIPART
    if not root.is_dir():
        raise DataError(f"no clip-art under {folder}; fetch the sources with 'llava-mini data fetch --use train'")
    for name, path in named_clipart(root):
        yield Cutout(name, path, "clipart")
