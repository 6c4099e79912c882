"""Promises of the tiling: every pixel in exactly one tile, row by row, the whole last."""

import numpy as np
import pytest
from corpus import BLUE, GREEN, RED, red_blue
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llava_mini.errors import InputError
from llava_mini.inputs.tiling import CLIP_MEAN, center_crop_square, pad_to_square, tile_boxes, tiles, to_square


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 60), height=st.integers(1, 60), per_side=st.integers(1, 6))
def test_every_pixel_is_in_exactly_one_tile_and_tiles_are_nearly_equal(width: int, height: int, per_side: int) -> None:
    if min(width, height) < per_side:
        with pytest.raises(InputError, match=f"{width}×{height}"):
            tile_boxes(width, height, per_side)
        return
    seen = np.zeros((height, width), int)
    boxes = tile_boxes(width, height, per_side)
    for box in boxes:
        seen[box.upper : box.lower, box.left : box.right] += 1
    assert (seen == 1).all()
    widths = {box.right - box.left for box in boxes}
    assert max(widths) - min(widths) <= 1
    assert min(widths) > 0


def test_tiles_come_row_by_row_and_the_whole_last() -> None:
    image = Image.new("RGB", (100, 100))
    colours = [RED, GREEN, BLUE, (255, 255, 0)]
    for colour, corner in zip(colours, [(0, 0), (50, 0), (0, 50), (50, 50)], strict=True):
        image.paste(colour, (*corner, corner[0] + 50, corner[1] + 50))
    parts = tiles(image, 2, 32)
    assert [part.size for part in parts] == [(32, 32)] * 5
    assert [part.getpixel((16, 16)) for part in parts[:4]] == colours
    assert [parts[4].getpixel(xy) for xy in ((4, 4), (28, 4), (4, 28), (28, 28))] == colours


def test_one_tile_a_side_gives_the_whole_alone() -> None:
    image = red_blue(32, 32)
    (whole,) = tiles(image, 1, 32)
    assert whole.tobytes() == image.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 3), (101, 67), (3, 400)])
@pytest.mark.parametrize("aspect", ["pad", "crop", "stretch"])
def test_any_size_gives_tiles_of_the_size_asked_for(size: tuple[int, int], aspect: str) -> None:
    parts = tiles(Image.new("RGB", size, RED), 3, 28, aspect=aspect)  # type: ignore[arg-type]
    assert [(part.mode, part.size) for part in parts] == [("RGB", (28, 28))] * 10


def test_tiles_without_resizing_are_the_pixels_of_the_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    parts = [np.asarray(part) for part in tiles(Image.fromarray(pixels), 2, 32)[:4]]
    assert (np.vstack([np.hstack(parts[:2]), np.hstack(parts[2:])]) == pixels).all()


def test_padding_keeps_the_whole_picture_in_the_middle() -> None:
    square = pad_to_square(red_blue(64, 32), (9, 9, 9))
    assert square.size == (64, 64)
    assert square.crop((0, 16, 64, 48)).tobytes() == red_blue(64, 32).tobytes()
    assert square.getpixel((0, 15)) == square.getpixel((63, 48)) == (9, 9, 9)
    assert pad_to_square(red_blue(3, 8)).getpixel((0, 0)) == CLIP_MEAN


def test_cropping_keeps_the_middle() -> None:
    image = Image.new("RGB", (60, 20), RED)
    image.paste(GREEN, (20, 0, 40, 20))
    assert center_crop_square(image).tobytes() == Image.new("RGB", (20, 20), GREEN).tobytes()


def test_stretching_keeps_everything_and_changes_the_proportions() -> None:
    image = to_square(red_blue(64, 32), "stretch")
    assert image.size == (64, 64)
    assert image.getpixel((5, 60)) == RED
    assert image.getpixel((60, 5)) == BLUE


def test_a_square_is_left_alone() -> None:
    image = red_blue(32, 32)
    assert all(to_square(image, aspect) is image for aspect in ("pad", "crop", "stretch"))


def test_senseless_arguments_are_refused_in_words() -> None:
    for arguments, word in (((0, 32), "tiles per side"), ((2, 0), "tile_px")):
        with pytest.raises(InputError, match=word):
            tiles(red_blue(), *arguments)
    with pytest.raises(InputError, match="'pad', 'crop' or 'stretch'"):
        tiles(red_blue(), 2, 32, aspect="fit")  # type: ignore[arg-type]
