"""What it costs to take the vision tokens away: accuracy without them from a layer on, up to one, or in a window.

Source: LLaVA-Mini, section 3.3, Figure 5.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from llava_mini.analysis.layers import NOTHING, Gap, answer
from llava_mini.analysis.subjects import Subject
from llava_mini.errors import ConfigError
from llava_mini.inputs.processor import Media
from llava_mini.intervals import wilson


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
    """"none", "all", "from", "up to" or "window"."""
    first: int
    """First layer without them."""
    end: int
    """First layer with them again; the number of layers where they stay away."""
    n: int
    accuracy: float
    low: float
    """Lower end of the 95 % Wilson interval."""
    high: float


def gaps(layers: int, *, step: int, window: int) -> list[tuple[str, Gap]]:
    """Return what is tried: nothing and everything removed, and at every `step` layers the three kinds of gaps.

    Raises:
        ConfigError: for a step or a window that does not fit.
    """
    if not 1 <= step <= layers or not 1 <= window <= layers:
        raise ConfigError(f"step ({step}) and window ({window}) must be from 1 to the number of layers ({layers})")
    tried = [("none", NOTHING), ("all", Gap(0, layers))]
    tried += [("from", Gap(layer, layers)) for layer in range(step, layers, step)]
    tried += [("up to", Gap(0, layer)) for layer in range(step, layers, step)]
    tried += [("window", Gap(layer, min(layers, layer + window))) for layer in range(0, layers, step)]
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
    """Answer every question once for each gap of `gaps`, and count what is right."""
    tried = gaps(len(subject.language_model.layers), step=step, window=window)
    right = [0] * len(tried)
    for one in tqdm(questions, desc="removing", unit="question", disable=not progress):
        seen = subject.see(one.text, one.media)
        for place, (_, gap) in enumerate(tried):
            right[place] += one.is_right(answer(subject, seen, gap, max_new_tokens=max_new_tokens))
    n = len(questions)
    return [
        Removed(where, gap.first, gap.end, n, count / n, *wilson(count, n))
        for (where, gap), count in zip(tried, right, strict=True)
    ]


def as_rows(removed: Sequence[Removed]) -> list[dict[str, Any]]:
    """Return the curve as plain rows, for JSON."""
    return [asdict(one) for one in removed]
