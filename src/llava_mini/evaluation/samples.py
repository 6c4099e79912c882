"""One question of a benchmark, and what was answered to it: the same for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """A question as it is asked, and what is known about its answer."""

    id: str
    """Unique in its benchmark."""
    question: str
    """All words that are asked, the benchmark's own and those of the prompt."""
    source: Path | bytes
    """A picture, a video, a folder of frames, or the bytes of a picture."""
    truths: tuple[str, ...] = ()
    """Right answers, as the benchmark publishes them; empty where a server keeps them."""
    kind: str = ""
    """The split, task or category whose score is told apart."""
    unit: str = ""
    """Questions that are scored together (two of one picture in MME, all orders in MMBench) share it; empty: none."""
    choices: tuple[str, ...] = ()
    """The options of a multiple choice, in the order of their letters."""
    clip_s: tuple[float, float] | None = None
    """Where the video begins and ends, in seconds; None: all of it."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """What a submission or a judge needs besides."""


@dataclass(frozen=True)
class Answered:
    """A sample with what a model said, and what a judge said of that."""

    sample: Sample
    answer: str
    verdict: Mapping[str, float] = field(default_factory=dict)
    """A judge's scores by name; empty where no judge is needed, or none was asked."""
    failed: bool = False
    """Whether its picture could not be used; such an answer is never right."""
    points: float | None = None
    """What it is worth, where that has been computed before."""


Unit = Sequence[Answered]


def in_units(answered: Sequence[Answered]) -> list[list[Answered]]:
    """Gather what is scored together, in the order of the first of each."""
    units: dict[str, list[Answered]] = {}
    for one in answered:
        units.setdefault(one.sample.unit or f"\0{one.sample.id}", []).append(one)
    return list(units.values())


def flat(units: Sequence[Unit]) -> list[Answered]:
    """Return the answers of units one after the other."""
    return [one for unit in units for one in unit]
