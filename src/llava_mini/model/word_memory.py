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

    A token that resembles one word is drawn to it by a; one that resembles many about equally, hardly at all. An empty
    memory, W = 0, changes nothing.
    """

    words: Tensor

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.register_buffer("words", torch.zeros(words, width))
        self.sharpness = nn.Parameter(torch.empty(1))
        self.strength = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forget the words, and start sharpness s and strength a."""
        self.words.zero_()
        self.sharpness.fill_(SHARPNESS)
        self.strength.fill_(STRENGTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens, `(…, d)`, drawn to words."""
        said = F.normalize(tokens, dim=-1)
        words = self.words.to(tokens)
        recalled = (self.sharpness * said @ words.T).softmax(dim=-1) @ words
        length = tokens.norm(dim=-1, keepdim=True)
        return length * F.normalize(said + self.strength * recalled, dim=-1)
