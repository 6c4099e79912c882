"""See what the language model attends to, layer by layer, without keeping all of it.

B batch · H heads · Q queries · K keys.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

Keep = Callable[[int, Tensor], None]
"""Takes the number of a layer and its weights `(B, H, Q, K)`, whose rows sum to 1."""

_NAME = "llava_mini_recorded"
_state = threading.local()


@contextlib.contextmanager
def record_attention(language_model: Any, keep: Keep) -> Iterator[None]:
    """Hand the attention weights of every layer to `keep` while the language model runs in this thread.

    The model computes its attention eagerly meanwhile, so no other thread should use it.
    """
    before = language_model.config._attn_implementation
    language_model.set_attn_implementation(_NAME)
    _state.keep = keep
    try:
        yield
    finally:
        _state.keep = None
        language_model.set_attn_implementation(before)


def _recorded(module: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    out, weights = eager_attention_forward(module, *args, **kwargs)
    keep: Keep | None = getattr(_state, "keep", None)
    if keep is not None:
        keep(module.layer_idx, weights)
    return out, weights


AttentionInterface.register(_NAME, _recorded)
AttentionMaskInterface.register(_NAME, eager_mask)
