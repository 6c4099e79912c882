"""Measure the memory of a conversion: `python -m tests.parity.memory [--gigabytes 4.5] [--folder DIR]`.

Makes a sharded checkpoint in the released form with a large language model and a small tower, converts it both ways in
a process of its own each, and prints the largest resident memory beside the size of a shard.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tiny import tiny_config, tiny_tokenizer
from transformers import AutoModel, LlamaConfig

from llava_mini.checkpoints.official import TOWER, released_config, released_name
from llava_mini.checkpoints.tensors import ShardWriter, tensor_files
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration

_CONVERT = """
import re, sys
from pathlib import Path
from llava_mini.checkpoints.convert import convert
peak = lambda: re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
before = peak()
convert(Path(sys.argv[1]), Path(sys.argv[2]), to=sys.argv[3], shard_bytes=int(sys.argv[4]))
print(before, peak())
"""


def make(folder: Path, gigabytes: float, shard_bytes: int) -> float:
    """Write random bf16 tensors in shards; return their size in GB."""
    layers = max(1, round((gigabytes - 0.55) * 1e9 / (2 * 2.18e8)) - 1)  # 218 M parameters a layer, one in pre-fusion
    text = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=layers, num_key_value_heads=8, vocab_size=32000
    )
    config = tiny_config(
        text_config=text, fusion_layers=1, compression_heads=8, image_aspect_ratio="crop", vision_feature_layer=-2
    )
    with torch.device("meta"):
        shapes = {released_name(n): v.shape for n, v in LlavaMiniForConditionalGeneration(config).state_dict().items()}
        shapes |= {TOWER + n: v.shape for n, v in AutoModel.from_config(config.vision).state_dict().items()}
    folder.mkdir()
    writer = ShardWriter(folder, shard_bytes)
    for name, shape in shapes.items():
        writer.add(name, torch.randn(shape, dtype=torch.bfloat16))
    writer.close()
    config.vision.save_pretrained(folder.parent / "clip")
    fields = released_config(config, vision_tower="../clip") | {"torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(fields))
    tiny_tokenizer().save_pretrained(folder)
    return sum(file.stat().st_size for file in tensor_files(folder)) / 1e9


def main() -> int:
    """Print one row a direction; exit code 1 when the way back is not the same bit by bit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=4.5)
    parser.add_argument("--shard-gigabytes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, help="where there is room for three times as much")
    options = parser.parse_args()
    shard_bytes = round(options.shard_gigabytes * 1e9)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        released, ours, back = (Path(scratch) / name for name in ("released", "ours", "back"))
        size = make(released, options.gigabytes, shard_bytes)
        print(f"checkpoint {size:.2f} GB in {len(tensor_files(released))} files; shards of {shard_bytes / 1e9:.2f} GB")
        for source, target, to in ((released, ours, "llava-mini"), (ours, back, "official")):
            command = [sys.executable, "-c", _CONVERT, str(source), str(target), to, str(shard_bytes)]
            made = subprocess.run(command, check=True, capture_output=True, text=True)
            before, peak = (int(value) / 1e6 for value in made.stdout.split())
            print(f"to {to:<11} peak {peak:.2f} GB, of which {before:.2f} GB before the first tensor")
        one, other = named(released), named(back)
        same = one.keys() == other.keys() and all(
            torch.equal(one[name].get_tensor(name), other[name].get_tensor(name)) for name in one
        )
        print("the way back is the same bit by bit" if same else "THE WAY BACK DIFFERS")
    return 0 if same else 1


def named(folder: Path) -> dict[str, Any]:
    """Return, for each tensor, the open file that holds it."""
    opened = [safe_open(file, framework="pt") for file in tensor_files(folder)]
    return {name: file for file in opened for name in file.keys()}  # noqa: SIM118


if __name__ == "__main__":
    sys.exit(main())
