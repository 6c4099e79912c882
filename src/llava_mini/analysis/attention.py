"""Where a language model's attention goes: by the role of rows, layer by layer, head by head.

Source: LLaVA-Mini, section 3.2 and Figures 2 to 4; that vision tokens get little attention in late layers was first
shown by FastV (Chen et al., arXiv 2403.06764).

A layer's weights are reduced as they appear and forgotten, so memory grows with one layer's L × L and no more.
N layers · H heads · L rows · V vision tokens.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from llava_mini.analysis.layers import answer
from llava_mini.analysis.subjects import INSTRUCTION, RESPONSE, ROLES, VISION, Seen, Subject
from llava_mini.errors import InputError
from llava_mini.inputs.processor import Media
from llava_mini.model.attention import record_attention

TARGETS = (INSTRUCTION, RESPONSE)
NO_ANSWER = "…"
"""Stands for the answer of a model that says nothing: there must be a row to look at."""


@dataclass(frozen=True)
class Asked:
    """A question about a picture or video."""

    question: str
    media: Media
    response: str = ""
    """The answer whose attention is looked at; empty: the model's own."""
    kind: str = ""


@dataclass(frozen=True)
class SampleProfile:
    """What one sample's attention was like."""

    question: str
    response: str
    kind: str
    shares: Tensor
    """`(N, H, 2, 3)`: of the attention of instruction and response rows after the picture, what went to instruction,
    vision and response rows."""
    sink: Tensor
    """`(N, H, 2)`: of the same attention, what went to the very first row. Where that is the instruction's, as in every
    usual template, its share holds it; models put there what they need nowhere (Xiao et al., arXiv 2309.17453)."""
    entropy: Tensor
    """`(N, 2)`: of their attention over vision tokens, in nats, the mean over heads and rows; at most log V."""
    maps: Tensor
    """`(N, frames, rows, columns)`: attention of response rows to each vision token, the mean over heads and rows."""


@dataclass(frozen=True)
class Mean:
    """A mean over samples and half the width of its 95 % interval; NaN, null in JSON, where there is one sample."""

    mean: Tensor
    half: Tensor


