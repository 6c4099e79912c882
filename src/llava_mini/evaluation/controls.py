"""Ask every question four times: with its picture, with another's, with a blank one, and with none.

A model that ignores the picture can look right; only the distance to its controls says that it sees. All share the
encoded pictures: a question costs its words alone.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from llava_mini.assistant import Assistant
from llava_mini.errors import ConfigError
from llava_mini.evaluation.asking import answer, blank, film_length
from llava_mini.inputs.processor import Media
from llava_mini.intervals import clustered_wilson
from llava_mini.model.vision_prefix import VisionPrefix

_ASKS_YES_OR_NO = ("is", "are", "do", "does", "can")


@dataclass(frozen=True)
class Item:
    """One question about one picture or video, and how an answer to it is judged."""

    kind: str
    """Row of the table it counts in."""
    picture: int
    """Index of its picture or video."""
    question: str
    is_right: Callable[[str], bool]
    right: str = ""
    """A right answer."""
    accepted: tuple[str, ...] = ()
    """The words that make an answer right: what `majority` tries."""


@dataclass(frozen=True)
class Asked:
    """An item with the answers it got."""

    item: Item
    answer: str
    shuffled: str
    """The answer with another item's picture."""
    blank: str
    """The answer with a grey picture."""
    question_only: str
    """The answer to the words alone."""


@dataclass(frozen=True)
class Score:
    """Accuracy of one kind of question, beside its controls."""

    kind: str
    n: int
    accuracy: float
    low: float
    """Lower end of the 95 % interval of the accuracy: Wilson's, with questions about one picture taken together."""
    high: float
    shuffled: float
    blank: float
    question_only: float
    majority: float
    """What would be reached by the one best answer to all questions of a form: to be said yes or no to, a choice of
    two, any other; for several kinds, to all of one kind."""


@torch.no_grad()
def ask_with_controls(
    assistant: Assistant,
    media: Sequence[Media],
    items: Sequence[Item],
    *,
    seed: int = 0,
    batch_size: int = 24,
    max_new_tokens: int = 16,
) -> list[Asked]:
    """Answer every item with the right, a shuffled and a blank picture or video and with none, greedily.

    Shuffled means: the one that comes next in a random order of them, so never its own. A blank video has as many
    frames as the right one.

    Raises:
        ConfigError: when there is only one picture or video.
    """
    if len(media) < 2:
        raise ConfigError(f"{len(media)} picture or video was given, and a shuffled one is another; take 2 or more")
    order = list(range(len(media)))
    random.Random(seed).shuffle(order)
    other = {shown: order[(place + 1) % len(order)] for place, shown in enumerate(order)}
    grey = {frames: blank(frames) for frames in {film_length(item) for item in media}}
    shelf = [*media, *grey.values()]
    greys = {frames: len(media) + place for place, frames in enumerate(grey)}
    prefix = VisionPrefix.concatenate([assistant.encode(item) for item in shelf])
    by_length = sorted(range(len(items)), key=lambda i: len(items[i].question))
    asked: dict[int, Asked] = {}
    alone: dict[str, str] = {}
    for start in tqdm(range(0, len(items), batch_size), desc="asking", unit="batch"):
        rows = by_length[start : start + batch_size]
        batch = [items[row] for row in rows]
        shown = [
            [item.picture for item in batch],
            [other[item.picture] for item in batch],
            [greys[film_length(media[item.picture])] for item in batch],
        ]
        questions = [item.question for item in batch]
        answers = [
            answer(assistant, questions, [shelf[i] for i in p], prefix.select(torch.tensor(p)), max_new_tokens)
            for p in shown
        ]
        new = sorted(set(questions) - set(alone))
        if new:
            alone |= zip(new, answer(assistant, new, None, None, max_new_tokens), strict=True)
        for row, item, own, shuffled, blank_ in zip(rows, batch, *answers, strict=True):
            asked[row] = Asked(item, own, shuffled, blank_, alone[item.question])
    return [asked[row] for row in range(len(items))]


def score(asked: Sequence[Asked]) -> list[Score]:
    """Return one score a kind, in alphabetical order, and "all" at the end."""
    kinds = sorted({one.item.kind for one in asked})
    groups = [(kind, [one for one in asked if one.item.kind == kind]) for kind in kinds]
    return [_score(kind, group) for kind, group in [*groups, ("all", list(asked))] if group]


def table(scores: Sequence[Score]) -> str:
    """Return the scores as lines of text, in percent."""
    lines = [f"{'kind':<20}{'n':>5}{'right':>8}{'95 %':>9}{'shuffled':>10}{'blank':>8}{'question':>10}{'majority':>10}"]
    for row in scores:
        interval = f"{100 * row.low:.0f}–{100 * row.high:.0f}"
        lines.append(
            f"{row.kind:<20}{row.n:>5}{100 * row.accuracy:>8.1f}{interval:>9}{100 * row.shuffled:>10.1f}"
            f"{100 * row.blank:>8.1f}{100 * row.question_only:>10.1f}{100 * row.majority:>10.1f}"
        )
    return "\n".join(lines)


def _score(kind: str, group: Sequence[Asked]) -> Score:
    right = [one.item.is_right(one.answer) for one in group]
    low, high = clustered_wilson(right, [one.item.picture for one in group])
    return Score(
        kind,
        len(group),
        sum(right) / len(group),
        low,
        high,
        sum(one.item.is_right(one.shuffled) for one in group) / len(group),
        sum(one.item.is_right(one.blank) for one in group) / len(group),
        sum(one.item.is_right(one.question_only) for one in group) / len(group),
        _majority([one.item for one in group]),
    )


def _majority(items: Sequence[Item]) -> float:
    forms: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        forms.setdefault((item.kind, _form(item.question)), []).append(item)
    return sum(_best(alike) for alike in forms.values()) / len(items)


def _form(question: str) -> str:
    first = question.lower().split(maxsplit=1)[:1]
    return "choice" if " or " in question else "yes or no" if first and first[0] in _ASKS_YES_OR_NO else "open"


def _best(items: Sequence[Item]) -> int:
    """Return how many one and the same answer gets right, the best there is."""
    tried = {answer for item in items for answer in item.accepted}
    return max((sum(item.is_right(answer) for item in items) for answer in tried), default=0)
