"""The benchmark "embedded": fixed, versioned, of seeds of its own, asked beside its controls."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from cutout_library import library
from PIL import Image
from tiny import tiny_model, tiny_processor

from llava_mini import cli
from llava_mini.cli import options
from llava_mini.errors import ConfigError
from llava_mini.evaluation import suites
from llava_mini.evaluation.photographs import Photograph
from llava_mini.evaluation.suites import BENCHMARK, BENCHMARK_VERSION, Suite, digest, find_suite
from llava_mini.inputs.media import Picture
from llava_mini.inputs.processor import Media

ROW = {"kind", "n", "accuracy", "low", "high", "shuffled", "blank", "question_only", "majority"}


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made cut-outs and photographs in place of fetched ones."""
    made = library(tmp_path)
    picture = tmp_path / "photograph.png"
    Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 20).save(picture)
    shots = [
        Photograph(str(i), "stamps" if i > 3 else "animals", ("owl", "bird"), picture.read_bytes()) for i in range(6)
    ]
    monkeypatch.setattr(suites, "load_cutouts", lambda _, split: made.trained if split == "train" else made.unseen)
    monkeypatch.setattr(suites, "load_photographs", lambda _: shots)
    return tmp_path


def test_the_benchmark_has_seeds_that_no_other_suite_and_no_training_uses(sources: Path) -> None:
    for name, count, first, _ in BENCHMARK:
        if name == "photographs":
            continue
        assert count is not None
        assert first >= 1_000_000  # other suites begin at 0, and would have to draw as many pictures to come here
        assert digest(find_suite(name)(sources, 3, first)) != digest(find_suite(name)(sources, 3))
    assert min(suites._FIRST_SEED.values()) >= 10_000_000  # training counts up from 0


def test_what_version_2_asks_and_shows_does_not_change(sources: Path) -> None:
    """Whoever changes this changes the benchmark: give it another version."""
    made = {name: find_suite(name)(sources, 20, first) for name, _, first, _ in BENCHMARK}
    asked = {name: digest(Suite([], suite.items))[:8] for name, suite in made.items()}
    assert (BENCHMARK_VERSION, asked) == (
        2,
        {"scenes": "474cd526", "unseen-scenes": "1fc44fc0", "photographs": "61a46610", "videos": "499feb9b"},
    )
    light = {
        name: np.mean([np.mean(frame) for shown in suite.media for frame in frames(shown)])
        for name, suite in made.items()
    }
    assert light == pytest.approx(
        {"scenes": 129.22, "unseen-scenes": 63.38, "photographs": 57.46, "videos": 138.18}, abs=0.2
    )


def test_shapes_are_scenes_without_those_that_show_anything_else(sources: Path) -> None:
    shapes, scenes = find_suite("shapes")(sources, 12), find_suite("scenes")(sources, 60)
    assert len(shapes.media) == 12
    assert {item.picture for item in shapes.items} == set(range(12))
    assert "shape" in {item.kind for item in shapes.items}
    assert "name" not in {item.kind for item in shapes.items}  # which is asked of a cut-out
    drawn = {one.image.tobytes(): number for number, one in enumerate(scenes.media) if isinstance(one, Picture)}
    where = [drawn[one.image.tobytes()] for one in shapes.media if isinstance(one, Picture)]
    assert where == sorted(set(where))
    for one, number in enumerate(where):
        texts = [item.question for item in shapes.items if item.picture == one]
        assert texts == [item.question for item in scenes.items if item.picture == number]


def frames(shown: Media) -> list[Image.Image]:
    return [shown.image] if isinstance(shown, Picture) else list(shown.frames())


def test_a_changed_word_or_pixel_changes_the_digest(sources: Path) -> None:
    whole = find_suite("scenes")(sources, 4)
    assert digest(whole) == digest(find_suite("scenes")(sources, 4))
    assert digest(whole) != digest(Suite(whole.media, whole.items[1:]))
    assert digest(whole) != digest(Suite(whole.media[::-1], whole.items))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny = tiny_model()
    tiny.save_pretrained(tmp_path / "model")
    tiny_processor(tiny.config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def evaluate(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> object:
    monkeypatch.setattr(sys, "argv", ["llava-mini", "evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_it_prints_every_kind_beside_its_controls_and_what_was_asked(
    sources: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tuple((name, 3, first, before) for name, _, first, before in BENCHMARK)
    monkeypatch.setattr(suites, "BENCHMARK", small)
    kept = sources / "answers.jsonl"
    kept.write_text("of another run\n", encoding="utf-8")
    assert not evaluate(monkeypatch, "embedded", "--model", model, "--json", "--answers", kept, "--device", "cpu")
    told = json.loads(capsys.readouterr().out)
    made = told.pop("benchmark")
    assert (made["version"], made["model"], set(made["digests"])) == (2, str(model), {name for name, *_ in BENCHMARK})
    assert all(set(row) == ROW for row in told.values())
    assert {"all", "unseen all", "photographs all", "photographs animals", "video all"} <= set(told)
    assert not [kind for kind in told if "caption" in kind or kind == "unseen background"]
    rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == sum(row["n"] for kind, row in told.items() if kind.split()[-1] == "all")
    assert {row["version"] for row in rows} == {2}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("embedded", "--limit", "5"), "embedded is fixed"),
        (("embedded", "scenes"), "embedded is fixed"),
        (("scenes", "--no-controls"), "--no-controls is for benchmarks"),
        (("scenes", "--max-frames", "3"), "--max-frames is for benchmarks"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    words: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(monkeypatch, *words) == 1
    assert told in capsys.readouterr().err


def test_answers_that_cannot_be_kept_are_told_of_before_anything_is_asked(
    sources: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = sources / "not there" / "answers.jsonl"
    monkeypatch.setattr(options, "load_assistant", lambda *_, **__: pytest.fail("a model was loaded"))
    assert evaluate(monkeypatch, "scenes", "--answers", nowhere) == 1
    assert f"{nowhere} cannot be written; give a file in a folder that is there" in capsys.readouterr().err


def test_an_unknown_evaluation_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'photos'.*photographs"):
        find_suite("photos")