@dataclass(frozen=True)
class Profile:
    """Attention of a model, averaged over samples."""

    model: str
    samples: Sequence[SampleProfile] = field(repr=False)

    @property
    def n(self) -> int:
        """How many samples."""
        return len(self.samples)

    def shares(self) -> Mean:
        """Return `(N, 2, 3)`: shares of attention by layer, target and source; heads averaged."""
        return _mean([sample.shares.mean(dim=1) for sample in self.samples])

    def shares_of_heads(self) -> Mean:
        """Return `(N, H, 2, 3)`."""
        return _mean([sample.shares for sample in self.samples])

    def sink(self) -> Mean:
        """Return `(N, 2)`: what went to the very first row, by layer and target; heads averaged."""
        return _mean([sample.sink.mean(dim=1) for sample in self.samples])

    def entropy(self) -> Mean:
        """Return `(N, 2)`: entropy over vision tokens, of instruction and of response rows."""
        return _mean([sample.entropy for sample in self.samples])

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, for JSON."""
        told = {"shares": self.shares(), "shares_of_heads": self.shares_of_heads()}
        told |= {"sink": self.sink(), "entropy": self.entropy()}
        return {
            "model": self.model,
            "n": self.n,
            "targets": [ROLES[target] for target in TARGETS],
            "sources": list(ROLES),
            **{name: {"mean": rounded(both.mean), "half": rounded(both.half)} for name, both in told.items()},
            "samples": [
                {
                    "question": sample.question,
                    "response": sample.response,
                    "kind": sample.kind,
                    "maps": rounded(sample.maps),
                    "entropy": rounded(sample.entropy),
                }
                for sample in self.samples
            ],
        }


def attention_profile(
    subject: Subject, asked: Iterable[Asked], *, max_new_tokens: int = 16, progress: bool = False
) -> Profile:
    """Look at the attention of a model while it reads questions and answers.

    >>> attention_profile(load_subject("embedded"), [Asked("What is this?", load_media("cat.png"))])  # doctest: +SKIP

    Raises:
        InputError: when nothing is asked.
    """
    samples = []
    for one in tqdm(list(asked), desc="looking", unit="question", disable=not progress):
        response = one.response or answer(subject, subject.see(one.question, one.media), max_new_tokens=max_new_tokens)
        response = response or NO_ANSWER
        seen = subject.see(one.question, one.media, response)
        samples.append(look(subject, seen, one.question, response, one.kind))
    if not samples:
        raise InputError("no question was asked; give at least one")
    return Profile(subject.name, samples)


@torch.no_grad()
def look(subject: Subject, seen: Seen, question: str, response: str, kind: str = "") -> SampleProfile:
    """Run the language model once over what it sees, and reduce each layer's attention as it appears."""
    targets = target_rows(seen)
    shares: dict[int, Tensor] = {}
    sink: dict[int, Tensor] = {}
    entropy: dict[int, Tensor] = {}
    maps: dict[int, Tensor] = {}

    def keep(layer: int, weights: Tensor) -> None:
        found = weights[0].float()
        shares[layer] = torch.stack([_by_role(found[:, rows], seen.roles) for rows in targets], dim=1)
        sink[layer] = torch.stack([found[:, rows, 0].mean(dim=1) for rows in targets], dim=1)
        to_vision = found[:, :, seen.roles == VISION]
        entropy[layer] = torch.stack([_entropy(to_vision[:, rows]) for rows in targets])
        maps[layer] = to_vision[:, targets[1]].mean(dim=(0, 1)).reshape(seen.grid)

    with record_attention(subject.language_model, keep):
        subject.language_model(inputs_embeds=seen.embeds, use_cache=False)
    order = sorted(shares)
    return SampleProfile(
        question,
        response,
        kind,
        *(torch.stack([kept[layer] for layer in order]).cpu() for kept in (shares, sink, entropy, maps)),
    )


def target_rows(seen: Seen) -> tuple[Tensor, Tensor]:
    """Return which rows, `(L,)` each, are looked at: response rows, and instruction rows between picture and response.

    What stands before the picture, as a system prompt does, cannot attend to it. What the template puts after the
    response, as a newline, asks for nothing.
    """
    places = torch.arange(len(seen.roles), device=seen.roles.device)
    after = places > places[seen.roles == VISION].max()
    response = seen.roles == RESPONSE
    return (seen.roles == INSTRUCTION) & after & (response.cumsum(dim=0) == 0), response & after


def _by_role(weights: Tensor, roles: Tensor) -> Tensor:
    """Sum `(H, rows, L)` weights over the columns of each role, and average the rows: `(H, 3)`."""
    return torch.stack([weights[:, :, roles == role].sum(dim=-1).mean(dim=1) for role in range(len(ROLES))], dim=-1)


def _entropy(weights: Tensor) -> Tensor:
    """Return the entropy of `(H, rows, V)` weights as shares of what vision gets, the mean over heads and rows.

    However little that is; a row that gives vision nothing at all has no shares, and is left out.
    """
    return torch.special.entr(weights / weights.sum(dim=-1, keepdim=True)).sum(dim=-1).nanmean()


def _mean(values: Sequence[Tensor]) -> Mean:
    stacked = torch.stack(list(values))
    spread = stacked.std(dim=0) if len(values) > 1 else torch.full_like(stacked[0], math.nan)
    return Mean(stacked.mean(dim=0), 1.96 * spread / math.sqrt(len(values)))


def rounded(values: Tensor) -> Any:
    """Return a tensor as nested lists of short numbers; NaN, which JSON has not, is None."""
    if values.ndim:
        return [rounded(one) for one in values]
    return None if math.isnan(float(values)) else round(float(values), 5)
