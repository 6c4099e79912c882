"""Run a language model layer by layer, with its vision tokens taken away or hidden in some layers.

Taken away truly: their rows are not computed and their keys and values are not there. All other rows keep their
positions. Where the tokens come back after a gap, they are what they were before it. Hidden: their rows are computed as
ever, and no other row sees them; so they come back as they would have been.
Source: LLaVA-Mini, section 3.3, for the question; FastV (Chen et al., arXiv 2403.06764) removed tokens first.
L rows · K rows so far · d width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from llava_mini.analysis.subjects import VISION, Seen, Subject
from llava_mini.errors import ModelError


@dataclass(frozen=True)
class Gap:
    """Layers without vision tokens: from `first` to before `end`."""

    first: int
    end: int
    hidden: bool = False
    """The tokens are computed, and hidden from all other rows."""

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.first <= layer < self.end


NOTHING = Gap(0, 0)


@torch.no_grad()
def answer(subject: Subject, seen: Seen, gap: Gap = NOTHING, *, max_new_tokens: int = 16) -> str:
    """Answer greedily, without the vision tokens in the layers of a gap."""
    cache = DynamicCache()
    vision = seen.roles == VISION
    hidden = run_layers(subject.language_model, seen.embeds, cache, vision, gap)
    tokens: list[int] = []
    while len(tokens) < max_new_tokens:
        token = int(subject.head(hidden[:, -1]).argmax())
        if token in subject.stops:
            break
        tokens.append(token)
        vision = torch.cat([vision, vision.new_zeros(1)])
        hidden = run_layers(subject.language_model, subject.embed(token).to(seen.embeds), cache, vision, gap)
    return subject.text(tokens)


def run_layers(language_model: Any, embeds: Tensor, cache: DynamicCache, vision: Tensor, gap: Gap) -> Tensor:
    """Run `(1, L, d)` rows, which follow those in the cache, through all layers and the last norm.

    Args:
        vision: `(K,)`, which of all rows so far are vision tokens; the last L are those of `embeds`.
        gap: the layers that do without them.

    Raises:
        ModelError: for an attention that takes no mask of its own.
    """
    attention = language_model.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ModelError(f"attention is {attention!r}; vision tokens are removed with 'sdpa' or 'eager'")
    hidden = embeds
    places = torch.arange(len(vision), device=embeds.device)
    new = places >= len(vision) - embeds.shape[1]
    cos, sin = language_model.rotary_emb(hidden, places[None, new])
    for index, layer in enumerate(language_model.layers):
        kept = ~vision if index in gap and not gap.hidden else torch.ones_like(vision)
        sees = _sees(places[new], places, _window(language_model.config, index))
        if index in gap and gap.hidden:
            sees &= vision[new, None] | ~vision
        there = kept[new]
        rows = layer(
            hidden[:, there],
            attention_mask=_as_added(sees[there][:, kept], hidden.dtype),
            position_ids=places[None, new & kept],
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


def _sees(new: Tensor, places: Tensor, window: int | None) -> Tensor:
    """Return `(L, K)`: which rows a new one sees, those before it and itself, within the window of its layer."""
    behind = new[:, None] - places
    return (behind >= 0) & (behind < (window or len(places)))


def _window(config: Any, layer: int) -> int | None:
    """Return how many rows a layer sees back; None: all. Not every text model's configuration has these fields."""
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or kinds[layer] == "sliding_attention"
    return getattr(config, "sliding_window", None) if slides else None


def _as_added(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `(1, 1, L, K)`: what is added to scores, as both eager attention and sdpa take it."""
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)[
        None, None
    ]
