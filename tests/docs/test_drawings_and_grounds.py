"""Each pair of drawings and grounds is asked about scenes that show them, and shapes are told apart from things."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from llava_mini.data.cutouts import Cutout
from llava_mini.evaluation.controls import Asked, Item
from tools import drawings_and_grounds


def asked_of(kind: str, question: str, answer: str, shuffled: str, picture: int) -> Asked:
    return Asked(Item(kind, picture, question, lambda said: said == "right"), answer, shuffled, "", "")


def test_a_row_tells_things_by_kind_and_shapes_together() -> None:
    asked = [
        asked_of("name", "What is this?", "right", "wrong", 0),
        asked_of("colour", "What colour is the crow?", "wrong", "right", 1),
        asked_of("colour", "What colour is the ring?", "right", "wrong", 2),
        asked_of("presence", "Is there a star?", "wrong", "wrong", 3),
    ]
    assert drawings_and_grounds._told(asked) == "4 | 50 (15–85) | 25 | 50 (2) | 100 (1) | – | 0 (1) | –"


def test_drawings_and_grounds_are_changed_one_by_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cutouts = {split: [Cutout(split, Path("emoji.png"), "emoji")] for split in ("train", "unseen")}
    ground = SimpleNamespace(image=Image.new("RGB", (300, 300), "green"), names=("dog",), group="objects")
    stamp = SimpleNamespace(image=None, names=("cat",), group="stamps")
    monkeypatch.setattr(drawings_and_grounds, "load_cutouts", lambda _, split: cutouts[split])
    monkeypatch.setattr(drawings_and_grounds, "load_photographs", lambda _: [ground, stamp])
    monkeypatch.setattr(drawings_and_grounds.Assistant, "load", lambda _: None)
    seen: list[tuple[Any, ...]] = []

    def asked(library: Any, split: str, number: int) -> Any:
        shown = library.unseen if split == "unseen" else library.trained
        seen.append((split, [one.name for one in shown], len(library.grounds), number))
        return SimpleNamespace(media=[], items=[])

    monkeypatch.setattr(drawings_and_grounds, "ask_scenes", asked)
    answers = [asked_of("name", "What is this?", "right", "wrong", 0)]
    monkeypatch.setattr(drawings_and_grounds, "ask_with_controls", lambda *_: answers)
    drawings_and_grounds.main(Path())
    number = drawings_and_grounds.SCENES
    assert seen == [
        ("new", ["train"], 0, number),
        ("unseen", ["train"], 1, number),
        ("new", ["unseen"], 0, number),
        ("unseen", ["unseen"], 1, number),
    ]
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| trained", "drawn", "1"],
        ["| trained", "photographs", "1"],
        ["| new", "drawn", "1"],
        ["| new", "photographs", "1"],
    ]
