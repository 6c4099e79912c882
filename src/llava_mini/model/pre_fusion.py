"""Modality pre-fusion: the words read the picture before the language model does.

Source: LLaVA-Mini, section 4.2.  R rows = batch × frames · V vision positions · C² tokens · L text · d width.

Vision stands first under a causal mask, so its states do not depend on the text: keys and values are computed once
an image and kept; a further question costs its own words only.
"""

import contextlib
import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, DynamicCache, PreTrainedConfig

from llava_mini.model.last_layer import without_queries
from llava_mini.model.projector import RMSNorm


class LayerStates(NamedTuple):
    """Keys and values that one pre-fusion layer keeps of the vision positions."""

    keys: Tensor
    """`(R, heads, V, head width)`."""
    values: Tensor
    """`(R, heads, V, head width)`."""


class ModalityPreFusion(nn.Module):
    """N_fusion decoder layers of the language model's own kind: Ĥ^q = f(Concat(H^v, H^q))[-l_q:].

    `residual` is ours: a word becomes its embedding + norm(output), which starts near the embedding.
    """

    def __init__(self, text_config: PreTrainedConfig, layers: int, *, residual: bool = False) -> None:
        super().__init__()
        config = copy.deepcopy(text_config)
        config.num_hidden_layers = layers
        if isinstance(config.__dict__.get("layer_types"), list):
            config.layer_types = config.layer_types[:layers]
        # A copied configuration forgets its attention, and padded rows would then be attended to in silence.
        config._attn_implementation = text_config._attn_implementation or "sdpa"
        self.decoder: Any = AutoModel.from_config(config)
        self.decoder.embed_tokens = None
        self.decoder.norm = nn.Identity()
        self.norm = RMSNorm(config.hidden_size) if residual else None
        self.checkpoint_activations = False
        """Whether training computes the inside of each layer again on the way back, in place of keeping it."""

    def encode_vision(self, patches: Tensor) -> list[LayerStates]:
        """Run `(R, V, d)` patches; return what each layer keeps of them.

        Nobody reads the outputs of patches, so the last layer makes their keys and values and no more.
        """
        cache = _Keeps([], last=len(self.decoder.layers) - 1)
        *before, last = self.decoder.layers
        with contextlib.suppress(_Kept), self._checkpointed(before), without_queries(last):
            self.decoder(inputs_embeds=patches, past_key_values=cache, use_cache=True)
        return cache.kept

    def refine(self, tokens: Tensor, states: list[LayerStates]) -> tuple[Tensor, list[LayerStates]]:
        """Let compressed tokens `(R, C², d)` read the patches (released); return them and the states grown by them."""
        cache = _Keeps(states)
        return self._run(
            tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device), cache
        ), cache.kept

    def fuse(self, words: Tensor, mask: Tensor, states: list[LayerStates]) -> Tensor:
        """Let the `(R, L, d)` words read the vision positions kept in `states`.

        Masked words (padding, placeholders, answers) are no keys and take no position; their outputs mean nothing.

        Args:
            mask: `(R, L)`, true where a word is fused.
        """
        return self._fused(words, self._run(words, mask, _Keeps(states)))

    def read(self, words: Tensor, states: list[LayerStates]) -> tuple[Tensor, list[LayerStates]]:
        """Fuse `(R, L, d)` words that follow those kept in `states`; return them and the states grown by them."""
        out, grown = self.refine(words, states)
        return self._fused(words, out), grown

    def _fused(self, words: Tensor, out: Tensor) -> Tensor:
        return out if self.norm is None else words + self.norm(out)

    def _run(self, rows: Tensor, mask: Tensor, cache: "_Keeps") -> Tensor:
        """Run `(R, L, d)` rows after those in the cache, which keeps both."""
        seen = cache.get_seq_length()
        ones = torch.ones(len(rows), seen, dtype=torch.long, device=rows.device)
        every = None if rows.device.type == "meta" else torch.cat([ones, mask.long()], dim=1)  # no values to look at
        with self._checkpointed(self.decoder.layers):
            out: Tensor = self.decoder(
                inputs_embeds=rows,
                attention_mask=every,
                position_ids=seen + (mask.long().cumsum(dim=1) - 1).clamp(min=0),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        return out

    @contextlib.contextmanager
    def _checkpointed(self, layers: Any) -> Iterator[None]:
        """Checkpoint each layer, if that is asked for: transformers' own way would drop the kept keys and values."""
        chosen = list(layers) if self.checkpoint_activations and self.training and torch.is_grad_enabled() else []
        for layer in chosen:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        try:
            yield
        finally:
            for layer in chosen:
                del layer.forward


class _Kept(Exception):  # noqa: N818 - no error: the last keys and values are in the cache
    pass


class _Keeps(DynamicCache):
    """Keys and values of the rows before, and of those that run now.

    An update always adds to what was there at first: a checkpointed layer that runs again changes nothing.
    """

    def __init__(self, states: list[LayerStates], last: int | None = None) -> None:
        """Begin with kept states; leave the decoder as soon as layer `last` has its own."""
        super().__init__()
        self.first, self.last = states, last
        for index, layer in enumerate(states):
            super().update(layer.keys, layer.values, index)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        if layer_idx < len(self.layers):
            layer: Any = self.layers[layer_idx]
            if self.first:
                layer.keys, layer.values = self.first[layer_idx]
            else:
                layer.keys, layer.values = key_states[..., :0, :], value_states[..., :0, :]
        kept = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == self.last:
            raise _Kept
        return kept

    @property
    def kept(self) -> list[LayerStates]:
        """What each layer keeps now."""
        return [LayerStates(layer.keys, layer.values) for layer in self.layers]
