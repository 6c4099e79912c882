"""Tokens become text without half characters, and stop texts are never shown, wherever they are cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from llava_mini.errors import InputError
from llava_mini.serving.choice import Choice, Settings

TOKENIZER = tiny_tokenizer()
SIZE = len(TOKENIZER)


def told(text: str, **settings: object) -> tuple[list[str], str | None]:
    """The pieces of a choice whose likeliest tokens spell a text."""
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    choice = Choice(TOKENIZER, Settings(**settings), len(ids), [])  # type: ignore[arg-type]
    pieces, ending = [], None
    for token in ids:
        piece = choice.take(torch.nn.functional.one_hot(torch.tensor(token), SIZE).float())
        pieces.append(piece.text)
        ending = piece.ending
        if ending:
            break
    return pieces, ending


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=30), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_pieces_are_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    pieces, ending = told(text, stop=tuple(stops))
    whole = TOKENIZER.decode(TOKENIZER(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True).lstrip()
    places = [whole.find(stop) for stop in stops if stop in whole]
    made = "".join(pieces)
    if places:
        assert ending == "stop"
        assert made == whole[: len(made)]
        assert not any(stop in made for stop in stops)
    else:
        assert (made, ending) == (whole, "length")


def test_a_character_of_several_tokens_comes_whole() -> None:
    pieces, _ = told("a é 漢 b")
    assert "".join(pieces) == "a é 漢 b"
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_token_without_any_chance_is_told_as_very_unlikely() -> None:
    choice = Choice(TOKENIZER, Settings(top_logprobs=2), 3, [])
    logits = torch.full((SIZE,), -torch.inf)
    logits[TOKENIZER("a", add_special_tokens=False)["input_ids"][0]] = 0.0
    piece = choice.take(logits)
    assert piece.logprobs[0].logprob == 0
    assert piece.logprobs[0].top[1].logprob == -9999.0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"stop": ("",)}, "stop"),
    ],
)
def test_settings_without_sense_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Settings(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-30])
def test_a_tiny_temperature_chooses_the_likeliest(temperature: float) -> None:
    choice = Choice(TOKENIZER, Settings(temperature=temperature), 9, [])
    logits = torch.linspace(3.0, 400.0, SIZE)
    logits[:3] = -torch.inf
    choice.take(logits)
    assert choice.tokens == [SIZE - 1]


def test_a_part_of_a_character_is_told_with_its_true_bytes() -> None:
    ids = TOKENIZER("漢 a", add_special_tokens=False)["input_ids"]
    choice = Choice(TOKENIZER, Settings(top_logprobs=1), len(ids), [])
    told = [
        one for token in ids for one in choice.take(torch.nn.functional.one_hot(torch.tensor(token), SIZE)).logprobs
    ]
    assert b"".join(one.data for one in told) == "漢 a".encode()
    assert all(one.top[0].data == one.data for one in told)
