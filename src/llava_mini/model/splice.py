"""Join the tiles of a picture, pack the words that are fused, and put vision tokens where the image stood.

Source: LLaVA-Mini, section 4 (high resolution; input of the LLM).
B batch · R frames of the whole batch · P parts · S tiles a side · N² patches · C² tokens · L text ·
K fused words · d width.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from llava_mini.errors import InputError


def join_tiles(parts: Tensor, tiles: int) -> Tensor:
    """Return the raster of the S×S tiles, without the whole picture, which stands last.

    Tile (r, c), patch (y, x) becomes row r·N + y, column c·N + x.

    Args:
        parts: `(B, P, N², d)` with P = S² + 1, or P = 1 when there are no tiles.

    Returns:
        `(B, (S·N)², d)`.
    """
    if parts.shape[1] == 1:
        return parts[:, 0]
    batch, _, patches, width = parts.shape
    side = math.isqrt(patches)
    grid = parts[:, : tiles**2].reshape(batch, tiles, tiles, side, side, width)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(batch, (tiles * side) ** 2, width)


class Packed(NamedTuple):
    """The words of each row that are fused, moved together to the left: pre-fusion runs over no placeholder."""

    words: Tensor
    """`(B, K, d)`, K words in the row that has most."""
    mask: Tensor
    """`(B, K)`, false where a row has fewer."""
    order: Tensor
    """`(B, K)`, where each word stood."""

    def unpack(self, words: Tensor, fused: Tensor, where: Tensor) -> Tensor:
        """Put `(B, K, d)` fused words back into `(B, L, d)` words, in the rows `(B,)` where `where` is true."""
        index = self.order[..., None].expand_as(fused)
        chosen = (self.mask & where[:, None])[..., None]
        return words.scatter(1, index, torch.where(chosen, fused, words.gather(1, index)))


def pack(words: Tensor, instruction: Tensor) -> Packed:
    """Move the words `(B, L, d)` where `instruction` `(B, L)` is true to the left, in their order."""
    longest = words.shape[1] if words.device.type == "meta" else int(instruction.sum(dim=1).max())
    order = instruction.int().argsort(dim=1, descending=True, stable=True)[:, :longest]
    packed = words.gather(1, order[..., None].expand(-1, -1, words.shape[2]))
    return Packed(packed, instruction.gather(1, order), order)


def count_frames(is_image: Tensor, tokens_per_frame: int) -> Tensor:
    """Return how many frames each row of the batch shows: `(B,)`.

    Raises:
        InputError: when a row's image tokens are not a whole number of frames.
    """
    counts = is_image.sum(dim=1)
    if counts.device.type != "meta":
        for row, count in enumerate(counts.tolist()):
            if count % tokens_per_frame:
                raise InputError(
                    f"row {row} holds {count} image tokens; it must be a multiple of {tokens_per_frame}, "
                    "the tokens of one frame"
                )
    return counts // tokens_per_frame


def check_room(places: Tensor, given: Tensor) -> None:
    """Check that pixels `(B, F, …)`, padded over F with zeros, are the frames that the texts have places `(B,)` for.

    Raises:
        InputError: when rows or frames are more or fewer than the texts'.
    """
    if len(given) != len(places):
        raise InputError(f"{len(given)} rows of pictures were given for {len(places)} texts")
    if places.device.type == "meta":
        return
    beyond = torch.arange(given.shape[1], device=given.device) >= places.to(given.device)[:, None]
    real = given.flatten(2).any(dim=2) if bool(beyond.any()) else ~beyond  # padding is zeros
    for row, (wanted, frames) in enumerate(zip(places.tolist(), real.sum(dim=1).tolist(), strict=True)):
        if wanted > given.shape[1] or bool((real & beyond)[row].any()):
            shown = given.shape[1] if wanted > given.shape[1] else frames
            raise InputError(f"row {row} of the text has places for {wanted} frames, but {shown} were given")


def check_frames(wanted: Tensor, given: Tensor) -> None:
    """Check that each row `(B,)` is given the frames that its text has places for.

    Raises:
        InputError: when the numbers differ.
    """
    if len(given) != len(wanted):
        raise InputError(f"{len(given)} rows of pictures were given for {len(wanted)} texts")
    if given.device.type != "meta":
        for row, (places, frames) in enumerate(zip(wanted.tolist(), given.tolist(), strict=True)):
            if places != frames:
                raise InputError(f"row {row} of the text has places for {places} frames, but {frames} were given")


def place(inputs_embeds: Tensor, is_image: Tensor, tokens: Tensor) -> Tensor:
    """Put the vision tokens `(R, C², d)` of all frames, row after row, at the image positions `(B, L)`."""
    if not len(tokens):
        return inputs_embeds
    every = tokens.to(inputs_embeds.dtype).flatten(0, 1)
    number = (is_image.flatten().cumsum(dim=0) - 1).clamp(0, len(every) - 1).view_as(is_image)
    return torch.where(is_image[..., None], every[number], inputs_embeds)
