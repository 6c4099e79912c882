"""What a recipe will cost, before a weight is loaded: parameters, memory and work of one step, and the launch line.

A real step of the real modules runs on PyTorch's meta device, where nothing is computed and nothing is stored: the
operations are counted as they are called, and the activations as autograd keeps them.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from llava_mini.checkpoints.embedded import embedded_geometry
from llava_mini.checkpoints.geometry import geometry
from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import ConfigError, LlavaMiniError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.training.lora import add_lora
from llava_mini.training.objectives import Answers
from llava_mini.training.stages import Embedded, Files, Parts, Pretrained, Recipe, Stage, learn_only, part_of

_TEXT_TOKENS, _ANSWER_TOKENS = 60, 100
"""A question and an answer of visual instruction data, where nobody has counted the file's own."""
_GB = 1e9
_FOUR_BIT = 0.516
"""Bytes of a weight in NF4 with its twice quantised scales: Dettmers et al., arXiv 2305.14314, section 3."""
_LAUNCH = {
    "": "llava-mini train {name}",
    "ddp": "torchrun --nproc-per-node {devices} -m llava_mini train {name}",
    "fsdp": "accelerate launch --config_file configs/fsdp.yaml --num_processes {devices} -m llava_mini train {name}",
    "zero2": "accelerate launch --config_file configs/zero2.yaml --num_processes {devices} -m llava_mini train {name}",
    "zero3": "accelerate launch --config_file configs/zero3.yaml --num_processes {devices} -m llava_mini train {name}",
}


@dataclass(frozen=True)
class StagePlan:
    """The cost of one stage."""

    name: str
    parameters: dict[str, tuple[int, int]]
    """Total and trainable parameters of each part."""
    vision_tokens: int
    """What the language model sees of one picture."""
    tokens_per_step: int
    """Positions of the language model in one step, all devices together."""
    step_flops: float
    """Forward, backward and what is computed again, of one step, all devices together."""
    state_bytes: float
    """Weights, gradients and AdamW's two moments on one device."""
    activation_bytes: float
    """Kept for the way back, on one device, at the widest point."""


_WITHOUT_LANGUAGE_MODEL = {"alignment": "patches against words", "grounding": "words against pictures"}


def plan(recipe: Recipe, *, devices: int = 8) -> str:
    """Reckon every stage of a recipe; text for people."""
    config = _config(recipe)
    count = devices if recipe.parallel else 1
    shown = [f"{recipe.name}: {recipe.summary}"]
    for stage in recipe.stages:
        if stage.objective in _WITHOUT_LANGUAGE_MODEL:
            what = _WITHOUT_LANGUAGE_MODEL[stage.objective]
            shown.append(f"\nstage {stage.name}: {what}; about a second a step, no language model runs")
            continue
        shown.append(_table(plan_stage(recipe, stage, config, count), recipe, count))
        shown.append(_settings(stage))
    shown.append("\nlaunch:  " + _LAUNCH[recipe.parallel].format(name=recipe.name, devices=count))
    assumed = (
        f"a sample: one picture, {_TEXT_TOKENS} tokens of question, {_ANSWER_TOKENS} of answer, padding not counted"
    )
    return "\n".join([*shown, assumed])


def plan_stage(recipe: Recipe, stage: Stage, config: LlavaMiniConfig, devices: int) -> StagePlan:
    """Reckon one stage for one picture a sample."""
    half = recipe.precision == "bfloat16"
    with torch.device("meta"):
        model = LlavaMiniForConditionalGeneration(config).to(torch.bfloat16 if half else torch.float32)
        objective: Any = Answers(model, through=stage.objective)  # type: ignore[arg-type]
        if stage.lora_rank:
            add_lora(model, stage)
    learn_only(objective, set(stage.learning_rates) - {"helper"})  # which weighs nothing
    objective.train()
    if stage.checkpoint_activations:
        objective.activation_checkpointing_enable()
    samples, per_device = _sizes(stage, devices)
    all_tokens = stage.objective == "all_tokens"
    tokens = config.all_tokens_per_frame if all_tokens else config.tokens_per_frame
    one = _batch(config, tokens, 1, half)
    flops, kept = _measure(objective, one)
    total, trainable = (sum(count[i] for count in _count(objective).values()) for i in (0, 1))
    frozen_bytes = 2 if half and set(stage.learning_rates) == {"lora"} else 4
    # What learns has weight, gradient and two moments in fp32; what is frozen only its weight.
    weights = float((total - trainable) * frozen_bytes + trainable * 4)
    if isinstance(recipe.start, Pretrained) and recipe.start.four_bit:
        weights -= _quantised(model) * (frozen_bytes - _FOUR_BIT)
    weights /= devices if recipe.parallel in ("fsdp", "zero3") else 1
    gradients_and_moments = trainable * 12 / (devices if recipe.parallel in ("fsdp", "zero2", "zero3") else 1)
    return StagePlan(
        stage.name,
        _count(objective),
        tokens,
        samples * (tokens + _TEXT_TOKENS + _ANSWER_TOKENS),
        samples * flops,
        weights + gradients_and_moments,
        per_device * kept,
    )


