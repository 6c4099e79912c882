"""Recipes are data: what the paper says stands in them, unknown keys are errors, and a plan is made before a weight."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from typer.testing import CliRunner

from llava_mini.checkpoints.embedded import embedded_geometry
from llava_mini.checkpoints.geometry import geometry
from llava_mini.cli import app
from llava_mini.errors import ConfigError, ModelError
from llava_mini.inputs.chat import read_template
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.training.embedded_recipes import COMPARED
from llava_mini.training.overrides import override
from llava_mini.training.plan import plan, plan_stage
from llava_mini.training.recipes import RECIPES, find_recipe, lora, vicuna_7b, vicuna_7b_hd
from llava_mini.training.stages import Embedded, Files, Parts, Pretrained, Scenes, Template
from llava_mini.training.workshop import open_workshop


def test_the_papers_recipes_have_the_numbers_of_table_9() -> None:
    for name in ("vicuna-7b", "llama-3.1-8b", "vicuna-7b-hd", "vicuna-7b-video"):
        first, second = find_recipe(name).stages
        assert (first.objective, second.objective) == ("all_tokens", "answers")
        assert first.learning_rates == {"projector": 1e-3}
        rates = {"language_model": 1e-4, "head": 1e-4, "compression": 1e-4, "pre_fusion": 1e-4, "projector": 1e-5}
        assert second.learning_rates == rates
        for stage, epochs in ((first, 1), (second, 2)):
            assert (stage.schedule, stage.warmup_ratio) == ("cosine", 0.03)
            assert isinstance(stage.data, Files)
            assert (stage.data.batch_size, stage.data.epochs) == (256, epochs)
    start = vicuna_7b_hd().start
    assert isinstance(start, Parts)
    assert start.changes == {"tiles": 2, "compression_size": 8}


def test_values_are_changed_by_name_file_first(tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text("seed: 3\nstages:\n  stage2:\n    steps: 7\n    learning_rates: {projector: 2e-5}\n")
    settings = ["stages.stage2.steps=9", "stages.stage1.data.batch_size=64", "start.changes.fusion_layers=2"]
    recipe = override(vicuna_7b(), settings=settings, files=[file])
    assert (recipe.seed, recipe.stages[1].steps, recipe.stages[0].data.batch_size) == (3, 9, 64)  # type: ignore[union-attr]
    assert recipe.stages[1].learning_rates["projector"] == 2e-5
    assert recipe.stages[1].learning_rates["pre_fusion"] == 1e-4
    assert isinstance(recipe.start, Parts)
    assert recipe.start.changes == {"fusion_layers": 2}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_unchanged_stays_what_it_is(name: str) -> None:
    assert override(find_recipe(name)) == find_recipe(name)
    assert find_recipe(name).name == name


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("stages.stage2.stepz=9", r"'stages.stage2.stepz'; did you mean stages.stage2.steps\?"),
        ("stages.stage3.steps=9", r"did you mean stages.stage"),
        ("sed=1", r"'sed'; did you mean seed\?"),
        ("stages.stage2.learning_rates.prefusion=1", r"did you mean stages.stage2.learning_rates.pre_fusion\?"),
        ("start.changes.fusion_layer=1", r"did you mean start.changes.fusion_layers\?"),
        ("stages.stage2.steps=soon", r"stages.stage2.steps is 'soon': .*integer"),
        ("start.template=", r"start.template is None: .*'chatml'"),
        ("stages.stage1.data.template=none", r"template is 'none': input should be '', 'chatml'"),
        ("stages.stage2.steps=-1", r"stages.stage2.steps is -1: .*greater than or equal to 0"),
        ("stages.stage2.learning_rates.projector=.nan", r"projector is nan: "),
        ("stages.stage2.learning_rates.projector=-1", r"projector is -1: .*greater than or equal to 0"),
        ("stages.stage2.data.per_device=0", r"per_device is 0: .*greater than or equal to 1"),
        ("stages.stage2.ema=1", r"ema is 1: .*less than 1"),
        ("stages.stage2.name=../x", r"stages.stage2.name is '../x': .*pattern '\^\[A-Z"),
        ("stages.stage2.name=model", r"called 'model', which is a folder of the run's own"),
        ("stages.stage2.name=stage1", r"called 'stage1', which is .* another stage's"),
        ("seed=-1", r"seed is -1"),
        ("stages.stage1.data.packing=maybe", r"stages.stage1.data.packing is 'maybe': .*boolean"),
        ("precision=float8", r"precision is 'float8'"),
        ("stages.stage1.learning_rates.projector=null", r"stages.stage1.learning_rates is \{\}: .*at least 1 item"),
        ("start.changes.text_config=null", r"no key is called 'start.changes.text_config'"),
        ("start.changes.compression=averag", r"start.changes.compression is 'averag': .*'average'"),
        ("start.changes.frame_memory_mb=1.5", r"start.changes.frame_memory_mb is 1.5: .*integer"),
        ("stages=1", r"stages is a table"),
        ("seed", r"must be key=value"),
        ("seed=[", r"no YAML"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_that_says_what_would_be_right(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        override(vicuna_7b(), settings=[setting])
    assert "\n" not in str(error.value)


def test_null_leaves_out_a_stage_or_the_rate_of_a_part(tmp_path: Path) -> None:
    file = tmp_path / "plain.yaml"
    file.write_text("stages: {grounding: null}")
    plain = override(find_recipe("compare-mini"), files=[file])
    assert plain.stages == find_recipe("compare-plain").stages
    assert override(find_recipe("compare-mini"), settings=["stages.grounding=null"]) == plain
    unfused = override(plain, settings=["stages.stage2.learning_rates.pre_fusion=null"])
    assert unfused.stages == find_recipe("compare-one-token").stages
    with pytest.raises(ConfigError, match=r"no key is called 'stages.ground'; did you mean stages.grounding\?"):
        override(find_recipe("compare-mini"), settings=["stages.ground=null"])
    with pytest.raises(ConfigError, match=r"stages is \[\]: tuple should have at least 1 item"):
        override(plain, settings=[f"stages.{stage.name}=null" for stage in plain.stages])


def test_a_kind_of_question_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"stages.stage1.data.kinds.0 is 'captions': input should be 'name', 'caption'"
    ):
        override(find_recipe("smoke"), settings=["stages.stage1.data.kinds=[captions]"])


def test_kinds_of_scenes_are_set_one_by_one_and_taken_away_by_null() -> None:
    def kinds(stage: str, *settings: str) -> dict[str, float]:
        named = [f"stages.{stage}.data.scene_kinds.{setting}" for setting in settings]
        data = next(one for one in override(find_recipe("embedded"), settings=named).stages if one.name == stage).data
        return dict(data.scene_kinds)  # type: ignore[union-attr, arg-type]

    assert kinds("stage2", "pair=2") == {"pair": 2}
    whole = kinds("counts")
    assert kinds("counts", "pair=null") == {kind: share for kind, share in whole.items() if kind != "pair"}
    assert kinds("counts", *(f"{kind}=null" for kind in whole)) == {}
    for setting, words in (
        ("pairs=1", r"scene_kinds.pairs'; did you mean .*scene_kinds.pair\?"),
        ("pair=-1", "pair is -1"),
    ):
        with pytest.raises(ConfigError, match=words):
            kinds("counts", setting)
    with pytest.raises(ConfigError, match="scene_kinds is .* give one kind a weight above 0"):
        kinds("counts", *(f"{kind}=0" for kind in whole))


def test_a_plan_of_scenes_counts_all_that_is_asked() -> None:
    settings = [f"stages.stage2.data.{key}" for key in ("pictures=4", "videos=2", "relations=5", "sides=2", "texts=1")]
    stage = override(
        find_recipe("embedded"), settings=[*settings, "stages.stage2.data.questions_per_picture=3"]
    ).stages[4]
    planned = plan_stage(find_recipe("embedded"), stage, embedded_geometry(), 1)
    assert planned.tokens_per_step == (4 * (3 + 5 + 2) + 2 * 3 + 1) * (1 + 160)


def test_one_held_out_scene_is_refused_for_it_has_no_others_picture() -> None:
    with pytest.raises(ConfigError, match=r"stage2.data.held_out is 1: input should be 0 or at least 2: one scene has"):
        override(find_recipe("smoke"), settings=["stages.stage2.data.held_out=1"])
    for count in (0, 2):
        assert override(find_recipe("smoke"), settings=[f"stages.stage2.data.held_out={count}"])


def test_what_grounding_gives_can_be_told_from_what_pre_fusion_gives() -> None:
    mini, plain, unfused = (find_recipe(f"compare-{name}") for name in ("mini", "plain", "one-token"))
    assert plain.start == mini.start
    assert [stage.name for stage in plain.stages] == [stage.name for stage in unfused.stages]
    assert [stage.name for stage in mini.stages] == ["alignment", "stage1", "grounding", "stage2"]
    assert plain.stages[-1] == mini.stages[-1]
    assert plain.stages[-1].steps == unfused.stages[-1].steps


def test_the_compared_forms_learn_from_shapes_alone_and_teach_what_they_have() -> None:
    for name in COMPARED:
        recipe = find_recipe(name)
        assert isinstance(recipe.start, Embedded)
        fuses = recipe.start.changes.get("fusion_layers") != 0
        for stage in recipe.stages:
            assert isinstance(stage.data, Scenes)
            assert (stage.data.only_shapes, stage.data.imagined, stage.data.videos) == (True, 0, 0)
            assert fuses or "pre_fusion" not in stage.learning_rates
            assert "compression" not in {*stage.learning_rates} & {*recipe.start.changes}


def test_the_templates_that_a_recipe_may_name_are_those_that_there_are() -> None:
    for name in get_args(Template):
        assert "generation" in read_template(name)
    with pytest.raises(ConfigError, match="no chat template is called 'none'; there are chatml, llama-3.1, plain, vic"):
        read_template("none")


def test_weights_gradients_and_moments_are_divided_as_each_way_does() -> None:
    bytes_ = {}
    for way in ("ddp", "zero2", "fsdp"):
        recipe = override(vicuna_7b(), settings=[f"parallel={way}"])
        planned = plan_stage(recipe, recipe.stages[1], geometry("vicuna-7b"), 8)
        bytes_[way] = planned.state_bytes
    total, trainable = (sum(count[i] for count in planned.parameters.values()) for i in (0, 1))
    assert bytes_["ddp"] == 4 * total + 12 * trainable
    assert bytes_["zero2"] == 4 * total + 12 * trainable / 8
    assert bytes_["fsdp"] == bytes_["ddp"] / 8


def test_four_bits_shrink_the_linear_layers_of_the_language_model_alone() -> None:
    recipe = find_recipe("qlora")
    assert isinstance(recipe.start, Pretrained)
    whole = replace(recipe, start=replace(recipe.start, four_bit=False))
    config = geometry("llama-3.1-8b")
    saved = plan_stage(whole, whole.stages[0], config, 1).state_bytes
    saved -= plan_stage(recipe, recipe.stages[0], config, 1).state_bytes
    text = config.text
    kv = text.num_key_value_heads * text.head_dim
    layer = text.hidden_size * (2 * text.hidden_size + 2 * kv + 3 * text.intermediate_size)
    assert saved == pytest.approx(text.num_hidden_layers * layer * (2 - 0.516))


def test_media_without_data_are_refused() -> None:
    ran = CliRunner().invoke(app, ["train", "lora", "--media", "here", "--plan"])
    assert ran.exit_code == 1
    assert "--media is here, but no --data is given" in str(ran.exception or ran.output)


@pytest.mark.parametrize(
    ("fast", "precision", "told"), [(False, "bfloat16", True), (False, "float32", False), (True, "bfloat16", False)]
)
def test_a_cpu_that_is_slow_in_bfloat16_is_told_of(
    fast: bool, precision: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_mini.devices.multiplies_bfloat16", lambda device: fast)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = ["train", "smoke", "--set", f"precision={precision}", "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(app, [*arguments, "--scenes", str(tmp_path / "none")])
    assert ("--set precision=float32 is faster" in ran.stderr) == told
    assert "llava-mini data scenes" in str(ran.exception)


def test_files_that_hold_no_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    for path, words in ((tmp_path / "list.yaml", "holds no keys"), (tmp_path / "none.yaml", "cannot be read")):
        with pytest.raises(ConfigError, match=words):
            override(lora(), files=[path])


def test_a_plan_counts_parameters_as_the_model_has_them() -> None:
    recipe = vicuna_7b()
    config = geometry("vicuna-7b")
    second = plan_stage(recipe, recipe.stages[1], config, 8)
    with torch.device("meta"):
        model = LlavaMiniForConditionalGeneration(config)
    assert sum(total for total, _ in second.parameters.values()) == sum(p.numel() for p in model.parameters())
    assert second.parameters["vision_tower"][1] == 0
    assert second.parameters["pre_fusion"][1] == second.parameters["pre_fusion"][0] > 800_000_000
    first = plan_stage(recipe, recipe.stages[0], config, 8)
    assert {part for part, (_, learns) in first.parameters.items() if learns} == {"projector"}
    assert (first.vision_tokens, second.vision_tokens) == (576, 1)
    assert first.tokens_per_step == 256 * (576 + 160)
    assert second.tokens_per_step == 256 * 161


def test_a_plans_work_is_near_the_rule_of_six_operations_a_parameter_and_token() -> None:
    recipe = vicuna_7b()
    stage = replace(recipe.stages[1], checkpoint_activations=False)
    planned = plan_stage(recipe, stage, geometry("vicuna-7b"), 8)
    sizes = {part: total for part, (total, _) in planned.parameters.items()}
    language = 6 * (sizes["language_model"] + sizes["head"]) * 161
    fusion = 6 * sizes["pre_fusion"] * (576 + 1 + 60)  # at most: the last layer makes only keys and values of patches
    tower = 2 * sizes["vision_tower"] * 577
    assert 0.85 * language < planned.step_flops / 256 < 1.1 * (language + fusion + tower)


def test_checkpointed_activations_need_less_memory_and_more_work() -> None:
    recipe = vicuna_7b()
    kept = plan_stage(recipe, replace(recipe.stages[1], checkpoint_activations=False), geometry("vicuna-7b"), 8)
    anew = plan_stage(recipe, recipe.stages[1], geometry("vicuna-7b"), 8)
    assert anew.activation_bytes < 0.2 * kept.activation_bytes
    assert 1.2 * kept.step_flops < anew.step_flops < 1.4 * kept.step_flops


def test_a_plan_is_printed_with_its_launch_line() -> None:
    text = plan(vicuna_7b())
    assert "accelerate launch --config_file configs/fsdp.yaml --num_processes 8 -m llava_mini train vicuna-7b" in text
    assert "stage stage1" in text
    assert "trainable" in text


def test_missing_folders_of_parts_and_models_are_named(tmp_path: Path) -> None:
    folders = dict.fromkeys(("scenes", "videos", "texts", "sources"), tmp_path)
    with pytest.raises(ModelError, match=r"language_model is 'lmsys/vicuna-7b-v1.5', which is no folder"):
        open_workshop(vicuna_7b(), tmp_path, **folders)
    with pytest.raises(ModelError, match=r"start.model is '/nowhere', which is no folder of a model; .*--model"):
        open_workshop(override(lora(), settings=["start.model=/nowhere"]), tmp_path, **folders)


def test_every_recipe_says_what_it_is_in_one_line() -> None:
    for name in RECIPES:
        assert 20 < len(find_recipe(name).summary) < 100
        assert asdict(find_recipe(name))
