"""What a page holds of a conversation → what the API takes; and the API, asked by OpenAI's own client."""

import base64
import mimetypes
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI, DefaultAsyncHttpxClient

from llava_mini.errors import InputError
from llava_mini.serving.listening import is_loopback

Turn = Mapping[str, Any]
"""A message as the page holds it: `role`, `content` (texts and files) and `metadata`."""


class Settings(NamedTuple):
    """How an answer is made."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class Written(NamedTuple):
    """An answer so far."""

    text: str
    first_word_s: float
    """Seconds from the question to the first piece, the way to the server included."""


class Api:
    """A server that answers as OpenAI's does."""

    def __init__(self, address: str, key: str | None = None) -> None:
        """Take its address, without or with `/v1`.

        Raises:
            InputError: when that is no web address.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{address!r} is no address of a server; write http://127.0.0.1:8000")
        self.address = address.rstrip("/").removesuffix("/v1")
        self._client = AsyncOpenAI(
            base_url=f"{self.address}/v1",
            api_key=key or "none",
            max_retries=0,
            http_client=DefaultAsyncHttpxClient(trust_env=not is_loopback(parts.hostname)),
        )

    async def answer(self, messages: Sequence[Mapping[str, Any]], settings: Settings) -> AsyncIterator[Written]:
        """Ask, and give the answer as it grows; who stops reading hangs up, and the server stops working."""
        began, text, first_word_s = time.monotonic(), "", 0.0
        given: Any = {"messages": messages, "model": "llava-mini", **settings._asdict()}
        async with await self._client.chat.completions.create(**given, stream=True) as events:
            async for event in events:
                piece = event.choices[0].delta.content if event.choices else None
                if piece:
                    first_word_s = first_word_s or time.monotonic() - began
                    text += piece
                    yield Written(text, first_word_s)

    async def explanation(self, messages: Sequence[Mapping[str, Any]], answer: str) -> dict[str, Any]:
        """Ask where the model looked and what that cost."""
        body = {"messages": messages, "answer": answer}
        told: Any = await self._client.post("/explanations", cast_to=object, body=body)
        return told

    def words(self, error: Exception) -> str:
        """Say in one line what went wrong."""
        if isinstance(error, APITimeoutError):
            return f"{self.address} took too long"
        if isinstance(error, APIConnectionError):
            return f"nobody answers at {self.address}; is 'llava-mini serve' running?"
        told = error.body if isinstance(error, APIError) else None
        text = str(told.get("message") or error) if isinstance(told, Mapping) else str(error)
        if isinstance(error, APIStatusError) and error.status_code == 404:
            text = f"{self.address} is no llava-mini server ({text})"
        return (text.strip().splitlines() or [type(error).__name__])[0][:300]


def messages_of(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    """Return the turns as the API takes them; a question that was not answered is left out, the last one apart."""
    messages: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    for turn in turns:
        if turn["role"] == "user":
            asked += _parts(turn)
            continue
        if asked and not failed(turn) and text_of(turn).strip():
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": text_of(turn)}]
        asked = []
    return [*messages, {"role": "user", "content": asked}] if asked else messages


def question_of(asked: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return what was typed and dropped as a turn."""
    if isinstance(asked, str):
        asked = {"text": asked}
    paths = [file["path"] if isinstance(file, Mapping) else file for file in asked.get("files") or ()]
    files = [{"type": "file", "file": {"path": path}} for path in paths]
    return {"role": "user", "content": [*files, {"type": "text", "text": asked.get("text") or ""}]}


def failed(turn: Turn) -> bool:
    """Tell whether a turn is no answer but the words of an error."""
    return bool((turn.get("metadata") or {}).get("title"))


def text_of(turn: Turn) -> str:
    """Return the words of a turn."""
    content = turn["content"]
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


def files_of(turn: Turn) -> list[str]:
    """Return the paths of a turn's files."""
    content = turn["content"]
    return [] if isinstance(content, str) else [p["file"]["path"] for p in content if p["type"] == "file"]


def _parts(turn: Turn) -> list[dict[str, Any]]:
    text = text_of(turn).strip()
    return [*map(_file, files_of(turn)), *([{"type": "text", "text": text}] if text else [])]


def _file(path: str) -> dict[str, Any]:
    """Return a file as a data URI; the server finds out itself what it is."""
    try:
        data = base64.b64encode(Path(path).read_bytes()).decode()
    except OSError as error:
        raise InputError(f"{Path(path).name} is no longer there; drop it again") from error
    kind = mimetypes.guess_type(path)[0] or ""
    kind = kind if kind.startswith(("image/", "video/")) else "application/octet-stream"
    part = "video_url" if kind.startswith("video/") else "image_url"
    return {"type": part, part: {"url": f"data:{kind};base64,{data}"}}
