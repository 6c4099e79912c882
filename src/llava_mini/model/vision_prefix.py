"""What is kept of the pictures of a batch: encode once, ask often.

Source: the causal order of pre-fusion (LLaVA-Mini, section 4.2): vision states do not depend on the text.
B batch · F frames · C² tokens of a frame · V vision positions · d width.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from llava_mini.model.pre_fusion import LayerStates


@dataclasses.dataclass(frozen=True)
class VisionPrefix:
    """All that is kept of the pictures of a batch: encode once, ask often."""

    tokens: Tensor
    """`(B, F, C², d)`: what the language model sees."""
    states: list[LayerStates]
    """Pre-fusion keys and values a layer, `(B·F, heads, V, head width)`; empty without pre-fusion."""
    weights: Tensor
    """`(B, F, C², patches)`: where the compression queries looked."""

    @property
    def frames(self) -> int:
        """F."""
        return int(self.tokens.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        kept = [self.tokens, self.weights, *(tensor for layer in self.states for tensor in layer)]
        return sum(tensor.nbytes for tensor in kept)

    def select(self, rows: Tensor) -> "VisionPrefix":
        """Return the prefix of the rows `(B',)`, in that order and repeatedly if asked: several questions a picture."""
        frames = torch.arange(self.frames, device=rows.device)
        flat = (rows[:, None] * self.frames + frames).flatten()
        states = [LayerStates(layer.keys[flat], layer.values[flat]) for layer in self.states]
        return VisionPrefix(self.tokens[rows], states, self.weights[rows])

    @staticmethod
    def concatenate(prefixes: "Sequence[VisionPrefix]") -> "VisionPrefix":
        """Join prefixes of the same number of frames into one batch."""
        states = [
            LayerStates(torch.cat([layer.keys for layer in layers]), torch.cat([layer.values for layer in layers]))
            for layers in zip(*(prefix.states for prefix in prefixes), strict=True)
        ]
        tokens, weights = (torch.cat([getattr(p, name) for p in prefixes]) for name in ("tokens", "weights"))
        return VisionPrefix(tokens, states, weights)
