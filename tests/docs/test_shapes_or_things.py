"""Questions about shapes and about other things are told apart, and so are yes and no; a picture's count together."""

import json
from pathlib import Path

import pytest

from llava_mini.intervals import clustered_wilson, wilson
from tools import shapes_or_things

ROOT = Path(__file__).parents[2]


def test_each_question_counts_where_it_belongs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        ("scenes", 0, "count", "How many crosses are there?", "There are two.", True),
        ("scenes", 0, "count", "How many shapes do you see?", "Two.", True),
        ("scenes", 1, "count", "How many stars do you see?", "Two.", False),
        ("scenes", 1, "count", "Count the shapes.", "Two.", False),
        ("scenes", 2, "count", "How many earrings are there?", "Two.", True),
        ("scenes", 0, "presence", "Is there a heart?", "No, there is no heart.", True),
        ("unseen-scenes", 0, "presence", "Is there a ring?", "Yes, there is.", False),
        ("unseen-scenes", 1, "presence", "Is there a spring roll?", "no", True),
        ("unseen-scenes", 1, "colour", "What colour is the crow?", "Black", False),
        ("scenes", 3, "left_right", "Is the ring left of the star?", "Yes.", True),
        ("videos", 0, "count", "How many stars are there?", "One.", True),
    ]
    names = ("suite", "picture", "kind", "question", "expected", "right")
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in asked))
    shapes_or_things.main(path)
    low, high = clustered_wilson([True, True, False, False], [0, 0, 1, 1])
    assert low < wilson(2, 4)[0]
    assert capsys.readouterr().out.splitlines() == [
        "| question | about shapes | right (95 %) | about other things | right (95 %) |",
        "|---|---|---|---|---|",
        f"| count | 4 | 50.0 ({100 * low:.0f}–{100 * high:.0f}) | 1 | 100.0 (21–100) |",
        "| presence (no) | 1 | 100.0 (21–100) | 0 | – |",
        "| unseen colour | 0 | – | 1 | 0.0 (0–79) |",
        "| unseen presence (no) | 0 | – | 1 | 100.0 (21–100) |",
        "| unseen presence (yes) | 1 | 0.0 (0–79) | 0 | – |",
    ]


def test_the_table_in_the_document_is_of_the_saved_answers(capsys: pytest.CaptureFixture[str]) -> None:
    shapes_or_things.main(ROOT / "docs/results/embedded/answers-13.jsonl")
    assert capsys.readouterr().out in (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
