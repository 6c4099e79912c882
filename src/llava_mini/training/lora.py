"""LoRA on the linear layers of the parts that a stage names."""

import re

from peft import LoraConfig, inject_adapter_in_model

from llava_mini.checkpoints.embedded import LORA_SCALE
from llava_mini.errors import ConfigError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.training.stages import Stage

_LINEAR = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
_LORA_PLACES = {"language_model": r"model\.language_model", "pre_fusion": r"model\.pre_fusion"}


def add_lora(model: LlavaMiniForConditionalGeneration, stage: Stage) -> None:
    """Add LoRA to the linear layers, once: a later stage goes on with what an earlier one has learned.

    Raises:
        ConfigError: when rank or places are not those of an earlier stage.
    """
    ranks = {len(value) for name, value in model.named_parameters() if "lora_A" in name}
    if ranks - {stage.lora_rank}:
        raise ConfigError(f"lora_rank is {stage.lora_rank}, but an earlier stage has {ranks.pop()}; all share one LoRA")
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    where = {part for part, place in _LORA_PLACES.items() if any(re.match(place, name) for name in names)}
    if where - set(stage.lora_on) or (where and set(stage.lora_on) - where):
        told = " and ".join(sorted(where))
        raise ConfigError(
            f"lora_on of {stage.name!r} differs from that of an earlier stage ({told}); all share one LoRA"
        )
    if not ranks:
        inject_adapter_in_model(lora_config(stage), model)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()  # what learns keeps full precision


def lora_config(stage: Stage) -> LoraConfig:
    """Return PEFT's configuration of a stage's LoRA."""
    places = "|".join(_LORA_PLACES[part] for part in stage.lora_on)
    targets = rf"({places})\..*\.({_LINEAR})"
    return LoraConfig(r=stage.lora_rank, lora_alpha=int(LORA_SCALE * stage.lora_rank), target_modules=targets)
