"""The compressors equal the paper's and the released equations, and see each frame alone."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_mini.model.compression import AveragePooling, MultiHeadQueryCompressor, QueryCompressor
from llava_mini.model.positions import sincos_grid

_WIDTH, _SIDE = 16, 6


def patches(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, _SIDE**2, _WIDTH, generator=torch.Generator().manual_seed(seed))


def compressor(kind: str, size: int) -> nn.Module:
    """A compressor whose every weight matters."""
    torch.manual_seed(1)
    made: dict[str, nn.Module] = {
        "plain": QueryCompressor(size, _WIDTH),
        "key_norm": QueryCompressor(size, _WIDTH, key_norm=True),
        "multi_head": MultiHeadQueryCompressor(size, _WIDTH, heads=4),
        "average": AveragePooling(size),
    }
    for parameter in made[kind].parameters():
        nn.init.normal_(parameter, std=0.7)
    return made[kind]


KINDS = ("plain", "key_norm", "multi_head", "average")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_plain_compression_is_the_equation_of_the_paper(size: int) -> None:
    made, x = compressor("plain", size), patches()
    for one in x:
        queries = made.query + sincos_grid(size, _WIDTH, extent=_SIDE)
        keys = one + sincos_grid(_SIDE, _WIDTH)
        weights = torch.stack([torch.softmax(torch.stack([q @ k for k in keys]), dim=0) for q in queries])
        expected = torch.stack([sum(w * h for w, h in zip(row, one, strict=True)) for row in weights])
        torch.testing.assert_close(made.look(one[None])[0], weights, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(made(one[None])[0], expected, rtol=1e-4, atol=1e-5)


def test_key_norm_scales_normalised_scores_and_gives_a_single_query_no_place() -> None:
    made, x = compressor("key_norm", 1), patches()
    keys = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    scores = (keys + sincos_grid(_SIDE, _WIDTH)) @ made.query[0] / math.sqrt(_WIDTH)
    torch.testing.assert_close(made.look(x)[:, 0], scores.softmax(dim=-1))


@pytest.mark.parametrize("size", [1, 2])
def test_multi_head_compression_is_the_released_attention(size: int) -> None:
    made, x, heads = compressor("multi_head", size), patches(1), 4
    table = made.pos_embed.T.reshape(1, _WIDTH, size, size)
    places = F.interpolate(table, size=(_SIDE, _SIDE), mode="bicubic", align_corners=False).reshape(_WIDTH, -1).T
    values = F.layer_norm(x[0], (_WIDTH,), made.ln_kv.weight, made.ln_kv.bias)
    queries = F.layer_norm(made.query, (_WIDTH,), made.ln_q.weight, made.ln_q.bias) + made.pos_embed
    to_q, to_k, to_v = made.attn.in_proj_weight.chunk(3)
    b_q, b_k, b_v = made.attn.in_proj_bias.chunk(3)
    q, k, v = queries @ to_q.T + b_q, (values + places) @ to_k.T + b_k, values @ to_v.T + b_v
    outs, weights = [], []
    for head in range(heads):
        part = slice(head * _WIDTH // heads, (head + 1) * _WIDTH // heads)
        weight = (q[:, part] @ k[:, part].T / math.sqrt(_WIDTH // heads)).softmax(dim=-1)
        weights.append(weight)
        outs.append(weight @ v[:, part])
    expected = torch.cat(outs, dim=1) @ made.attn.out_proj.weight.T + made.attn.out_proj.bias
    torch.testing.assert_close(made(x)[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.look(x)[0], torch.stack(weights).mean(dim=0), rtol=1e-4, atol=1e-6)


def test_with_one_query_the_keys_of_the_multi_head_form_have_no_places() -> None:
    made, x = compressor("multi_head", 1), patches()
    shuffled = torch.randperm(_SIDE**2, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(made(x[:, shuffled]), made(x), rtol=1e-4, atol=1e-5)
    # The position reaches the query and all keys alike: with the query's part taken off, nothing depends on it.
    before = made(x)
    with torch.no_grad():
        moved = torch.randn_like(made.pos_embed)
        made.ln_q.bias -= (moved - made.pos_embed)[0]
        made.pos_embed.copy_(moved)
    torch.testing.assert_close(made(x), before, rtol=1e-3, atol=1e-4)


def test_with_more_queries_places_matter() -> None:
    x = patches()
    for kind in ("plain", "key_norm", "multi_head"):
        made = compressor(kind, 2)
        assert not torch.allclose(made(x.flip(1)), made(x), atol=1e-3), kind


@pytest.mark.parametrize("kind", ["plain", "key_norm", "multi_head"])
@torch.no_grad()
def test_no_table_of_weights_is_made_unless_asked(kind: str) -> None:
    made, x = compressor(kind, 2), patches(3)

    def computed(run: Callable[[Tensor], Tensor]) -> list[str]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            run(x)
        return [event.key for event in profiler.key_averages()]

    assert not any("softmax" in name for name in computed(made))
    assert any("softmax" in name for name in computed(made.look))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_average_pooling_takes_the_mean_of_each_region(size: int) -> None:
    x = patches()
    grid = x.reshape(2, _SIDE, _SIDE, _WIDTH)
    cell = _SIDE // size
    expected = [
        grid[:, r * cell : (r + 1) * cell, c * cell : (c + 1) * cell].mean(dim=(1, 2))
        for r in range(size)
        for c in range(size)
    ]
    torch.testing.assert_close(AveragePooling(size)(x), torch.stack(expected, dim=1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_compressed_the_same_alone_and_in_a_batch(kind: str) -> None:
    made, x = compressor(kind, 2), patches(5)
    together, looked = made(x), made.look(x)
    for index in range(5):
        one = x[index : index + 1]
        torch.testing.assert_close(made(one)[0], together[index], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made.look(one)[0], looked[index], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 5])  # 6 patches do not divide into 5 regions: regions overlap
def test_weights_are_shares_that_sum_to_one(kind: str, size: int) -> None:
    made = compressor(kind, size)
    assert made(patches()).shape == (2, size**2, _WIDTH)
    looked = made.look(patches())
    assert looked.shape == (2, size**2, _SIDE**2)
    assert (looked >= 0).all()
    torch.testing.assert_close(looked.sum(dim=-1), torch.ones(2, size**2))


@pytest.mark.parametrize("kind", KINDS)
def test_compression_keeps_half_precision(kind: str) -> None:
    assert compressor(kind, 2).bfloat16()(patches().bfloat16()).dtype == torch.bfloat16
