"""The projector: vision features into the language model's width.

Source: LLaVA-v1.5 (two-layer GELU MLP); the semantic projector is ours.  N² patches · d_v vision · d text width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_mini.config import LlavaMiniConfig


class MLPProjector(nn.Module):
    """Map each feature by Linear → GELU → Linear, as LLaVA-v1.5 and LLaVA-Mini do."""

    def __init__(self, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision_width, text_width)
        self.linear_2 = nn.Linear(text_width, text_width)

    def forward(self, features: Tensor) -> Tensor:
        """Map `(…, d_v)` to `(…, d)`."""
        out: Tensor = self.linear_2(F.gelu(self.linear_1(features)))
        return out


class SemanticProjector(nn.Module):
    """Start every patch out as a probability-weighted mean of words, and add what the MLP learns.

    codebook(softmax(classifier(x))) + MLP((x − mean) / std): the tower's own classifier names what it sees, the
    codebook holds one word embedding a class, the MLP adds colour, shape and all that has no class.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vision_width: int, text_width: int, classes: int, class_channels: int) -> None:
        super().__init__()
        self.class_channels = class_channels
        self.classifier = nn.Linear(class_channels, classes)
        self.codebook = nn.Linear(classes, text_width, bias=False)
        self.mlp = MLPProjector(vision_width, text_width)
        self.register_buffer("mean", torch.zeros(vision_width))
        self.register_buffer("std", torch.ones(vision_width))

    def forward(self, features: Tensor) -> Tensor:
        """Map `(…, d_v)` to `(…, d)`."""
        names = self.classifier(features[..., : self.class_channels]).softmax(dim=-1)
        out: Tensor = self.codebook(names) + self.mlp((features - self.mean) / self.std)
        return out


class RMSNorm(nn.Module):
    """Bring vectors to a learned scale a channel; the scale starts at the size of text embeddings."""

    def __init__(self, width: int, scale: float = 1.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), scale))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(…, d)`; computed in fp32."""
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(x.dtype)


def build_projector(config: LlavaMiniConfig) -> nn.Module:
    """Return the projector that a configuration asks for."""
    widths = (config.vision.hidden_size, config.text.hidden_size)
    if config.projector_classes:
        return SemanticProjector(*widths, config.projector_classes, config.projector_class_channels)
    return MLPProjector(*widths)
