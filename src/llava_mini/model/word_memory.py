"""A memory of words that vision tokens are drawn to: what a token nearly says, it then says plainly. Ours.

Source: the update of a modern Hopfield network (Ramsauer et al., arXiv 2008.02217, equation 3), one step of it.
V words · C² tokens · d width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHARPNESS, STRENGTH = 40.0, 2.0
"""How they start; docs/lab_book.md."""


class WordMemory(nn.Module):
    """Draw each token towards the words it resembles, and keep its length.

    t ← ‖t‖ · unit(t̂ + a · softmax(s · t̂ Wᵀ) W),  t̂ = t / ‖t‖; W: a word embedding of length 1 a row.

    A token that resembles one word is drawn to it by a; one that resembles many, to what these have in common, which is
    shorter but of real words not nothing. An empty memory, W = 0, changes nothing. Computed in fp32.
    """

    words: Tensor

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.register_buffer("words", torch.zeros(words, width))
        self.sharpness = nn.Parameter(torch.full((1,), SHARPNESS))
        self.strength = nn.Parameter(torch.full((1,), STRENGTH))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens, `(…, d)`, drawn to words."""
        whole, words = tokens.float(), self.words.float()
        length = whole.norm(dim=-1, keepdim=True)
        said = whole / length.clamp(min=1e-12)
        recalled = (self.sharpness.float() * said @ words.T).softmax(dim=-1) @ words
        drawn: Tensor = length * F.normalize(said + self.strength.float() * recalled, dim=-1)
        return drawn.to(tokens.dtype)
