"""Join a language model and a vision tower that have never met into a LLaVA-Mini whose own parts are fresh.

Source: LLaVA-Mini, section 4.3 (what is there before stage 1); how pre-fusion starts is not in the paper.
"""

import contextlib
import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from llava_mini.checkpoints.convert import tower_name, write_model
from llava_mini.checkpoints.expected import built
from llava_mini.checkpoints.preparation import join_processor, load_tokenizer
from llava_mini.checkpoints.tensors import read_json, read_tensors, tensor_files
from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import ModelError
from llava_mini.inputs.chat import read_template
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration

_FRESH = tuple(
    f"model.{part}."
    for part in (
        "compressor",
        "word_memory",
        "multi_modal_projector",
        "projector_norm",
        "patch_context",
        "pre_fusion",
    )
)
_LAYERS, _FUSION = "model.language_model.layers.", "model.pre_fusion.decoder.layers."


def check_folders(language_model: Path, vision_tower: Path) -> None:
    """Check that both parts are there.

    Raises:
        ModelError: for the one that is missing.
    """
    for folder, what in ((language_model, "language_model"), (vision_tower, "vision_tower")):
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"{what} is {str(folder)!r}, which is no folder of a model; download it and give its folder"
            )


def join_parts(
    language_model: Path,
    vision_tower: Path,
    target: Path,
    *,
    template: str,
    copy_layers: bool = True,
    seed: int = 0,
    shard_bytes: int = 2 * 10**9,
    **changes: Any,
) -> None:
    """Write a model folder whose compression, projector and pre-fusion are untrained.

    Args:
        language_model: folder of a Llama-like language model and its tokenizer.
        vision_tower: folder of a CLIP or SigLIP tower, alone or within its whole model.
        template: chat template of the project, by name.
        copy_layers: start pre-fusion from the language model's first layers; False: from random weights.
        seed: of what is random.
        changes: fields of `LlavaMiniConfig` that differ from the released form.

    Raises:
        ModelError: when a folder is missing or holds something else.
    """
    check_folders(language_model, vision_tower)
    fields = read_json(vision_tower / "config.json")
    tower = built(vision_tower, lambda: AutoConfig.for_model(**fields.get("vision_config", fields)))
    text: PreTrainedConfig = AutoConfig.from_pretrained(language_model, local_files_only=True)
    config = built(
        language_model, lambda: LlavaMiniConfig(vision_config=tower, text_config=text, image_token_id=0, **changes)
    )
    processor = join_processor(config, load_tokenizer(language_model), read_template(template), vision_tower)
    fresh = _fresh(config, seed)
    files = tensor_files(language_model)
    if copy_layers and config.fusion_layers:
        for name, tensor in read_tensors(files):
            place = (_language_name(name) or "").replace(_LAYERS, _FUSION, 1)
            if place in fresh:
                fresh[place] = tensor
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        ours, made = Path(scratch) / "fresh.safetensors", Path(scratch) / "model"
        made.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in fresh.items()}, ours)
        sources: list[tuple[list[Path], Callable[[str], str | None]]] = [
            (files, _language_name),
            (tensor_files(vision_tower), tower_name),
            ([ours], str),
        ]
        write_model(made, sources, config, processor, text.dtype, "parts", str(vision_tower), shard_bytes)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(target)
        made.rename(target)


def _fresh(config: LlavaMiniConfig, seed: int) -> dict[str, Tensor]:
    """Start our own parts as the class does, without the language model's many layers."""
    small = copy.deepcopy(config)
    small.text.num_hidden_layers = max(1, config.fusion_layers)
    if isinstance(small.text.__dict__.get("layer_types"), list):
        small.text.layer_types = small.text.layer_types[: small.text.num_hidden_layers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaMiniForConditionalGeneration(small)
    return {name: value for name, value in model.state_dict().items() if name.startswith(_FRESH)}


def _language_name(name: str) -> str | None:
    """Return our name of a tensor of a plain language model."""
    if name.endswith(".rotary_emb.inv_freq"):
        return None
    return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name
