"""What a patch hears before pre-fusion reads it: what lies around it, and what its part shows as a whole. Ours.

Convolutions for what is local, between a vision encoder and a language model: Honeybee (Cha et al., arXiv 2312.06742),
MobileVLM (Chu et al., arXiv 2312.16886). One summary of the grid for all of its cells: Squeeze-and-Excitation (Hu et
al., arXiv 1709.01507), GCNet (Cao et al., arXiv 1904.11492); ours is a mean, and is added.
R frames · P parts · N² patches · c channels · d width.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

_EPSILON = 1e-6


class PatchContext(nn.Module):
    """Add to each patch what the 5×5 patches around it say together, and what all patches of its part do.

    x + W_near · g + W_far · gelu(W_whole · N · mean(g)),  g = gelu(conv(gelu(conv(gelu(W_down · x / |x|))))),

    |·| the root mean square over d, the mean over the N² cells; N times a mean tells three things from two as loudly on
    a larger grid. Beyond the edge of a part lies nothing: a tile hears from no other. W_near and W_far start with
    zeros: nothing is heard.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.whole = nn.Linear(channels, channels)
        self.near, self.far = nn.Linear(channels, width), nn.Linear(channels, width)
        for last in (self.near, self.far):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            # transformers starts all weights anew, and asks the children alone.
            last.starts_at_zero = True  # type: ignore[assignment]

    def forward(self, patches: Tensor) -> Tensor:
        """Return `(R, P, N², d)` patches with what they heard."""
        side = math.isqrt(patches.shape[2])
        cells = F.gelu(self.down(F.rms_norm(patches, patches.shape[-1:], eps=_EPSILON)))
        grid = cells.flatten(0, 1).mT.unflatten(-1, (side, side))
        for convolution in self.convolutions:
            grid = F.gelu(convolution(grid))
        cells = grid.flatten(2).mT.unflatten(0, patches.shape[:2])
        whole = F.gelu(self.whole(side * cells.mean(dim=2, keepdim=True)))
        heard: Tensor = patches + self.near(cells) + self.far(whole)
        return heard
