"""One `Example`: a conversation with its pictures and videos in place, whatever file it came from.

Formats: LLaVA's JSON, Video-ChatGPT's, and rows of `messages` with `images` and `videos`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mini.errors import DataError
from llava_mini.inputs.chat import IMAGE_TOKEN, MEDIA_KEYS, VIDEO_TOKEN, Messages

_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
_PLACE = re.compile(f"({IMAGE_TOKEN}|{VIDEO_TOKEN})")
_LINE_BREAKS = re.compile(r"^\s*\n\s*|\s*\n\s*$")
_VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi")


@dataclass(frozen=True)
class BadExample:
    """Stands where a record could not be read."""

    error: DataError

    @property
    def id(self) -> str:
        """File and number of the record."""
        return str(self.error).partition(": ")[0]


@dataclass(frozen=True)
class Example:
    """A conversation that is learned from."""

    id: str
    """Names it in every message: the file, and its own id or its place there."""
    messages: Messages
    """As the processor takes them; each picture and video stands in its message: a path, bytes or a Pillow picture."""

    @property
    def media(self) -> list[dict[str, Any]]:
        """The parts that hold a picture or a video, in order."""
        return [part for message in self.messages for part in parts_of(message) if part["type"] != "text"]


def parts_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of a message; a plain text is one part."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def example_of(record: Any, id_: str, root: Path) -> Example:
    """Read one record in whichever of the formats it is.

    Args:
        id_: names the record in messages.
        root: folder that names of media are relative to.

    Raises:
        DataError: for a record of no known format, or whose `<image>` and `<video>` do not fit its media.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{id_}: a record must be an object with fields, not {type(record).__name__}")
    own = record.get("id", record.get("__key__"))
    id_ = id_ if own is None else f"{id_} (id {str(own)[:80]})"
    if "conversations" in record:
        return Example(id_, _llava(record, id_, root))
    if {"q", "a", "video_id"} <= record.keys():
        return Example(id_, _video_chatgpt(record, id_, root))
    if "messages" in record:
        return Example(id_, _messages(record, id_, root))
    fields = ", ".join(map(str, record)) or "none"
    raise DataError(f"{id_}: fields are {fields}; 'conversations', 'messages' or 'q', 'a', 'video_id' are needed")


def _llava(record: Mapping[str, Any], id_: str, root: Path) -> Messages:
    """LLaVA's JSON: `image` is absent, a name or a list of names; `video` likewise."""
    messages: Messages = []
    images, videos = (_listed(record.get(kind)) for kind in ("image", "video"))
    turns = record["conversations"]
    for turn in turns if isinstance(turns, list) else []:
        role = _ROLES.get(str(turn.get("from"))) if isinstance(turn, Mapping) else None
        if role is None or not isinstance(turn.get("value"), str):
            raise DataError(f"{id_}: a turn must be {{'from': 'human' | 'gpt' | 'system', 'value': text}}")
        messages.append({"role": role, "content": turn["value"]})
    if videos and not images:  # some video sets write <image> where the video goes
        messages = [
            {**m, "content": m["content"].replace(IMAGE_TOKEN, VIDEO_TOKEN)} if m["role"] == "user" else m
            for m in messages
        ]
    return _with_media(messages, images, videos, id_, root)


def _video_chatgpt(record: Mapping[str, Any], id_: str, root: Path) -> Messages:
    """Video-ChatGPT's: one question, one answer, and a video known by its name without ending."""
    name = str(record["video_id"])
    found = next((f"{name}{ending}" for ending in _VIDEO_ENDINGS if _is_file(root / f"{name}{ending}")), name)
    video = {"type": "video", "path": _path(found, root)}
    return [
        {"role": "user", "content": [video, {"type": "text", "text": str(record["q"]).strip()}]},
        {"role": "assistant", "content": _answer(record["a"], id_)},
    ]


