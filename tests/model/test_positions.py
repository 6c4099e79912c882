"""Position codes equal the formula, place by place."""

import math

import torch

from llava_mini.model.positions import sincos_grid


def one_place(place: float, width: int) -> list[float]:
    """The 1-D code of Vaswani et al.: sines, then cosines, of falling frequency."""
    angles = [place / 10_000 ** (i / (width // 2)) for i in range(width // 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def test_a_grid_holds_the_codes_of_row_and_column() -> None:
    grid = sincos_grid(3, 16)
    expected = [one_place(row, 8) + one_place(column, 8) for row in range(3) for column in range(3)]
    torch.testing.assert_close(grid, torch.tensor(expected))


def test_equal_places_of_a_coarse_and_a_fine_grid_have_equal_codes() -> None:
    coarse, fine = sincos_grid(2, 16, extent=6), sincos_grid(6, 16)
    # The middle of a 3×3 region is the middle cell of it: rows and columns 1 and 4.
    expected = fine.reshape(6, 6, 16)[[1, 4]][:, [1, 4]].reshape(4, 16)
    torch.testing.assert_close(coarse, expected)


def test_a_single_cell_over_a_picture_lies_in_its_middle() -> None:
    torch.testing.assert_close(sincos_grid(1, 16, extent=7), sincos_grid(7, 16)[24:25])


def test_a_width_that_four_does_not_divide_is_filled_with_zeros() -> None:
    grid = sincos_grid(2, 18)
    assert grid.shape == (4, 18)
    torch.testing.assert_close(grid[:, :16], sincos_grid(2, 16))
    assert not grid[:, 16:].any()


def test_no_two_places_share_a_code() -> None:
    grid = sincos_grid(24, 64)
    assert torch.cdist(grid, grid).add(torch.eye(24**2) * 9).min() > 0.1
