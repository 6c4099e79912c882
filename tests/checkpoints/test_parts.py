"""A language model and a tower that have never met become a model: theirs bit by bit, ours fresh."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config, tiny_tokenizer
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionModel, LlamaForCausalLM

from llava_mini.assistant import Assistant
from llava_mini.checkpoints.parts import join_parts
from llava_mini.errors import ModelError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration


def folders(folder: Path, *, whole_clip: bool = False) -> tuple[Path, Path]:
    config = tiny_config()
    torch.manual_seed(0)
    LlamaForCausalLM(config.text).save_pretrained(folder / "llm")
    tiny_tokenizer().save_pretrained(folder / "llm")
    if whole_clip:
        text = CLIPTextConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
        )
        clip = CLIPConfig(text_config=text.to_dict(), vision_config=config.vision.to_dict(), projection_dim=8)
        CLIPModel(clip).save_pretrained(folder / "tower")
    else:
        CLIPVisionModel(config.vision).save_pretrained(folder / "tower")
    return folder / "llm", folder / "tower"


def joined(folder: Path, target: str, parts: tuple[Path, Path], **options: Any) -> LlavaMiniForConditionalGeneration:
    changes = {"fusion_layers": 2, "compression_heads": 4}
    join_parts(*parts, folder / target, template="chatml", **{**changes, **options})
    model, info = LlavaMiniForConditionalGeneration.from_pretrained(folder / target, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model


@pytest.mark.parametrize("whole_clip", [False, True])
def test_the_parts_are_taken_over_bit_by_bit(tmp_path: Path, whole_clip: bool) -> None:
    parts = folders(tmp_path, whole_clip=whole_clip)
    model = joined(tmp_path, "model", parts)
    llm = LlamaForCausalLM.from_pretrained(parts[0]).model.state_dict()
    assert all(torch.equal(value, llm[name]) for name, value in model.model.language_model.state_dict().items())
    loaded = (
        CLIPModel.from_pretrained(parts[1]).vision_model if whole_clip else CLIPVisionModel.from_pretrained(parts[1])
    )
    tower = {name.removeprefix("vision_model."): value for name, value in loaded.state_dict().items()}
    ours = {n.removeprefix("vision_model."): v for n, v in model.model.vision_tower.encoder.state_dict().items()}
    assert all(torch.equal(value, tower[name]) for name, value in ours.items())
    assert Assistant.load(tmp_path / "model", device="cpu").ask("Hello?").text is not None


def test_patches_of_joined_parts_hear_nothing_yet(tmp_path: Path) -> None:
    context = joined(tmp_path, "model", folders(tmp_path), fusion_context=8).model.patch_context
    assert context is not None
    for said in (context.near, context.far):
        assert not any(parameter.any() for parameter in said.parameters())
    assert context.down.weight.any()


def layers(model: LlavaMiniForConditionalGeneration) -> dict[str, torch.Tensor]:
    assert model.model.pre_fusion is not None
    found: dict[str, torch.Tensor] = model.model.pre_fusion.decoder.layers.state_dict()
    return found


def test_pre_fusion_starts_as_the_first_layers_or_at_random(tmp_path: Path) -> None:
    parts = folders(tmp_path)
    copied = joined(tmp_path, "copied", parts)
    first = copied.model.language_model.layers[:2].state_dict()
    assert all(torch.equal(value, first[name]) for name, value in layers(copied).items())
    random = {
        seed: layers(joined(tmp_path, f"random{seed}", parts, copy_layers=False, seed=int(seed[0])))
        for seed in ("1", "1b", "2")
    }
    name = "0.self_attn.q_proj.weight"
    assert not torch.equal(random["1"][name], first[name])
    assert torch.equal(random["1"][name], random["1b"][name])
    assert not torch.equal(random["1"][name], random["2"][name])


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    llm, tower = folders(tmp_path)
    with pytest.raises(ModelError, match="language_model is .*nowhere"):
        join_parts(tmp_path / "nowhere", tower, tmp_path / "model", template="chatml")
    with pytest.raises(ModelError, match="vision_tower is .*nowhere"):
        join_parts(llm, tmp_path / "nowhere", tmp_path / "model", template="chatml")
    assert not (tmp_path / "model").exists()
