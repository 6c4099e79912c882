"""8 bits a weight: nearly the same answers, a quarter of the bytes, and only the language model changes."""

import pytest
import torch
from tiny import pixels, row, tiny_model
from torch.nn import functional as F

from llava_mini.engines import attach
from llava_mini.engines.int8 import Int8Linear
from llava_mini.errors import InputError


@pytest.mark.parametrize("rows", [1, 16, 17])  # few rows take torch's product with integers, many are turned back
def test_a_weight_is_off_by_half_a_step_at_most(rows: int) -> None:
    torch.manual_seed(0)
    weight, given = torch.randn(24, 64), torch.randn(2, rows, 64)
    layer = Int8Linear(weight)
    step = weight.abs().amax(dim=1) / 127
    assert bool(((layer.weight.float() * layer.scale.float()[:, None] - weight).abs() <= 1.6 * step[:, None]).all())
    made, right = layer(given), F.linear(given, weight)
    assert made.dtype == torch.float32
    assert F.cosine_similarity(made, right, dim=-1).min() > 0.999


@torch.no_grad()
def test_a_model_in_8_bits_is_smaller_and_answers_nearly_alike() -> None:
    plain, small = tiny_model(), tiny_model()
    attach(small, "int8")
    assert not any(isinstance(m, torch.nn.Linear) for m in small.model.language_model.modules())
    assert isinstance(small.lm_head, Int8Linear)
    assert not any(isinstance(m, Int8Linear) for m in small.model.pre_fusion.modules())
    given = {"input_ids": row(), "pixel_values": pixels()}
    left, right = plain(**given).logits, small(**given).logits
    assert not torch.equal(left, right)
    assert F.cosine_similarity(left, right, dim=-1).min() > 0.99
    made = small.generate(**given, max_new_tokens=3, do_sample=False)
    assert made.shape[1] == row().shape[1] + 3


def test_other_engines_are_refused() -> None:
    with pytest.raises(InputError, match="--engine is 'vllm'; it must be torch, packed, auto, int8, llama.cpp"):
        attach(tiny_model(), "vllm")
    with pytest.raises(InputError, match=r"there is no file gone.gguf; write it with 'llava-mini export"):
        attach(tiny_model(), "gone.gguf")
    model = tiny_model()
    before = model.model.language_model
    attach(model, "torch")
    assert model.model.language_model is before