def _quantised(model: nn.Module) -> int:
    """Count the weights that 4 bits take: those of the language model's linear layers."""
    return sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "language_model" in name and "lora_" not in name
    )


def _measure(objective: nn.Module, batch: dict[str, Tensor]) -> tuple[float, float]:
    """Return the operations of a step and the bytes that autograd keeps, weights and buffers apart."""
    owned = {tensor.untyped_storage()._cdata for tensor in (*objective.parameters(), *objective.buffers())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # storages of the meta device are told apart as long as they live

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned and storage._cdata not in kept:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    counter = FlopCounterMode(display=False)
    with counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = objective(**batch)["loss"]
        loss.backward()
    return float(counter.get_total_flops()), float(sum(kept.values()))


def _batch(config: LlavaMiniConfig, tokens: int, samples: int, half: bool) -> dict[str, Tensor]:
    length, side = tokens + _TEXT_TOKENS + _ANSWER_TOKENS, config.vision.image_size
    whole = torch.zeros(samples, length, dtype=torch.long, device="meta")
    pixels = torch.zeros(samples, config.parts_per_frame, 3, side, side, device="meta")
    frames = torch.ones(samples, dtype=torch.long, device="meta")
    return {
        "input_ids": whole,
        "attention_mask": torch.ones_like(whole),
        "labels": whole,
        "frames": frames,
        "pixel_values": pixels.bfloat16() if half else pixels,
    }


def _count(objective: nn.Module) -> dict[str, tuple[int, int]]:
    parts: dict[str, list[int]] = {}
    for name, parameter in objective.named_parameters():
        part = "vision_tower" if "vision_tower" in name else part_of(name) or "embeddings"
        entry = parts.setdefault(part, [0, 0])
        entry[0] += parameter.numel()
        entry[1] += parameter.numel() * parameter.requires_grad
    return {part: (total, trainable) for part, (total, trainable) in parts.items()}


def _sizes(stage: Stage, devices: int) -> tuple[int, int]:
    """Return the samples of a step, and how many one device holds at a time."""
    if isinstance(stage.data, Files):
        return stage.data.batch_size, min(stage.data.per_device, math.ceil(stage.data.batch_size / devices))
    each = stage.data.questions_per_picture + stage.data.relations + stage.data.sides
    of_pictures = stage.data.pictures * each
    asked = of_pictures + stage.data.videos * stage.data.questions_per_picture + stage.data.texts  # at most
    return asked, math.ceil(asked / devices)


def _config(recipe: Recipe) -> LlavaMiniConfig:
    start = recipe.start
    if isinstance(start, Parts):
        return geometry(start.geometry, **dict[str, Any](start.changes))
    if isinstance(start, Pretrained) and start.model not in ("", "embedded"):
        try:
            return LlavaMiniConfig.from_pretrained(start.model)
        except LlavaMiniError:
            raise
        except Exception as error:  # missing and damaged files raise many kinds
            raise ConfigError(f"start.model is {start.model!r}, which is no folder of a model") from error
    if isinstance(start, Pretrained) and start.geometry and not start.model:
        return geometry(start.geometry)
    return embedded_geometry(**(start.changes if isinstance(start, Embedded) else {}))


def _settings(stage: Stage) -> str:
    rates = ", ".join(f"{part} {rate:g}" for part, rate in stage.learning_rates.items())
    length = f"{stage.steps} steps"
    if not stage.steps and isinstance(stage.data, Files):
        length = f"{stage.data.epochs:g} epochs of the files, {stage.data.batch_size} samples a step"
    return f"  length                       {length}\n  learning rates               {rates}"


def _table(planned: StagePlan, recipe: Recipe, devices: int) -> str:
    total, trainable = (sum(count[i] for count in planned.parameters.values()) for i in (0, 1))
    lines = [f"\nstage {planned.name}", f"  {'part':16}{'parameters':>16}{'trainable':>16}"]
    lines += [f"  {part:16}{all_:>16,}{some:>16,}" for part, (all_, some) in planned.parameters.items()]
    lines.append(f"  {'all':16}{total:>16,}{trainable:>16,}")
    lines.append(f"  vision tokens of a picture   {planned.vision_tokens}")
    lines.append(f"  tokens a step                {planned.tokens_per_step:,}")
    lines.append(f"  work a step                  {planned.step_flops / 1e12:,.4g} TFLOP")
    where = f"one of {devices} devices" if devices > 1 else "the device"
    lines.append(f"  weights, gradients, moments  {planned.state_bytes / _GB:,.1f} GB on {where}")
    lines.append(f"  activations kept             {planned.activation_bytes / _GB:,.1f} GB on {where}")
    return "\n".join(lines)
