"""Modality pre-fusion: the words read the picture before the language model does.

Source: LLaVA-Mini, section 4.2.  R rows = batch × frames · V vision positions · C² tokens · L text · d width.

Vision stands first under a causal mask, so its states do not depend on the text: keys and values are computed once
an image and kept; a further question costs its own words only.
"""

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

    def encode_vision(self, vision: Tensor) -> tuple[Tensor, list[LayerStates]]:
        """Run `(R, V, d)` vision rows; return their outputs `(R, V, d)` and what each layer keeps of them."""
        cache = DynamicCache()
        mask = torch.ones(vision.shape[:2], dtype=torch.long, device=vision.device)
        out = self.decoder(inputs_embeds=vision, attention_mask=mask, past_key_values=cache, use_cache=True)
        return out.last_hidden_state, [LayerStates(layer.keys, layer.values) for layer in cache.layers]

    def fuse(self, words: Tensor, mask: Tensor, states: list[LayerStates]) -> Tensor:
        """Let `(R, L, d)` words read the vision positions kept in `states`.

        Masked words (padding, placeholders, answers) are no keys and take no position; their outputs mean nothing.

        Args:
            mask: `(R, L)`, true where a word is fused.
        """
        return self._run(words, mask, states)[0]

    def read(self, words: Tensor, states: list[LayerStates]) -> tuple[Tensor, list[LayerStates]]:
        """Fuse `(R, L, d)` words that follow those kept in `states`; return them and the states grown by them."""
        out, cache = self._run(words, torch.ones(words.shape[:2], dtype=torch.bool, device=words.device), states)
        return out, [LayerStates(layer.keys, layer.values) for layer in cache.layers]

    def _run(self, words: Tensor, mask: Tensor, states: list[LayerStates]) -> tuple[Tensor, DynamicCache]:
        seen = states[0].keys.shape[2]
        cache = DynamicCache()
        for index, layer in enumerate(states):
            cache.update(layer.keys, layer.values, index)
        ones = torch.ones(len(words), seen, dtype=torch.long, device=words.device)
        out: Tensor = self.decoder(
            inputs_embeds=words,
            attention_mask=torch.cat([ones, mask.long()], dim=1),
            position_ids=seen + (mask.long().cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return (out if self.norm is None else words + self.norm(out)), cache
