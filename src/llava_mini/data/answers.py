"""One question with its answer, the words that count, and the rule that scores another answer."""

import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from llava_mini.data.colours import COLOURS
from llava_mini.data.layouts import Sprite
from llava_mini.data.names import is_plural, names, plural, synonyms_of
from llava_mini.data.scenes import SceneObject

QuestionKind = Literal[
    "name", "caption", "shape", "colour", "background", "count", "presence", "left_right", "above_below",
    "bigger", "where", "order", "things", "motion", "change", "number",
]  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {str(number): word for number, word in enumerate(NUMBERS)}
PLACES = {
    "left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
    "middle": "in the middle",
}  # fmt: skip
_SIDE_WORDS = {
    "top": ("top", "above", "upper"), "bottom": ("bottom", "below", "lower", "under"),
    "middle": ("middle", "center", "centre"),
}  # fmt: skip
_SPELLINGS = {"gray": ("gray", "grey"), "purple": ("purple", "violet"), "pink": ("pink", "magenta")}
_ONE_WORD = ("Answer in one word.", "Answer with one word.", "One word only.", "Reply with a single word.")
_BRIEFLY = ("Answer briefly.", "Answer with the name only.", "Just the name.")
_SHORT_SHARE = 0.3
_DENIAL = re.compile(r"\b(?:not?|neither|nor|never|without)\b|n['’]t\b")
_LONGEST_ANSWER = 12
_LONGER = (
    "sea lion", "guinea pig", "rocking horse", "rubber duck", "bird house", "toy car", "paper bag", "hammerhead shark",
)  # fmt: skip
"""Things that are not what their last word says, beside those of the table of names."""
_UNNAMED = "thing"
_OWN = "it-itself"
"""Stands for an own name in which a noun would seem to end, as "bow and arrow" or "office building"."""
_AFTER = (
    r"\b(?:on|in|at|of|with|near|under|behind|above|below|beside|by|from|to|that|which|who|is|are|was|were|has|have|"
    r"here|there|shown|\w{3,}ing)\b"
)
_HEAD = re.compile(rf"((?:[\w'’-]+ )*?[\w'’-]+)(?= *(?:$|,|\band\b|{_AFTER}))")
"""A row of words up to where a noun may end: "a brown dog" of "a brown dog sitting"."""
_ENDS = re.compile(rf",|\band\b|{_AFTER}")


@dataclass(frozen=True)
class Question:
    """Hold one question, its answer, and what makes another answer right."""

    kind: QuestionKind
    text: str
    answer: str
    accepted: tuple[str, ...]
    """Lower-case words, any of which makes an answer right."""
    rivals: tuple[str, ...] = ()
    """Lower-case words, any of which makes it wrong: another colour, another number, the other side."""


def is_correct(question: Question, answer_text: str) -> bool:
    """Score the first sentence of an answer: an accepted word, no rival, no denial; digits count as number words.

    What a thing is must be said plainly: see `says_name`.
    """
    if question.kind == "name":
        return says_name(answer_text, question.accepted)
    found = re.findall(r"[\w'’-]+", _first_sentence(answer_text))
    words = " ".join(_DIGITS.get(word, word) for word in found)
    right = [word for word in question.accepted if contains(words, word)]
    wrong = [word for word in question.rivals if contains(words, word)]
    if not {"yes", "no"} & set(question.accepted) and _DENIAL.search(words):
        return False
    return bool(right) and all(any(contains(word, rival) for word in right) for rival in wrong)


