"""Weights in oneDNN's order: the same answers, in 16 bits the same bits, and a shared layer stays shared."""

import pytest
import torch
from tiny import pixels, row, tiny_model
from torch import nn

from llava_mini.engines import attach
from llava_mini.engines.packed import PackedLinear, can_pack, pack
from llava_mini.errors import InputError

CPU = torch.device("cpu")
DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if can_pack(CPU, dtype)]
pytestmark = pytest.mark.skipif(not DTYPES, reason="this torch has no oneDNN")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 61])
@torch.no_grad()
def test_a_packed_layer_gives_what_the_plain_one_gives(dtype: torch.dtype, bias: bool, rows: int) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(96, 160, bias=bias).to(dtype)
    packed = PackedLinear(plain)
    given = torch.randn(2, rows, 96).to(dtype)
    for shape in (given, given[0], given.transpose(0, 1), given[:, :1].expand(-1, 7, -1)):
        if dtype == torch.bfloat16 and not bias:
            assert torch.equal(packed(shape), plain(shape))
        close = {"rtol": 2e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(packed(shape), plain(shape), **close)
    assert torch.equal(packed.packed.to_dense(), plain.weight)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_a_packed_model_answers_as_the_plain_one(dtype: torch.dtype) -> None:
    plain, packed = tiny_model().to(dtype), tiny_model().to(dtype)
    attach(packed, "packed")
    assert not any(type(module) is nn.Linear for module in packed.modules())
    given = {"input_ids": row(), "pixel_values": pixels().to(dtype)}
    left, right = plain(**given).logits, packed(**given).logits
    torch.testing.assert_close(left, right, rtol=2e-2, atol=2e-2 if dtype == torch.bfloat16 else 1e-5)
    answers = [model.generate(**given, max_new_tokens=4, do_sample=False) for model in (plain, packed)]
    assert torch.equal(*answers)


def test_a_layer_that_two_models_share_stays_shared() -> None:
    one, other = tiny_model(), tiny_model()
    other.lm_head = one.lm_head
    pack(one, other)
    assert isinstance(one.lm_head, PackedLinear)
    assert one.lm_head is other.lm_head


def test_weights_that_cannot_be_laid_out_are_refused() -> None:
    with pytest.raises(InputError, match="engine packed cannot lay out float16 weights on cpu here; take float32"):
        attach(tiny_model().half(), "packed")


def test_auto_packs_where_it_can_and_changes_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    attach(model, "auto")
    assert any(isinstance(module, PackedLinear) for module in model.modules()) == can_pack(CPU, torch.float32)
    monkeypatch.setattr("llava_mini.engines.packed.can_pack", lambda *_: False)
    plain = tiny_model()
    attach(plain, "auto")
    assert not any(isinstance(module, PackedLinear) for module in plain.modules())
