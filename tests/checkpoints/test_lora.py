"""A folded adapter is what PEFT itself folds; one that does not fit is refused, and nothing is left behind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_processor
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

import llava_mini.auto  # noqa: F401
from llava_mini.assistant import Assistant
from llava_mini.checkpoints.lora import merge
from llava_mini.cli import app
from llava_mini.errors import ModelError

LINEAR = r".*(language_model|pre_fusion).*\.(q_proj|down_proj)"


def base(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    model = tiny_model().to(dtype)
    model.save_pretrained(folder, **options)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


def adapter(folder: Path, **options: Any) -> Path:
    """A LoRA whose B is not zero any more."""
    torch.manual_seed(1)
    model = get_peft_model(tiny_model(), LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": LINEAR, **options}))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                value.normal_(std=0.1)
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 9}},
        {"modules_to_save": ["multi_modal_projector"]},
    ],
    ids=["plain", "rslora", "patterns", "whole modules"],
)
def test_a_folded_adapter_equals_what_peft_folds(tmp_path: Path, options: dict[str, Any]) -> None:
    source, lora = base(tmp_path / "base"), adapter(tmp_path / "lora", **options)
    merge(source, lora, tmp_path / "merged", shard_bytes=40_000)
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) > 1
    ours = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").state_dict()
    loaded = AutoModelForImageTextToText.from_pretrained(source)
    theirs = PeftModel.from_pretrained(loaded, str(lora)).merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-6, msg=name)
    assert Assistant.load(tmp_path / "merged", device="cpu").ask("Hello?").text is not None


def test_the_precision_of_the_base_is_kept(tmp_path: Path) -> None:
    merge(base(tmp_path / "base", torch.bfloat16), adapter(tmp_path / "lora"), tmp_path / "merged")
    tensors = load_file(tmp_path / "merged/model.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}


def edited(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_an_adapter_that_is_more_than_lora_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = base(tmp_path / "base")
    lora = adapter(tmp_path / "lora")
    for fields, words in (({"use_dora": True}, "use_dora"), ({"use_dora": False, "peft_type": "IA3"}, "IA3 adapter")):
        edited(lora, **fields)
        with pytest.raises(ModelError, match=words):
            merge(source, lora, tmp_path / "merged")
    edited(lora, peft_type="LORA")
    weights = load_file(lora / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_A" in name)
    for changed, words in (
        ({**weights, name: weights[name][:, :-1].contiguous()}, "does not fit its weight"),
        (
            {**weights, "base_model.model.nowhere.lora_A.weight": weights[name].clone()},
            "nowhere.weight of the adapter has no place",
        ),
    ):
        save_file(changed, lora / "adapter_model.safetensors")
        with pytest.raises(ModelError, match=words):
            merge(source, lora, tmp_path / "merged")
    (lora / "adapter_model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="cannot be read"):
        merge(source, lora, tmp_path / "merged")
    with pytest.raises(ModelError, match="adapter_config.json cannot be read"):
        merge(source, tmp_path / "nowhere", tmp_path / "merged")
    with pytest.raises(ModelError, match="not an empty folder"):
        merge(source, adapter(tmp_path / "again"), source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "base", "lora"]


@pytest.mark.parametrize(
    "fields",
    [{"r": 0}, {"r": None}, {"lora_alpha": float("nan")}, {"lora_alpha": "x"}, {"alpha_pattern": {"(": 1}}],
)
def test_a_scale_that_is_no_number_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    source, lora = base(tmp_path / "base"), adapter(tmp_path / "lora")
    edited(lora, **fields)
    with pytest.raises(ModelError, match="gives no usable lora_alpha and r for model."):
        merge(source, lora, tmp_path / "merged")


def test_half_a_lora_and_one_that_changed_its_base_are_refused(tmp_path: Path) -> None:
    source, lora = base(tmp_path / "base"), adapter(tmp_path / "lora")
    weights = load_file(lora / "adapter_model.safetensors")
    lost = next(name for name in weights if "lora_A" in name)
    save_file({name: value for name, value in weights.items() if name != lost}, lora / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not fit its weight"):
        merge(source, lora, tmp_path / "merged")
    edited(lora, init_lora_weights="pissa_niter_4")
    with pytest.raises(ModelError, match="init_lora_weights of .* is 'pissa_niter_4', which changes the base"):
        merge(source, lora, tmp_path / "merged")


def test_the_command_says_how_many_tensors_changed(tmp_path: Path) -> None:
    paths = [str(path) for path in (base(tmp_path / "base"), adapter(tmp_path / "lora"), tmp_path / "merged")]
    ran = CliRunner().invoke(app, ["merge", *paths])
    assert ran.exit_code == 0, ran.output
    assert "merged: 10 tensors changed" in ran.stdout
