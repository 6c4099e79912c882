"""From answers to scores: of a benchmark's answers, beside those with shuffled and with blank pictures; of two runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llava_mini.errors import DataError
from llava_mini.evaluation.answering import SHOWN, read_answers
from llava_mini.evaluation.benchmarks import Benchmark
from llava_mini.evaluation.judge import PROMPTS_VERSION, Judge, judged
from llava_mini.evaluation.metrics import interval, paired_bootstrap, points_of
from llava_mini.evaluation.samples import Answered, Sample, Unit, flat, in_units
from llava_mini.lines import read_whole_lines

RESAMPLES = 1000


@dataclass(frozen=True)
class Result:
    """Scores of one model on one benchmark."""

    benchmark: str
    model: str
    asked: int
    """Questions that were answered."""
    of: int
    """Questions that there are."""
    metric: str
    score: float | None
    """The headline; None where a server or a judge must say."""
    low: float | None
    """Lower end of its 95 % bootstrap interval."""
    high: float | None
    shuffled: float | None
    """The same with another question's picture."""
    blank: float | None
    """The same with a grey picture."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Every figure the benchmark defines, also of its kinds."""
    failed: int = 0
    """Questions whose picture could not be used; their answers are empty, and count."""
    unscored: int = 0
    """Questions whose truth is not published."""
    judge: Mapping[str, Any] | None = None
    """Who judged, with which version of the prompts, and what it cost."""
    submission: str | None = None
    """File for the server that knows the truth."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """What the paper says of its models; they are other models."""


@dataclass(frozen=True)
class Scored:
    """A result and the answers behind it."""

    result: Result
    units: Sequence[Unit]
    rows: Mapping[str, Mapping[str, Any]]
    """The line of each answer by id."""


def score(
    benchmark: Benchmark, samples: Sequence[Sample], folder: Path, *, of: int, model: str, judge: Judge | None = None
) -> Scored:
    """Score what lies in a folder.

    Args:
        of: how many questions the benchmark has in all.
        judge: who scores open answers; without one they have no score.

    Raises:
        DataError: when nothing is answered.
    """
    written = read_answers(folder, samples)
    lines = written.answers | written.failures
    asked = [sample for sample in samples if sample.id in lines]
    if not asked:
        raise DataError(f"{folder} holds no answer to a question of {benchmark.title}")
    known = [sample for sample in asked if sample.truths]
    scorable = known if benchmark.asks is None or judge is not None else []
    views: dict[str, list[Unit]] = {}
    for name in SHOWN:
        rows = [
            _answered(one, lines[one.id], name) for one in scorable if name in lines[one.id] or "error" in lines[one.id]
        ]
        if any(not one.failed for one in rows):
            units: list[Unit] = list(in_units(rows))
            if benchmark.asks is not None and judge is not None:
                units = list(in_units(judged(benchmark.asks, units, judge)))
            views[name] = [[replace(one, points=points_of(benchmark.points, one)) for one in unit] for unit in units]
    scores = {name: benchmark.aggregate(units) for name, units in views.items()}
    found = None
    if "answer" in views:
        units = views["answer"]
        found = interval(benchmark.aggregate, benchmark.headline, units, resamples=_resamples(len(units)), seed=0)
    submission = None
    if benchmark.submission is not None and (len(known) < len(asked) or benchmark.always_submits):
        submission = str(benchmark.submission([_answered(one, lines[one.id], "answer") for one in asked], folder))
    headline = {name: value[benchmark.headline] for name, value in scores.items()}
    result = Result(
        benchmark=benchmark.name,
        model=model,
        asked=len(asked),
        of=of,
        metric=benchmark.headline,
        score=headline.get("answer"),
        low=found and found.low,
        high=found and found.high,
        shuffled=headline.get("shuffled"),
        blank=headline.get("blank"),
        scores=scores.get("answer", {}),
        failed=len(written.failures),
        unscored=len(asked) - len(known),
        judge=None if judge is None or benchmark.asks is None else _told(judge),
        submission=submission,
        paper=benchmark.paper,
    )
    shown = list(views.get("answer", ()))
    (folder / "result.json").write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
    if shown:  # without a score, what was scored before stays
        who = {"judge": judge.model, "prompts": PROMPTS_VERSION} if judge is not None and benchmark.asks else {}
        told = [{"id": one.sample.id, "answer": one.answer, "verdict": dict(one.verdict)} | who for one in flat(shown)]
        (folder / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")
    scored = {one.sample.id for one in flat(shown)}
    shown += in_units([_answered(one, lines[one.id], "answer") for one in asked if one.id not in scored])
    return Scored(result, shown, lines)


def compare(benchmark: Benchmark, samples: Sequence[Sample], first: Path, second: Path) -> dict[str, Any]:
    """Compare two folders of scored answers, on the questions that both have answered.

    Returns:
        Their scores, the second's lead, its 95 % interval by paired bootstrap, and how many questions each alone
        got right.
    """
    sides, judges = zip(*(_scored_answers(benchmark, samples, folder) for folder in (first, second)), strict=True)
    if judges[0] != judges[1]:
        raise DataError(f"{benchmark.title} was judged by {judges[0]} and by {judges[1]}: that cannot be compared")
    both = [sample for sample in samples if all(sample.id in side for side in sides)]
    if not both:
        raise DataError(f"{first} and {second} share no scored answer of {benchmark.title}")
    ours, theirs = ([side[sample.id] for sample in both] for side in sides)
    lead, low, high = paired_bootstrap(
        benchmark.aggregate, benchmark.headline, ours, theirs, resamples=_resamples(len(both)), seed=0
    )
    points = [[points_of(benchmark.points, one) for one in side] for side in (ours, theirs)]
    return {
        "benchmark": benchmark.name,
        "metric": benchmark.headline,
        "questions": len(both),
        "first": benchmark.aggregate(in_units(ours))[benchmark.headline],
        "second": benchmark.aggregate(in_units(theirs))[benchmark.headline],
        "lead": lead,
        "low": low,
        "high": high,
        "first_better": sum(a > b for a, b in zip(*points, strict=True)),
        "second_better": sum(a < b for a, b in zip(*points, strict=True)),
    }


def _scored_answers(benchmark: Benchmark, samples: Sequence[Sample], folder: Path) -> tuple[dict[str, Answered], str]:
    """Return the scored answers by id, and who judged them."""
    path = folder / "scored.jsonl"
    if not path.is_file():
        raise DataError(f"{folder} holds no scored answers of {benchmark.title}; evaluate it with --out first")
    rows = {str(row.get("id")): row for row in read_whole_lines(path)}
    judges = {f"{row['judge']}, prompts {row.get('prompts')}" for row in rows.values() if "judge" in row}
    written = read_answers(folder, samples)
    lines = written.answers | written.failures
    answered = {
        sample.id: replace(_answered(sample, lines[sample.id], "answer"), verdict=rows[sample.id].get("verdict") or {})
        for sample in samples
        if sample.id in lines and rows.get(sample.id, {}).get("answer") == lines[sample.id]["answer"]
    }
    return {id_: replace(one, points=points_of(benchmark.points, one)) for id_, one in answered.items()}, ", ".join(
        sorted(judges)
    )


def _answered(sample: Sample, line: Mapping[str, Any], name: str) -> Answered:
    return Answered(sample, line.get(name) or "", failed="error" in line or line.get(name) is None)


def _resamples(units: int) -> int:
    """Return how often units are drawn: less often where there are very many."""
    return max(100, min(RESAMPLES, 20_000_000 // units))


def _told(judge: Judge) -> dict[str, Any]:
    return {
        "model": judge.model,
        "prompts": PROMPTS_VERSION,
        "note": "not the paper's judge, nor its prompts: not comparable with the paper's scores",
        **asdict(judge.costs),
    }
