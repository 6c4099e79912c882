"""What a stage is: an objective, the parts that learn and how fast, data, and length — all as data.

Source: LLaVA-Mini, section 4.3 and Table 9, for stage 1 and stage 2; the warm-ups are ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from llava_mini.errors import ConfigError

PARTS: dict[str, tuple[str, ...]] = {
    "projector": ("model.multi_modal_projector", "model.projector_norm", "sharpness"),
    "compression": ("model.compressor",),
    "pre_fusion": ("model.pre_fusion",),
    "language_model": ("model.language_model", "lm_head"),
    "lora": (),  # every tensor with "lora_" in its name
    "helper": ("helper",),
}
_NEVER = ("multi_modal_projector.classifier", "embed_tokens", "lm_head")  # frozen in every stage


@dataclass(frozen=True)
class Stage:
    """Describe one stage of a recipe."""

    name: str
    """Folder of the stage's results."""
    objective: Literal["alignment", "all_tokens", "shallow", "answers"]
    """"alignment": patches against words. "all_tokens": answers from all N² tokens, no compression, no fusion.
    "shallow": answers read off pre-fusion. "answers": answers from the whole model."""
    learning_rates: dict[str, float]
    """Learning rate of each part that learns; parts that are absent are frozen."""
    steps: int
    """Optimizer steps."""
    pictures_per_step: int
    """Pictures in a step; each brings its questions."""
    videos_per_step: int = 0
    """Made videos in a step, beside the pictures; not in the stages "alignment" and "all_tokens"."""
    questions_per_picture: int = 6
    """Questions asked of one picture or video in a step, at most."""
    helper_weight: float = 0.0
    """Weight of the next-token loss on the fused text (ours; the paper has none)."""
    imagined: float = 0.0
    """Share of pictures into whose features an ImageNet class is planted."""
    kinds: tuple[str, ...] = ()
    """Question kinds that are asked; empty: all."""
    warmup_ratio: float = 0.03
    """Share of steps in which the learning rate rises; Table 9."""
    lora_rank: int = 0
    """Rank of the LoRA on the language model's linear layers; 0: none."""


@dataclass(frozen=True)
class Recipe:
    """A whole training: the stages in order, and what they learn from."""

    name: str
    stages: tuple[Stage, ...]
    scenes: int
    """Prepared training scenes it expects."""
    videos: int = 0
    """Prepared training videos it expects."""
    seed: int = 0
    copy_layers: bool = True
    """Whether pre-fusion starts as the language model's first layers or from random weights (the paper is silent)."""
    lookup: bool = True
    """Whether pre-fusion's first layer starts by looking at the patches that resemble a word (ours)."""
    changes: dict[str, object] = field(default_factory=dict)
    """Fields of the model's configuration that differ from the embedded model's."""


def learn_only(model: nn.Module, parts: Iterable[str]) -> None:
    """Freeze everything but the given parts.

    Raises:
        ConfigError: for a part that does not exist.
    """
    wanted = list(parts)
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        raise ConfigError(f"no part is called {unknown[0]!r}; parts are {', '.join(PARTS)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in wanted)


def part_of(name: str) -> str | None:
    """Return the part a parameter belongs to, None for what is always frozen."""
    if "lora_" in name:
        return "lora"
    if any(frozen in name for frozen in _NEVER):
        return None
    return next((part for part, places in PARTS.items() if any(place in name for place in places)), None)
