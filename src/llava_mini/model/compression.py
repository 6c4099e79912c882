"""Query-based compression: one frame's N² patches become C² vision tokens.

Source: LLaVA-Mini, section 4.1.  B frames · N² patches · C² queries · d width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_mini.config import LlavaMiniConfig
from llava_mini.model.positions import sincos_grid


class Compressor(nn.Module):
    """Turn the `(B, N², d)` patches of a square grid into `(B, C², d)` tokens, each a sum of patches it looks at."""

    def look(self, patches: Tensor) -> Tensor:
        """Return where each query looks: `(B, C², N²)`, rows sum to 1; `forward` never makes them."""
        raise NotImplementedError


class QueryCompressor(Compressor):
    """Let C² learned queries look at the patches as the paper's equation writes it: one softmax, no other weights.

    A = softmax((Q + PE(Q)) · (H + PE(H))ᵀ),  Ĥ = A · H.

    `key_norm` is ours: keys are normalised, scores scaled by 1/√d, and a single query gets no position code (it
    would point every picture to its middle), so that the softmax starts almost flat.
    """

    def __init__(self, size: int, width: int, *, key_norm: bool = False) -> None:
        super().__init__()
        self.size, self.width, self.key_norm = size, width, key_norm
        self.query = nn.Parameter(torch.zeros(size**2, width))
        nn.init.normal_(self.query, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        """Compress `(B, N², d)` patches: `(B, C², d)`."""
        queries, keys = self._compared(patches)
        # one head, told: of three dimensions torch makes a table of weights, of four it need not
        queries, keys, values = queries[:, None], keys[:, None], patches[:, None]
        return F.scaled_dot_product_attention(queries, keys, values, scale=self._scale)[:, 0]

    def look(self, patches: Tensor) -> Tensor:
        """Return the softmax of the equation: `(B, C², N²)`."""
        queries, keys = self._compared(patches)
        return (self._scale * queries @ keys.transpose(1, 2)).softmax(dim=-1)

    @property
    def _scale(self) -> float:
        return 1 / math.sqrt(self.width) if self.key_norm else 1.0

    def _compared(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries `(B, C², d)` and keys `(B, N², d)`, with their places."""
        side = math.isqrt(patches.shape[1])
        keys = F.layer_norm(patches, (self.width,)) if self.key_norm else patches
        keys = keys + sincos_grid(side, self.width).to(patches)
        query: Tensor = self.query
        if self.size > 1 or not self.key_norm:
            query = query + sincos_grid(self.size, self.width, extent=side).to(patches)
        return query.expand(len(patches), -1, -1), keys


class MultiHeadQueryCompressor(Compressor):
    """Compress as the released weights need it: norms, a trained position table, 8 heads, biases.

    Q = LN(query) + pos, K = LN(X) + resize(pos), V = LN(X). For C = 1 the position is one vector for every patch
    and cancels in the softmax. No residual, no output norm.
    """

    def __init__(self, size: int, width: int, heads: int) -> None:
        super().__init__()
        self.size, self.width = size, width
        self.query = nn.Parameter(torch.zeros(size**2, width))
        self.pos_embed = nn.Parameter(sincos_grid(size, width).to(self.query.dtype))
        self.ln_q = nn.LayerNorm(width)
        self.ln_kv = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        nn.init.normal_(self.query, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        """Compress `(B, N², d)` patches: `(B, C², d)`."""
        tokens: Tensor = self.attn(*self._compared(patches), need_weights=False)[0]
        return tokens

    def look(self, patches: Tensor) -> Tensor:
        """Return the attention, its mean over heads: `(B, C², N²)`."""
        weights: Tensor = self.attn(*self._compared(patches), need_weights=True)[1]
        return weights

    def _compared(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries `(B, C², d)`, keys and values `(B, N², d)`."""
        values = self.ln_kv(patches)
        keys = values + self._resized(math.isqrt(patches.shape[1]))
        return (self.ln_q(self.query) + self.pos_embed).expand(len(patches), -1, -1), keys, values

    def _resized(self, side: int) -> Tensor:
        """Stretch the C×C position table over the patches: `(N², d)`."""
        table = self.pos_embed.float().reshape(1, self.size, self.size, self.width).permute(0, 3, 1, 2)
        table = F.interpolate(table, size=(side, side), mode="bicubic", align_corners=False)
        return table.flatten(2).squeeze(0).T.to(self.pos_embed.dtype)


class AveragePooling(Compressor):
    """Average the patches of each of C×C regions: the baseline of the paper's Table 8."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, patches: Tensor) -> Tensor:
        """Compress `(B, N², d)` patches: `(B, C², d)`."""
        return self.look(patches) @ patches

    def look(self, patches: Tensor) -> Tensor:
        """Return the share of each patch in each region: `(B, C², N²)`."""
        side = math.isqrt(patches.shape[1])
        cells = torch.eye(side**2, dtype=patches.dtype, device=patches.device).reshape(1, side**2, side, side)
        weights = F.adaptive_avg_pool2d(cells, self.size).flatten(2).squeeze(0).T  # (C², N²)
        return weights.expand(len(patches), -1, -1)


def build_compressor(config: LlavaMiniConfig) -> Compressor | None:
    """Return the compression that a configuration asks for, None for all tokens."""
    width = config.vision.hidden_size if config.compression_first else config.text.hidden_size
    if config.compression == "none":
        return None
    if config.compression == "average":
        return AveragePooling(config.compression_size)
    if config.compression_attention == "plain":
        return QueryCompressor(config.compression_size, width, key_norm=config.compression_key_norm)
    return MultiHeadQueryCompressor(config.compression_size, width, config.compression_heads)
