"""Conversations → token ids, and which of them are answers.

A template writes the control tokens; what a user types is only ever text, also when it reads `<image>`.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from llava_mini.errors import InputError

IMAGE_TOKEN = "<image>"
VIDEO_TOKEN = "<video>"
# Private-use characters around a control token that a user typed; they never reach the tokenizer.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"

Messages = list[dict[str, Any]]


class ChatTokens(NamedTuple):
    """A conversation as the tokenizer sees it, media placeholders not yet expanded."""

    ids: list[int]
    answers: list[bool]
    """True for the tokens of an answer and its end-of-turn token."""


def read_template(name: str) -> str:
    """Return one of the project's own chat templates by name ("chatml")."""
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def tokenize_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages, template: str, **render: Any) -> ChatTokens:
    """Tokenize a conversation whose template marks answers with `{% generation %}`.

    Args:
        render: `add_generation_prompt`, `continue_final_message` and variables of the template.

    Raises:
        InputError: when a message has no role or content that the template can read.
    """
    control = re.compile("|".join(re.escape(token) for token in tokenizer.get_added_vocab()) or r"(?!)")
    try:
        prompts, spans = render_jinja_template(
            conversations=[_mark(messages, control)],
            chat_template=template,
            return_assistant_tokens_mask="{% generation" in template or "{%- generation" in template,
            **{**tokenizer.special_tokens_map, **render},
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"a message must be {{'role': …, 'content': text or parts}}: {error}") from error
    answers = spans[0] if spans else []
    ids: list[int] = []
    is_answer: list[bool] = []
    for start, piece, typed in _pieces(prompts[0]):
        encoded = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=typed)
        ids += encoded["input_ids"]
        is_answer += [
            any(start + first < end and start + last > begin for begin, end in answers)
            for first, last in encoded["offset_mapping"]
        ]
    return ChatTokens(ids, is_answer)


def _mark(value: Any, control: re.Pattern[str]) -> Any:
    """Wrap control tokens in all texts of a conversation; keys, roles and media stay as they are."""
    if isinstance(value, list):
        return [_mark(item, control) for item in value]
    if isinstance(value, dict):
        return {
            key: _mark(item, control) if key in ("content", "text") or isinstance(item, list) else item
            for key, item in value.items()
        }
    if isinstance(value, str):
        return control.sub(rf"{_OPEN}\g<0>{_CLOSE}", value.replace(_OPEN, "").replace(_CLOSE, ""))
    return value


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
