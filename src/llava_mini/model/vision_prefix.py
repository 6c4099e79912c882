"""What is kept of the pictures of a batch: encode once, ask often.

Source: the causal order of pre-fusion (LLaVA-Mini, section 4.2): vision states do not depend on the text.
B batch · R frames of the whole batch, row after row · C² tokens of a frame · V vision positions · d width.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from llava_mini.model.pre_fusion import LayerStates


@dataclasses.dataclass(frozen=True)
class VisionPrefix:
    """All that is kept of the pictures of a batch, or of a chunk of their frames: encode once, ask often.

    Rows may show any number of frames; the first row's stand first.
    """

    tokens: Tensor
    """`(R, C², d)`: what the language model sees."""
    states: list[LayerStates]
    """Pre-fusion keys and values a layer, `(R, heads, V, head width)`; empty without pre-fusion."""
    frames: Tensor
    """`(B,)`: how many of the R frames each row shows."""

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        kept = [self.tokens, *(tensor for layer in self.states for tensor in layer)]
        return sum(tensor.nbytes for tensor in kept)

    def select(self, rows: Tensor) -> "VisionPrefix":
        """Return the prefix of the rows `(B',)`, in that order and repeatedly if asked: several questions a picture."""
        ends = self.frames.cumsum(dim=0)
        spans = [torch.arange(end - count, end) for end, count in zip(ends[rows], self.frames[rows], strict=True)]
        chosen = torch.cat([*spans, torch.zeros(0)]).long().to(self.tokens.device)
        states = [LayerStates(layer.keys[chosen], layer.values[chosen]) for layer in self.states]
        return VisionPrefix(self.tokens[chosen], states, self.frames[rows])

    @staticmethod
    def concatenate(prefixes: "Sequence[VisionPrefix]") -> "VisionPrefix":
        """Join the rows of several prefixes into one batch."""
        states = [
            LayerStates(torch.cat([layer.keys for layer in layers]), torch.cat([layer.values for layer in layers]))
            for layers in zip(*(prefix.states for prefix in prefixes), strict=True)
        ]
        tokens, frames = (torch.cat([getattr(prefix, name) for prefix in prefixes]) for name in ("tokens", "frames"))
        return VisionPrefix(tokens, states, frames)

    @staticmethod
    def joined(chunks: "Sequence[VisionPrefix]") -> "VisionPrefix":
        """Join the chunks of one batch: their frames stand in order, and a row may go on in the next chunk."""
        if len(chunks) == 1:
            return chunks[0]
        whole = VisionPrefix.concatenate(chunks)
        return dataclasses.replace(whole, frames=torch.stack([chunk.frames for chunk in chunks]).sum(dim=0))
