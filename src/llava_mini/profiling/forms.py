"""The same weights in three programs: LLaVA-Mini, LLaVA-v1.5 in our class, and transformers' own LLaVA.

What is timed is the arithmetic, so the weights are random: a 7B model needs no download.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, LlavaConfig, LlavaForConditionalGeneration
from transformers.initialization import no_init_weights

from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import ConfigError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration

_BLOCK = 1_000_003  # prime, so that no row of weights is the same as another
_SCALE = 0.02


def random_model(config: LlavaMiniConfig, dtype: torch.dtype) -> LlavaMiniForConditionalGeneration:
    """Build a model with random weights, in little more time than it takes to write them."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = LlavaMiniForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    model.tie_weights()
    _fill(model)
    return model.eval()


def all_tokens_of(model: LlavaMiniForConditionalGeneration) -> LlavaMiniForConditionalGeneration:
    """Return LLaVA-v1.5 in our class: the same modules, every patch a token, no pre-fusion."""
    without = {"compression": "none", "memory_words": 0, "fusion_context": 0, "fusion_layers": 0}
    config = LlavaMiniConfig.from_dict(model.config.to_dict() | without)
    with torch.device("meta"):
        made = LlavaMiniForConditionalGeneration(config)
    for part in ("vision_tower", "multi_modal_projector", "projector_norm", "language_model"):
        setattr(made.model, part, getattr(model.model, part))
    made.lm_head = model.lm_head
    return made.eval()


def is_transformers_llava(config: LlavaMiniConfig) -> bool:
    """Tell whether transformers has a LLaVA on the same parts."""
    return not config.projector_classes and config.vision_feature_layer is not None and config.tiles == 1


def transformers_llava(model: LlavaMiniForConditionalGeneration) -> Any:
    """Return transformers' `LlavaForConditionalGeneration` of the same geometry, sharing projector and language model.

    Its tower has all layers, as LLaVA-v1.5's; those that ours has are shared.

    Raises:
        ConfigError: for towers and projectors that it does not have.
    """
    config = model.config
    if not is_transformers_llava(config):
        raise ConfigError("transformers' LLaVA has a ViT tower, an MLP projector and no tiles; this model differs")
    text = copy.deepcopy(config.text)
    theirs = LlavaConfig(
        vision_config=copy.deepcopy(config.vision),
        text_config=text,
        image_token_id=text.vocab_size - 1,
        vision_feature_layer=config.vision_feature_layer,
    )
    with torch.device("meta"):
        made = LlavaForConditionalGeneration(theirs)
    default = torch.get_default_dtype()
    torch.set_default_dtype(model.dtype)
    try:
        with no_init_weights():
            tower = AutoModel.from_config(config.vision)
    finally:
        torch.set_default_dtype(default)
    _fill(tower)
    shared = dict(model.model.vision_tower.encoder.named_parameters())
    for name, parameter in tower.named_parameters():
        if name in shared:
            parameter.data = shared[name].data
    made.model.vision_tower = tower
    made.model.multi_modal_projector.linear_1 = model.model.multi_modal_projector.linear_1
    made.model.multi_modal_projector.linear_2 = model.model.multi_modal_projector.linear_2
    made.model.language_model = model.model.language_model
    made.lm_head = model.lm_head
    return made.to(model.device).eval()


@torch.no_grad()
def _fill(model: nn.Module) -> None:
    """Write random numbers, a block of them again and again: 7B draws would take minutes."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(_BLOCK, generator=generator) * _SCALE
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "norm" in name and name.endswith("weight"):
            parameter.fill_(1.0)
            continue
        flat = parameter.view(-1)
        for start in range(0, flat.numel(), _BLOCK):
            part = flat[start : start + _BLOCK]
            part.copy_(block[: part.numel()])
