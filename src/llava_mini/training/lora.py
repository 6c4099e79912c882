"""LoRA on the linear layers of the parts that a stage names."""

import re
from collections.abc import Iterable, Mapping

from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from llava_mini.checkpoints.embedded import LORA_SCALE
from llava_mini.errors import ConfigError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.training.stages import Stage

_LINEAR = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
_LORA_PLACES = {"language_model": r"model\.language_model", "pre_fusion": r"model\.pre_fusion"}


def take_over_lora(model: LlavaMiniForConditionalGeneration, lora: Mapping[str, Tensor]) -> None:
    """Begin with LoRA that was learned before.

    Args:
        lora: `<module>.lora_A` `(r, in)` and `.lora_B` `(out, r)`, which are in no weight of the model yet.
    """
    if not lora:
        return
    (rank,) = {len(value) for name, value in lora.items() if name.endswith("lora_A")}
    _inject(model, rank, _places(lora))
    model.load_state_dict({f"{name}.default.weight": value.float() for name, value in lora.items()}, strict=False)


def add_lora(model: LlavaMiniForConditionalGeneration, stage: Stage) -> None:
    """Add LoRA to the linear layers, once: a later stage goes on with what an earlier one or the start has learned.

    Raises:
        ConfigError: when rank or places are not those of what was learned before.
    """
    before = {name: value for name, value in model.named_parameters() if "lora_A" in name}
    if not before:
        _inject(model, stage.lora_rank, stage.lora_on)
        return
    rank, where = len(next(iter(before.values()))), _places(before)
    if rank != stage.lora_rank:
        raise ConfigError(
            f"lora_rank of {stage.name!r} is {stage.lora_rank}, but an earlier stage or the start has {rank}; "
            "all share one LoRA"
        )
    if set(where) != set(stage.lora_on):
        raise ConfigError(
            f"lora_on of {stage.name!r} differs from that of an earlier stage or the start ({' and '.join(where)}); "
            "all share one LoRA"
        )


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


def _places(names: Iterable[str]) -> list[str]:
    """Name the parts that tensors belong to."""
    return sorted(part for part, place in _LORA_PLACES.items() if any(re.match(place, name) for name in names))
