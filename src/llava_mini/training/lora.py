"""LoRA on the linear layers of the parts that a stage names, or that a trained start brings."""

import re
from collections.abc import Iterable, Mapping

from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from llava_mini.checkpoints.embedded import LORA_SCALE
from llava_mini.errors import ConfigError, ModelError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.training.stages import Stage

_LINEAR = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
_LORA_PLACES = {"language_model": r"model\.language_model", "pre_fusion": r"model\.pre_fusion"}


def take_over_lora(model: LlavaMiniForConditionalGeneration, lora: Mapping[str, Tensor]) -> None:
    """Begin with LoRA that was learned before.

    Args:
        lora: `<module>.lora_A` `(r, in)` and `.lora_B` `(out, r)`, which are in no weight of the model yet.

    Raises:
        ModelError: when they are of several ranks, or the model has no place for one.
    """
    ranks = {len(value) for name, value in lora.items() if name.endswith("lora_A")}
    if len(ranks) != 1:
        raise ModelError(f"LoRA of the adapter has ranks {sorted(ranks)}; one for all is wanted")
    _inject(model, ranks.pop(), _places(lora))
    weights = {f"{name}.default.weight": value.float() for name, value in lora.items()}
    strange = model.load_state_dict(weights, strict=False).unexpected_keys
    if strange:
        raise ModelError(f"{strange[0]} of the adapter has no place in the model")


def check_lora(model: LlavaMiniForConditionalGeneration, stages: Iterable[Stage]) -> None:
    """Look whether all stages share one LoRA, and one with the start, before any of them is trained.

    Raises:
        ConfigError: for a stage whose rank or places are others.
    """
    there = _lora_of(model)
    before = _told(len(next(iter(there.values()))), _places(there)) if there else ""
    for stage in stages:
        if stage.lora_rank:
            here = _told(stage.lora_rank, stage.lora_on)
            if before not in ("", here):
                raise ConfigError(
                    f"stage {stage.name!r} has {here}, an earlier stage or the start has {before}; all share one"
                )
            before = here


def add_lora(model: LlavaMiniForConditionalGeneration, stage: Stage) -> None:
    """Add LoRA to the linear layers, once: a stage goes on with what an earlier one or the start has learned."""
    if not _lora_of(model):
        _inject(model, stage.lora_rank, stage.lora_on)


def lora_config(rank: int, places: Iterable[str]) -> LoraConfig:
    """Return PEFT's configuration of LoRA on the linear layers of some parts."""
    inside = "|".join(_LORA_PLACES[part] for part in places)
    targets = rf"({inside})\..*\.({_LINEAR})"
    return LoraConfig(r=rank, lora_alpha=int(LORA_SCALE * rank), target_modules=targets)


def _inject(model: LlavaMiniForConditionalGeneration, rank: int, places: Iterable[str]) -> None:
    inject_adapter_in_model(lora_config(rank, places), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()  # what learns keeps full precision


def _told(rank: int, places: Iterable[str]) -> str:
    return f"LoRA of rank {rank} on {' and '.join(sorted(set(places)))}"


def _lora_of(model: LlavaMiniForConditionalGeneration) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if "lora_A" in name}


def _places(names: Iterable[str]) -> list[str]:
    """Name the parts that tensors belong to."""
    return sorted(part for part, place in _LORA_PLACES.items() if any(re.match(place, name) for name in names))
