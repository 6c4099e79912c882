"""How the parts that no package brings start, before the first stage.

V words · N² patches · d width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_mini.data.prepared import PreparedScenes
from llava_mini.model.projector import SemanticProjector

_REACH = 100
"""Positions from a word back to the first patch."""


@torch.no_grad()
def start_projector(projector: SemanticProjector, class_words: Tensor, scenes: PreparedScenes) -> None:
    """Fill the codebook with class names and let the MLP start small on standardised features.

    Args:
        class_words: `(classes, d)`, the embedding of each class's name.
    """
    sample = torch.cat([scenes[i].features for i in range(0, len(scenes), max(1, len(scenes) // 200))]).flatten(0, 2)
    projector.codebook.weight.copy_(class_words.T)
    projector.mean.copy_(sample.mean(dim=0))
    projector.std.copy_(sample.std(dim=0) + 1e-3)
    nn.init.normal_(projector.mlp.linear_1.weight, std=projector.mlp.linear_1.in_features**-0.5)
    nn.init.normal_(projector.mlp.linear_2.weight, std=0.1 * projector.mlp.linear_2.in_features**-0.5)


@torch.no_grad()
def start_lookup(
    layer: Any, words: Tensor, patches: Tensor, *, sharpness: float = 0.25, amount: float = 0.2, bias: float = 20.0
) -> None:
    """Let a pre-fusion layer start by reading: a word looks at the patches that resemble it and takes them over.

    Queries and keys are the same main directions of the word table, values and output too, so the score is a
    similarity and the output a copy. Nothing resembles a word as much as the word itself: one more direction, the one
    that tells patches from words, raises the scores of patches by `bias` and lowers those of words as much. Only
    the half of each head that rotary positions hardly turn within an image is used. Idea: mimetic initialisation
    (Trockman and Kolter, arXiv 2305.09828); directions from words are ours.

    Args:
        layer: the first decoder layer; those above it no longer see plain embeddings.
        words: `(V, d)` embeddings that patches were aligned with.
        patches: `(n, d)` aligned patches of some pictures.
    """
    attention = layer.self_attn
    width, size = words.shape[1], attention.head_dim
    groups = attention.k_proj.out_features // size
    heads = attention.q_proj.out_features // attention.k_proj.out_features
    rows, seen = F.rms_norm(words, (width,)), F.rms_norm(patches, (width,))
    _, strengths, directions = torch.linalg.svd(rows - rows.mean(dim=0))
    theta = attention.config.rope_parameters["rope_theta"]
    turns = _REACH * theta ** (-torch.arange(size // 2) / (size // 2))
    *slow, slowest = (turns < 1).nonzero().flatten().tolist()
    places = [*slow, *(place + size // 2 for place in slow)]
    gains = strengths[0] / F.pad(strengths, (0, width - len(strengths))).clamp(min=0.01 * strengths[0])
    whitened = directions * gains[:, None]
    layer.input_layernorm.weight.fill_(1)
    keys, values = torch.zeros(groups, size, width), directions[: groups * size].unflatten(0, (groups, size))
    keys[:, places] = whitened[: groups * len(places)].unflatten(0, (groups, len(places)))
    queries = sharpness * keys
    both = torch.cat([rows, seen])
    is_patch = torch.cat([-torch.ones(len(rows)), torch.ones(len(seen))])
    keys[:, slowest] = (bias * size**0.5) ** 0.5 * _direction(both, is_patch)
    queries[:, slowest] = (bias * size**0.5) ** 0.5 * _direction(both, torch.ones(len(both)))
    attention.k_proj.weight.copy_(keys.flatten(0, 1))
    attention.q_proj.weight.copy_(queries.repeat_interleave(heads, dim=0).flatten(0, 1))
    attention.v_proj.weight.copy_(values.flatten(0, 1))
    attention.o_proj.weight.copy_(amount / heads * values.repeat_interleave(heads, dim=0).flatten(0, 1).T)


def _direction(rows: Tensor, wanted: Tensor) -> Tensor:
    """Return the direction whose product with each row is as near as can be to what is wanted (ridge regression)."""
    square = rows.T @ rows / len(rows)
    ridge = 0.01 * square.diagonal().mean() * torch.eye(len(square))
    return torch.linalg.solve(square + ridge, rows.T @ wanted / len(rows))
