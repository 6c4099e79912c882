"""Real runs on files: what moves, what is written, what is measured, and that nothing that was whole is ever lost."""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus import RED, video
from datasets import Dataset
from own_data import ALL, make_data, make_recipe
from PIL import Image
from safetensors.torch import load_file

from llava_mini.assistant import Assistant
from llava_mini.data.collator import ExampleCollator, Skipped
from llava_mini.data.readers import DataFile, Examples
from llava_mini.errors import ConfigError, DataError, TrainingError
from llava_mini.training.controls import example_controls
from llava_mini.training.record import claim
from llava_mini.training.run import run
from llava_mini.training.stages import Parts, Recipe, part_of
from llava_mini.training.trainer import JsonLines
from llava_mini.training.workshop import Workshop, _joined, open_workshop

ROOT = Path(__file__).parents[2]


def opened(recipe: Recipe, out: Path) -> Workshop:
    return open_workshop(recipe, out, scenes=Path(), videos=Path(), texts=Path(), sources=Path())


def done(recipe: Recipe, out: Path, **options: Any) -> Path:
    return run(recipe, opened(recipe, out), out, **options)


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "tune/loss.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "tune/trained.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("objective", "parts"),
    [("all_tokens", {"projector"}), ("answers", set(ALL)), ("answers", {"lora"}), ("answers", {"compression", "lora"})],
)
def test_one_step_moves_exactly_the_tensors_of_the_parts_that_learn(
    tmp_path: Path, objective: Any, parts: set[str]
) -> None:
    rates = dict.fromkeys(parts, 1e-2)
    recipe = make_recipe(tmp_path, steps=1, objective=objective, learning_rates=rates, lora_rank=2 * ("lora" in parts))
    before = dict(opened(recipe, tmp_path / "run").model.named_parameters())
    before = {name: value.detach().clone() for name, value in before.items()}
    shop = opened(recipe, tmp_path / "run")
    run(recipe, shop, tmp_path / "run")
    moved, whole = set(), {}
    for name, value in shop.model.named_parameters():
        whole[name] = part_of(name) in parts
        start = before.get(name.replace(".base_layer", ""))
        if (start is None and bool(value.any())) or (start is not None and not torch.equal(start, value)):
            moved.add(name)
    # LoRA's A starts at random and its B at zero, so B alone moves in the first step; padding rows never do.
    unmoved = {name for name, wanted in whole.items() if wanted and name not in moved and "lora_" not in name}
    assert {name for name in moved if not whole[name]} == set()
    assert unmoved == set()
    assert {part_of(name) for name in moved} == parts


def test_the_result_is_a_model_folder_that_answers(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=60)
    made = done(recipe, tmp_path / "run")
    assistant = Assistant.load(made, device="cpu")
    for colour in ("red", "blue"):
        picture = Image.new("RGB", (56, 56), colour)
        assert f"It is {colour}." in assistant.ask("What colour is this?", picture).text
    record = json.loads((tmp_path / "run/runs.jsonl").read_text().splitlines()[0])
    assert record["versions"]["torch"] == torch.__version__
    assert set(record) == {"time", "command", "commit", "versions", "machine"}
    assert json.loads((tmp_path / "run/recipe.json").read_text()) == json.loads(json.dumps(asdict(recipe)))


def test_lora_is_written_for_peft_and_folded_in(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, learning_rates={"lora": 1e-2}, lora_rank=2, lora_on=("language_model", "pre_fusion"))
    shop = opened(recipe, tmp_path / "run")
    made = run(recipe, shop, tmp_path / "run")
    adapter = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.") for name in adapter)
    assert any("pre_fusion" in name for name in adapter)
    ids = torch.tensor([[10, 11, 12, 13]])
    folded = Assistant.load(made, device="cpu").model
    torch.testing.assert_close(folded(ids).logits, shop.model.eval()(ids).logits, atol=1e-5, rtol=1e-5)


def test_accumulated_micro_batches_make_the_same_step(tmp_path: Path) -> None:
    results = []
    for per_device in (1, 4):
        recipe = make_recipe(tmp_path, steps=2, per_device=per_device)
        done(recipe, tmp_path / str(per_device))
        results.append(losses(tmp_path / str(per_device)))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_packing_padding_and_checkpointing_change_no_loss(tmp_path: Path) -> None:
    plain = make_recipe(tmp_path, steps=2)
    done(plain, tmp_path / "plain")
    for name, changes in (("packed", {"packing": True}), ("checkpointed", {"checkpoint_activations": True})):
        done(make_recipe(tmp_path, steps=2, **changes), tmp_path / name)
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)


