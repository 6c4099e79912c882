"""Conversations → token ids, and which of them are answers.

A template writes the control tokens; what a user types is only ever text, also when it reads `<image>`.
"""

import re
import threading
from bisect import bisect_right
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from llava_mini.errors import ConfigError, InputError

IMAGE_TOKEN = "<image>"
VIDEO_TOKEN = "<video>"
MEDIA_KEYS = ("image", "video", "path", "url")
"""Where a part of type "image" or "video" may hold its file; a template never sees it."""
# Private-use characters around a control token that a user typed; they never reach the tokenizer.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"

Messages = list[dict[str, Any]]

_ONE_AT_A_TIME = threading.Lock()
"""transformers keeps one compiled template for all threads, and in it where the answers of one rendering stand; a
tokenizer keeps whether control tokens are text. Two threads at once would read each other's."""


class ChatTokens(NamedTuple):
    """A conversation as the tokenizer sees it, media placeholders not yet expanded."""

    ids: list[int]
    answers: list[bool]
    """True for the tokens of an answer and its end-of-turn token."""


def read_template(name: str) -> str:
    """Return one of the project's own chat templates by name ("chatml").

    Raises:
        ConfigError: for a name that no template has.
    """
    templates = {path.stem: path for path in (Path(__file__).parent / "templates").glob("*.jinja")}
    if name not in templates:
        raise ConfigError(f"no chat template is called {name!r}; there are {', '.join(sorted(templates))}")
    return templates[name].read_text(encoding="utf-8")


def tokenize_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages, template: str, **render: Any) -> ChatTokens:
    """Tokenize a conversation whose template marks answers with `{% generation %}`.

    Args:
        render: `add_generation_prompt`, `continue_final_message` and variables of the template.

    Raises:
        InputError: when a message has no role or content that the template can read.
    """
    _check(messages)
    control = re.compile("|".join(re.escape(token) for token in tokenizer.get_added_vocab()) or r"(?!)")
    try:
        with _ONE_AT_A_TIME:
            prompts, spans = render_jinja_template(
                conversations=[[_guarded(message, control) for message in messages]],
                chat_template=template,
                return_assistant_tokens_mask="{% generation" in template or "{%- generation" in template,
                **{**tokenizer.special_tokens_map, **render},
            )
    except (TemplateError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the chat template cannot read a message: {reason}") from error
    answers = sorted(spans[0]) if spans else []
    ends = [end for _, end in answers]

    def answered(first: int, last: int) -> bool:
        following = bisect_right(ends, first)  # the first answer that ends after the token's beginning
        return following < len(ends) and last > answers[following][0]

    ids: list[int] = []
    is_answer: list[bool] = []
    for start, piece, typed in _pieces(prompts[0]):
        with _ONE_AT_A_TIME:
            encoded = tokenizer(
                piece, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=typed
            )
        ids += encoded["input_ids"]
        is_answer += [answered(start + first, start + last) for first, last in encoded["offset_mapping"]]
    return ChatTokens(ids, is_answer)


def _check(messages: Any) -> None:
    """Refuse what is no conversation, before a template renders nonsense from it."""
    if not isinstance(messages, list | tuple) or not messages:
        raise InputError("a conversation is a list of at least one message {'role': …, 'content': text or parts}")
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str | list) or not isinstance(message.get("role"), str):
            raise InputError("a message must be {'role': …, 'content': text or parts}, and its role a word")
        for part in content if isinstance(content, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in ("image", "video") and (kind is None or not isinstance(part.get("text"), str)):
                raise InputError("a part of a message must be {'type': 'text', 'text': …}, or an image or video part")


def _guarded(message: dict[str, Any], control: re.Pattern[str]) -> dict[str, Any]:
    """Copy a message without its media, with the control tokens in its texts wrapped; its role stays as it is."""

    def wrapped(text: str) -> str:
        text = text.encode("utf-8", "replace").decode()  # what a terminal could not decode becomes a question mark
        return control.sub(rf"{_OPEN}\g<0>{_CLOSE}", text.replace(_OPEN, "").replace(_CLOSE, ""))

    if isinstance(message["content"], str):
        return {**message, "content": wrapped(message["content"])}
    parts = [{key: value for key, value in part.items() if key not in MEDIA_KEYS} for part in message["content"]]
    guarded = []
    for part, following in zip_longest(parts, parts[1:]):
        if "text" in part:
            # The empty pair keeps two texts apart: a control token typed in two parts must not join.
            apart = _OPEN + _CLOSE if following is not None and "text" in following else ""
            part = {**part, "text": wrapped(part["text"]) + apart}
        guarded.append(part)
    return {**message, "content": guarded}


def _pieces(prompt: str) -> list[tuple[int, str, bool]]:
    """Split a rendered prompt into (start, text, was typed by a user as a control token)."""
    pieces = []
    start = 0
    for found in re.finditer(f"{_OPEN}([^{_CLOSE}]*){_CLOSE}", prompt):
        pieces.append((start, prompt[start : found.start()], False))
        pieces.append((found.start() + 1, found[1], True))
        start = found.end()
    pieces.append((start, prompt[start:], False))
    return [piece for piece in pieces if piece[1]]
