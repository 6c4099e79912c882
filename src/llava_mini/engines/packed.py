"""Work laid out for a CPU: linear weights once, as oneDNN multiplies them, and 16-bit attention in two products.

A row times a plain matrix, or sixty of them, waits for weights to be put into blocks that fill vector registers. Laid
out beforehand, a single row in 16 bits reads weights twice as fast. In 16 bits products are bit-equal but where a bias
is added, here before rounding; in 32 bits another library multiplies, so last bits differ (docs/efficiency.md). The
two functions are those that torch's compiler calls; they are not public.

Torch's fused attention of 16-bit rows takes twice as long on a CPU as the two products it stands for, between which
scores are rounded to 16 bits.
B batch · H heads · Q queries · K keys · d head width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from llava_mini.devices import multiplies_bfloat16
from llava_mini.errors import InputError

PRODUCTS = "llava_mini_products"
"""The name under which transformers knows `attend`."""
_MOST_SCORES = 2**20
"""Queries times keys; more would fill memory, so then attention is fused, which holds no scores."""


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

    In 16 bits, tower and pre-fusion attend in two products. The language model keeps its attention: of a question's few
    rows it would gain nothing.

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
        for part in ("vision_tower", "pre_fusion") if model.dtype == torch.bfloat16 else ():
            _attend_in_products(getattr(model.model, part, None))
        for module in model.modules():
            for name, child in module.named_children():
                if type(child) is nn.Linear:  # not its child in `nn.MultiheadAttention`, whose weights are read
                    places.setdefault(child, []).append((module, name))
    while places:  # one at a time, so that plain weights go as packed ones come
        plain, parents = places.popitem()
        packed = PackedLinear(plain)
        for module, name in parents:
            setattr(module, name, packed)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend with `(B, H, Q, d)` queries to `(B, H or fewer, K, d)` keys, added mask; return `(B, Q, H, d)`.

    Scores are rounded to the rows' precision before softmax, as in transformers' eager attention.
    """
    if query.shape[2] * key.shape[2] > _MOST_SCORES:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    groups = query.shape[1] // key.shape[1]
    made = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])
    keys, values = repeat_kv(key, groups), repeat_kv(value, groups)
    mask = None if attention_mask is None else attention_mask.expand(len(query), -1, -1, -1)
    for row in range(len(query)):  # so that scores stay in the cache
        scores = (query[row] @ keys[row].transpose(-1, -2)).mul_(scaling)
        if mask is not None:
            scores += mask[row]
        made[row] = (scores.softmax(dim=-1) @ values[row]).transpose(0, 1)
    return made, None


def _attend_in_products(part: nn.Module | None) -> None:
    for module in () if part is None else part.modules():
        if isinstance(module, PreTrainedModel) and module.config._attn_implementation == "sdpa":
            module.set_attn_implementation(PRODUCTS)


def _mask(*, q_length: int, kv_length: int, **options: Any) -> Tensor | None:
    """Return the mask that `attend` adds, or none where fused attention knows the causal order itself."""
    make: Any = eager_mask if q_length * kv_length <= _MOST_SCORES else sdpa_mask
    made: Tensor | None = make(q_length=q_length, kv_length=kv_length, **options)
    return made


AttentionInterface.register(PRODUCTS, attend)
AttentionMaskInterface.register(PRODUCTS, _mask)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether oneDNN multiplies in a precision on a device."""
    if device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bfloat16(device))
