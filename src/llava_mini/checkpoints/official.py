"""The released program's checkpoints: what its tensors and fields are called here, in both directions.

Source: the released LLaVA-Mini (ictnlp/LLaVA-Mini); its semantics are `LlavaMiniConfig`'s defaults.
"""

from typing import Any

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from llava_mini.checkpoints.tensors import renamed
from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import ModelError

TOWER = "model.vision_tower.vision_tower.vision_model."
# Beginning of a released name ↔ beginning of ours.
_NAMES: tuple[tuple[str, str], ...] = (
    (TOWER, "model.vision_tower.encoder."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.compressor.", "model.compressor."),
    ("model.prefusion_layers.", "model.pre_fusion.decoder.layers."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.norm.", "model.language_model.norm."),
    ("lm_head.", "lm_head."),
)

# The tower that the released model names; its `config.json` is on the hub only.
CLIP_VIT_L_336 = "openai/clip-vit-large-patch14-336"
_CLIP_VIT_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}


def our_name(released: str) -> str | None:
    """Return our name of a released tensor, None for one that is dropped on purpose.

    Raises:
        ModelError: for a name that the released model does not have.
    """
    return renamed(released, _NAMES, "the released model")


def released_name(ours: str) -> str:
    """Return the released name of one of our tensors.

    Raises:
        ModelError: for a tensor that the released model does not have.
    """
    for theirs, begins in _NAMES:
        if ours.startswith(begins):
            return theirs + ours.removeprefix(begins)
    raise ModelError(f"{ours} has no place in the released model")


def our_config(released: dict[str, Any], vision: dict[str, Any] | None, *, image_token_id: int) -> LlavaMiniConfig:
    """Return the configuration of a released `config.json`.

    Args:
        vision: fields of the CLIP tower that it names; None: CLIP ViT-L/14 at 336 px.

    Raises:
        ModelError: when a field asks for something that the released program does not have either.
    """
    for field, wanted in _FIXED.items():
        if released.get(field, wanted) != wanted:
            raise ModelError(f"{field} is {released[field]!r}; the released model has {wanted!r}")
    aspect = released.get("image_aspect_ratio", "square")
    if aspect not in _ASPECTS:
        raise ModelError(f"image_aspect_ratio is {aspect!r}; the released program knows {', '.join(_ASPECTS)}")
    ratio = released.get("resolution_ratio", 1)
    if ratio != int(ratio):
        raise ModelError(f"resolution_ratio is {ratio}; it must be a whole number of tiles a side")
    text = LlamaConfig(**{key: released[key] for key in _TEXT if key in released})
    tower = AutoConfig.for_model(
        "clip_vision_model", **{k: v for k, v in (vision or _CLIP_VIT_L_336).items() if k in _VISION}
    )
    return LlavaMiniConfig(
        vision_config=tower,
        text_config=text,
        image_token_id=image_token_id,
        vision_feature_layer=released.get("mm_vision_select_layer", -2),
        compression_size=released.get("compressor_size", 2),
        fusion_layers=released.get("prefusion_layer_num", 4),
        tiles=int(ratio),
        image_aspect_ratio=_ASPECTS[aspect],
    )


def known_tower() -> PreTrainedConfig:
    """Return the configuration of CLIP ViT-L/14 at 336 px, the tower that the released model names."""
    return AutoConfig.for_model("clip_vision_model", **_CLIP_VIT_L_336)


def is_known_tower(vision: PreTrainedConfig) -> bool:
    """Tell whether a tower is the one that the released model names."""
    return all(getattr(vision, field, None) == value for field, value in _CLIP_VIT_L_336.items())


def released_config(config: LlavaMiniConfig, *, vision_tower: str) -> dict[str, Any]:
    """Return the `config.json` of the released program for one of our models.

    Args:
        vision_tower: hub name or folder of the tower, as the released program loads it.

    Raises:
        ModelError: when the released program has no such model.
    """
    for field, wanted in _RELEASED_FORM.items():
        if getattr(config, field) != wanted:
            raise ModelError(f"{field} is {getattr(config, field)!r}; the released program can only do {wanted!r}")
    aspects = {ours: theirs for theirs, ours in _ASPECTS.items()}
    if config.image_aspect_ratio not in aspects:
        raise ModelError(f"image_aspect_ratio is {config.image_aspect_ratio!r}; released are {', '.join(aspects)}")
    for name, part, wanted in (("tower", config.vision, "clip_vision_model"), ("language model", config.text, "llama")):
        if part.model_type != wanted:
            raise ModelError(f"the {name} is a {part.model_type}; the released program can only do {wanted}")
    text = {key: value for key, value in config.text.to_dict().items() if key in _TEXT}
    rope = dict(text.pop("rope_parameters", None) or {})
    text["rope_theta"] = rope.pop("rope_theta", 10_000.0)
    text["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
    return {
        **text,
        **_FIXED,
        "architectures": ["LlavaMiniLlamaForCausalLM"],
        "model_type": "llava_mini_llama",
        "torch_dtype": str(config.dtype or "float32").removeprefix("torch."),
        "mm_hidden_size": config.vision.hidden_size,
        "mm_vision_tower": vision_tower,
        "mm_vision_select_layer": config.vision_feature_layer,
        "compressor_size": config.compression_size,
        "prefusion_layer_num": config.fusion_layers,
        "resolution_ratio": config.tiles,
        "image_aspect_ratio": aspects[config.image_aspect_ratio],
        "use_mm_proj": True,
    }


_ASPECTS: dict[str, Any] = {"square": "crop", "pad": "pad"}
_FIXED = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch"}
_RELEASED_FORM = {
    "compression": "query",
    "compression_first": True,
    "compression_attention": "multi_head",
    "compression_heads": 8,
    "memory_words": 0,
    "fusion_context": 0,
    "fuse_compressed": True,
    "fusion_residual": False,
    "projector_classes": 0,
    "projector_norm": False,
}
_TEXT = (
    "hidden_size intermediate_size num_attention_heads num_key_value_heads num_hidden_layers rms_norm_eps vocab_size"
    " rope_scaling rope_theta rope_parameters max_position_embeddings tie_word_embeddings bos_token_id eos_token_id"
    " pad_token_id attention_bias mlp_bias hidden_act head_dim"
).split()
_VISION = (
    "hidden_size num_attention_heads intermediate_size num_hidden_layers image_size patch_size hidden_act"
    " layer_norm_eps projection_dim"
).split()
