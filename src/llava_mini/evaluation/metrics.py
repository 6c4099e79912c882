"""Scores of benchmarks from answers, as each benchmark defines them.

A benchmark has `points`, what one answer is worth, and `aggregate`, which makes scores of whole units (`samples.Unit`).
Shares are in percent.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import NamedTuple, TypeVar

from llava_mini.evaluation.samples import Answered, Unit, flat, in_units
from llava_mini.evaluation.vqa import m4c_accuracy, served_accuracy

T = TypeVar("T")
Points = Callable[[Answered], float]
Aggregate = Callable[[Sequence[Unit]], dict[str, float]]
LETTERS = "ABCDEFGHIJ"
PERCEPTION = (
    "existence count position color posters celebrity scene landmark artwork OCR".split()  # MME (Fu et al., 2023)
)
COGNITION = "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()
_SCIENCE_LETTERS = "ABCDE"


class Interval(NamedTuple):
    """A figure and a 95 % interval."""

    value: float
    low: float
    high: float


# What one answer is worth


def vqa_points(one: Answered) -> float:
    """VQAv2 and VizWiz: accuracy of the submitted form among ten people."""
    return served_accuracy(one.answer, one.sample.truths)


def textvqa_points(one: Answered) -> float:
    """TextVQA: accuracy among ten people."""
    return m4c_accuracy(one.answer, one.sample.truths)


def gqa_points(one: Answered) -> float:
    """GQA: the very word, in lower case and without full stops at the end."""
    return float(gqa_form(one.answer) == one.sample.truths[0].lower())


def gqa_form(answer: str) -> str:
    """Write an answer as it is compared."""
    return answer.strip().rstrip(".").lower()


def scienceqa_points(one: Answered) -> float:
    """ScienceQA: "A", "A. …", or exactly one "The answer is A" in it (Lu et al., 2022; LLaVA's reading of answers)."""
    return float(scienceqa_letter(one.answer, len(one.sample.choices)) == one.sample.truths[0])


def scienceqa_letter(answer: str, choices: int) -> str:
    """Return the letter that an answer gives, "" for none of those that there are."""
    answer = answer.strip()
    if answer in tuple(_SCIENCE_LETTERS) or (answer[:1] in tuple(_SCIENCE_LETTERS) and answer[1:3] == ". "):
        letter = answer[0]
    else:
        said = re.findall(r"The answer is ([A-Z]).", answer)
        letter = said[0] if len(said) == 1 else ""
    return letter if letter in tuple(_SCIENCE_LETTERS[:choices]) else ""


def choice_points(one: Answered) -> float:
    """Multiple choice: the right letter."""
    return float(chosen_letter(one.answer, one.sample.choices) == one.sample.truths[0])


def chosen_letter(answer: str, choices: Sequence[str]) -> str:
    """Return the letter that an answer gives, "" for none: "B", "(B)", "B. a cat", "b", or the words of one option.

    The programs of SEED-Bench (the very letter) and of MVBench and MLVU (the first word within "(b)") agree on answers
    that are a letter or begin with one in brackets. They differ where an answer is in words: MVBench's finds the first
    word of "A star" and an empty answer in option A; here they are wrong.
    """
    answer = answer.strip()
    letters = LETTERS[: len(choices)]
    given = re.match(r"\(?([A-Ja-j])(?:[).:,]|$)", answer) or re.match(r"(?:Best option: ?)?\(([A-Ja-j])\)", answer)
    if given and given[1].upper() in letters:
        return given[1].upper()
    words = [choice.strip().rstrip(".").lower() for choice in choices]
    said = answer.rstrip(".").lower()
    return letters[words.index(said)] if words.count(said) == 1 else ""


def pope_points(one: Answered) -> float:
    """POPE: yes or no."""
    return float(pope_word(one.answer) == one.sample.truths[0])


def pope_word(answer: str) -> str:
    """Read yes or no as POPE does: "no" where the first sentence has the word no, No or not (Li et al., 2023)."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def mme_points(one: Answered) -> float:
    """MME: yes or no."""
    return float(mme_word(one.answer) == one.sample.truths[0])


def mme_word(answer: str) -> str:
    """Read yes or no as MME does: from the whole answer, else its first four letters; else "other"."""
    said = answer.lower().strip()
    if said in ("yes", "no"):
        return said
    return next((word for word in ("yes", "no") if word in said[:4]), "other")


def verdict_points(name: str, most: float = 1.0) -> Points:
    """Return what a judge gave, as a share of the most there is; 0 where it gave nothing."""
    return lambda one: one.verdict.get(name, 0.0) / most


def points_of(points: Points, one: Answered) -> float:
    """Return what an answer is worth: computed once, and nothing where the question could not be asked."""
    if one.failed:
        return 0.0
    return points(one) if one.points is None else one.points


# Scores of all answers


def mean_points(points: Points, name: str = "accuracy", *, over_kinds: bool = False) -> Aggregate:
    """Return the mean of points in percent, and that of each kind.

    Args:
        over_kinds: whether each kind counts alike, however many questions it has.
    """

    def aggregate(units: Sequence[Unit]) -> dict[str, float]:
        worth = partial(points_of, points)
        answered = flat(units)
        kinds = {kind: 100 * fmean(map(worth, rows)) for kind, rows in _by_kind(answered).items() if kind}
        whole = fmean(kinds.values()) if over_kinds and kinds else 100 * fmean(map(worth, answered))
        return {name: whole, **kinds}

    return aggregate


def circular(units: Sequence[Unit]) -> dict[str, float]:
    """MMBench: a question is right when it is right in every order of its options (Liu et al., 2023, section 4)."""
    right = [float(all(points_of(choice_points, one) for one in unit)) for unit in units]
    kinds: dict[str, list[float]] = {}
    for unit, points in zip(units, right, strict=True):
        kinds.setdefault(unit[0].sample.kind, []).append(points)
    single = 100 * fmean(points_of(choice_points, unit[0]) for unit in units)
    told = {kind: 100 * fmean(rows) for kind, rows in kinds.items() if kind}
    return {"accuracy": 100 * fmean(right), "in one order": single, **told}


def pope(units: Sequence[Unit]) -> dict[str, float]:
    """POPE's five figures of each split, and the mean of their F1, which papers give (yes is the positive class)."""
    scores: dict[str, float] = {}
    for split, rows in _by_kind(flat(units)).items():
        pairs = [("failed" if one.failed else pope_word(one.answer), one.sample.truths[0]) for one in rows]
        tp, fp = (pairs.count(pair) for pair in (("yes", "yes"), ("yes", "no")))
        precision, recall = _share(tp, tp + fp), _share(tp, sum(truth == "yes" for _, truth in pairs))
        scores |= {
            f"{split} accuracy": _share(sum(said == truth for said, truth in pairs), len(pairs)),
            f"{split} precision": precision,
            f"{split} recall": recall,
            f"{split} F1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
            f"{split} yes": _share(tp + fp, len(pairs)),
        }
    return {"F1": fmean(value for name, value in scores.items() if name.endswith(" F1")), **scores}


def mme(units: Sequence[Unit]) -> dict[str, float]:
    """MME: of each task, the share of right questions and that of pictures with both right; their sums over tasks."""
    tasks: dict[str, list[Unit]] = {}
    for unit in units:
        tasks.setdefault(unit[0].sample.kind, []).append(unit)
    scores = {}
    for task, pictures in tasks.items():
        points = [[points_of(mme_points, one) for one in picture] for picture in pictures]
        accuracy = 100 * fmean(value for picture in points for value in picture)
        plus = 100 * fmean(float(all(picture)) for picture in points)
        scores[task] = accuracy + plus
        scores |= {f"{task} accuracy": accuracy, f"{task} accuracy+": plus}
    perception, cognition = (sum(scores[task] for task in group if task in scores) for group in (PERCEPTION, COGNITION))
    return {"perception": perception, "cognition": cognition, **scores}


def video_qa(units: Sequence[Unit]) -> dict[str, float]:
    """Open answers about videos: share that the judge calls right, and its mean score from 0 to 5 (Video-ChatGPT)."""
    answered = flat(units)
    kinds = {
        kind: 100 * fmean(one.verdict.get("right", 0.0) for one in rows)
        for kind, rows in _by_kind(answered).items()
        if kind
    }
    right = 100 * fmean(one.verdict.get("right", 0.0) for one in answered)
    return {"accuracy": right, "score": fmean(one.verdict.get("score", 0.0) for one in answered), **kinds}


def five_scores(units: Sequence[Unit]) -> dict[str, float]:
    """Video-ChatGPT: the judge's mean from 0 to 5 of each of five respects, and their mean (Maaz et al., 2024).

    An answer to a question of the generic set is judged in three respects, so its verdict holds three scores.
    """
    respects: dict[str, list[float]] = {}
    for one in flat(units):
        for respect, score in one.verdict.items():
            respects.setdefault(respect, []).append(score)
    means = {respect: fmean(scores) for respect, scores in respects.items()}
    return {"mean": fmean(means.values()) if means else 0.0, **means}


def relative_score(units: Sequence[Unit]) -> dict[str, float]:
    """LLaVA-Bench: the judge's scores of the answers, in percent of those of the reference (Liu et al., 2023)."""
    groups = {"relative score": flat(units), **{k: v for k, v in _by_kind(flat(units)).items() if k}}
    return {
        name: _share(
            sum(one.verdict.get("answer", 0.0) for one in rows), sum(one.verdict.get("reference", 0.0) for one in rows)
        )
        for name, rows in groups.items()
    }


def by_capability(units: Sequence[Unit]) -> dict[str, float]:
    """MM-Vet: the judge's mean in percent, of all and of the questions that need a capability (Yu et al., 2023)."""
    answered = flat(units)
    scores: dict[str, list[float]] = {"score": [one.verdict.get("score", 0.0) for one in answered]}
    for one in answered:
        for capability in one.sample.kind.split(", "):
            scores.setdefault(capability, []).append(one.verdict.get("score", 0.0))
    return {name: 100 * fmean(values) for name, values in scores.items()}


def interval(aggregate: Aggregate, headline: str, units: Sequence[Unit], *, resamples: int, seed: int) -> Interval:
    """Return a score and its 95 % interval: units are drawn anew, of each kind as many as it has.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), percentile intervals.
    """
    return _bootstrap(units, lambda unit: unit, lambda drawn: aggregate(drawn)[headline], resamples, seed)


def paired_bootstrap(
    aggregate: Aggregate,
    headline: str,
    first: Sequence[Answered],
    second: Sequence[Answered],
    *,
    resamples: int,
    seed: int,
) -> Interval:
    """Return how much higher the second's score is, and its 95 % interval: the same units are drawn of both."""

    def lead(drawn: Sequence[tuple[Unit, Unit]]) -> float:
        ours, theirs = ([pair[side] for pair in drawn] for side in (0, 1))
        return aggregate(theirs)[headline] - aggregate(ours)[headline]

    pairs: list[tuple[Unit, Unit]] = list(zip(in_units(first), in_units(second), strict=True))
    return _bootstrap(pairs, lambda pair: pair[0], lead, resamples, seed)


def _bootstrap(
    drawn_from: Sequence[T],
    unit_of: Callable[[T], Unit],
    figure: Callable[[Sequence[T]], float],
    resamples: int,
    seed: int,
) -> Interval:
    kinds: dict[str, list[T]] = {}
    for one in drawn_from:
        kinds.setdefault(unit_of(one)[0].sample.kind, []).append(one)
    alone = [rows[0] for rows in kinds.values() if len(rows) == 1]  # together: one can only be drawn as it is
    kinds = {kind: rows for kind, rows in kinds.items() if len(rows) > 1} | ({"\0": alone} if alone else {})
    draw = random.Random(seed)
    found = sorted(
        figure([one for rows in kinds.values() for one in draw.choices(rows, k=len(rows))]) for _ in range(resamples)
    )
    return Interval(
        figure(drawn_from), found[int(0.025 * resamples)], found[min(resamples - 1, int(0.975 * resamples))]
    )


def _by_kind(answered: Sequence[Answered]) -> Mapping[str, list[Answered]]:
    kinds: dict[str, list[Answered]] = {}
    for one in answered:
        kinds.setdefault(one.sample.kind, []).append(one)
    return dict(sorted(kinds.items()))


def _share(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0
