"""What a request of OpenAI's chat API may hold, and how it becomes a conversation."""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from llava_mini.errors import InputError, MediaError
from llava_mini.inputs.chat import Messages
from llava_mini.serving.choice import Settings
from llava_mini.serving.requests import ServerLimits
from llava_mini.serving.settings import check_others

Fetch = Callable[[str, int], bytes]
"""Gives the bytes at a web address, at most as many as said."""

MOST_MESSAGES = 1024
MOST_PARTS = 2048
"""Parts of a whole conversation: they are counted before each is looked at."""
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


class RefusalPart(_Part):
    """Words with which an assistant refused."""

    type: Literal["refusal"]
    refusal: str


class ImagePart(_Part):
    """A picture."""

    type: Literal["image_url"]
    image_url: Address


class VideoPart(_Part):
    """A video."""

    type: Literal["video_url"]
    video_url: Address


Part = Annotated[TextPart | RefusalPart | ImagePart | VideoPart, Field(discriminator="type")]

PARTS, TEXT = "(parts)", "(text)"
"""Which form a content has; errors are told of that form alone."""
Content = Annotated[
    Annotated[list[Part], Field(max_length=MOST_PARTS), Tag(PARTS)] | Annotated[str, Tag(TEXT)],
    Discriminator(lambda content: PARTS if isinstance(content, list) else TEXT),
]


class Message(_Part):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _is_what_its_role_may_say(self) -> "Message":
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of the {self.role} has no content; write something or leave it out")
        kinds = {part.type for part in self.parts()}
        if self.role != "user" and kinds & {"image_url", "video_url"}:
            raise ValueError(f"a message of the {self.role} holds a picture or video; only those of the user may")
        if self.role != "assistant" and "refusal" in kinds:
            raise ValueError(f"a message of the {self.role} holds a refusal; only those of the assistant may")
        return self

    def parts(self) -> list[Part]:
        """Return what is said in it; what an assistant refused is text as any other."""
        content = self.refusal or "" if self.content is None else self.content
        return [TextPart(type="text", text=content)] if isinstance(content, str) else content


class Conversation(BaseModel):
    """Messages in their order."""

    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)

    @model_validator(mode="before")
    @classmethod
    def _is_short(cls, given: Any) -> Any:
        """Count, before each part costs its own look."""
        messages = given.get("messages") if isinstance(given, dict) else None
        turns = [turn for turn in messages if isinstance(turn, dict)] if isinstance(messages, list) else []
        if any(turn.get("tool_calls") or turn.get("function_call") for turn in turns):
            raise ValueError("a message holds tool calls, which are not supported here; leave them out")
        parts = sum(len(turn["content"]) for turn in turns if isinstance(turn.get("content"), list))
        if parts > MOST_PARTS:
            raise ValueError(f"the messages have {parts:,} parts; at most {MOST_PARTS:,} are taken")
        return given


class StreamOptions(_Part):
    """How pieces are sent."""

    include_usage: bool = False


class ChatRequest(Conversation):
    """The body of `/v1/chat/completions`; of other fields only those that change no answer are taken (`settings`)."""

    model_config = ConfigDict(extra="allow")

    model: str | None = ""
    """Any name: there is one model, and the answer says which."""
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="Default 0: always the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    n: int | None = Field(None, ge=1, le=128)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _is_followed(self) -> "ChatRequest":
        check_others(self.model_extra or {})
        if self.messages[-1].role != "user":
            raise ValueError(f"the last message is of the {self.messages[-1].role}; it must be of the user")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is given without stream; set stream to true, or leave it out")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is given without logprobs; set logprobs to true, or leave it out")
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
            stop=tuple(text for text in stop if text),
            choices=self.n or 1,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


def conversation(
    messages: list[Message], fetch: Fetch, limits: ServerLimits, check: Callable[[], object] = lambda: None
) -> Messages:
    """Return the messages with the bytes of their media; nothing is decoded yet.

    Args:
        check: called before each file; what it raises ends the work.

    Raises:
        InputError: for too many files, or an address that is neither a data URI nor one that is fetched.
        MediaError: for files that are too large, or cannot be fetched.
    """
    media = sum(isinstance(part, ImagePart | VideoPart) for message in messages for part in message.parts())
    if media > limits.media:
        raise InputError(f"the conversation has {media} pictures and videos; at most {limits.media} are taken")
    made: Messages = []
    left = limits.media_bytes
    for message in messages:
        content: list[dict[str, Any]] = []
        for part in message.parts():
            if isinstance(part, TextPart | RefusalPart):
                content.append({"type": "text", "text": part.text if isinstance(part, TextPart) else part.refusal})
                continue
            check()
            address = part.image_url if isinstance(part, ImagePart) else part.video_url
            data = _bytes(address.url, fetch, min(limits.file.max_bytes, left))
            left -= len(data)
            content.append({"type": "image" if isinstance(part, ImagePart) else "video", "data": data})
        if not any(part["type"] != "text" or part["text"].strip() for part in content):
            if message.role == "user":
                raise InputError("a message of the user is empty; write something or leave it out")
            if message.role != "assistant":
                continue  # a system sentence without words says nothing
            content = [{"type": "text", "text": ""}]  # a turn that was answered with nothing stays a turn
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
