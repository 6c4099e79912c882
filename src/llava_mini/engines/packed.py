"""Linear layers whose weights are laid out once the way oneDNN multiplies them, not anew at every call.

A row times a plain matrix, or sixty of them, waits for weights to be put into blocks that fill vector registers. Laid
out beforehand, a single row in 16 bits reads weights twice as fast. In 16 bits results are bit-equal but where a bias
is added, here before rounding; in 32 bits another library multiplies, so last bits differ (docs/efficiency.md). The
two functions are those that torch's compiler calls; they are not public.
"""

from typing import Any

import torch
from torch import Tensor, nn

from llava_mini.devices import multiplies_bfloat16
from llava_mini.errors import InputError


class PackedLinear(nn.Module):
    """A linear layer, weights in oneDNN's order; it answers and does not learn."""

    bias: Tensor | None

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach().contiguous())
        """The weights `(out, in)`; no parameter, since nothing else can read it."""
        self.register_buffer("bias", None if plain.bias is None else plain.bias.detach())

    def forward(self, rows: Tensor) -> Tensor:
        """Map `(…, in)` to `(…, out)`."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return made


@torch.no_grad()
def pack(*models: Any) -> None:
    """Lay out the linear layers of models; a layer that several of them share stays shared.

    Raises:
        InputError: where oneDNN does not multiply in the models' precision.
    """
    places: dict[nn.Linear, list[tuple[nn.Module, str]]] = {}
    for model in models:
        if not can_pack(model.device, model.dtype):
            precision = str(model.dtype).removeprefix("torch.")
            raise InputError(
                f"engine packed cannot lay out {precision} weights on {model.device.type} here; take float32 or "
                "bfloat16 on a CPU with oneDNN, or engine torch"
            )
        for module in model.modules():
            for name, child in module.named_children():
                if type(child) is nn.Linear:  # not its child in `nn.MultiheadAttention`, whose weights are read
                    places.setdefault(child, []).append((module, name))
    while places:  # one at a time, so that plain weights go as packed ones come
        plain, parents = places.popitem()
        packed = PackedLinear(plain)
        for module, name in parents:
            setattr(module, name, packed)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether oneDNN multiplies in a precision on a device."""
    if device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bfloat16(device))
