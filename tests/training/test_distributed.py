"""Two processes learn what one does: DDP through the Trainer, FSDP2 on the bare model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from own_data import make_data, make_model, make_recipe
from test_run import done, losses, weights
from transformers import AutoModelForImageTextToText

import llava_mini.auto  # noqa: F401
from llava_mini.errors import ModelError
from llava_mini.training.sharding import plain_model, whole_tensors

ROOT = Path(__file__).parents[2]


def two_processes(what: str, folder: Path) -> None:
    make_model(folder / "tiny")  # both would write them at once
    make_data(folder / "data")
    paths = os.pathsep.join(str(ROOT / part) for part in ("tests", "tests/training"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    script = str(ROOT / "tests/training/two_processes.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    ran = subprocess.run([*launch, what, str(folder)], env=environment, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr[-3000:]


def test_two_processes_with_ddp_train_as_one_does(tmp_path: Path) -> None:
    # A sample a process: one of them gets the text alone while the other has a picture.
    two_processes("ddp", tmp_path)
    done(make_recipe(tmp_path, steps=4, per_device=4), tmp_path / "alone")
    assert losses(tmp_path / "ddp") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    alone, both = weights(tmp_path / "alone"), weights(tmp_path / "ddp")
    assert alone.keys() == both.keys()
    furthest = max(float((alone[name] - both[name]).abs().max()) for name in alone)
    assert furthest < 1e-3


def test_fsdp2_shards_the_whole_model_steps_as_one_and_comes_back_as_safetensors(tmp_path: Path) -> None:
    two_processes("fsdp", tmp_path)
    found = json.loads((tmp_path / "fsdp.json").read_text())
    assert found["loss"] == pytest.approx(found["plain"], rel=1e-5)
    assert found["furthest"] < 1e-4
    plain_model(tmp_path / "distributed", tmp_path / "tiny", tmp_path / "back")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "back")
    stepped = torch.load(tmp_path / "plain.pt", weights_only=True)
    own = dict(model.named_parameters())
    for name, value in stepped.items():
        torch.testing.assert_close(own[name], value, atol=1e-4, rtol=0, msg=name)


def test_a_folder_without_a_distributed_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no distributed checkpoint"):
        whole_tensors(tmp_path)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "zero2", "zero3"])
def test_the_shipped_launch_configurations_are_read_by_accelerate(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = ROOT / "configs" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    wanted = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}[name]
    assert str(config.distributed_type).endswith(wanted)
    assert yaml.safe_load(path.read_text())["mixed_precision"] == "bf16"
