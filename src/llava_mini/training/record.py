"""What lies beside the weights: recipe and data as they were run with; for each start commit, versions and machine."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from llava_mini.errors import ConfigError
from llava_mini.training.stages import Recipe


@dataclass(frozen=True)
class Contents:
    """What makes data known again."""

    count: int
    digest: str
    """Of the descriptions, hexadecimal."""

    def __str__(self) -> str:
        return f"{self.count:,} of digest {self.digest[:8]}"


def claim(recipe: Recipe, out: Path) -> None:
    """Write the recipe into the folder of its run, before anything is made there.

    Raises:
        ConfigError: when another recipe has made what lies there; it is never gone on with.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise ConfigError(f"--out is {out}, which cannot be made a folder: {reason}") from error
    path, text = out / "recipe.json", json.dumps(asdict(recipe), indent=1)
    if _has_made(out) and path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{path} is of another recipe{_difference(path, text)}; choose another folder with --out")
    _write(path, text)


def claim_data(data: Mapping[str, Contents], out: Path) -> None:
    """Write what a run learns from into its folder; a run that has none written, of earlier versions, goes on with it.

    Raises:
        ConfigError: when what lies there was learned from other data.
    """
    path = out / "data.json"
    if _has_made(out) and path.is_file():
        before = {kind: Contents(**row) for kind, row in json.loads(path.read_text(encoding="utf-8")).items()}
        other = next((kind for kind, now in data.items() if before.get(kind, now) != now), None)
        if other is not None:
            raise ConfigError(
                f"the run in {out} began with other {other}, {before[other]}; now there are {data[other]}; "
                "give it those again, or choose another folder with --out"
            )
    _write(path, json.dumps({kind: asdict(found) for kind, found in data.items()}, indent=1))


def write_record(recipe: Recipe, data: Mapping[str, Contents], out: Path) -> None:
    """Write recipe and data beside the weights, and a line about what runs it now."""
    claim(recipe, out)
    if data:
        claim_data(data, out)
    packages = ("llava-mini", "torch", "transformers", "peft", "accelerate", "datasets")
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "commit": _commit(),
        "versions": {name: version(name) for name in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.cuda.device_count()} GPUs",
    }
    path = out / "runs.jsonl"
    try:
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
    except OSError as error:
        raise _unwritten(path, error) from error


def _has_made(out: Path) -> bool:
    """Tell whether something lies there that took work."""
    return any(path for place in ("start", "*/checkpoint-*", "*/trained.safetensors") for path in out.glob(place))


def _write(path: Path, text: str) -> None:
    """Write a file unless it says so already: what is there is never at risk."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        partial = path.with_suffix(".part")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.rename(path)
        except OSError as error:
            raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be written: {(error.strerror or 'unknown error').lower()}")


def _difference(path: Path, text: str) -> str:
    """Name the first value in which the recipe of a folder is another one."""
    try:
        before, now = _flat(json.loads(path.read_text(encoding="utf-8"))), _flat(json.loads(text))
    except ValueError:
        return ""
    key = next((key for key in {**before, **now} if before.get(key) != now.get(key)), None)
    return "" if key is None else f": {key} was {before.get(key)!r} and is {now.get(key)!r}"


def _flat(value: object, path: str = "") -> dict[str, object]:
    """Return the values of nested tables by their paths; an entry with a name, as a stage, goes by it."""
    if isinstance(value, dict):
        entries = {str(key): one for key, one in value.items()}
    elif isinstance(value, list):
        entries = {
            one["name"] if isinstance(one, dict) and "name" in one else str(n): one for n, one in enumerate(value)
        }
    else:
        return {path: value}
    return {k: v for key, one in entries.items() for k, v in _flat(one, f"{path}.{key}" if path else key).items()}


def _commit() -> str:
    """Return the commit of the source, with a plus when it has been changed since; empty for an installed package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # git itself may not be there
        return ""
