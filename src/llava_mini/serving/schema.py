"""What a request of OpenAI's chat API may hold, and how it becomes a conversation."""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llava_mini.errors import InputError, MediaError
from llava_mini.inputs.chat import Messages
from llava_mini.serving.choice import Settings

Fetch = Callable[[str, int], bytes]
"""Gives the bytes at a web address, at most as many as said."""

_DATA = re.compile(r"data:(?:image|video|application)/[\w.+-]{1,64}(?:;[\w.=+-]{1,64})*;base64,", re.IGNORECASE)


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Address(_Part):
    """Where a picture or video is: a data URI, or a web address of an allowed host."""

    url: str


class TextPart(_Part):
    """Words."""

    type: Literal["text"]
    text: str


class ImagePart(_Part):
    """A picture."""

    type: Literal["image_url"]
    image_url: Address


class VideoPart(_Part):
    """A video."""

    type: Literal["video_url"]
    video_url: Address


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class Message(_Part):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @model_validator(mode="after")
    def _only_people_show_pictures(self) -> "Message":
        parts = [] if isinstance(self.content, str) else self.content
        if self.role != "user" and any(part.type != "text" for part in parts):
            raise ValueError(f"a message of the {self.role} holds a picture or video; only those of the user may")
        return self


class StreamOptions(_Part):
    """How pieces are sent."""

    include_usage: bool = False


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "top_k": (None, -1, 0),
    "min_p": (None, 0),
    "audio": (None,),
    "modalities": (None, ["text"]),
}
"""Settings that would change the answer and are not followed here, with the values that change nothing."""


class ChatRequest(BaseModel):
    """The body of `/v1/chat/completions`; what is unknown and cannot change the answer is left aside."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    """Any name: there is one model, and the answer says which."""
    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="Default 0: always the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1, le=128)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _is_followed(self) -> "ChatRequest":
        for name, neutral in _NEUTRAL.items():
            value = (self.model_extra or {}).get(name)
            if value not in neutral:
                raise ValueError(f"{name} is not supported here; leave it out")
        if self.messages[-1].role != "user":
            raise ValueError(f"the last message is of the {self.messages[-1].role}; it must be of the user")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is given without stream; set stream to true, or leave it out")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is given without logprobs; set logprobs to true, or leave it out")
        if isinstance(self.stop, list) and len(self.stop) > 16:
            raise ValueError(f"stop holds {len(self.stop)} texts; at most 16 are taken")
        return self

    def settings(self) -> Settings:
        """Return how the answers are to be made."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if any(len(text) > 1000 for text in stop):
            raise InputError("a stop text is longer than 1,000 characters; give a shorter one")
        return Settings(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=None if self.seed is None else self.seed % 2**63,
            stop=tuple(stop),
            choices=self.n or 1,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


def conversation(messages: list[Message], fetch: Fetch, max_bytes: int) -> Messages:
    """Return the messages with the bytes of their media; nothing is decoded yet.

    Raises:
        InputError: for an address that is neither a data URI nor one that is fetched.
        MediaError: for a file that is too large, or cannot be fetched.
    """
    made: Messages = []
    for message in messages:
        given = [TextPart(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        content: list[dict[str, Any]] = []
        for part in given:
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": part.text})
                continue
            address = part.image_url if isinstance(part, ImagePart) else part.video_url
            kind = "image" if isinstance(part, ImagePart) else "video"
            content.append({"type": kind, "data": _bytes(address.url, fetch, max_bytes)})
        if not any(part["type"] != "text" or part["text"].strip() for part in content):
            raise InputError(f"a message of the {message.role} is empty; write something or leave it out")
        made.append({"role": "system" if message.role == "developer" else message.role, "content": content})
    return made


def _bytes(url: str, fetch: Fetch, max_bytes: int) -> bytes:
    """Return what a data URI holds, or what an allowed host gives."""
    if re.match(r"https?://", url, re.IGNORECASE):
        return fetch(url, max_bytes)
    head = _DATA.match(url)
    if head is None:
        shown = url[:40].encode("ascii", "replace").decode()
        raise InputError(f"{shown!r} is no picture or video; send a data URI such as data:image/png;base64,…")
    if (len(url) - head.end()) * 3 // 4 > max_bytes + 2:
        raise MediaError(f"a file has more than {max_bytes:,} bytes; send a smaller one")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("a data URI is not valid base64; encode the whole file") from error