def _answer(value: Any, id_: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{id_}: an answer is {value!r}; give its text, or leave the record out")
    return value


def _messages(record: Mapping[str, Any], id_: str, root: Path) -> Messages:
    """Rows of `messages`; places are `<image>` in a text, or parts of type "image" that name no file."""
    messages: Messages = []
    for message in record["messages"] if isinstance(record["messages"], list) else []:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise DataError(f"{id_}: a message must be {{'role': …, 'content': text or parts}}")
        content = message.get("content")
        if not isinstance(content, str | list):
            raise DataError(f"{id_}: the content of a message must be a text or a list of parts")
        if isinstance(content, list):
            if not all(_is_part(part) for part in content):
                raise DataError(f"{id_}: a part of a message must be {{'type': 'text' | 'image' | 'video', …}}")
            # parquet fills absent fields with None
            content = [{key: value for key, value in part.items() if value is not None} for part in content]
        messages.append({"role": message["role"], "content": content})
    images, videos = (_listed(record.get(f"{kind}s", record.get(kind))) for kind in ("image", "video"))
    return _with_media(messages, images, videos, id_, root)


def _is_part(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, Mapping) else None
    return kind in ("image", "video") or (kind == "text" and isinstance(part.get("text"), str))


def _with_media(messages: Messages, images: list[Any], videos: list[Any], id_: str, root: Path) -> Messages:
    """Put the media of a record where the user's turns say that they go."""
    given = {"image": iter(images), "video": iter(videos)}
    wanted = {"image": 0, "video": 0}
    placed: Messages = []
    if not messages:
        raise DataError(f"{id_}: a conversation must be a list of at least one turn")
    for message in messages:
        parts = [
            piece for part in parts_of(message) for piece in (_split(part) if message["role"] == "user" else [part])
        ]
        for part in parts:
            kind = part.get("type")
            if kind in wanted and not any(key in part for key in MEDIA_KEYS):
                wanted[kind] += 1
                source = next(given[kind], None)
                part["path" if isinstance(source, str) else kind] = _source(source, id_, root)
            elif kind in wanted:
                key = next(key for key in MEDIA_KEYS if key in part)
                part[key] = _source(part[key], id_, root)
        alone = sum(part["type"] != "text" for part in parts) == 1
        if alone and message["role"] == "user":  # the released data puts a turn's only picture first
            parts.sort(key=lambda part: part["type"] == "text")
        text_only = all(part["type"] == "text" for part in parts)
        if message["role"] == "assistant" and text_only and not _joined(parts).strip():
            raise DataError(f"{id_}: an answer is empty; give its text, or leave the turn out")
        placed.append({"role": message["role"], "content": _joined(parts) if text_only else _trimmed(parts)})
    for kind, sources in (("image", images), ("video", videos)):
        if wanted[kind] != len(sources):
            raise DataError(f"{id_}: the text has {wanted[kind]} × <{kind}>, but {len(sources)} are given")
    return placed


def _split(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Split a text at its placeholders."""
    if part.get("type") != "text":
        yield dict(part)
        return
    for piece in _PLACE.split(part["text"]):
        if _PLACE.fullmatch(piece):
            yield {"type": "image" if piece == IMAGE_TOKEN else "video"}
        elif piece.strip():
            yield {"type": "text", "text": piece}


def _trimmed(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take away the line breaks between a placeholder and the text, for the template sets its own; beside one picture
    alone, spaces too.
    """
    alone = len(parts) == 2

    def trim(text: str) -> str:
        return text.strip() if alone else _LINE_BREAKS.sub("", text)

    return [{**part, "text": trim(part["text"])} if part["type"] == "text" else part for part in parts]


def _joined(parts: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts)


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _source(source: Any, id_: str, root: Path) -> Any:
    """Return what the processor opens: bytes, a Pillow picture as `datasets` decodes it, or a path from `root`."""
    if isinstance(source, Mapping):  # an undecoded picture of `datasets`
        return source["bytes"] if source.get("bytes") else _path(str(source.get("path")), root)
    if isinstance(source, str | Path):
        return _path(str(source), root)
    if source is not None and not isinstance(source, bytes) and not hasattr(source, "convert"):
        raise DataError(f"{id_}: a picture or video must be a file name or bytes, not {type(source).__name__}")
    return source


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _path(name: str, root: Path) -> str:
    return str(root / name)
