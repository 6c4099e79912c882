"""The vision tower: any encoder of transformers, cut at the layer that is used.

Source: LLaVA-Mini, section 4 (CLIP, penultimate layer, patches only).  B pictures · N² patches · d width.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

from llava_mini.errors import ConfigError


class VisionTower(nn.Module):
    """Turn pixels into patch features; layers above the one used do not exist here."""

    def __init__(self, config: PreTrainedConfig, layer: int | None) -> None:
        super().__init__()
        self.side = -(-config.image_size // config.patch_size)
        self.encoder: Any = AutoModel.from_config(config)
        self.layer = None if layer is None else _cut(self.encoder, layer)
        """Which hidden state is used, counted from the embedding, 0; None: the tower's own output."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode `(B, 3, H, W)` pictures into `(B, N², d)` patches; class and register tokens are dropped."""
        if self.layer is None:
            hidden: Tensor = self.encoder(pixel_values).last_hidden_state
        else:
            # A list keeps the states it names alone: all of them would be most of what is held at the peak.
            hidden = self.encoder(pixel_values, output_hidden_states=[self.layer]).hidden_states[-1]
        return hidden[:, hidden.shape[1] - self.side**2 :]


def _cut(encoder: Any, layer: int) -> int:
    """Drop the layers above hidden state `layer` (0 is the embedding); return its number, counted from there."""
    total = encoder.config.num_hidden_layers
    used = layer if layer >= 0 else total + 1 + layer
    if not 0 < used <= total:
        raise ConfigError(f"vision_feature_layer is {layer}; the tower has {total} layers")
    stacks = [module for module in encoder.modules() if isinstance(module, nn.ModuleList) and len(module) == total]
    if not stacks:
        raise ConfigError(f"no stack of {total} layers was found in a {encoder.config.model_type} tower")
    del stacks[0][used:]
    return used
