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


def write_record(recipe: Recipe, out: Path) -> None:
    """Write the recipe beside the weights, and what runs it; what another recipe has made is never gone on with."""
    out.mkdir(parents=True, exist_ok=True)
    path, text = out / "recipe.json", json.dumps(asdict(recipe), indent=1)
    made = [*out.glob("start"), *out.glob("*/checkpoint-*"), *out.glob("*/trained.safetensors")]
    if made and path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{path} is of another recipe; choose another folder with --out")
    path.write_text(text, encoding="utf-8")
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


def _commit() -> str:
    """Return the commit of the source, with a plus when it has been changed since; empty for an installed package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    found = subprocess.run(describe, capture_output=True, text=True, check=False)
    return found.stdout.strip()
