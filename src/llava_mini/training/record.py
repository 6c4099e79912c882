"""What lies beside the weights: the recipe as it was run, and for each start the commit, versions and machine."""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from llava_mini.errors import ConfigError
from llava_mini.training.stages import Recipe


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
    made = [*out.glob("start"), *out.glob("*/checkpoint-*"), *out.glob("*/trained.safetensors")]
    if made and path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{path} is of another recipe{_difference(path, text)}; choose another folder with --out")
    if not path.is_file() or path.read_text(encoding="utf-8") != text:  # what is there already is never at risk
        partial = path.with_suffix(".part")
        partial.write_text(text, encoding="utf-8")
        partial.rename(path)


def write_record(recipe: Recipe, out: Path) -> None:
    """Write the recipe beside the weights, and a line about what runs it now."""
    claim(recipe, out)
    packages = ("llava-mini", "torch", "transformers", "peft", "accelerate", "datasets")
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "commit": _commit(),
        "versions": {name: version(name) for name in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.cuda.device_count()} GPUs",
    }
    with (out / "runs.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")


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
    found = subprocess.run(describe, capture_output=True, text=True, check=False)
    return found.stdout.strip()
