"""Put what a training has learned into a model's plain weights: whole tensors, and LoRA folded in.

Source: Hu et al., LoRA (arXiv 2106.09685): W ← W + (alpha / r) · B A; PEFT's adapter folders.
"""

import math
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from llava_mini.checkpoints.tensors import ShardWriter, read_json, read_shapes, read_tensors, tensor_files
from llava_mini.errors import ModelError

_LORA = re.compile(r"\.lora_([AB])(\.[^.]+)?\.weight$")
_WEIGHTS = re.compile(r"\.(safetensors|bin|pt|pth|gguf)$|\.index\.json$")
_PEFT = "base_model.model."
_PLAIN = {"use_dora": False, "bias": "none", "fan_in_fan_out": False, "lora_bias": False}
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts that subtract from the base what LoRA begins with: folded into the plain base, the sum would be another."""


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name LoRA's tensors `<module>.lora_A` and `<module>.lora_B`, and all others as the model does."""
    renamed = {}
    for name, value in tensors.items():
        plain = _LORA.sub(r".lora_\1", name.removeprefix(_PEFT)).replace(".modules_to_save.default", "")
        renamed[plain.replace(".modules_to_save", "").replace(".base_layer", "")] = value
    return renamed


def save_peft(learned: Mapping[str, Tensor], config: Any, folder: Path) -> None:
    """Write LoRA in PEFT's own form, which `PeftModel.from_pretrained` and `llava-mini merge` read.

    Args:
        config: the `LoraConfig` it was made with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = {
        _PEFT + re.sub(r"\.(lora_[AB])$", r".\1.weight", name): value for name, value in plain_names(learned).items()
    }
    save_file({name: value.contiguous() for name, value in named.items()}, folder / "adapter_model.safetensors")
    config.save_pretrained(str(folder))


def merge(base: Path, adapter: Path, target: Path, *, shard_bytes: int = 2 * 10**9) -> int:
    """Fold a PEFT adapter into the plain weights of its model, tensor by tensor; return how many were changed.

    Raises:
        ModelError: when the adapter does not fit the model, or is more than LoRA.
    """
    fields = read_json(adapter / "adapter_config.json")
    if fields.get("peft_type") != "LORA":
        raise ModelError(f"{adapter} is a {fields.get('peft_type')} adapter; only LORA is folded in")
    for name, wanted in _PLAIN.items():
        if fields.get(name, wanted) != wanted:
            raise ModelError(f"{name} of {adapter} is {fields[name]!r}; only plain LoRA is folded in ({wanted!r})")
    start = str(fields.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_BASE):
        raise ModelError(
            f"init_lora_weights of {adapter} is {start!r}, which changes the base; convert it to plain LoRA"
        )
    try:
        tensors = plain_names(load_file(adapter / "adapter_model.safetensors"))
    except Exception as error:  # missing and damaged files raise many kinds
        raise ModelError(f"{adapter / 'adapter_model.safetensors'} cannot be read: {error}") from error
    alphas, ranks = fields.get("alpha_pattern") or {}, fields.get("rank_pattern") or {}

    def scale(module: str) -> float:
        try:
            alpha, rank = _of(alphas, module, fields["lora_alpha"]), _of(ranks, module, fields["r"])
            found = alpha / math.sqrt(rank) if fields.get("use_rslora") else alpha / rank
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, re.error):
            found = math.nan
        if not math.isfinite(found):
            raise ModelError(f"adapter_config.json of {adapter} gives no usable lora_alpha and r for {module}")
        return found

    return put_into(base, tensors, target, scale=scale, shard_bytes=shard_bytes)


def put_into(
    base: Path, learned: Mapping[str, Tensor], target: Path, *, scale: Any, shard_bytes: int = 2 * 10**9
) -> int:
    """Write a model folder with some tensors replaced and LoRA folded in, in the precision of the base.

    Args:
        learned: whole tensors by the model's names, LoRA as `<module>.lora_A` `(r, in)` and `.lora_B` `(out, r)`.
        scale: a function of the module's name: alpha / r.

    Returns:
        How many tensors were changed.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} exists and is not an empty folder; choose another one")
    files = tensor_files(base)
    shapes = read_shapes(files)
    wanted = {name.replace(".lora_A", ".weight").replace(".lora_B", ".weight") for name in learned}
    strange = sorted(wanted - set(shapes))
    if strange:
        raise ModelError(f"{strange[0]} of the adapter has no place in {base}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        writer = ShardWriter(made, shard_bytes)
        for name, tensor in read_tensors(files):
            writer.add(name, _changed(name, tensor, learned, scale) if name in wanted else tensor)
        writer.close()
        for path in base.iterdir():
            if path.is_file() and not _WEIGHTS.search(path.name):
                shutil.copyfile(path, made / path.name)
        if target.exists():
            target.rmdir()
        made.rename(target)
    return len(wanted)


def _changed(name: str, tensor: Tensor, learned: Mapping[str, Tensor], scale: Any) -> Tensor:
    module = name.removesuffix(".weight")
    value = learned.get(name, tensor).float()
    if f"{module}.lora_A" in learned or f"{module}.lora_B" in learned:
        down, up = learned.get(f"{module}.lora_A"), learned.get(f"{module}.lora_B")
        if (
            up is None
            or down is None
            or up.shape[1] != down.shape[0]
            or (up.shape[0], down.shape[1]) != tuple(tensor.shape)
        ):
            raise ModelError(f"LoRA of {module} does not fit its weight of shape {tuple(tensor.shape)}")
        value = value + scale(module) * (up.float() @ down.float())
    if value.shape != tensor.shape:
        raise ModelError(f"{name} has shape {tuple(value.shape)}; the model has {tuple(tensor.shape)}")
    return value.to(tensor.dtype)


def _of(patterns: Mapping[str, Any], module: str, default: Any) -> float:
    """Return a module's own value, as PEFT finds it: the pattern is the end of the name."""
    return float(next((v for name, v in patterns.items() if re.match(rf"(.*\.)?({name})$", module)), default))
