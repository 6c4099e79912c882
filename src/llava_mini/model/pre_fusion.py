"""Modality pre-fusion: the words read the picture before the language model does.

Source: LLaVA-Mini, section 4.2.  R rows = batch × frames · V vision positions · C² tokens · L text · d width.

Vision stands first under a causal mask, so its states do not depend on the text: keys and values are computed once
an image and kept; a further question costs its own words only.
"""

import contextlib
import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModel, DynamicCache, PreTrainedConfig

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

    def encode_vision(self, patches: Tensor) -> list[LayerStates]:
        """Run `(R, V, d)` patches; return what each layer keeps of them.

        Nobody reads the outputs of patches, so the last layer makes their keys and values and no more.
        """
        cache = _StopsAtLastLayer(len(self.decoder.layers) - 1)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        with contextlib.suppress(_Kept):
            self.decoder(inputs_embeds=patches, attention_mask=mask, past_key_values=cache, use_cache=True)
        return _states(cache)

    def refine(self, tokens: Tensor, states: list[LayerStates]) -> tuple[Tensor, list[LayerStates]]:
        """Let compressed tokens `(R, C², d)` read the patches (released); return them and the states grown by them."""
        cache = DynamicCache()
        out = self._run(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device), states, cache)
        return out, _states(cache)

    def fuse(self, words: Tensor, mask: Tensor, states: list[LayerStates]) -> Tensor:
        """Let the `(R, L, d)` words read the vision positions kept in `states`.

        Masked words (padding, placeholders, answers) are no keys and take no position; their outputs mean nothing.

        Args:
            mask: `(R, L)`, true where a word is fused.
        """
        return self._fused(words, self._run(words, mask, states, DynamicCache()))

    def read(self, words: Tensor, states: list[LayerStates]) -> tuple[Tensor, list[LayerStates]]:
        """Fuse `(R, L, d)` words that follow those kept in `states`; return them and the states grown by them."""
        out, grown = self.refine(words, states)
        return self._fused(words, out), grown

    def _fused(self, words: Tensor, out: Tensor) -> Tensor:
        return out if self.norm is None else words + self.norm(out)

    def _run(self, rows: Tensor, mask: Tensor, states: list[LayerStates], cache: DynamicCache) -> Tensor:
        """Run `(R, L, d)` rows after the kept ones; the cache is filled with both."""
        seen = states[0].keys.shape[2]
        for index, layer in enumerate(states):
            cache.update(layer.keys, layer.values, index)
        ones = torch.ones(len(rows), seen, dtype=torch.long, device=rows.device)
        out: Tensor = self.decoder(
            inputs_embeds=rows,
            attention_mask=torch.cat([ones, mask.long()], dim=1),
            position_ids=seen + (mask.long().cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return out


class _Kept(Exception):  # noqa: N818 - no error: the last keys and values are in the cache
    pass


class _StopsAtLastLayer(DynamicCache):
    """Leave the decoder as soon as its last layer's keys and values are kept; works for every family of decoders."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        kept = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == self.last:
            raise _Kept
        return kept


def _states(cache: DynamicCache) -> list[LayerStates]:
    return [LayerStates(layer.keys, layer.values) for layer in cache.layers]
