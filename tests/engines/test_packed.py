"""Weights in oneDNN's order: the same answers, in 16 bits the same bits, and a shared layer stays shared.

Attention in two products is transformers' eager attention, and above a bound its fused one.
"""

import pytest
import torch
from tiny import pixels, row, tiny_model
from torch import nn
from transformers.models.llama.modeling_llama import eager_attention_forward

from llava_mini.engines import attach, packed
from llava_mini.engines.packed import PackedLinear, attend, can_pack, pack
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
    laid_out = PackedLinear(plain)
    given = torch.randn(2, rows, 96).to(dtype)
    for shape in (given, given[0], given.transpose(0, 1), given[:, :1].expand(-1, 7, -1)):
        if dtype == torch.bfloat16 and not bias:
            assert torch.equal(laid_out(shape), plain(shape))
        close = {"rtol": 2e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(laid_out(shape), plain(shape), **close)
    assert torch.equal(laid_out.packed.to_dense(), plain.weight)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_a_packed_model_answers_as_the_plain_one(dtype: torch.dtype) -> None:
    plain, laid_out = tiny_model().to(dtype), tiny_model().to(dtype)
    attach(laid_out, "packed")
    assert not any(type(module) is nn.Linear for module in laid_out.modules())
    given = {"input_ids": row(), "pixel_values": pixels().to(dtype)}
    exact = tiny_model()(input_ids=row(), pixel_values=pixels()).logits
    off, off_laid_out = ((model(**given).logits.float() - exact).abs().mean() for model in (plain, laid_out))
    assert off_laid_out < (1.5 * off if dtype == torch.bfloat16 else 1e-5), "further from 32 bits than 16 bits are"
    answers = [model.generate(**given, max_new_tokens=4, do_sample=False) for model in (plain, laid_out)]
    assert torch.equal(*answers)


def test_a_layer_that_two_models_share_stays_shared() -> None:
    one, other = tiny_model(), tiny_model()
    other.lm_head = one.lm_head
    pack(one, other)
    assert isinstance(one.lm_head, PackedLinear)
    assert one.lm_head is other.lm_head


@pytest.mark.parametrize("masks", [0, 1, 3])
@pytest.mark.parametrize("most", [0, 2**20])
def test_two_products_are_the_attention_that_transformers_writes_out(
    masks: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_MOST_SCORES", most)
    torch.manual_seed(0)
    asked = torch.randn(3, 4, 7, 16, dtype=torch.bfloat16)
    keys, values = torch.randn(2, 3, 2, 11, 16, dtype=torch.bfloat16)
    hidden = torch.rand(masks, 1, 7, 11) < 0.3
    hidden[:, :, 3] = True  # a row of padding
    least = torch.finfo(torch.bfloat16).min
    mask = torch.zeros(hidden.shape, dtype=torch.bfloat16).masked_fill(hidden, least) if masks else None
    layer = nn.Module()
    layer.num_key_value_groups, layer.is_causal = 2, False
    layer.eval()
    made, _ = attend(layer, asked, keys, values, mask, scaling=0.3)
    written_out, _ = eager_attention_forward(layer, asked, keys, values, mask, scaling=0.3)
    torch.testing.assert_close(made, written_out, rtol=0, atol=2**-6 if most else 0.03)


@pytest.mark.parametrize("most", [0, 2**20])
@torch.no_grad()
def test_a_batch_of_padded_rows_is_fused_as_written_out(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_MOST_SCORES", most)
    model = tiny_model().bfloat16()
    fusion = model.model.pre_fusion
    torch.manual_seed(0)
    patches, words = (torch.randn(2, rows, 32, dtype=torch.bfloat16) for rows in (16, 9))
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    made = {}
    for name in ("eager", packed.PRODUCTS):
        fusion.decoder.set_attn_implementation(name)
        made[name] = fusion.fuse(words, mask, fusion.encode_vision(patches))[mask].float()
    torch.testing.assert_close(made["eager"], made[packed.PRODUCTS], rtol=0, atol=2**-6 if most else 0.1)


@pytest.mark.skipif(torch.bfloat16 not in DTYPES, reason="this CPU has no products of 16-bit rows")
def test_tower_and_pre_fusion_attend_in_two_products_in_16_bits_alone() -> None:
    for dtype, name in ((torch.bfloat16, packed.PRODUCTS), (torch.float32, "sdpa")):
        model = tiny_model().to(dtype)
        pack(model)
        parts = (model.model.vision_tower.encoder, model.model.pre_fusion.decoder, model.model.language_model)
        assert [part.config._attn_implementation for part in parts] == [name, name, "sdpa"]


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
