"""What a recipe is: a start, stages in order, and for each the parts that learn and how fast, data, length — as data.

Source: LLaVA-Mini, section 4.3 and Table 9, for stage 1 and stage 2; the warm-ups are ours.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval, MinLen
from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError
from torch import nn

from llava_mini.data.answers import QuestionKind
from llava_mini.data.layouts import SceneKind
from llava_mini.data.readers import DataFile
from llava_mini.errors import ConfigError

PARTS: dict[str, tuple[str, ...]] = {
    "projector": ("model.multi_modal_projector", "model.projector_norm"),
    "compression": ("model.compressor",),
    "memory": ("model.word_memory",),
    "context": ("model.patch_context",),
    "pre_fusion": ("model.pre_fusion",),
    "language_model": ("model.language_model",),
    "head": ("lm_head",),
    "lora": (),  # every tensor with "lora_" in its name
    "helper": ("helper", "sharpness"),
}
Count = Annotated[int, Interval(ge=1)]
Amount = Annotated[int, Interval(ge=0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Positive = Annotated[float, Interval(gt=0, lt=math.inf)]
Weight = Annotated[float, Interval(ge=0, lt=math.inf)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Template = Literal["chatml", "llama-3.1", "plain", "vicuna-v1.1"]
# The tower is frozen in the paper; word embeddings get no gradient in the released program either.
_NEVER = ("multi_modal_projector.classifier", "embed_tokens", "vision_tower")


def _can_be_shuffled(count: int) -> int:
    if count == 1:
        raise PydanticCustomError("alone", "Input should be 0 or at least 2: one scene has no other's picture")
    return count


def _not_all_zero(shares: dict[SceneKind, float]) -> dict[SceneKind, float]:
    if shares and not any(shares.values()):
        raise PydanticCustomError("nothing", "Input should give one kind a weight above 0")
    return shares


@dataclass(frozen=True)
class Scenes:
    """Learn from prepared scenes and made videos, whose questions are drawn anew in every step."""

    pictures: Count
    """Scenes of a step; each brings its questions."""
    videos: Amount = 0
    """Made videos of a step, beside the pictures; only with the objective "answers"."""
    questions_per_picture: Count = 6
    """Questions asked of one picture in a step, at most; of a video all are asked."""
    relations: Amount = 0
    """Further questions of one picture about how its things stand: sides, heights, sizes, places; at most."""
    sides: Amount = 0
    """Further questions of one scene, each in a conversation of its own: is one thing to the left or right of another,
    above or below it, and which of two is there; at most."""
    turns: Count = 1
    """Questions of one conversation about a picture, at most; how many is drawn anew each time. About a video: one."""
    texts: Amount = 0
    """Conversations without a picture in a step; only with the objective "answers"."""
    mentions: Annotated[int, Interval(ge=3)] = 14
    """Names read beside a picture in grounding, at most."""
    pairs: Amount = 0
    """Pairs of names beside them, the second of which is asked how it stands to the first; and, where two things
    are shown, at most twice as many words like "left" and "bigger", that are asked of which they are true."""
    claims: Amount = 0
    """Claims beside them, as "the cat to the left of the dog", whose "left" is asked whether it holds; at most."""
    imagined: Share = 0.0
    """Share of pictures into whose features an ImageNet class is planted."""
    photographs: Share = 0.0
    """Share of those in which no patch is sure of the class, but all together are, as in photographs."""
    kinds: tuple[QuestionKind, ...] = ()
    """Question kinds that are asked; empty: all. A picture that none of them fits is asked all."""
    first: tuple[QuestionKind, ...] = ()
    """Question kinds that are asked of every picture that they fit, in this order and before others are drawn, as far
    as `questions_per_picture` goes; empty: all are drawn."""
    only_shapes: bool = False
    """Learn from the scenes that show nothing but shapes, and call nothing else absent: there is little to know. Not
    with videos or imagined classes, which show other things."""
    scene_kinds: Annotated[dict[SceneKind, Weight], AfterValidator(_not_all_zero)] = field(default_factory=dict)
    """How much of each kind of scene is drawn, beside the others: a thing alone, shapes, pairs, copies to count,
    mixtures; an absent kind is left out. Empty: all as they come."""
    on_panoramas: Share | None = None
    """Share of scenes that stand on a view of a panorama, of each kind alike; null: as they come, half of them."""
    held_out: Annotated[Amount, AfterValidator(_can_be_shuffled)] = 0
    """So many of the last scenes that it might learn from are measured instead, with their own pictures and with
    others'; not 1."""


@dataclass(frozen=True)
class Files:
    """Learn from examples in files."""

    batch_size: Count = 256
    """Samples of a step, over all devices and accumulated micro-batches; Table 9: 256."""
    per_device: Count = 4
    """Samples that one device takes at a time; the rest of `batch_size` is accumulated."""
    files: tuple[DataFile, ...] = ()
    """Files of examples; `--data` takes their place."""
    evaluation: tuple[DataFile, ...] = ()
    """Files whose loss is measured beside the training, with their own pictures and with shuffled ones."""
    template: Literal["", Template] = ""
    """A chat template of the project by name; empty: the model's own. "plain" is picture and answer, for captions."""
    max_tokens: Count = 2048
    """Longest sample; what is longer is cut at its end, but never a picture."""
    packing: bool = False
    """Put several samples into a row of the language model, in place of padding."""
    workers: Amount = 2
    """Processes a device that open pictures beside the training; 0: none."""
    epochs: Positive = 1.0
    """How often the examples are seen; `steps` of the stage takes its place, and must for streams."""


