"""Tiles become one raster, and vision tokens stand where the image stood."""

import pytest
import torch

from llava_mini.errors import InputError
from llava_mini.model.splice import check_frames, count_frames, join_tiles, pack, place


@pytest.mark.parametrize("tiles", [2, 3])
def test_tiles_become_one_raster_in_reading_order(tiles: int) -> None:
    side = 4
    whole = torch.arange((tiles * side) ** 2).reshape(tiles * side, tiles * side)
    parts = [
        whole[r * side : (r + 1) * side, c * side : (c + 1) * side].reshape(-1)
        for r in range(tiles)
        for c in range(tiles)
    ]
    parts.append(torch.full((side**2,), -1))  # the whole picture stands last and is no part of the raster
    joined = join_tiles(torch.stack(parts)[None, ..., None].expand(2, -1, -1, 3), tiles)
    assert joined.shape == (2, (tiles * side) ** 2, 3)
    assert torch.equal(joined[1, :, 2], whole.flatten())


def test_a_picture_without_tiles_is_its_own_raster() -> None:
    part = torch.randn(2, 1, 9, 5)
    assert torch.equal(join_tiles(part, 1), part[:, 0])


def test_tokens_stand_in_frame_order_and_words_stay() -> None:
    words = torch.zeros(3, 6, 2)
    is_image = torch.tensor([[0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    tokens = torch.arange(1, 7).reshape(3, 2, 1).expand(-1, -1, 2).float()
    out = place(words, is_image, tokens)[..., 0]
    assert out.tolist() == [[0, 1, 2, 0, 3, 4], [5, 6, 0, 0, 0, 0], [0] * 6]


def test_tokens_take_the_dtype_of_the_words() -> None:
    out = place(torch.zeros(1, 1, 2).bfloat16(), torch.ones(1, 1).bool(), torch.ones(1, 1, 2))
    assert out.dtype == torch.bfloat16


def test_frames_are_counted_a_row() -> None:
    is_image = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    assert count_frames(is_image, 2).tolist() == [2, 1, 0]


def test_image_tokens_that_are_no_whole_number_of_frames_are_refused() -> None:
    is_image = torch.zeros(2, 8).bool()
    is_image[1, :3] = True
    with pytest.raises(InputError, match="row 1 holds 3 image tokens; it must be a multiple of 2"):
        count_frames(is_image, 2)


def test_rows_that_are_given_more_or_fewer_frames_than_they_have_places_for_are_refused() -> None:
    check_frames(torch.tensor([2, 0]), torch.tensor([2, 0]))
    for given in (1, 3):
        with pytest.raises(InputError, match=f"row 1 of the text has places for 2 frames, but {given} were given"):
            check_frames(torch.tensor([0, 2]), torch.tensor([0, given]))


@pytest.mark.parametrize("rows", [[[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]], [[0, 0], [0, 0]]])
def test_packed_words_come_back_to_their_places(rows: list[list[int]]) -> None:
    instruction = torch.tensor(rows).bool()
    words = torch.randn(*instruction.shape, 3)
    packed = pack(words, instruction)
    assert packed.words.shape[1] == int(instruction.sum(dim=1).max())
    assert torch.equal(packed.words[packed.mask], words[instruction])
    where = torch.ones(len(words), dtype=torch.bool)
    where[0] = False  # a row that is shown nothing keeps its words
    back = packed.unpack(words, -packed.words, where)
    assert torch.equal(back[0], words[0])
    assert torch.equal(back[1:], torch.where(instruction[..., None], -words, words)[1:])
