"""The tensors of a checkpoint folder, one at a time: several files or one, safetensors or weights-only pickles."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llava_mini.errors import ModelError

_PRECISIONS = ("F64", "F32", "F16", "BF16")
_COMPUTED = (".rotary_emb.inv_freq", ".embeddings.position_ids")  # buffers of older files
_INTEGERS = (".position_ids", ".num_batches_tracked")  # counted, not learned
Shapes = dict[str, tuple[int, ...]]


def renamed(name: str, beginnings: Sequence[tuple[str, str]], owner: str) -> str | None:
    """Return our name of another's tensor by how it begins, None for a buffer that is computed, not learned.

    Raises:
        ModelError: for a name that `owner` does not have.
    """
    if name.endswith(_COMPUTED):
        return None
    for theirs, ours in beginnings:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise ModelError(f"{name} is no tensor of {owner}")


def tensor_files(folder: Path, *, allow_pickle: bool = False) -> list[Path]:
    """Return the files that hold a folder's weights.

    Raises:
        ModelError: when there are none, one of an index is missing, or only pickles are there and not allowed.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no folder {str(folder)!r}")
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index, whole = folder / f"{stem}.{suffix}.index.json", folder / f"{stem}.{suffix}"
        if index.is_file():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
                raise ModelError(f"{index} has no weight_map from tensors to files")
            files = [folder / name for name in sorted(set(places.values()))]
        else:
            files = [whole] if whole.is_file() else []
        if any(file.parent != folder for file in files):
            raise ModelError(f"{index} names a file outside its folder")
        other = [file.name for file in files if file.suffix != f".{suffix}"]
        if other:
            raise ModelError(f"{index} names {other[0]}, which is no .{suffix} file")
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ModelError(f"{folder} has no {missing[0]}, which its index names")
        if files and suffix == "bin" and not allow_pickle:
            raise ModelError(f"{files[0]} is a pickle; --allow-pickle reads it, weights only")
        if files:
            return files
    raise ModelError(f"{folder} holds no model.safetensors and no pytorch_model.bin, whole or with an index")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: when the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {(error.strerror or 'unknown error').lower()}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}; an object is needed")
    return value


def read_shapes(files: list[Path]) -> Shapes:
    """Return the shape of every tensor without reading its numbers.

    Raises:
        ModelError: when a file is damaged, or two files hold tensors of one name.
    """
    shapes: Shapes = {}
    for file in files:
        if file.suffix == ".safetensors":
            with _opened(file) as tensors:
                found = {name: _shape(file, name, tensors) for name in tensors.keys()}  # noqa: SIM118
        else:
            found = {name: tuple(tensor.shape) for name, tensor in _unpickled(file).items()}
        twice = sorted(set(found) & set(shapes))
        if twice:
            raise ModelError(f"{twice[0]} stands in {file.name} and in an earlier file")
        shapes |= found
    return shapes


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Give the tensors one by one, file by file; none is kept here."""
    for file in files:
        if file.suffix == ".safetensors":
            with _opened(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    yield name, tensors.get_tensor(name)
        else:
            for name, tensor in _unpickled(file).items():
                yield name, tensor.clone()  # a pickle's tensors may share their memory


class ShardWriter:
    """Write tensors as they come into `model-….safetensors` files of a bounded size, and their index."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self._held: dict[str, Tensor] = {}
        self._size = 0
        self._shards: list[list[str]] = []
        self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take one tensor; the shard before it is written when it is full."""
        if self._held and self._size + tensor.nbytes > self.shard_bytes:
            self._flush()
        self._held[name] = tensor.contiguous()
        self._size += tensor.nbytes
        self._total += tensor.nbytes

    def close(self) -> None:
        """Write the last shard, give the files their final names, and write the index of several."""
        self._flush()
        count = len(self._shards)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            final = "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            self._path(number).rename(self.folder / final)
            weight_map |= dict.fromkeys(names, final)
        if count > 1:
            index = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
            path = self.folder / "model.safetensors.index.json"
            path.write_text(json.dumps(index, indent=1, sort_keys=True), encoding="utf-8")

    def _flush(self) -> None:
        save_file(self._held, self._path(len(self._shards)), metadata={"format": "pt"})
        self._shards.append(list(self._held))
        self._held, self._size = {}, 0

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.part"


def _shape(file: Path, name: str, tensors: Any) -> tuple[int, ...]:
    """Return the shape of a tensor of numbers that a model can have."""
    try:
        view = tensors.get_slice(name)
        kind, shape = view.get_dtype(), tuple(view.get_shape())
    except SafetensorError as error:
        raise ModelError(f"{name} in {file.name} cannot be read: {error}") from error
    if kind not in _PRECISIONS and not name.endswith(_INTEGERS):
        raise ModelError(f"{name} in {file.name} is of type {kind}; weights are {', '.join(_PRECISIONS)}")
    return shape


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is no safetensors file: {error}") from error


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle, zip and torch each have their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{file} cannot be read as weights only: {reason}") from error
    if not isinstance(loaded, dict) or not all(_is_weight(*pair) for pair in loaded.items()):
        raise ModelError(f"{file} holds something else than named tensors of floating-point numbers")
    return loaded


def _is_weight(name: object, value: object) -> bool:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    if name.endswith(_INTEGERS):
        return True
    plain = value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"
    return plain and value.is_floating_point()
