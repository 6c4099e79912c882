"""What a page holds becomes what the API takes; what goes wrong becomes one line."""

import asyncio
import base64
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAIError
from served import KEY, asked, data_uri, png, serving, tiny_assistant

from llava_mini.errors import InputError
from llava_mini.serving.asking import Api, Settings, messages_of, question_of


def turn(role: str, text: str, *files: Path, **metadata: Any) -> dict[str, Any]:
    """A turn as the page holds it."""
    shown = [{"type": "file", "file": {"path": str(file)}} for file in files]
    return {"role": role, "metadata": metadata or None, "content": [*shown, {"type": "text", "text": text}]}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    path.write_bytes(png())
    return path


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(tiny_assistant(), key=KEY) as address:
        yield address


def test_a_conversation_is_sent_whole_with_the_pictures_of_earlier_turns(picture: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"film")
    turns = [
        turn("user", "what", picture),
        turn("assistant", "a circle"),
        question_of({"text": "and", "files": [film]}),
    ]
    first, second, third = messages_of(turns)
    assert first == asked("what", data_uri(png()))[0]
    assert second == {"role": "assistant", "content": "a circle"}
    assert third["content"][0]["video_url"]["url"] == "data:video/mp4;base64," + base64.b64encode(b"film").decode()
    assert third["content"][1] == {"type": "text", "text": "and"}


def test_what_was_not_answered_is_not_asked_again(picture: Path) -> None:
    unanswered = [turn("user", "broken", picture), turn("assistant", "no picture", title="Not answered")]
    stopped = [turn("user", "stopped", picture), turn("assistant", "")]
    assert messages_of([*unanswered, *stopped, turn("user", "what")]) == asked("what")


def test_a_question_is_read_as_gradio_gives_it(picture: Path) -> None:
    for file in (str(picture), {"path": str(picture)}):
        assert question_of({"text": "what", "files": [file]})["content"] == turn("user", "what", picture)["content"]
    assert question_of("what")["content"] == [{"type": "text", "text": "what"}]


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png is no longer there"):
        messages_of([turn("user", "what", tmp_path / "gone.png")])


async def collected(api: Api, messages: Any, settings: Settings) -> list[str]:
    return [written.text async for written in api.answer(messages, settings)]


def test_an_answer_grows(address: str) -> None:
    texts = asyncio.run(
        collected(Api(address, KEY), asked("what", data_uri(png())), Settings(24, temperature=1.0, seed=1))
    )
    assert len(texts) > 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


@pytest.mark.parametrize(
    ("to", "key", "settings", "told"),
    [
        ("{}", "another-key-of-letters", Settings(), "the key is missing or wrong"),
        ("{}/elsewhere", KEY, Settings(), "is no llava-mini server"),
        ("http://127.0.0.1:9", None, Settings(), "nobody answers at http://127.0.0.1:9"),
    ],
)
def test_what_goes_wrong_is_told_in_one_line(
    address: str, to: str, key: str | None, settings: Settings, told: str
) -> None:
    api = Api(to.format(address), key)
    with pytest.raises(OpenAIError) as error:
        asyncio.run(collected(api, asked("what"), settings))
    words = api.words(error.value)
    assert told in words
    assert len(words.splitlines()) == 1
    assert len(words) <= 300


@pytest.mark.parametrize("address", ["here", "ftp://a", "http://"])
def test_an_address_must_be_one(address: str) -> None:
    with pytest.raises(InputError, match="is no address of a server"):
        Api(address)
