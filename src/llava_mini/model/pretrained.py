"""What all LLaVA-Mini classes share with transformers: configuration, loading, how weights start."""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from llava_mini.config import LlavaMiniConfig
from llava_mini.model.compression import MultiHeadQueryCompressor, QueryCompressor
from llava_mini.model.positions import sincos_grid
from llava_mini.model.pre_fusion import ModalityPreFusion
from llava_mini.model.projector import RMSNorm, SemanticProjector
from llava_mini.model.word_memory import SHARPNESS, STRENGTH, WordMemory


class LlavaMiniPreTrainedModel(PreTrainedModel):
    """What all LLaVA-Mini classes share: configuration and loading."""

    config: LlavaMiniConfig
    config_class = LlavaMiniConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules: ClassVar[list[str]] = ["ModalityPreFusion", "PatchContext", "QueryCompressor"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values", "vision_prefix"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QueryCompressor | MultiHeadQueryCompressor):
            init.normal_(module.query, std=self.config.text.initializer_range)
        if isinstance(module, MultiHeadQueryCompressor):
            init.copy_(module.pos_embed, sincos_grid(module.size, module.width))
        if isinstance(module, SemanticProjector):
            init.zeros_(module.mean)
            init.ones_(module.std)
        if isinstance(module, WordMemory):
            init.zeros_(module.words)
            init.constant_(module.sharpness, SHARPNESS)
            init.constant_(module.strength, STRENGTH)
        if getattr(module, "starts_at_zero", False):
            init.zeros_(module.weight)
        if isinstance(module, RMSNorm):
            init.constant_(module.weight, self.config.text.initializer_range)

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        """Let pre-fusion checkpoint itself: transformers' way drops its keys and values."""
        super()._set_gradient_checkpointing(enable, *args, **kwargs)
        for fusion in (module for module in self.modules() if isinstance(module, ModalityPreFusion)):
            fusion.checkpoint_activations = enable
            layers: list[Any] = [module for module in fusion.modules() if hasattr(module, "gradient_checkpointing")]
            for layer in layers:
                layer.gradient_checkpointing = False
