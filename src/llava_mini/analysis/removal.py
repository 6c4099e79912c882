"""What it costs to take the vision tokens away: accuracy without them from a layer on, up to one, or in a window.

Source: LLaVA-Mini, section 3.3, Figure 5.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tqdm import tqdm

from llava_mini.analysis.layers import NOTHING, Gap, answer
from llava_mini.analysis.subjects import Subject
from llava_mini.errors import ConfigError
from llava_mini.inputs.processor import Media
from llava_mini.intervals import paired_difference, wilson


@dataclass(frozen=True)
class Question:
    """A question whose answer can be judged."""

    text: str
    media: Media
    is_right: Callable[[str], bool]
    kind: str = ""


@dataclass(frozen=True)
class Removed:
    """Accuracy without vision tokens in some layers."""

    where: str
    """"none", "all", "from", "up to", "window" or "hidden": a window in which they are computed, and nobody sees them.

    Rows that come back after a window have missed its layers; those that were hidden have not. What both windows cost
    is the price of not being seen there.
    """
    first: int
    """First layer without them."""
    end: int
    """First layer with them again; the number of layers where they stay away."""
    n: int
    accuracy: float
    low: float
    """Lower end of the 95 % Wilson interval."""
    high: float
    difference: float
    """To nothing removed, over the same questions: below 0 where removal costs."""
    difference_low: float
    """Lower end of its 95 % interval, by paired bootstrap; NaN, null in JSON, of one question."""
    difference_high: float
    right: tuple[int, ...] = field(repr=False)
    """1 or 0 for each question, in the order in which they were asked."""


def gaps(layers: int, *, step: int, window: int) -> list[tuple[str, Gap]]:
    """Return what is tried: nothing and everything removed, and at every `step` layers the four kinds of gaps.

    Raises:
        ConfigError: for a step or a window that does not fit.
    """
    if not 1 <= step <= layers or not 1 <= window <= layers:
        raise ConfigError(f"step ({step}) and window ({window}) must be from 1 to the number of layers ({layers})")
    windows = [(first, min(layers, first + window)) for first in range(0, layers, step)]
    tried = [("none", NOTHING), ("all", Gap(0, layers))]
    tried += [("from", Gap(layer, layers)) for layer in range(step, layers, step)]
    tried += [("up to", Gap(0, layer)) for layer in range(step, layers, step)]
    tried += [("window", Gap(first, end)) for first, end in windows]
    # up to the last layer the two are one: nobody sees what was computed
    tried += [("hidden", Gap(first, end, hidden=end < layers)) for first, end in windows]
    return tried


def removal_curve(
    subject: Subject,
    questions: Sequence[Question],
    *,
    step: int = 3,
    window: int = 6,
    max_new_tokens: int = 16,
    progress: bool = False,
) -> list[Removed]:
    """Answer every question once for each different gap of `gaps`, and tell what is right."""
    tried = gaps(len(subject.language_model.layers), step=step, window=window)
    right: dict[Gap, list[int]] = {gap: [] for _, gap in tried}
    for one in tqdm(questions, desc="removing", unit="question", disable=not progress):
        seen = subject.see(one.text, one.media)
        for gap, found in right.items():
            found.append(int(one.is_right(answer(subject, seen, gap, max_new_tokens=max_new_tokens))))
    n = len(questions)

    def told(where: str, gap: Gap) -> Removed:
        found = right[gap]
        apart = paired_difference(right[NOTHING], found)
        return Removed(where, gap.first, gap.end, n, sum(found) / n, *wilson(sum(found), n), *apart, tuple(found))

    return [told(where, gap) for where, gap in tried]


def as_rows(removed: Sequence[Removed]) -> list[dict[str, Any]]:
    """Return the curve as plain rows, for JSON, which has no NaN."""
    return [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(one).items()}
        for one in removed
    ]
