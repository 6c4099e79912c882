"""Two-dimensional sine-cosine position codes.

Source: LLaVA-Mini, section 4.1 ("2-D sinusoidal position encoding"); the 1-D code is Vaswani et al., section 3.5.
S side of the grid · d width.
"""

import torch
from torch import Tensor


def sincos_grid(side: int, width: int, *, extent: int | None = None) -> Tensor:
    """Return the codes of a `side × side` grid, row-major: half the width codes the row, half the column.

    Args:
        extent: size of the coordinate system the cells are centred in. A C×C query grid with the key grid's
            extent lies over the same picture, so equal places have equal codes.

    Returns:
        `(S², d)`.
    """
    extent = side if extent is None else extent
    places = (torch.arange(side, dtype=torch.float32) + 0.5) * extent / side - 0.5
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    angles = places[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (S, d/2)
    rows = line[:, None, :].expand(side, side, -1)
    columns = line[None, :, :].expand(side, side, -1)
    grid = torch.cat([rows, columns], dim=-1).reshape(side * side, -1)
    return torch.nn.functional.pad(grid, (0, width - grid.shape[1]))