@dataclass(frozen=True)
class Stage:
    """Describe one stage of a recipe."""

    name: Name
    """Folder of the stage's results; with the recipe's seed it gives the stage its own order and chance."""
    objective: Literal["alignment", "grounding", "all_tokens", "answers"]
    """"alignment": patches against words, and what they hear against centres and numbers of things. "grounding": fused
    names against what the picture says of them. "all_tokens": answers from all N² tokens, no compression, no fusion.
    "answers": answers from the whole model."""
    learning_rates: Annotated[dict[str, Weight], MinLen(1)]
    """Learning rate of each part that learns; parts that are absent are frozen."""
    data: Scenes | Files
    """What is learned from."""
    steps: Amount = 0
    """Optimizer steps; 0: as many as the epochs of the files give."""
    grounding_weight: Weight = 0.0
    """Weight of the loss of "grounding" on the pictures of a step, beside their answers (ours; the paper has none)."""
    silence_weight: Weight = 1.0
    """In grounding, weight of the loss that makes words that name nothing say one and the same (ours)."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """How the learning rates fall; Table 9: cosine."""
    warmup_ratio: Share = 0.03
    """Share of steps in which the learning rate rises; Table 9."""
    weight_decay: Weight = 0.0
    """Of AdamW; the paper does not say."""
    max_gradient_norm: Positive = 1.0
    """Larger gradients are scaled down to this norm."""
    lora_rank: Amount = 0
    """Rank of the LoRA on the linear layers of `lora_on`, alpha twice the rank; 0: none is added."""
    lora_on: Annotated[tuple[Literal["language_model", "pre_fusion"], ...], MinLen(1)] = ("language_model",)
    """Which layers get LoRA."""
    checkpoint_activations: bool = False
    """Compute activations again on the way back in place of keeping them; pre-fusion's too."""
    ema: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Decay of a running mean of the weights, which is what the stage ends with; 0: none."""
    evaluate_every: Amount = 0
    """Steps between measurements of the held-out loss; 0: at the end only."""


@dataclass(frozen=True)
class Embedded:
    """Start from the embedded model's parts."""

    trained: bool = False
    """Whether our trained adapter is in."""
    copy_layers: bool = True
    """Whether pre-fusion starts as the language model's first layers or from random weights (the paper is silent)."""
    lookup: bool = True
    """Whether pre-fusion's first layer starts by looking at the patches that resemble a word (ours)."""
    changes: dict[str, object] = field(default_factory=dict)
    """Fields of the model's configuration that differ from the embedded model's."""


@dataclass(frozen=True)
class Pretrained:
    """Start from a trained LLaVA-Mini."""

    model: str = "embedded"
    """Folder of a model in our form, or "embedded"."""
    four_bit: bool = False
    """Load the frozen language model in 4 bits (QLoRA); needs bitsandbytes."""
    geometry: Literal["", "vicuna-7b", "llama-3.1-8b"] = ""
    """What `--plan` reckons with where no folder is given."""


@dataclass(frozen=True)
class Parts:
    """Start from a language model and a vision tower that have never met."""

    geometry: Literal["vicuna-7b", "llama-3.1-8b"]
    """Their sizes, for `--plan`."""
    language_model: str
    """Folder of the language model and its tokenizer."""
    vision_tower: str = "openai/clip-vit-large-patch14-336"
    """Folder of a CLIP or SigLIP tower."""
    copy_layers: bool = False
    """Whether pre-fusion starts as the language model's first layers; random weights learn to look sooner
    (docs/lab_book.md; the paper is silent)."""
    template: Template = "vicuna-v1.1"
    """Chat template, by name."""
    changes: dict[str, object] = field(default_factory=dict)
    """Fields of `LlavaMiniConfig` that differ from the released form."""


@dataclass(frozen=True)
class Recipe:
    """A whole training."""

    name: str
    summary: str
    """One line for `--list`."""
    start: Embedded | Pretrained | Parts
    """What is trained."""
    stages: Annotated[tuple[Stage, ...], MinLen(1)]
    """In order; each goes on with what the one before has made."""
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 0
    """Of weights, order and drawn questions."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the arithmetic; weights and optimiser stay in fp32 where they learn."""
    save_every: Count = 200
    """Steps between checkpoints."""
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Who is told the losses beside `loss.jsonl`."""
    parallel: Literal["", "ddp", "fsdp", "zero2", "zero3"] = ""
    """How `--plan` reckons and what launch line it prints."""


def check_parts(model: nn.Module, stages: Iterable[Stage]) -> None:
    """Look whether the model has what the stages teach, before any of them is trained.

    Raises:
        ConfigError: for a part that is not there; LoRA and helpers come with their stages.
    """
    there = {"lora", "helper", *(part_of(name) for name, _ in model.named_parameters())}
    for stage in stages:
        if absent := [part for part in stage.learning_rates if part in PARTS and part not in there]:
            raise ConfigError(
                f"stage {stage.name!r} teaches {absent[0]}, but the model has no weights of that part; "
                f"set stages.{stage.name}.learning_rates.{absent[0]} to null"
            )


def learn_only(model: nn.Module, parts: Iterable[str]) -> None:
    """Freeze everything but the given parts.

    Raises:
        ConfigError: for a part that does not exist, or that the model does not have.
    """
    wanted = list(parts)
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        raise ConfigError(f"no part is called {unknown[0]!r}; parts are {', '.join(PARTS)}")
    found = {part_of(name) for name, _ in model.named_parameters()}
    absent = [part for part in wanted if part not in found]
    if absent:
        raise ConfigError(f"{absent[0]} has a learning rate, but the model has no weights of that part")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in wanted and parameter.is_floating_point())


def part_of(name: str) -> str | None:
    """Return the part a parameter belongs to, None for what is always frozen."""
    if "lora_" in name:
        return "lora"
    if any(frozen in name for frozen in _NEVER):
        return None
    return next((part for part, places in PARTS.items() if any(place in name for place in places)), None)
