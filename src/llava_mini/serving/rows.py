"""One row of a large piece of work → a conversation about local files."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_mini.errors import InputError
from llava_mini.inputs.chat import MEDIA_KEYS, Messages

_FILES = ("image", "images", "video")
_ROLES = ("system", "user", "assistant")


@dataclasses.dataclass(frozen=True)
class Row:
    """A question with its files named, not yet opened."""

    messages: Messages
    max_new_tokens: int | None
    """Longest answer in tokens; None: as for all."""


def parse(line: bytes) -> Any:
    """Read a line of JSON; what cannot be read becomes its error."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return InputError(f"the line is no JSON ({' '.join(str(error).split())[:100]})")


def read_row(row: Any, media: Path) -> Row:
    """Check a row and name its files.

    Args:
        row: `{"question": …, "image" or "images" or "video": …}`, or `{"messages": […]}`; what else it holds is left
            aside.
        media: folder of the files that are named by relative paths.

    Raises:
        InputError: with the field that is wrong.
    """
    if isinstance(row, InputError):
        raise row
    if not isinstance(row, dict):
        raise InputError(f"the line holds a {type(row).__name__}; it must be an object with a question")
    row = {name: value for name, value in row.items() if value is not None}
    most = row.get("max_new_tokens")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise InputError(f"max_new_tokens is {most!r}; it must be a number of at least 1")
    if "messages" in row:
        if beside := [name for name in ("question", *_FILES) if name in row]:
            raise InputError(f"there are messages and {beside[0]}; give one of them")
        return Row(_conversation(row["messages"], media), most)
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"question is {question!r}; it must be a text, or give messages")
    files = [_file(kind, path, media) for kind, path in _named(row)]
    return Row([{"role": "user", "content": [*files, {"type": "text", "text": question.strip()}]}], most)


def _named(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for field in _FILES:
        value = row.get(field, [])
        several = field == "images"
        if several != isinstance(value, list) and field in row:
            raise InputError(f"{field} is {value!r:.80}; it must be {'a list of files' if several else 'one file'}")
        for path in value if isinstance(value, list) else [value]:
            yield "video" if field == "video" else "image", path


def _file(kind: str, path: Any, media: Path) -> dict[str, Any]:
    """Name a file as what prepares it wants it."""
    if not isinstance(path, str) or not path:
        raise InputError(f"{kind} is {path!r:.80}; it must be the name of a file")
    return {"type": kind, "data": path if "://" in path else media / path}  # what is an address is refused as one


def _conversation(messages: Any, media: Path) -> Messages:
    if not isinstance(messages, list) or not messages:
        raise InputError("messages must be a list of {'role': …, 'content': text or parts}")
    made: Messages = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str | list) or message.get("role") not in _ROLES:
            raise InputError(f"a message must be {{'role': …, 'content': …}}, its role one of {', '.join(_ROLES)}")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        made.append({"role": message["role"], "content": [_part(part, media) for part in parts]})
    if made[-1]["role"] != "user":
        raise InputError(f"the last message is of the {made[-1]['role']}; it must be of the user")
    return made


def _part(part: Any, media: Path) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind not in ("image", "video"):
        raise InputError("a part must be {'type': 'text', 'text': …}, or {'type': 'image' or 'video', 'path': …}")
    return _file(kind, next((part[key] for key in MEDIA_KEYS if part.get(key) is not None), None), media)
