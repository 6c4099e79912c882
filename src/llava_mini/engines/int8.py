"""Linear layers with weights of 8 bits, one scale a row of outputs: what a single token costs is reading weights.

torchao's int8 weights, without compilation on a CPU, take five to seven times as long as plain ones: they are turned
back at every call (docs/efficiency.md). torch's own product of bf16 rows with int8 weights is faster than plain, for
few rows; it is not public, so where it is missing the weights are turned back.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FEW = 16
"""Rows up to which the product with int8 weights is taken; it was measured with one (docs/efficiency.md)."""


class Int8Linear(nn.Module):
    """A linear layer without bias whose weights are `(out, in)` integers times a scale `(out,)`."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        whole = weight.detach().float()
        scale = whole.abs().amax(dim=1).clamp_min(1e-12) / 127
        self.register_buffer("weight", (whole / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.bfloat16())

    def forward(self, rows: Tensor) -> Tensor:
        """Map `(…, in)` to `(…, out)`, in bf16 inside."""
        flat = rows.reshape(-1, rows.shape[-1]).bfloat16()
        if len(flat) <= _FEW and flat.device.type == "cpu" and hasattr(torch, "_weight_int8pack_mm"):
            made = torch._weight_int8pack_mm(flat, self.weight, self.scale)
        else:
            made = F.linear(flat, self.weight.bfloat16() * self.scale[:, None])
        return made.to(rows.dtype).unflatten(0, rows.shape[:-1])


def quantize(model: Any) -> None:
    """Keep the linear weights of a model's language model and head in 8 bits; word embeddings stay."""
    for module in list(model.model.language_model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and child.bias is None:
                setattr(module, name, Int8Linear(child.weight))
    model.lm_head = Int8Linear(model.lm_head.weight)
