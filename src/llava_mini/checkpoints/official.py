"""Names and configuration of the released program's weights, in ours.

Source: the released LLaVA-Mini (ictnlp/LLaVA-Mini); its semantics are `LlavaMiniConfig`'s defaults.
"""

import re
from typing import Any

from transformers import AutoConfig, LlamaConfig

from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import ModelError

# Released name → ours; the first pattern that fits counts. None: dropped on purpose.
_NAMES: tuple[tuple[str, str | None], ...] = (
    (r".*rotary_emb\.inv_freq", None),  # computed, not learned
    (r"model\.vision_tower\.vision_tower\.vision_model\.(.*)", r"model.vision_tower.encoder.\1"),
    (r"model\.mm_projector\.0\.(.*)", r"model.multi_modal_projector.linear_1.\1"),
    (r"model\.mm_projector\.2\.(.*)", r"model.multi_modal_projector.linear_2.\1"),
    (r"model\.compressor\.(.*)", r"model.compressor.\1"),
    (r"model\.prefusion_layers\.(.*)", r"model.pre_fusion.decoder.layers.\1"),
    (r"model\.(embed_tokens|layers|norm)\.(.*)", r"model.language_model.\1.\2"),
    (r"lm_head\.weight", r"lm_head.weight"),
)


def our_name(released: str) -> str | None:
    """Return our name of a released tensor, None for one that is dropped on purpose.

    Raises:
        ModelError: for a name that the released model does not have.
    """
    for pattern, ours in _NAMES:
        if re.fullmatch(pattern, released):
            return ours if ours is None else re.sub(pattern, ours, released)
    raise ModelError(f"{released} is no tensor of the released model")


def our_config(released: dict[str, Any], vision: dict[str, Any], *, image_token_id: int) -> LlavaMiniConfig:
    """Return the configuration of a released `config.json` and of the CLIP tower that it names."""
    text_fields = {key: value for key, value in released.items() if key not in ("model_type", "architectures")}
    text = LlamaConfig(**{key: value for key, value in text_fields.items() if key in _TEXT})
    tower = AutoConfig.for_model("clip_vision_model", **{k: v for k, v in vision.items() if k in _VISION})
    tiles = int(released.get("resolution_ratio", 1))
    return LlavaMiniConfig(
        vision_config=tower,
        text_config=text,
        image_token_id=image_token_id,
        vision_feature_layer=released["mm_vision_select_layer"],
        compression_size=released.get("compressor_size", 2),
        fusion_layers=released.get("prefusion_layer_num", 4),
        tiles=tiles,
        image_aspect_ratio="pad" if released.get("image_aspect_ratio") == "pad" else "crop",
    )


_TEXT = frozenset(
    "hidden_size intermediate_size num_attention_heads num_key_value_heads num_hidden_layers rms_norm_eps vocab_size"
    " rope_scaling rope_theta max_position_embeddings tie_word_embeddings bos_token_id eos_token_id pad_token_id"
    " attention_bias mlp_bias hidden_act head_dim".split()
)
_VISION = frozenset(
    "hidden_size num_attention_heads intermediate_size num_hidden_layers image_size patch_size hidden_act"
    " layer_norm_eps projection_dim".split()
)
