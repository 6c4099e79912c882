"""An assistant loads from a folder; what is no model of ours is refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_processor
from transformers import LlamaConfig

from llava_mini import Assistant
from llava_mini.errors import InputError, LlavaMiniError, ModelError
from llava_mini.reply import Sampling

SHORT = Sampling(max_new_tokens=6)
PICTURE = Image.new("RGB", (50, 40), (255, 0, 0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny_model()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.save_pretrained(tmp_path / "model")
    tiny_processor(model.config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def one_line(error: pytest.ExceptionInfo[LlavaMiniError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_loaded_assistant_answers_the_same(folder: Path) -> None:
    assistant = Assistant(tiny_model(), tiny_processor())
    assistant.model.generation_config.eos_token_id = None
    loaded = Assistant.load(folder, device="cpu")
    assert loaded.name == str(folder)
    assert not loaded.model.training
    expected = assistant.ask("What is this?", PICTURE, sampling=SHORT).text
    assert loaded.ask("What is this?", PICTURE, sampling=SHORT).text == expected
    half = Assistant.load(folder, device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert half.ask("What is this?", PICTURE, sampling=SHORT).vision_tokens == 1


def test_an_unknown_device_or_dtype_is_refused(folder: Path) -> None:
    for device in ("gpu", "cuda:99", "meta", "mps" if not _has_mps() else "xpu"):
        with pytest.raises(InputError) as wrong:
            Assistant.load(folder, device=device)
        assert one_line(wrong) == f"device {device!r} cannot be used here; try 'cpu' or 'auto'"
    with pytest.raises(InputError) as unknown:
        Assistant.load(folder, dtype="int8")
    assert one_line(unknown) == "dtype 'int8' is unknown; use one of float32, bfloat16, float16 or 'auto'"


def _has_mps() -> bool:
    return bool(torch.backends.mps.is_available())


def test_a_folder_that_holds_no_model_of_ours_is_refused(tmp_path: Path) -> None:
    LlamaConfig().save_pretrained(tmp_path / "llama")
    (tmp_path / "empty").mkdir()
    for name in ("llama", "empty", "missing"):
        with pytest.raises(ModelError) as caught:
            Assistant.load(tmp_path / name)
        assert name in one_line(caught)
    with pytest.raises(ModelError, match="is a llama model; a llava_mini model is needed"):
        Assistant.load(tmp_path / "llama")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "llava_mini", "compression": "median"}'),
        ("config.json", b'{"model_type": "llava_mini", "compression_size": 0}'),
        ("config.json", b'{"model_type": "no_such_model"}'),
        ("model.safetensors", b"broken"),
        ("model.safetensors", None),
        ("tokenizer.json", None),
        ("tokenizer.json", b"{}"),
        ("processor_config.json", b"["),
    ],
)
def test_a_damaged_model_folder_is_refused_in_one_line(folder: Path, file: str, content: bytes | None) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        Assistant.load(folder)
    line = one_line(caught)
    assert line.startswith("no model could be loaded from") or "holds no model.safetensors" in line


@pytest.mark.parametrize("name", ["model.compressor.query", "lm_head.weight"])
def test_a_model_with_a_tensor_missing_is_refused(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{name} is missing in the weights of"):
        Assistant.load(folder)


def test_a_model_with_a_tensor_too_many_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.extra"] = tensors["lm_head.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model.extra is left over in the weights of"):
        Assistant.load(folder)


@pytest.mark.parametrize("outside", ["../w.safetensors", "w.bin"])
def test_an_index_that_leads_elsewhere_is_refused(folder: Path, outside: str) -> None:
    (folder / "model.safetensors").rename((folder / outside).resolve())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": outside}}))
    with pytest.raises(ModelError, match=r"names (a file outside its folder|w\.bin, which is no \.safetensors file)"):
        Assistant.load(folder)


def test_a_processor_of_another_model_is_refused(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "image_token_id": 7}))
    with pytest.raises(ModelError, match="image_token_id of the processor and of the model"):
        Assistant.load(folder)


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        Assistant.load(tmp_path / "none")
