"""Run a language model layer by layer, with its vision tokens taken away in some layers.

Taken away truly: their rows are not computed and their keys and values are not there. All other rows keep their
positions. Where the tokens come back after a gap, they are what they were before it.
Source: LLaVA-Mini, section 3.3, for the question; FastV (Chen et al., arXiv 2403.06764) removed tokens first.
L rows · d width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from llava_mini.analysis.subjects import VISION, Seen, Subject


@dataclass(frozen=True)
class Gap:
    """Layers without vision tokens: from `first` to before `end`."""

    first: int
    end: int

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.first <= layer < self.end


NOTHING = Gap(0, 0)


@torch.no_grad()
def answer(subject: Subject, seen: Seen, gap: Gap = NOTHING, *, max_new_tokens: int = 16) -> str:
    """Answer greedily, without the vision tokens in the layers of a gap."""
    cache = DynamicCache()
    vision = seen.roles == VISION
    positions = torch.arange(seen.embeds.shape[1], device=seen.embeds.device)[None]
    hidden = run_layers(subject.language_model, seen.embeds, positions, cache, vision, gap)
    tokens: list[int] = []
    while len(tokens) < max_new_tokens:
        token = int(subject.head(hidden[:, -1]).argmax())
        if token in subject.stops:
            break
        tokens.append(token)
        row = subject.embed(token).to(seen.embeds)
        at = positions[:, -1:] + len(tokens)
        hidden = run_layers(subject.language_model, row, at, cache, torch.zeros_like(vision[:1]), gap)
    return subject.text(tokens)


def run_layers(
    language_model: Any, embeds: Tensor, positions: Tensor, cache: DynamicCache, vision: Tensor, gap: Gap
) -> Tensor:
    """Run `(1, L, d)` rows through all layers and the last norm.

    Args:
        positions: `(1, L)`.
        vision: `(L,)`, which rows are vision tokens.
        gap: the layers that those rows do not see.
    """
    hidden = embeds
    cos, sin = language_model.rotary_emb(hidden, positions)
    for index, layer in enumerate(language_model.layers):
        there = ~vision if index in gap else torch.ones_like(vision)
        rows = layer(
            hidden[:, there],
            attention_mask=None,  # what is there sees what was there before: causal, as attention itself does it
            position_ids=positions[:, there],
            position_embeddings=(cos[:, there], sin[:, there]),
            past_key_values=cache,
            use_cache=True,
        )
        rows = rows[0] if isinstance(rows, tuple) else rows
        if bool(there.all()):
            hidden = rows
        else:
            hidden = hidden.clone()
            hidden[:, there] = rows
    normed: Tensor = language_model.norm(hidden)
    return normed
