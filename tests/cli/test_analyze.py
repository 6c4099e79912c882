"""The command looks at every form of a model, opens what it needs, and refuses a mistake before it begins."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import tiny_model, tiny_processor

from llava_mini import cli
from llava_mini.analysis import figures
from llava_mini.inputs import media

Run = Callable[..., tuple[int, str, str]]
ANSWERS = ("red", "green", "blue", "black", "white")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five questions, each about a picture of its own."""
    rows = []
    for place, colour in enumerate(ANSWERS):
        Image.new("RGB", (56, 56), colour).save(tmp_path / f"{colour}.png")
        turns = [
            {"from": "human", "value": f"<image>\nWhat is {place}?"},
            {"from": "gpt", "value": f"{colour.title()}."},
        ]
        rows.append({"id": colour, "image": f"{colour}.png", "conversations": turns})
    (tmp_path / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path / "data.json"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `llava-mini analyze` on a tiny model of some form; return exit code, stdout and stderr."""
    for name in ("shares", "entropy", "removal", "maps", "strip", "words"):  # slow, and tested by themselves
        monkeypatch.setattr(figures, name, lambda *_, **__: None)

    def ended(*arguments: str | Path, **changes: Any) -> tuple[int, str, str]:
        model = tiny_model(**changes)
        model.save_pretrained(tmp_path / "model")
        tiny_processor(model.config).save_pretrained(tmp_path / "model")
        common = [str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["llava-mini", "analyze", *common, *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capfd.readouterr()

    return ended


@pytest.mark.parametrize("changes", [{}, {"tiles": 2}, {"compression": "none"}])
def test_every_form_is_looked_at(run: Run, data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    code, _, err = run("--data", data, "--limit", "1", **changes)
    assert code == 0, err
    told = json.loads((tmp_path / "out/analysis.json").read_text(encoding="utf-8"))
    assert ("readings" in told) == (not changes)
    assert (tmp_path / "out/report.html").is_file()


def test_no_picture_is_opened_that_is_not_asked_about_and_the_two_samples_are_apart(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    load = media.load_media
    monkeypatch.setattr(
        media, "load_media", lambda source, **rest: opened.append(Path(source).stem) or load(source, **rest)
    )
    looked: list[list[str]] = []
    monkeypatch.setattr("llava_mini.analysis.removal.removal_curve", _noting(looked))
    sizes = ("--data", data, "--limit", "2", "--step", "3", "--window", "3")
    code, _, err = run(*sizes, "--removal", "2")
    assert code == 0, err
    assert opened == ["red", "green", "blue", "black"]
    told = json.loads((tmp_path / "out/analysis.json").read_text(encoding="utf-8"))
    assert [sample["question"] for sample in told["profile"]["samples"]] == ["What is 0?", "What is 1?"]
    assert looked == [["What is 2?", "What is 3?"]]
    assert "in both samples" not in err
    code, _, err = run(*sizes, "--removal", "4")
    assert "5 questions are fewer than 6: some are in both samples" in err
    assert looked[1] == ["What is 1?", "What is 2?", "What is 3?", "What is 4?"]


def _noting(looked: list[list[str]]) -> Callable[..., list[Any]]:
    def curve(subject: Any, questions: Any, **_: Any) -> list[Any]:
        looked.append([one.text for one in questions])
        assert all(one.is_right(f" {ANSWERS[int(one.text[8])]} ") and not one.is_right("redder") for one in questions)
        return []

    return curve


def test_a_step_that_does_not_fit_is_told_before_anything_is_looked_at(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: Any, **__: Any) -> None:
        raise AssertionError("looked before it checked")

    monkeypatch.setattr("llava_mini.analysis.attention.attention_profile", late)
    code, _, err = run("--data", data, "--limit", "1", "--removal", "1", "--step", "9", "--window", "2")
    assert code == 1
    assert "step (9) and window (2) must be from 1 to the number of layers (3)" in err
