"""The whole model over several devices with FSDP2, and back from its checkpoint to plain safetensors.

`accelerate launch` with `configs/fsdp.yaml` does the same through the Trainer; this is the bare way, for own loops.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from llava_mini.checkpoints.embedded import LORA_SCALE
from llava_mini.checkpoints.lora import plain_names, put_into
from llava_mini.errors import ModelError
from llava_mini.training.stages import part_of


def shard(objective: nn.Module, mesh: DeviceMesh) -> None:
    """Divide an objective's parameters over a mesh: each layer of tower, pre-fusion and language model, then the rest.

    Call it before the optimiser is made.
    """
    for module in list(objective.modules()):
        layers = getattr(module, "layers", None)
        if isinstance(layers, nn.ModuleList):
            for layer in layers:
                fully_shard(layer, mesh=mesh)
    fully_shard(objective, mesh=mesh)


def save_sharded(objective: nn.Module, folder: Path) -> None:
    """Write a distributed checkpoint, each process its own part; all processes must call it."""
    save(get_model_state_dict(objective), checkpoint_id=folder)


def whole_tensors(folder: Path) -> dict[str, Tensor]:
    """Read a distributed checkpoint into whole tensors, in one process that needs no group.

    Its index is a pickle: read only checkpoints that you have written.

    Raises:
        ModelError: when the folder holds none.
    """
    if not (folder / ".metadata").is_file():
        raise ModelError(f"{folder} is no distributed checkpoint: it has no .metadata")
    entries: Any = FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if hasattr(entry, "size")
    }
    load(tensors, checkpoint_id=folder, no_dist=True)
    return tensors


def plain_model(folder: Path, base: Path, target: Path) -> int:
    """Turn a distributed checkpoint of a model in folder `base` into a model folder; return how many tensors it has."""
    tensors = {name: tensor for name, tensor in plain_names(whole_tensors(folder)).items() if part_of(name) != "helper"}
    return put_into(base, tensors, target, scale=lambda _: LORA_SCALE)