def test_bfloat16_trains_near_full_precision(tmp_path: Path) -> None:
    done(make_recipe(tmp_path), tmp_path / "full")
    done(replace(make_recipe(tmp_path), precision="bfloat16"), tmp_path / "half")
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "full"), rel=0.05)


def test_the_held_out_loss_is_measured_with_shuffled_pictures_too(tmp_path: Path) -> None:
    data = DataFile(str(make_data(tmp_path / "data")))
    recipe = make_recipe(tmp_path, steps=40, evaluation=(data,), evaluate_every=20)
    done(recipe, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/tune/loss.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in measured] == [20, 40]
    last = measured[-1]
    assert last["eval_gain"] == pytest.approx(last["eval_loss_shuffled"] - last["eval_loss"])
    assert last["eval_gain"] > 0.1  # the answers hang on the picture, and the model looks


def test_the_mean_of_the_weights_is_what_a_stage_with_ema_ends_with(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=2, ema=0.5, save_every=1)
    done(recipe, tmp_path / "mean")
    done(make_recipe(tmp_path, steps=2, save_every=1), tmp_path / "plain")
    one = make_recipe(tmp_path, steps=2, save_every=1)
    start = dict(opened(one, tmp_path / "start").model.state_dict())
    name = "model.multi_modal_projector.linear_1.weight"
    final = weights(tmp_path / "plain")[name]
    mean = weights(tmp_path / "mean")[name]
    assert not torch.equal(mean, final)
    assert (mean - start[name]).norm() < (final - start[name]).norm()
    checkpoint = load_file(tmp_path / "mean/tune/checkpoint-2/mean.safetensors")
    assert torch.equal(checkpoint[name], mean)


def test_losses_go_to_tensorboard_when_asked(tmp_path: Path) -> None:
    done(replace(make_recipe(tmp_path, steps=1), report_to=("tensorboard",)), tmp_path / "run")
    assert list((tmp_path / "run/tune/tensorboard").glob("events.out*"))


def test_a_bad_sample_stops_the_run_or_is_left_out_and_listed(tmp_path: Path) -> None:
    path = make_data(tmp_path / "data")
    (tmp_path / "data/red.png").unlink()
    for workers in (0, 1):
        strict = make_recipe(tmp_path, files=(DataFile(str(path)),), workers=workers)
        with pytest.raises(DataError, match=r"^data.json, record 0 \(id red\): no such file: \S+red.png$"):
            done(strict, tmp_path / f"strict{workers}")
    done(make_recipe(tmp_path, files=(DataFile(str(path)),)), tmp_path / "lenient", skip_bad=1)
    listed = [json.loads(line) for line in (tmp_path / "lenient/skipped.jsonl").read_text().splitlines()]
    assert [line["id"] for line in listed] == ["data.json, record 0 (id red)"]


def test_a_torn_line_of_what_was_left_out_is_written_again(tmp_path: Path) -> None:
    path = make_data(tmp_path / "data")
    (path.parent / json.loads(path.read_text())[0]["image"]).unlink()
    recipe, kept = make_recipe(tmp_path), tmp_path / "run/skipped.jsonl"
    kept.parent.mkdir()
    kept.write_text('{"id": "data.json, rec')
    done(recipe, tmp_path / "run", skip_bad=1)
    assert [json.loads(line)["id"] for line in kept.read_text().splitlines()] == ["data.json, record 0 (id red)"]


def test_a_run_begins_where_there_is_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    done(make_recipe(tmp_path, steps=1), tmp_path / "run")
    assert json.loads((tmp_path / "run/runs.jsonl").read_text())["commit"] == ""


