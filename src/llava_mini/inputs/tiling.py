"""Square pictures and their tiles: one picture becomes S×S tiles and, last, the whole.

Source: LLaVA-Mini, section 4.2 (high resolution).  S tiles per side; a rectangle is made square by `aspect` first.

Where we differ: the official code cuts blocks of floor(width/S)×floor(height/S) pixels and so loses up to S−1 rows and
columns; here the cuts lie at rounded fractions, and every pixel of the square is in exactly one tile.
"""

from typing import Literal, NamedTuple

from PIL import Image

from llava_mini.errors import InputError

Aspect = Literal["pad", "crop", "stretch"]
Colour = tuple[int, int, int]

CLIP_MEAN: Colour = (122, 116, 104)
"""The mean colour of CLIP's training pictures: padding with it becomes zeros after normalisation."""


class Box(NamedTuple):
    """A rectangle in pixels, right and lower edge excluded."""

    left: int
    upper: int
    right: int
    lower: int


def tiles(
    image: Image.Image, per_side: int, tile_px: int, *, aspect: Aspect = "pad", fill: Colour = CLIP_MEAN
) -> list[Image.Image]:
    """Cut a picture into S×S tiles, row by row, and put the whole picture last.

    Args:
        image: any RGB picture; `aspect` says how a rectangle becomes a square.
        per_side: S, tiles per side; 1 gives the whole picture alone.
        tile_px: side of every returned picture, in pixels.

    Returns:
        S²+1 pictures of tile_px×tile_px, or one for S=1.
    """
    if per_side < 1:
        raise InputError(f"tiles per side ({per_side}) must be 1 or more")
    if tile_px < 1:
        raise InputError(f"tile_px ({tile_px}) must be 1 or more")
    square = to_square(image, aspect, fill=fill)
    if per_side > 1 and square.width < per_side:  # fewer pixels than tiles: enlarge, so that no tile is empty
        square = square.resize((per_side, per_side), Image.Resampling.BICUBIC)
    boxes = tile_boxes(square.width, square.height, per_side) if per_side > 1 else []
    return [_resized(part, tile_px) for part in [*(square.crop(box) for box in boxes), square]]


def tile_boxes(width: int, height: int, per_side: int) -> list[Box]:
    """Place S×S boxes that cover every pixel exactly once, row by row; sides differ by at most one pixel."""
    if per_side < 1 or min(width, height) < per_side:
        raise InputError(f"a picture of {width}×{height} pixels cannot be cut into {per_side}×{per_side} tiles")
    xs, ys = _edges(width, per_side), _edges(height, per_side)
    cells = [(row, column) for row in range(per_side) for column in range(per_side)]
    return [Box(xs[column], ys[row], xs[column + 1], ys[row + 1]) for row, column in cells]


def to_square(image: Image.Image, aspect: Aspect, *, fill: Colour = CLIP_MEAN) -> Image.Image:
    """Make a picture square: "pad" keeps all of it, "crop" keeps the middle, "stretch" changes its proportions."""
    if aspect == "pad":
        return pad_to_square(image, fill)
    if aspect == "crop":
        return center_crop_square(image)
    if aspect == "stretch":
        side = max(image.size)
        return image if image.width == image.height else image.resize((side, side), Image.Resampling.BICUBIC)
    raise InputError(f"aspect ({aspect!r}) must be 'pad', 'crop' or 'stretch'")


def pad_to_square(image: Image.Image, fill: Colour = CLIP_MEAN) -> Image.Image:
    """Lay a picture in the middle of the smallest square that holds it; the rest is `fill`."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def center_crop_square(image: Image.Image) -> Image.Image:
    """Keep the largest square in the middle of a picture: CLIP's shortest-edge resize and centre crop, unscaled."""
    width, height = image.size
    if width == height:
        return image
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    return image.crop((left, upper, left + side, upper + side))


def _resized(image: Image.Image, side_px: int) -> Image.Image:
    """Resize to a square of `side_px`, with the bicubic filter CLIP was trained with."""
    if image.size == (side_px, side_px):
        return image
    return image.resize((side_px, side_px), Image.Resampling.BICUBIC)


def _edges(side_px: int, per_side: int) -> list[int]:
    """Cut a side at round(i·side/S), in whole numbers; a half goes up."""
    return [(2 * i * side_px + per_side) // (2 * per_side) for i in range(per_side + 1)]