def says_name(answer_text: str, accepted: Sequence[str]) -> bool:
    """Tell whether the first sentence of an answer names a thing, in the singular or plural.

    Listing wins nothing: neither does a sentence with "or", of more than three parts (by comma or "and") or of more
    than twelve words, nor one that names another known thing beside it. A denial is wrong, and so is a longer name that
    only contains the right word: "hot dog" for a dog, "pencil sharpener" for a pencil. What stands after a preposition
    ("on a chair") is not looked at.
    """
    text = " ".join(re.findall(r"[\w'’-]+|,", _first_sentence(answer_text)))
    own = {form for name in accepted for form in (name, plural(name))}
    for whole in sorted(filter(_ENDS.search, own), key=len, reverse=True):
        text = re.sub(rf"(?<![\w-]){re.escape(whole)}(?![\w-])", _OWN, text)
    own |= {_OWN}
    parts = [part for part in re.split(r",|\band\b", text) if part.strip()]
    if len(parts) > 3 or len(text.split()) > _LONGEST_ANSWER or _DENIAL.search(text) or contains(text, "or"):
        return False
    for longer in (*longer_names(tuple(accepted)), *_LONGER):
        if not any(contains(longer, name) for name in accepted if " " in name):
            text = re.sub(rf"(?<![\w-]){re.escape(longer)}(?![\w-])", _UNNAMED, text)
    heads = [match for match in _HEAD.finditer(text) if _is_one(match[1], own)]
    if not heads:
        return False
    said = text[: heads[0].end()] + re.split(_AFTER, text[heads[0].end() :], maxsplit=1)[0]
    return not any(_is_one(match[1], _all_names()) and not _is_one(match[1], own) for match in _HEAD.finditer(said))


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s|\n", text.strip().lower(), maxsplit=1)[0]


def _is_one(words: str, names_: Collection[str]) -> bool:
    """Tell whether a row of words ends in one of the names."""
    found = words.split()
    return any(" ".join(found[start:]) in names_ for start in range(len(found)))


@cache
def _all_names() -> frozenset[str]:
    return frozenset(form for word in names().plain for form in (word, plural(word)))


def contains(text: str, phrase: str) -> bool:
    """Tell whether a phrase stands in a text as whole words."""
    return phrase in text and re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", text) is not None


def pose(
    kind: QuestionKind, rng: random.Random, texts: Sequence[str], sentences: Sequence[str], *,
    short: str, accepted: Sequence[str], rivals: Sequence[str] = (),
) -> Question:  # fmt: skip
    """Choose a phrasing; in about 30 % ask for the short answer."""
    text, answer = rng.choice(texts), rng.choice(sentences)
    if rng.random() < _SHORT_SHARE:
        text = f"{text} {rng.choice(_BRIEFLY if ' ' in short else _ONE_WORD)}"
        answer = short
    return Question(kind, text, capitalised(answer), tuple(accepted), tuple(w for w in rivals if w not in accepted))


def capitalised(text: str) -> str:
    """Start with a capital and leave the rest as it is."""
    return text[:1].upper() + text[1:]


def words_for(thing: SceneObject | Sprite) -> tuple[str, ...]:
    """List the accepted words for an object: its synonyms and their plurals."""
    if thing.kind == "shape":
        return (thing.name, plural(thing.name))
    return tuple(dict.fromkeys(form for word in synonyms_of(thing.name) for form in (word, plural(word))))


@cache
def longer_names(accepted: tuple[str, ...]) -> tuple[str, ...]:
    """List other names that contain an accepted word: "hot dog" when it is a dog."""
    others = [word for word in names().plain if word not in accepted]
    return tuple(word for word in others if any(contains(word, right) for right in accepted))


def side_words(side: str) -> tuple[str, ...]:
    """List the words for a side of the picture."""
    return _SIDE_WORDS.get(side, (side,))


def spellings(colour: str) -> tuple[str, ...]:
    """List the words for a colour."""
    return _SPELLINGS.get(colour, (colour,))


def other_colours(colour: str) -> tuple[str, ...]:
    """List the words for every other colour."""
    return tuple(form for other in COLOURS if other != colour for form in spellings(other))


def gives_away(name: str, words: Sequence[str]) -> bool:
    """Tell whether a name contains one of the possible answers, as "top hat" or "orange"."""
    return any(contains(name, word) for word in words)


def verb(name: str) -> str:
    """Give "is" or "are"."""
    return "are" if is_plural(name) else "is"
