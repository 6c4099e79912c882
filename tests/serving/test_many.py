"""Many questions: answered as one at a time, in order; what is wrong costs its own line; a stopped run goes on."""

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpus import BLUE, GREEN, RED, encoded, png_bomb, video
from PIL import Image
from served import tiny_assistant

from llava_mini import Assistant, Sampling
from llava_mini.errors import ConfigError, DataError, InputError, ModelError
from llava_mini.serving.jsonl import Done, answer_file, check_files
from llava_mini.serving.many import Many, answer_rows

FEW = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return tiny_assistant()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        (folder / f"{name}.png").write_bytes(encoded(Image.new("RGB", (40, 30), colour), "PNG"))
    (folder / "clip.mp4").write_bytes(video([RED] * 8 + [GREEN] * 8 + [BLUE] * 8))
    (folder / "bomb.png").write_bytes(png_bomb())
    (folder / "text.png").write_bytes(b"no picture")
    return folder


ROWS: list[dict[str, Any]] = [
    {"id": "a", "image": "red.png", "question": "What is this?"},
    {"id": "b", "images": ["green.png", "blue.png"], "question": "which of the colours is it now"},
    {"id": 3, "question": "a", "max_new_tokens": 9},
    {"id": "d", "video": "clip.mp4", "question": "what comes first"},
    {"id": "e", "image": "red.png", "question": "is it red or is it blue or is it none of the two", "source": "web"},
    {"id": "f", "image": None, "question": "where", "max_new_tokens": 1},
]


def one_by_one(assistant: Assistant, media: Path) -> list[dict[str, Any]]:
    told = []
    for row in ROWS:
        files = [row.get("image"), *row.get("images", []), row.get("video")]
        few = Sampling(max_new_tokens=row.get("max_new_tokens", 6))
        answer = assistant.ask(row["question"], *[media / file for file in files if file], sampling=few)
        told.append(
            {
                "id": row["id"],
                "answer": answer.text,
                "vision_tokens": answer.vision_tokens,
                "prompt_tokens": answer.prompt_tokens,
            }
        )
    return told


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_many_questions_are_answered_as_one_at_a_time_and_in_their_order(
    assistant: Assistant, media: Path, batch_size: int
) -> None:
    many = Many(media=media, batch_size=batch_size, sampling=FEW)
    assert list(answer_rows(assistant, ROWS * 2, many)) == one_by_one(assistant, media) * 2


def test_a_conversation_is_answered_as_its_last_question(assistant: Assistant, media: Path) -> None:
    chat = assistant.chat(media / "red.png")
    first, second = (chat.ask(text, sampling=FEW).text for text in ("What is this?", "What colour is the star?"))
    asked = [{"type": "image", "path": "red.png"}, {"type": "text", "text": "What is this?"}]
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "What colour is the star?"},
    ]
    (row,) = answer_rows(assistant, [{"messages": messages}], Many(media=media, sampling=FEW), first=7)
    assert (row["id"], row["answer"]) == (7, second)


def test_the_same_seed_throws_the_same_dice_in_any_batch(assistant: Assistant, media: Path) -> None:
    dice = Sampling(max_new_tokens=8, temperature=1.5, seed=3)
    rows = [{"id": n, "image": "red.png", "question": "what"} for n in range(3)]
    texts = [
        [row["answer"] for row in answer_rows(assistant, rows, Many(media=media, batch_size=size, sampling=dice))]
        for size in (1, 3)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 1


def test_a_picture_is_encoded_once_however_often_and_under_whatever_name_it_is_asked_about(media: Path) -> None:
    assistant, runs = tiny_assistant(), list[int]()
    assistant.model.model.vision_tower.register_forward_hook(lambda _, given, __: runs.append(len(given[0])))
    (media / "copy.png").write_bytes((media / "blue.png").read_bytes())
    rows = [{"image": name, "question": f"what {n}"} for n in range(8) for name in ("blue.png", "copy.png")]
    assert len(list(answer_rows(assistant, rows, Many(media=media, batch_size=4, sampling=FEW)))) == 16
    assert runs == [1]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"image": "gone.png", "question": "what"}, "no such file: .*gone.png"),
        ({"image": "text.png", "question": "what"}, "is not a picture or video that can be opened"),
        ({"image": "bomb.png", "question": "what"}, "more than the 50,000,000 pixels"),
        ({"image": "https://example.org/a.png", "question": "what"}, "remote addresses are not opened"),
        ({"image": ["red.png"], "question": "what"}, "image is .* it must be one file"),
        ({"images": "red.png", "question": "what"}, "images is 'red.png'; it must be a list of files"),
        ({"images": ["red.png", 3], "question": "what"}, "image is 3; it must be the name of a file"),
        ({"images": ["red.png"] * 17, "question": "what"}, "17 pictures and videos; at most 16"),
        ({"image": "red.png"}, "question is None; it must be a text"),
        ({"question": "  "}, "question is '  '; it must be a text"),
        ({"question": "what", "max_new_tokens": 0}, "max_new_tokens is 0; it must be a number of at least 1"),
        ({"question": "what", "max_new_tokens": True}, "max_new_tokens is True"),
        ({"question": "what " * 300}, "more than the 256 of the model's context"),
        ({"question": "what", "messages": []}, "there are messages and question; give one of them"),
        ({"messages": []}, "messages must be a list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "its role one of system, user, assistant"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the last message is of the assistant"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "a part must be"),
        (["what"], "the line holds a list; it must be an object"),
    ],
)
def test_what_is_wrong_costs_its_own_row_and_is_told(assistant: Assistant, media: Path, row: Any, told: str) -> None:
    good = {"id": "good", "image": "red.png", "question": "What is this?"}
    many = Many(media=media, batch_size=2, sampling=FEW)
    before, wrong, after = answer_rows(assistant, [good, row, good], many)
    assert before == after
    assert before["answer"]
    assert wrong.keys() == {"id", "error"}
    assert wrong["id"] == 2
    assert "\n" not in wrong["error"]
    assert re.search(told, wrong["error"])