def test_a_record_that_cannot_be_read_is_left_out_too(tmp_path: Path) -> None:
    path = make_data(tmp_path / "data")
    records = json.loads(path.read_text())
    records[1]["conversations"][0]["value"] = "<image><image> What is this?"
    path.write_text(json.dumps(records))
    recipe = make_recipe(tmp_path, files=(DataFile(str(path)),))
    with pytest.raises(DataError, match=r"the text has 2 × <image>, but 1 are given"):
        done(recipe, tmp_path / "strict")
    done(recipe, tmp_path / "lenient", skip_bad=1)
    assert "record 1" in json.loads((tmp_path / "lenient/skipped.jsonl").read_text())["id"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out is \S+file, which cannot be made a folder: file exists"):
        done(make_recipe(tmp_path), tmp_path / "file")
    (tmp_path / "run/recipe.part").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"run/recipe.json cannot be written: is a directory"):
        done(make_recipe(tmp_path), tmp_path / "run")
    (tmp_path / "run/recipe.part").rmdir()
    (tmp_path / "run/runs.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"run/runs.jsonl cannot be written: is a directory"):
        done(make_recipe(tmp_path), tmp_path / "run")


def test_a_stream_is_learned_from_beside_the_training(tmp_path: Path) -> None:
    path = tmp_path / "stream.parquet"
    picture = (make_data(tmp_path / "data").parent / "red.png").read_bytes()
    ask = [{"role": "user", "content": "<image>What colour is this?"}, {"role": "assistant", "content": "It is red."}]
    Dataset.from_list([{"messages": ask, "images": [{"bytes": picture, "path": None}]}] * 4).to_parquet(str(path))
    file = DataFile(str(path), stream=True)
    with pytest.raises(ConfigError, match=r"has no steps, and its data has no end; set stages.tune.steps"):
        done(make_recipe(tmp_path, steps=0, files=(file,)), tmp_path / "endless")
    done(make_recipe(tmp_path, steps=3, files=(file,), workers=1), tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="4 a step cannot be divided into 3"):
        done(make_recipe(tmp_path, per_device=3), tmp_path / "run")


def test_another_recipe_goes_on_with_nothing_but_an_attempt_that_made_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        done(make_recipe(tmp_path, files=()), tmp_path / "run")
    done(make_recipe(tmp_path, steps=1), tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"recipe.json is of another recipe: stages.tune.steps was 1 and is 2; choose another"
    ):
        done(make_recipe(tmp_path, steps=2), tmp_path / "run")


def test_a_run_whose_numbers_are_lost_stops_before_it_writes_them(tmp_path: Path) -> None:
    wild = make_recipe(tmp_path, steps=9, save_every=1, learning_rates=dict.fromkeys(ALL, 1e30))
    with pytest.raises(TrainingError, match=r"(loss|grad_norm) is nan at step \d+; try a lower learning rate"):
        done(wild, tmp_path / "run")
    (kept,) = (tmp_path / "run/tune").glob("checkpoint-*")
    assert int(kept.name.split("-")[1]) < len(losses(tmp_path / "run"))


def test_epochs_give_the_steps(tmp_path: Path) -> None:
    done(make_recipe(tmp_path, steps=0, batch_size=5, per_device=5, epochs=3.0), tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 3


# --- interruption: each of these kills or chokes a real run ----------------------------------------------------------


def started(out: Path, before: str) -> "subprocess.Popen[str]":
    """Start a run in its own process, after some lines of Python."""
    script = f"""
import sys, torch
torch.set_num_threads(1)
sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT / "tests/training")!r}]
from pathlib import Path
from own_data import make_recipe
from test_run import done
{before}
recipe = make_recipe(Path({str(out.parent)!r}), steps=8, save_every=2)
done(recipe, Path({str(out)!r}))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
    return subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


KILLED_WHILE_SAVING = """
import os, signal
import llava_mini.training.trainer as trainer
flush = trainer._flush
def killed(folder):
    if folder.name == "checkpoint-6":
        with open(folder / "model.safetensors", "r+b") as torn:
            torn.truncate(1000)
        os.kill(os.getpid(), signal.SIGKILL)
    flush(folder)
trainer._flush = killed
"""
STOPPED_AT_STEP_5 = """
import os, signal
import llava_mini.training.trainer as trainer
on_log = trainer.JsonLines.on_log
def log(self, args, state, control, **more):
    on_log(self, args, state, control, **more)
    if state.global_step == 4:
        os.kill(os.getpid(), signal.{signal})
trainer.JsonLines.on_log = log
"""


@pytest.mark.parametrize(
    ("harm", "code", "kept"),
    [
        (KILLED_WHILE_SAVING, -signal.SIGKILL, 4),
        (STOPPED_AT_STEP_5.format(signal="SIGTERM"), 1, 5),
        (STOPPED_AT_STEP_5.format(signal="SIGINT"), 1, 5),
    ],
    ids=["KILL", "TERM", "INT"],
)
def test_a_killed_run_goes_on_to_the_same_losses_and_weights_bit_for_bit(
    tmp_path: Path, harm: str, code: int, kept: int
) -> None:
    recipe = make_recipe(tmp_path, steps=8, save_every=2)
    process = started(tmp_path / "killed", harm)
    done(recipe, tmp_path / "whole")
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == code, complaint
    assert [path.name for path in (tmp_path / "killed/tune").glob("checkpoint-*")] == [f"checkpoint-{kept}"]
    if code == 1:
        assert f"stopped at step {kept} of 8; the same command goes on from there" in complaint
    done(recipe, tmp_path / "killed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert same(tmp_path / "killed", tmp_path / "whole")
    assert not (tmp_path / "killed/tune/unfinished").exists()


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(tmp_path, steps=8, save_every=2)
    done(recipe, tmp_path / "whole")
    from llava_mini.training import trainer

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    begin = trainer.StageTrainer._save

    def choked(self: Any, *args: Any, **options: Any) -> None:
        if self.state.global_step == 6:  # files may grow to 10 kB from here on, as on a disk with no more room
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        begin(self, *args, **options)

    monkeypatch.setattr(trainer.StageTrainer, "_save", choked)
    try:
        with pytest.raises(TrainingError, match=r"checkpoint-6 could not be written .*; the one before it is intact"):
            done(recipe, tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "full/tune").glob("*point-*")] == ["checkpoint-4"]
    done(recipe, tmp_path / "full")
    assert losses(tmp_path / "full") == losses(tmp_path / "whole")
    assert same(tmp_path / "full", tmp_path / "whole")


def test_where_all_samples_are_bad_nobody_waits_for_a_good_one(tmp_path: Path) -> None:
    path = make_data(tmp_path / "data")
    bad = {"id": "x", "image": "none.png", "conversations": json.loads(path.read_text())[0]["conversations"]}
    path.write_text(json.dumps([bad] * 3))
    with pytest.raises(DataError, match=r"100 micro-batches in a row hold no good sample; see \S+skipped.jsonl"):
        done(make_recipe(tmp_path, files=(DataFile(str(path)),)), tmp_path / "run", skip_bad=9)


def test_a_run_that_stopped_between_two_stages_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=2)
    first = replace(recipe.stages[0], name="one", learning_rates={"projector": 1e-3})
    second = replace(recipe.stages[0], learning_rates={"lora": 1e-3}, lora_rank=2)
    both = replace(recipe, stages=(first, second))
    done(both, tmp_path / "whole")
    done(both, tmp_path / "halves", until="one")
    done(both, tmp_path / "halves")
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")
    assert all(
        torch.equal(value, weights(tmp_path / "halves")[name]) for name, value in weights(tmp_path / "whole").items()
    )


def test_lora_learns_in_full_precision_whatever_the_arithmetic(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=1, learning_rates={"lora": 1e-3}, lora_rank=2)
    done(replace(recipe, precision="bfloat16"), tmp_path / "run")
    assert {value.dtype for name, value in weights(tmp_path / "run").items() if "lora_" in name} == {torch.float32}


def test_a_part_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lora has a learning rate, but the model has no weights of that part"):
        done(make_recipe(tmp_path, learning_rates={"projector": 1e-3, "lora": 1e-3}), tmp_path / "run")


def test_the_recipe_of_a_run_is_not_written_again(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=1)
    done(recipe, tmp_path / "run")
    (tmp_path / "run/recipe.json").chmod(0o444)
    before = (tmp_path / "run/recipe.json").stat().st_mtime_ns
    done(recipe, tmp_path / "run")
    assert (tmp_path / "run/recipe.json").stat().st_mtime_ns == before


def test_the_shuffled_control_shows_another_picture_where_several_questions_share_one(tmp_path: Path) -> None:
    path = make_data(tmp_path / "data")
    red, green, *_ = json.loads(path.read_text())
    path.write_text(json.dumps([red, red, red, green]))
    shop = opened(make_recipe(tmp_path), tmp_path)
    collator = ExampleCollator(shop.processor, shop.processor.tokens_per_frame)
    batches = example_controls([DataFile(str(path))], collator, 4, Skipped(tmp_path / "skipped.jsonl", 0))
    own, other = (next(iter(batches[name]))["pixel_values"] for name in ("", "_shuffled"))
    assert len(own) == len(other) == 4
    assert not any(torch.equal(one, another) for one, another in zip(own, other, strict=True))


def test_where_no_two_pictures_differ_no_control_is_made_up(tmp_path: Path) -> None:
    path = make_data(tmp_path / "data")
    red, *_ = json.loads(path.read_text())
    path.write_text(json.dumps([red, red]))
    recipe = make_recipe(tmp_path, steps=1, evaluation=(DataFile(str(path)),))
    with pytest.raises(
        DataError, match=r"data.json nothing can be measured with another's picture: two examples with different"
    ):
        done(recipe, tmp_path / "run")


def test_another_ones_longer_video_is_no_control(tmp_path: Path) -> None:
    shop = opened(make_recipe(tmp_path), tmp_path)
    for name, frames in (("short", 16), ("long", 160)):
        (tmp_path / f"{name}.mp4").write_bytes(video([RED] * frames))
    answer = {"from": "gpt", "value": "It is red."}
    rows = [
        {"video": "short.mp4", "conversations": [{"from": "human", "value": "what " * 40 + "<video>"}, answer]},
        {"video": "long.mp4", "conversations": [{"from": "human", "value": "<video> what"}, answer]},
    ]
    path = tmp_path / "videos.json"
    path.write_text(json.dumps(rows))
    collator = ExampleCollator(shop.processor, shop.processor.tokens_per_frame)
    lengths = [len(collator.prepare(example).tokens.ids) for example in Examples(DataFile(str(path)))]
    skipped = Skipped(tmp_path / "skipped.jsonl", 0)
    found = example_controls([DataFile(str(path))], replace(collator, max_tokens=max(lengths)), 4, skipped)
    assert [[len(held.items[0].media), len(held.items)] for held in found.values()] == [[1, 1], [1, 1]]
    assert found[""].items[0].id == "videos.json, record 1"


def test_a_bad_held_out_sample_is_left_out_like_any_other(tmp_path: Path) -> None:
    path = make_data(tmp_path / "data")
    held_out = path.with_name("held_out.json")
    rows = json.loads(path.read_text())
    held_out.write_text(json.dumps([*rows, {**rows[0], "id": "gone", "image": "none.png"}]))
    recipe = make_recipe(tmp_path, steps=1, evaluation=(DataFile(str(held_out)),))
    with pytest.raises(DataError, match=r"\(id gone\): .*no such file"):
        done(recipe, tmp_path / "strict")
    done(recipe, tmp_path / "run", skip_bad=1)
    assert "(id gone)" in (tmp_path / "run/skipped.jsonl").read_text()


def test_a_run_stopped_after_its_last_step_takes_no_further_one(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=4, save_every=2)
    done(recipe, tmp_path / "run")
    before = weights(tmp_path / "run")
    (tmp_path / "run/tune/trained.safetensors").unlink()
    done(recipe, tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 4
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "run").items())


def test_a_signal_in_the_last_step_of_a_stage_stops_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(tmp_path, steps=2)
    both = replace(recipe, stages=(replace(recipe.stages[0], name="one"), recipe.stages[0]))
    on_log = JsonLines.on_log

    def log(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        on_log(self, args, state, control, **more)
        if state.global_step == 2 and "loss" in more["logs"]:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(JsonLines, "on_log", log)
    with pytest.raises(TrainingError, match="stage one is done; the same command goes on from there"):
        done(both, tmp_path / "run")
    assert (tmp_path / "run/one/trained.safetensors").is_file()
    monkeypatch.undo()
    done(both, tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 2


def test_losses_that_cannot_be_written_stop_the_run_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "run/tune/loss.jsonl").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"loss.jsonl cannot be written: is a directory; the last checkpoint is"):
        done(make_recipe(tmp_path), tmp_path / "run")


def test_a_launcher_that_computes_in_another_precision_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ConfigError, match="the launcher computes in bf16, the recipe in float32"):
        done(make_recipe(tmp_path), tmp_path / "run")


def test_parts_are_joined_only_where_no_other_recipe_was(tmp_path: Path) -> None:
    made = replace(make_recipe(tmp_path), seed=1)
    claim(made, tmp_path / "run")
    (tmp_path / "run/start").mkdir()
    start = Parts("vicuna-7b", str(tmp_path / "tiny"), str(tmp_path / "tiny"))
    with pytest.raises(ConfigError, match="is of another recipe"):
        _joined(replace(made, start=start), start, tmp_path / "run/start")
