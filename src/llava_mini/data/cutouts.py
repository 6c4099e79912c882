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
from PIL import Image, ImageDraw, ImageFont

from llava_mini.data.clipart import named_clipart
from llava_mini.data.colours import colour_word
from llava_mini.data.names import category_of, plain_name
from llava_mini.errors import DataError

Split = Literal["train", "unseen"]

CUTOUT_SOURCES = ("emojibase-data", "@lobehub/fluent-emoji-3d", "openclipart-png")
"""Names of the packages that cut-outs come from."""
GLYPH_SOURCE = "fonts-noto-color-emoji"
"""Name of the package with the emoji of a second artist, which are for training alone."""
_FONT = f"{GLYPH_SOURCE}/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
_FONT_SIZE, _WIDEST = 109, 150
"""The one size of its pictures; what is wider is several of them side by side."""
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
    """File with an alpha channel, or a font."""
    source: str
    """"emoji", "clipart" or "glyph"."""
    glyph: str = ""
    """Of a font, the character."""

    @property
    def category(self) -> str:
        """Return the kind of thing: animal, food, vehicle, ..."""
        return category_of(self.name) or "thing"

    @property
    def image(self) -> Image.Image:
        """Read the picture as RGBA, cut to what is not transparent."""
        if self.glyph:
            picture = _draw_glyph(self.path, self.glyph)
        else:
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


def load_glyphs(sources_folder: Path) -> list[Cutout]:
    """List the emoji of a second artist, to train on; none of which the first artist's is held out.

    Raises:
        DataError: when a source is missing.
    """
    font = sources_folder / _FONT
    if not font.is_file():
        raise DataError(f"{font} is missing; fetch it with 'llava-mini data fetch --use train'")
    emoji = list(_emoji(sources_folder))
    held_out = _held_out([*emoji, *_clipart(sources_folder)])
    kept = {_code(cutout.path.stem) for cutout in emoji if cutout.path in held_out}
    found = [
        Cutout(name, font, "glyph", entry["emoji"])
        for name, entry in _labels(sources_folder)
        if _code(entry["hexcode"].lower()) not in kept
    ]
    return [one for one in found if _is_one_glyph(_draw_glyph(font, one.glyph))]


def _is_one_glyph(picture: Image.Image) -> bool:
    box = picture.getchannel("A").getbbox()
    return box is not None and box[2] - box[0] <= _WIDEST


def _code(stem: str) -> str:
    """Return an emoji's code without the marks that ask for its coloured form."""
    return stem.replace("-fe0f", "")


def _draw_glyph(font: Path, glyph: str) -> Image.Image:
    picture = Image.new("RGBA", (4 * _FONT_SIZE, 2 * _FONT_SIZE))
    drawn = ImageFont.truetype(str(font), _FONT_SIZE)
    ImageDraw.Draw(picture).text((8, 8), glyph, fill="black", font=drawn, embedded_color=True)
    return picture


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


def series_of(cutout: Cutout) -> str:
    """Return what drawings of a name that look alike share, as "dog" of "dog_01" and "dog_02"; an emoji's own file."""
    stem = cutout.path.stem
    return stem if cutout.source == "emoji" else re.sub(r"[\d_]+", "", stem)[:12]


def _hash(cutout: Cutout) -> float:
    """Give a number in [0, 1), the same for a series of drawings."""
    digest = hashlib.sha256(f"{cutout.name}/{series_of(cutout)}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _emoji(folder: Path) -> Iterator[Cutout]:
    """Yield the emoji whose label is a plain thing."""
    pictures = folder / _EMOJI_PICTURES
    for name, entry in _labels(folder):
        code = entry["hexcode"].lower()
        for stem in (code, code.removesuffix("-fe0f"), f"{code}-fe0f"):
            path = pictures / f"{stem}.webp"
            if path.is_file():
                yield Cutout(name, path, "emoji")
                break


def _labels(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the names of emoji that are plain things, and what is known of each."""
    labels = folder / _EMOJI_LABELS
    if not labels.is_file() or not (folder / _EMOJI_PICTURES).is_dir():
        raise DataError(f"no emoji under {folder}; fetch the sources with 'llava-mini data fetch --use train'")
    for entry in json.loads(labels.read_text(encoding="utf-8")):
        name = plain_name(entry["label"])
        if name is not None:
            yield name, entry


def _clipart(folder: Path) -> Iterator[Cutout]:
    """Yield the clip-art whose file name can be trusted."""
    root = folder / _CLIPART
    if not root.is_dir():
        raise DataError(f"no clip-art under {folder}; fetch the sources with 'llava-mini data fetch --use train'")
    for name, path in named_clipart(root):
        yield Cutout(name, path, "clipart")
