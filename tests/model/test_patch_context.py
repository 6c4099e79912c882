"""Patches hear nothing at first; then what is near, and what their part shows as a whole."""

import pytest
import torch
from tiny import EMBEDDED, tiny_model
from torch.nn import functional as F

from llava_mini import LlavaMiniForConditionalGeneration
from llava_mini.model.patch_context import PatchContext


def heard(*maps: str) -> PatchContext:
    """Make some in which the given maps speak."""
    torch.manual_seed(0)
    made = PatchContext(8, 6)
    for name in maps:
        torch.nn.init.normal_(getattr(made, name).weight)
    return made


def patches(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_at_first_nothing_is_heard() -> None:
    given = patches(2, 1, 9, 8)
    assert torch.equal(PatchContext(8, 6)(given), given)
    with_it, without = tiny_model(**EMBEDDED), tiny_model(**EMBEDDED | {"fusion_context": 0})
    without.load_state_dict(with_it.state_dict(), strict=False)
    fresh = LlavaMiniForConditionalGeneration(with_it.config).model.patch_context
    assert with_it.model.patch_context is not None
    assert fresh is not None
    with_it.model.patch_context.load_state_dict(fresh.state_dict())
    features, one = patches(2, 1, 16, 48), torch.ones(2, dtype=torch.long)
    with torch.no_grad():
        ours, theirs = (model.model.encode_features(features, one) for model in (with_it, without))
    for layer, plain in zip(ours.states, theirs.states, strict=True):
        assert torch.equal(layer.keys, plain.keys)
        assert torch.equal(layer.values, plain.values)


def test_what_is_near_reaches_two_cells_and_what_is_whole_a_part() -> None:
    given = patches(1, 2, 49, 8)
    changed = given.clone()
    changed[0, 0, 3 * 7 + 1] += 1  # fourth row, second column
    near = torch.zeros(7, 7, dtype=torch.bool)
    near[1:6, :4] = True
    with torch.no_grad():
        for made, reached in ((heard("near"), near), (heard("far"), torch.ones(7, 7, dtype=torch.bool))):
            moved = (made(changed) - made(given)).abs().amax(dim=-1) > 1e-6
            assert torch.equal(moved[0, 0].unflatten(0, (7, 7)), reached)
            assert not moved[0, 1].any()


def test_what_is_heard_is_read_by_words_and_leaves_the_tokens_alone() -> None:
    model = tiny_model(**EMBEDDED)
    features, one = patches(1, 1, 16, 48), torch.ones(1, dtype=torch.long)
    assert model.model.patch_context is not None
    with torch.no_grad():
        before = model.model.encode_features(features, one)
        torch.nn.init.normal_(model.model.patch_context.near.weight)
        after = model.model.encode_features(features, one)
    assert torch.equal(before.tokens, after.tokens)
    assert not torch.allclose(before.states[0].values, after.states[0].values, atol=1e-2)


def test_it_begins_to_learn_though_nothing_is_heard() -> None:
    made = PatchContext(8, 6)
    made(patches(1, 1, 9, 8))[..., 0].sum().backward()
    for silent in (made.near, made.far):
        assert silent.weight.grad is not None
        assert silent.weight.grad.abs().sum() > 0


def test_it_is_the_written_formula() -> None:
    made, given = heard("near", "far", "down", "whole"), patches(1, 1, 9, 8)[0, 0]
    weights = {name: value.detach() for name, value in made.named_parameters()}

    def mapped(name: str, vector: torch.Tensor) -> torch.Tensor:
        return weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]

    grid = {(i // 3, i % 3): F.gelu(mapped("down", x / x.pow(2).mean().sqrt())) for i, x in enumerate(given)}
    for number in range(2):
        kernel, bias = (weights[f"convolutions.{number}.{name}"] for name in ("weight", "bias"))
        grid = {
            (i, j): F.gelu(
                bias
                + sum(
                    kernel[:, :, k - i + 1, m - j + 1] @ x
                    for (k, m), x in grid.items()
                    if max(abs(k - i), abs(m - j)) < 2
                )
            )
            for i, j in grid
        }
    whole = F.gelu(mapped("whole", 3 * torch.stack(list(grid.values())).mean(dim=0)))
    wanted = torch.stack(
        [x + mapped("near", g) + mapped("far", whole) for x, g in zip(given, grid.values(), strict=True)]
    )
    with torch.no_grad():
        torch.testing.assert_close(made(given[None, None])[0, 0], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_the_whole(dtype: torch.dtype) -> None:
    made, given = heard("near", "far"), patches(2, 1, 9, 8)
    with torch.no_grad():
        whole = made(given)
        half = made.to(dtype)(given.to(dtype))
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), whole, atol=0.1, rtol=0.05)
