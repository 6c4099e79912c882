"""LLaVA-1.5 in its transformers form: our all-token configuration.

Source: Liu et al., Improved Baselines with Visual Instruction Tuning (LLaVA-1.5); transformers' `LlavaConfig`.
"""

from typing import Any

from llava_mini.checkpoints.tensors import renamed
from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import ModelError

# Beginning of a name in one of the layouts that transformers has written ↔ ours; longer ones first.
_NAMES: tuple[tuple[str, str], ...] = (
    ("model.vision_tower.vision_model.", "model.vision_tower.encoder."),
    ("model.vision_tower.", "model.vision_tower.encoder."),
    ("vision_tower.vision_model.", "model.vision_tower.encoder."),
    ("vision_tower.", "model.vision_tower.encoder."),
    ("model.multi_modal_projector.", "model.multi_modal_projector."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("model.language_model.", "model.language_model."),
    ("lm_head.", "lm_head."),
)


def our_name(theirs: str) -> str | None:
    """Return our name of a LLaVA-1.5 tensor, None for one that is dropped on purpose.

    Raises:
        ModelError: for a name that LLaVA-1.5 does not have.
    """
    return renamed(theirs, _NAMES, "LLaVA-1.5")


def our_config(theirs: dict[str, Any]) -> LlavaMiniConfig:
    """Return the all-token configuration of a LLaVA-1.5 `config.json`.

    Raises:
        ModelError: when it is a LLaVA of another build.
    """
    for field, wanted in _FIXED.items():
        if theirs.get(field, wanted) != wanted:
            raise ModelError(f"{field} is {theirs[field]!r}; LLaVA-1.5 has {wanted!r}")
    return LlavaMiniConfig(
        vision_config=theirs["vision_config"],
        text_config=theirs["text_config"],
        image_token_id=theirs.get("image_token_index", 32000),
        vision_feature_layer=theirs.get("vision_feature_layer", -2),
        compression="none",
        fusion_layers=0,
        image_aspect_ratio="crop",
    )


_FIXED = {
    "projector_hidden_act": "gelu",
    "vision_feature_select_strategy": "default",
    "multimodal_projector_bias": True,
}
