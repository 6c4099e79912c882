"""Join the tiles of a picture, and put vision tokens where the image stood.

Source: LLaVA-Mini, section 4 (high resolution; input of the LLM).
B batch · F frames · P parts · S tiles a side · N² patches · C² tokens · L text · d width.
"""

import math

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


def count_frames(is_image: Tensor, tokens_per_frame: int, frames: int) -> Tensor:
    """Return how many frames each row of the batch shows: `(B,)`.

    Raises:
        InputError: when a row's image tokens are not a whole number of frames, or more than were given.
    """
    counts = is_image.sum(dim=1)
    if counts.device.type != "meta":
        for row, count in enumerate(counts.tolist()):
            if count % tokens_per_frame or count // tokens_per_frame > frames:
                raise InputError(
                    f"row {row} holds {count} image tokens; with {frames} frames of {tokens_per_frame} tokens "
                    f"it must be a multiple of {tokens_per_frame}, at most {frames * tokens_per_frame}"
                )
    return counts // tokens_per_frame


def place(inputs_embeds: Tensor, is_image: Tensor, tokens: Tensor, frames: Tensor) -> Tensor:
    """Put each row's vision tokens, in frame order, at its image positions.

    Args:
        inputs_embeds: `(B, L, d)`.
        is_image: `(B, L)`, true at `frames · C²` positions of each row.
        tokens: `(B, F, C², d)`; rows with fewer frames are padded at the end.
        frames: `(B,)`, how many frames of each row are real.
    """
    real = torch.arange(tokens.shape[1], device=frames.device) < frames[:, None]
    chosen = tokens[real].to(inputs_embeds.dtype)
    return inputs_embeds.masked_scatter(is_image[..., None], chosen)
