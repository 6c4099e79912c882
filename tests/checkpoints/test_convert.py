"""Checkpoints of others become ours and go back bit by bit; a name that does not fit is named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import pixels, row, tiny_config, tiny_model, tiny_processor, tiny_tokenizer
from torch import Tensor
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, LlavaConfig
from transformers import LlavaForConditionalGeneration as Llava
from typer.testing import CliRunner

from llava_mini import LlavaMiniForConditionalGeneration
from llava_mini.checkpoints.convert import UNUSED, convert
from llava_mini.checkpoints.official import released_config, released_name
from llava_mini.checkpoints.tensors import read_shapes, read_tensors, tensor_files
from llava_mini.cli import app
from llava_mini.errors import ModelError

TOWER = "model.vision_tower.vision_tower.vision_model."
GOLDEN = Path(os.environ.get("LLAVA_MINI_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))


def released_model(**changes: Any) -> LlavaMiniForConditionalGeneration:
    return tiny_model(compression_heads=8, image_aspect_ratio="crop", vision_feature_layer=-2, **changes)


def released_tensors(model: LlavaMiniForConditionalGeneration) -> dict[str, Tensor]:
    """A model's tensors under released names, with the tower's last layer, which ours does not have."""
    torch.manual_seed(1)
    whole = AutoModel.from_config(model.config.vision).state_dict()
    tensors = {TOWER + name: value for name, value in whole.items()}
    tensors |= {released_name(name): value for name, value in model.state_dict().items()}
    return {name: value.clone() for name, value in tensors.items()}


def released_folder(folder: Path, tensors: dict[str, Tensor] | None = None, **fields: Any) -> Path:
    """Write the tiny model as the released program does; the tower lies beside it in `clip`."""
    model = released_model()
    AutoModel.from_config(model.config.vision).save_pretrained(folder.parent / "clip")
    folder.mkdir()
    config = released_config(model.config, vision_tower="../clip") | fields
    (folder / "config.json").write_text(json.dumps(config))
    tiny_tokenizer().save_pretrained(folder)
    if tensors is None or tensors:
        save_file(tensors or released_tensors(model), folder / "model.safetensors")
    return folder


def all_tensors(folder: Path) -> dict[str, Tensor]:
    return dict(read_tensors(tensor_files(folder)))


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    if one.keys() != other.keys():
        return False
    return all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


def test_a_released_checkpoint_gives_the_same_logits_after_from_pretrained(tmp_path: Path) -> None:
    convert(released_folder(tmp_path / "released"), tmp_path / "ours")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    ids, shown = row(words=6), pixels()
    ids[ids == released_model().config.image_token_id] = loaded.config.image_token_id
    expected = released_model()(input_ids=row(words=6), pixel_values=shown).logits
    assert torch.equal(loaded(input_ids=ids, pixel_values=shown).logits, expected)


def test_what_was_converted_keeps_our_names_and_brings_its_processor(tmp_path: Path) -> None:
    convert(released_folder(tmp_path / "released"), tmp_path / "ours")
    assert set(read_shapes(tensor_files(tmp_path / "ours"))) == set(released_model().state_dict())
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["image_token_id"] == processor.image_token_id
    assert processor.image_aspect_ratio == "crop"


@pytest.mark.parametrize("shard_bytes", [2 * 10**9, 20_000])
def test_there_and_back_is_the_same_bit_by_bit(tmp_path: Path, shard_bytes: int) -> None:
    tensors = {name: value.bfloat16() for name, value in released_tensors(released_model()).items()}
    source = released_folder(tmp_path / "released", tensors, torch_dtype="bfloat16")
    convert(source, tmp_path / "ours", shard_bytes=shard_bytes)
    convert(tmp_path / "ours", tmp_path / "back", to="official", shard_bytes=shard_bytes)
    assert equal(all_tensors(tmp_path / "back"), tensors)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "back"))
    assert {**before, "mm_vision_tower": None} == {**after, "mm_vision_tower": None}
    assert (len(tensor_files(tmp_path / "ours")) > 1) == (shard_bytes == 20_000)


def test_shards_an_old_buffer_and_a_pickle_are_read_alike(tmp_path: Path) -> None:
    tensors = released_tensors(released_model())
    folder = released_folder(tmp_path / "released", tensors)
    convert(folder, tmp_path / "whole")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    (folder / "model.safetensors").unlink()
    halves = {"pytorch_model-1.bin": sorted(tensors)[::2], "pytorch_model-2.bin": sorted(tensors)[1::2]}
    for file, chosen in halves.items():
        torch.save({name: tensors[name] for name in chosen}, folder / file)
    weight_map = {name: file for file, chosen in halves.items() for name in chosen}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match="is a pickle; --allow-pickle"):
        convert(folder, tmp_path / "refused")
    done = convert(folder, tmp_path / "pickled", allow_pickle=True)
    assert done.dropped == ("model.layers.0.self_attn.rotary_emb.inv_freq",)
    assert equal(all_tensors(tmp_path / "pickled"), all_tensors(tmp_path / "whole"))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    folder = released_folder(tmp_path / "released", {})
    torch.save({"model.norm.weight": CliRunner()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be read as weights only"):
        convert(folder, tmp_path / "ours", allow_pickle=True)
    assert not (tmp_path / "ours").exists()


def test_a_checkpoint_without_a_tower_takes_it_from_the_folder_that_is_said(tmp_path: Path) -> None:
    without = {name: v for name, v in released_tensors(released_model()).items() if not name.startswith(TOWER)}
    source = released_folder(tmp_path / "released", without)
    done = convert(source, tmp_path / "ours")
    assert done.tower == str(source / "../clip")
    name = "encoder.layers.0.mlp.fc1.weight"
    tower = AutoModel.from_pretrained(tmp_path / "clip").state_dict()
    assert torch.equal(all_tensors(tmp_path / "ours")[f"model.vision_tower.encoder.{name}"], tower[name])
    (source / "config.json").write_text((source / "config.json").read_text().replace("../clip", "some/tower"))
    with pytest.raises(ModelError, match="the tower is 'some/tower'; give its folder with --vision-tower"):
        convert(source, tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.layers.0.mlp.up_proj.weight", None, r"up_proj\.weight is missing in the source"),
        ("model.layers.9.mlp.up_proj.weight", torch.ones(2), r"layers\.9\.mlp\.up_proj\.weight .* is left over"),
        ("model.layers.0.mlp.up_proj.weight", torch.ones(3, 2), r"up_proj\.weight has shape \(3, 2\); .* \(64, 32\)"),
        ("model.vlm_att.weight", torch.ones(2), r"model\.vlm_att\.weight is no tensor of the released model"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_written(
    tmp_path: Path, name: str, value: Tensor | None, message: str
) -> None:
    tensors = released_tensors(released_model())
    tensors.pop(name, None)
    tensors |= {} if value is None else {name: value}
    with pytest.raises(ModelError, match=message):
        convert(released_folder(tmp_path / "released", tensors), tmp_path / "ours")
    assert {path.name for path in tmp_path.iterdir()} == {"released", "clip"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature is 'cls_patch'"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"model_type": "opt"}, "is a 'opt' model"),
    ],
)
def test_a_configuration_that_is_another_model_is_refused(tmp_path: Path, fields: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        convert(released_folder(tmp_path / "released", **fields), tmp_path / "ours")


@pytest.mark.parametrize("fields", [{"hidden_size": "wide"}, {"num_attention_heads": 0}])
def test_a_configuration_that_builds_no_model_is_one_line(tmp_path: Path, fields: Any) -> None:
    with pytest.raises(ModelError, match=r"config\.json|no model") as caught:
        convert(released_folder(tmp_path / "released", **fields), tmp_path / "ours")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", [{}, {"weight_map": 3}, {"weight_map": {"a": 3}}])
def test_an_index_without_a_map_is_one_line(tmp_path: Path, index: Any) -> None:
    source = released_folder(tmp_path / "released", {})
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="no weight_map"):
        convert(source, tmp_path / "ours")


def test_the_way_back_needs_the_whole_tower(tmp_path: Path) -> None:
    convert(released_folder(tmp_path / "released"), tmp_path / "ours")
    (tmp_path / "ours" / UNUSED).unlink()
    with pytest.raises(ModelError, match="--vision-tower"):
        convert(tmp_path / "ours", tmp_path / "back", to="official")
    done = convert(tmp_path / "ours", tmp_path / "back", to="official", vision_tower=tmp_path / "clip")
    assert done.set_aside > 0
    assert set(all_tensors(tmp_path / "back")) == set(released_tensors(released_model()))


def test_the_way_back_has_the_tokenizer_that_the_embedding_table_has_rows_for(tmp_path: Path) -> None:
    source = released_folder(tmp_path / "released")
    words = json.loads((source / "tokenizer.json").read_text())
    words["added_tokens"] = [token for token in words["added_tokens"] if token["content"] not in ("<image>", "<video>")]
    for number, media in enumerate(("<image>", "<video>")):
        words["model"]["vocab"].pop(media, None)
        words["added_tokens"].append({**words["added_tokens"][0], "content": media, "id": 400 + number})
    (source / "tokenizer.json").write_text(json.dumps(words))
    text = tiny_config().text
    text.vocab_size = 348  # as many as the tokenizer has without media
    model = released_model(text_config=text)
    save_file(released_tensors(model), source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(released_config(model.config, vision_tower="../clip")))
    convert(source, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="official")
    assert AutoTokenizer.from_pretrained(tmp_path / "ours").convert_tokens_to_ids("<image>") >= 348
    assert not {"<image>", "<video>"} & set(AutoTokenizer.from_pretrained(tmp_path / "back").get_vocab())


def test_a_model_that_the_released_program_cannot_run_does_not_go_back(tmp_path: Path) -> None:
    tiny_model(compression_heads=8, image_aspect_ratio="crop", fusion_residual=True).save_pretrained(tmp_path / "ours")
    with pytest.raises(ModelError, match="fusion_residual is True"):
        convert(tmp_path / "ours", tmp_path / "back", to="official")


def llava_folder(folder: Path) -> Llava:
    config = tiny_config()
    torch.manual_seed(0)
    model = Llava(
        LlavaConfig(
            vision_config=config.vision_config,
            text_config=config.text_config,
            image_token_index=config.image_token_id,
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.eval().save_pretrained(folder)
    tiny_processor().image_processor.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


@torch.no_grad()
def test_llava_15_gives_the_logits_that_transformers_gives(tmp_path: Path) -> None:
    theirs = llava_folder(tmp_path / "llava")
    convert(tmp_path / "llava", tmp_path / "ours")
    ours = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    assert isinstance(ours, LlavaMiniForConditionalGeneration)
    ids, shown = row(tokens_per_frame=16), pixels()
    expected = theirs(input_ids=ids, pixel_values=shown[:, 0, 0]).logits
    torch.testing.assert_close(ours(input_ids=ids, pixel_values=shown).logits, expected, atol=1e-5, rtol=0)


def test_the_command_says_what_it_did_and_errors_are_one_line(tmp_path: Path) -> None:
    source = released_folder(tmp_path / "released")
    said = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "ours")])
    assert said.exit_code == 0, said.output
    assert "tensors of released LLaVA-Mini; vision tower: in the checkpoint" in said.stdout
    assert "kept for the way back" in said.stdout
    again = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "ours")])
    assert isinstance(again.exception, ModelError)
    assert "is not an empty folder" in str(again.exception)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "llava_mini_llama"'])
def test_a_damaged_config_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json") as caught:
        convert(tmp_path, tmp_path / "ours")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_one_line(tmp_path: Path) -> None:
    source = released_folder(tmp_path / "released")
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="is no safetensors file"):
        convert(source, tmp_path / "ours")


def test_an_index_cannot_reach_outside_its_folder(tmp_path: Path) -> None:
    source = released_folder(tmp_path / "released", {})
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../clip/model.safetensors"}}))
    with pytest.raises(ModelError, match="outside its folder"):
        convert(source, tmp_path / "ours")


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no recordings in {GOLDEN}")
def test_the_recorded_tiny_model_converts_and_goes_back_bit_by_bit(tmp_path: Path) -> None:
    tiny = GOLDEN / "official_tiny"
    convert(tiny / "c2", tmp_path / "ours", vision_tower=tiny / "clip", tokenizer=tiny / "tokenizer")
    convert(tmp_path / "ours", tmp_path / "back", to="official")
    assert equal(all_tensors(tmp_path / "back"), load_file(tiny / "c2" / "model.safetensors"))


def refused(source: Path, target: Path, **options: Any) -> str:
    """Convert what must be refused; return the one line, after a look that nothing was left behind."""
    with pytest.raises(ModelError) as caught:
        convert(source, target, **options)
    assert not target.exists() or not any(target.iterdir())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_index_of_safetensors_cannot_name_a_pickle(tmp_path: Path) -> None:
    folder = released_folder(tmp_path / "released")
    torch.save(load_file(folder / "model.safetensors"), folder / "w.bin")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "w.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names w.bin, which is no .safetensors file" in refused(folder, tmp_path / "ours")


def test_two_tensors_that_become_one_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "llava"
    llava_folder(folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "language_model" in name and name.endswith("norm.weight"))
    rest = name.split("language_model.")[-1].removeprefix("model.")
    for twin in (f"language_model.model.{rest}", f"model.language_model.{rest}"):
        tensors[twin] = tensors[name].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "another tensor of the source are both model.language_model." in refused(folder, tmp_path / "ours")


def test_a_head_that_differs_from_the_embeddings_it_is_tied_to_is_refused(tmp_path: Path) -> None:
    tensors = released_tensors(released_model())
    folder = released_folder(tmp_path / "released", tensors, tie_word_embeddings=True)
    assert "lm_head.weight differs from the embeddings" in refused(folder, tmp_path / "ours")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert convert(folder, tmp_path / "ours").dropped == ("lm_head.weight",)


def test_weights_that_are_no_floating_point_numbers_are_refused(tmp_path: Path) -> None:
    tensors = released_tensors(released_model())
    tensors["model.norm.weight"] = torch.ones(32, dtype=torch.int32)
    folder = released_folder(tmp_path / "released", tensors)
    assert "model.norm.weight in model.safetensors is of type I32" in refused(folder, tmp_path / "ours")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_act": "foo"}, "describes no model that can be built"),
        ({"torch_dtype": "load"}, "torch_dtype is 'load'; it must name a precision"),
        ({"torch_dtype": "auto"}, "torch_dtype is 'auto'; it must name a precision"),
        ({"torch_dtype": "int8"}, "torch_dtype is 'int8'; it must name a precision"),
        ({"resolution_ratio": 1.9}, "resolution_ratio is 1.9; it must be a whole number"),
    ],
)
def test_fields_without_sense_are_one_line_before_anything_is_written(tmp_path: Path, fields: Any, words: str) -> None:
    folder = released_folder(tmp_path / "released", **fields)
    tiny_tokenizer().save_pretrained(tmp_path / "words")
    assert words in refused(folder, tmp_path / "ours", tokenizer=tmp_path / "words")


def test_upper_layers_of_another_shape_do_not_go_back(tmp_path: Path) -> None:
    convert(released_folder(tmp_path / "released"), tmp_path / "ours")
    unused = load_file(tmp_path / "ours" / UNUSED)
    name = sorted(unused)[0]
    save_file({**unused, name: torch.zeros(3)}, tmp_path / "ours" / UNUSED)
    assert f"{name} has shape (3,)" in refused(tmp_path / "ours", tmp_path / "back", to="official")


def test_an_unknown_tower_goes_back_with_its_configuration_and_comes_again(tmp_path: Path) -> None:
    convert(released_folder(tmp_path / "released"), tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="official")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["mm_vision_tower"] == "vision_tower"
    convert(tmp_path / "back", tmp_path / "again")
    assert equal(all_tensors(tmp_path / "again"), all_tensors(tmp_path / "ours"))


def test_a_pickle_whose_tensors_share_memory_is_read(tmp_path: Path) -> None:
    tensors = released_tensors(released_model())
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    folder = released_folder(tmp_path / "released", tensors={"": torch.zeros(1)})
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    convert(folder, tmp_path / "ours", allow_pickle=True)
    torch.save({**tensors, 3: torch.ones(1)}, folder / "pytorch_model.bin")
    assert "something else than named tensors" in refused(folder, tmp_path / "other", allow_pickle=True)


def test_a_target_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    folder = released_folder(tmp_path / "released")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be made"):
        convert(folder, tmp_path / "file" / "ours")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    convert(folder, tmp_path / "link")
    assert (tmp_path / "real" / "config.json").is_file()
