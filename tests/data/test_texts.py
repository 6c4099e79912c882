"""Texts that are rehearsed: whole sentences, one question and its answer a line, or one clear line why not."""

import json
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_processor

from llava_mini.data.texts import _whole, instructions, read_texts, write_texts
from llava_mini.errors import DataError


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        ("Bees make honey. They also", "Bees make honey."),
        ("Three tips:\n\n1. Sleep early.\n\n2. Do not", "Three tips:\n\n1. Sleep early."),
        ("Sleep early. 2.", "Sleep early."),
        ("It is about 2.5 times as", ""),
        ("It was built in 1990. It", "It was built in 1990."),
        ("2 + 2 = 4.", "2 + 2 = 4."),
        ("Really? Yes! And", "Really? Yes!"),
        ("no end", ""),
    ],
)
def test_an_answer_ends_with_its_last_whole_sentence(answer: str, whole: str) -> None:
    assert _whole(answer) == whole


def test_what_is_written_is_read(tmp_path: Path) -> None:
    processor = tiny_processor(tiny_model().config)

    class Answering:
        def generate(self, input_ids, **_):  # type: ignore[no-untyped-def]
            said = processor.tokenizer("a red dog.", return_tensors="pt")["input_ids"]
            return input_ids.new_tensor([[*row.tolist(), *said[0].tolist()] for row in input_ids])

    path = tmp_path / "made/texts.jsonl"
    asked = ["how many", "what is this"]
    write_texts(path, asked, Answering(), processor.tokenizer, str(processor.chat_template))
    answers = {answer for _, answer in read_texts(path)}
    assert [question for question, _ in read_texts(path)] == asked
    assert len(answers) == 1
    assert answers.pop().endswith(".")


def test_the_same_seed_asks_the_same() -> None:
    names = ("dog", "cat", "owl")
    one, same, other = (list(zip(range(60), instructions(names, seed))) for seed in (0, 0, 1))
    assert one == same != other


def test_a_line_that_is_no_question_and_answer_is_named(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "what"}
    answer = {"role": "assistant", "content": "this."}
    picture = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "what"}]}
    path = tmp_path / "texts.jsonl"
    with pytest.raises(DataError, match=r"no texts at \S+texts.jsonl; make them with 'llava-mini data texts'"):
        read_texts(path)
    for bad in (
        json.dumps({"messages": [{"role": "system", "content": "be kind"}, asked]}).encode(),
        json.dumps({"messages": [picture, answer]}).encode(),
        json.dumps({"messages": [asked, answer, asked, answer]}).encode(),
        b"\xff\xfe",
        b"{",
    ):
        path.write_bytes(json.dumps({"messages": [asked, answer]}).encode() + b"\n" + bad + b"\n")
        with pytest.raises(DataError, match=r"texts.jsonl:2: not one question with its answer") as error:
            read_texts(path)
        assert "\n" not in str(error.value)
