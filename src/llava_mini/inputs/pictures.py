"""Open a picture as RGB, whatever it was stored as: palette, grey, CMYK, 16-bit, transparent or turned.

Pillow is told the formats it may try, and a picture's size is checked before any pixel is decoded.
"""

from typing import BinaryIO

import numpy as np
from PIL import Image

from llava_mini.errors import MediaError
from llava_mini.inputs.files import (
    DEFAULT_LIMITS,
    MediaLimits,
    Source,
    check_pixels,
    container_of,
    opened,
    shown_name,
)

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_ANIMATED = (
    "GIF",
    "WEBP",
    "PNG",
)  # a JPEG with more pictures inside (MPO) is a photo with its preview or depth map


def open_picture(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> Image.Image:
    """Open a picture as RGB, turned the way its EXIF data asks; of an animated picture, the first frame.

    Args:
        source: a path, the bytes of a file, or a Pillow picture, which is only converted and left as it was.
        limits: how large it may be.

    Raises:
        MediaError: the file is missing, damaged, too large or not a JPEG, PNG, WEBP, GIF or BMP picture.
    """
    name = shown_name(source)
    if isinstance(source, Image.Image):
        check_pixels(source.width, source.height, name, limits)
        return _upright(source, name)
    with opened(source, limits) as file:
        if container_of(file, name) != "picture":
            raise MediaError(f"{name} is a video; give a picture (JPEG, PNG, WEBP, GIF or BMP)")
        return _upright(picture_header(file, name, limits), name)


def picture_header(file: BinaryIO, name: str, limits: MediaLimits) -> Image.Image:
    """Read a picture's format and size, and no pixel yet."""
    file.seek(0)
    try:
        image = Image.open(file, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"{name} has far more than the {limits.max_pixels:,} pixels that are opened") from error
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, struct.error, ValueError, KeyError, …
        raise damaged(name) from error
    check_pixels(image.width, image.height, name, limits)
    return image


def is_animated(image: Image.Image) -> bool:
    """Tell a picture that moves from a still one, from its header."""
    try:
        return image.format in _ANIMATED and bool(getattr(image, "is_animated", False))
    except Exception:  # counting the frames of a truncated GIF fails: its first one may still be good
        return False


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB.

    Transparent pixels show white, the page most pictures are drawn for; dropping the alpha channel instead would bring
    up whatever colour is hidden under it, mostly black, and make black text on it unreadable.
    16-bit grey is scaled to 8 bits, where Pillow's own conversion would clip nearly all of it to white.
    """
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float32).clip(0, 65535)
        return Image.fromarray((grey / 257 + 0.5).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")


def damaged(name: str) -> MediaError:
    """Say that a picture cannot be decoded."""
    return MediaError(f"{name} is truncated or damaged; give a whole JPEG, PNG, WEBP, GIF or BMP picture")


def _upright(image: Image.Image, name: str) -> Image.Image:
    """Decode a picture, turn it as its EXIF data asks and make it RGB, without changing the one given."""
    try:
        image.load()
        rgb = to_rgb(image)
        orientation = _orientation(image)
    except Exception as error:  # decoders raise OSError, EOFError, struct.error, ValueError, zlib.error, …
        raise damaged(name) from error
    rgb = rgb.copy() if rgb is image else rgb
    rgb.info.clear()
    return rgb.transpose(_TURNS[orientation]) if orientation in _TURNS else rgb


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF tag 0x0112 → what makes the picture upright."""


def _orientation(image: Image.Image) -> int | None:
    """Read EXIF tag 0x0112."""
    try:
        value = image.getexif().get(0x0112)
    except Exception:  # junk in the EXIF data says nothing about the pixels: the picture is shown as stored
        return None
    return value if isinstance(value, int) else None
