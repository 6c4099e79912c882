"""The assembled model is loaded by a shorter way than others, and is the same."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from transformers import AutoModelForImageTextToText

from llava_mini.checkpoints.embedded import load_assembled


def test_an_assembled_model_is_loaded_as_from_pretrained_loads_it(tmp_path: Path) -> None:
    model = tiny_model()
    model.generation_config.eos_token_id = [5, 6]
    model.save_pretrained(tmp_path)
    short, info = load_assembled(tmp_path)
    assert not any(info.values())
    usual = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    for ours, theirs in ((short.state_dict(), usual.state_dict()), (_buffers(short), _buffers(usual))):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    assert short.generation_config.to_dict() == usual.generation_config.to_dict()
    assert short.config._attn_implementation == usual.config._attn_implementation
    assert not short.training


def _buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_buffers())


def test_weights_that_are_missing_or_left_over_in_an_assembled_model_are_named(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(iter(weights))
    weights["new.weight"] = weights.pop(gone).clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_assembled(tmp_path)[1] == {"missing_keys": [gone], "unexpected_keys": ["new.weight"]}