def test_a_language_model_that_fails_ends_the_work(media: Path) -> None:
    assistant = tiny_assistant()

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    assistant.model.model.language_model.layers[0].register_forward_hook(fail)
    with pytest.raises(ModelError, match="the question could not be read"):
        list(answer_rows(assistant, ROWS, Many(media=media, sampling=FEW)))


def test_no_more_rows_are_taken_than_are_being_answered(assistant: Assistant, media: Path) -> None:
    taken: list[int] = []

    def endless() -> Iterator[dict[str, Any]]:
        while True:
            taken.append(1)
            yield {"image": "red.png", "question": "what"}

    made = answer_rows(assistant, endless(), Many(media=media, batch_size=2, sampling=FEW))
    for _ in range(5):
        next(made)
    made.close()
    assert len(taken) <= 5 + 6


def test_batches_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is 0; it must be at least 1"):
        Many(batch_size=0)


@pytest.fixture
def questions(media: Path, tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    lines[2:2] = ["{torn", "", json.dumps({"question": "no id"})]
    path.write_text("\n".join(lines), encoding="utf-8")  # the last line has no end
    return path


def test_a_file_becomes_a_file_and_a_stopped_run_goes_on(
    assistant: Assistant, media: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many, out = Many(media=media, batch_size=2, sampling=FEW), tmp_path / "out.jsonl"
    assert answer_file(assistant, questions, out, many) == Done(7, 1, 0)
    whole = out.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["id"] for row in rows] == ["a", "b", 3, 4, 3, "d", "e", "f"]
    assert rows[2]["error"].startswith("the line is no JSON")
    assert "line/s" in capsys.readouterr().err
    for size in (0, 1, len(whole) // 2, len(whole) - 1, len(whole)):  # wherever it was killed
        out.write_bytes(whole[:size])
        before = whole[:size].count(b"\n")
        done = answer_file(assistant, questions, out, many)
        assert out.read_bytes() == whole
        assert done.before == before
        assert done.answered + done.failed == 8 - before


def test_answers_to_other_questions_are_left_alone(
    assistant: Assistant, media: Path, questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    for line, told in (
        ('{"id": "z", "answer": "?"}', "line 1: it answers 'z', not 'a'"),
        ("no json", "it answers None, not 'a'"),
    ):
        out.write_text(line + "\n", encoding="utf-8")
        with pytest.raises(DataError, match=told):
            answer_file(assistant, questions, out, Many(media=media))
        assert out.read_text(encoding="utf-8") == line + "\n"
    short = tmp_path / "short.jsonl"
    short.write_text('{"id": "a", "question": "what"}', encoding="utf-8")
    out.write_text('{"id": "a"}\n{"id": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="holds more answers than there are questions"):
        answer_file(assistant, short, out, Many(media=media))


def test_standard_input_and_output_work_too(
    assistant: Assistant, media: Path, questions: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(questions.read_bytes())))
    assert answer_file(assistant, None, None, Many(media=media, sampling=FEW)) == Done(7, 1, 0)
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()][:2] == ["a", "b"]


def test_files_are_checked_before_a_model_is_loaded(questions: Path, tmp_path: Path) -> None:
    check_files(questions, tmp_path / "new.jsonl")
    (tmp_path / "old.jsonl").write_text("{}\n", encoding="utf-8")
    for given, written, told in (
        (tmp_path / "gone", None, "there is no file"),
        (questions, questions, "is both read and written"),
        (questions, tmp_path, "cannot be written"),
        (questions, tmp_path / "no" / "out", "cannot be written"),
        (None, tmp_path / "old.jsonl", "standard input cannot be read again"),
    ):
        with pytest.raises(InputError, match=told):
            check_files(given, written)
