"""From answers to scores: of a benchmark's answers, beside those with shuffled and with blank pictures; of two runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava_mini.errors import DataError
from llava_mini.evaluation.answering import SHOWN, read_answers
from llava_mini.evaluation.benchmarks import Benchmark
from llava_mini.evaluation.judge import PROMPTS_VERSION, Judge, judged
from llava_mini.evaluation.lines import read_whole_lines
from llava_mini.evaluation.metrics import interval, paired_bootstrap
from llava_mini.evaluation.samples import Answered, Sample, Unit, flat, in_units

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
    written = read_answers(folder, samples) | _failed(folder, samples)
    asked = [sample for sample in samples if sample.id in written]
    if not asked:
        raise DataError(f"{folder} holds no answer to a question of {benchmark.title}")
    known = [sample for sample in asked if sample.truths]
    scorable = known if benchmark.asks is None or judge is not None else []
    views: dict[str, list[Unit]] = {}
    for name in SHOWN:
        lines = [(sample, written[sample.id]) for sample in scorable]
        rows = [
            Answered(one, line.get(name) or "") for one, line in lines if line.get(name) is not None or "error" in line
        ]
        if any(line.get(name) is not None for _, line in lines):
            units: list[Unit] = list(in_units(rows))
            if benchmark.asks is not None and judge is not None:
                units = list(in_units(judged(benchmark.asks, units, judge)))
            views[name] = units
    scores = {name: benchmark.aggregate(units) for name, units in views.items()}
    found = None
    if views:
        units = views["answer"]
        resamples = max(100, min(RESAMPLES, 2_000_000 // len(units)))
        found = interval(benchmark.aggregate, benchmark.headline, units, resamples=resamples, seed=0)
    submission = None
    if benchmark.submission is not None and (len(known) < len(asked) or benchmark.name.startswith("mm")):
        whole = [Answered(sample, str(written[sample.id].get("answer", ""))) for sample in asked]
        submission = str(benchmark.submission(whole, folder))
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
        failed=sum("error" in written[sample.id] for sample in asked),
        unscored=len(asked) - len(known),
        judge=None if judge is None or benchmark.asks is None else _told(judge),
        submission=submission,
        paper=benchmark.paper,
    )
    shown = list(views.get("answer", ()))
    scored = {one.sample.id for one in flat(shown)}
    rest = [Answered(one, str(written[one.id].get("answer", ""))) for one in asked if one.id not in scored]
    shown += in_units(rest)
    (folder / "result.json").write_text(json.dumps(asdict(result), indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "scored.jsonl").write_text(
        "".join(json.dumps({"id": one.sample.id, "verdict": dict(one.verdict)}) + "\n" for one in flat(shown)),
        encoding="utf-8",
    )
    return Scored(result, shown, written)


def compare(benchmark: Benchmark, samples: Sequence[Sample], first: Path, second: Path) -> dict[str, Any]:
    """Compare two folders of scored answers, on the questions that both have answered.

    Returns:
        Their scores, the second's lead, its 95 % interval by paired bootstrap, and how many questions each alone
        got right.
    """
    sides = [_scored_answers(benchmark, samples, folder) for folder in (first, second)]
    both = [sample for sample in samples if all(sample.id in side for side in sides)]
    if not both:
        raise DataError(f"{first} and {second} share no scored answer of {benchmark.title}")
    ours, theirs = ([side[sample.id] for sample in both] for side in sides)
    lead, low, high = paired_bootstrap(
        benchmark.aggregate, benchmark.headline, ours, theirs, resamples=RESAMPLES, seed=0
    )
    points = [[benchmark.points(one) for one in side] for side in (ours, theirs)]
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


def _scored_answers(benchmark: Benchmark, samples: Sequence[Sample], folder: Path) -> dict[str, Answered]:
    path = folder / "scored.jsonl"
    if not path.is_file():
        raise DataError(f"{folder} holds no scored answers of {benchmark.title}; evaluate it with --out first")
    verdicts = {str(row.get("id")): row.get("verdict") or {} for row in read_whole_lines(path)}
    rows = read_answers(folder, samples) | _failed(folder, samples)
    judged_at_all = benchmark.asks is None or any(verdicts.values())
    return {
        sample.id: Answered(sample, str(rows[sample.id].get("answer", "")), verdicts[sample.id])
        for sample in samples
        if sample.id in rows and sample.id in verdicts and sample.truths and judged_at_all
    }


def _failed(folder: Path, samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Return the lines of questions that could not be asked, and have not been answered since."""
    asked = {sample.id: sample.question for sample in samples}
    failed: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        for row in read_whole_lines(path):
            if "error" in row and row.get("question") == asked.get(str(row.get("id"))):
                failed[row["id"]] = row
            else:
                failed.pop(str(row.get("id")), None)
    return failed


def _told(judge: Judge) -> dict[str, Any]:
    return {
        "model": judge.model,
        "prompts": PROMPTS_VERSION,
        "note": "not the paper's judge, nor its prompts: not comparable with the paper's scores",
        **asdict(judge.costs),
    }
