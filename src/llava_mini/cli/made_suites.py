"""Made suites of `llava-mini evaluate`: pictures and videos that this project draws or fetches."""

import json
import sys
from pathlib import Path
from typing import Any

from llava_mini.cli import options


def evaluate_made(
    suites: list[str],
    sources: Path,
    *,
    model: str | None,
    limit: int | None,
    as_json: bool,
    answers: Path | None,
    device: str,
    dtype: str,
    engine: str,
) -> None:
    """Ask held-out pictures, each question with the right, another and a blank picture, and with none.

    Raises:
        InputError: when the answers cannot be written, before a model is loaded.
    """
    from dataclasses import asdict, replace

    from llava_mini.evaluation.controls import ask_with_controls, score, table
    from llava_mini.evaluation.moments import find_moments
    from llava_mini.evaluation.suites import BENCHMARK, BENCHMARK_VERSION, digest, find_suite
    from llava_mini.serving.jsonl import check_target

    if answers is not None:
        check_target(answers)
    whole = suites == ["embedded"]
    wanted = BENCHMARK if whole else [(name, limit, 0, "") for name in suites if name != "moments"]
    made = [(name, before, find_suite(name)(sources, most, first)) for name, most, first, before in wanted]
    assistant = options.load_assistant(model, device, dtype, engine=engine)
    of = {"version": BENCHMARK_VERSION, "model": assistant.name}
    results: dict[str, Any] = {}
    if whole:
        results["benchmark"] = of | {"digests": {name: digest(suite) for name, _, suite in made}}
    if answers is not None:
        answers.write_text("", encoding="utf-8")
    for name, before, suite in made:
        asked = ask_with_controls(assistant, suite.media, suite.items)
        scores = [replace(row, kind=before + row.kind) for row in score(asked)]
        rows = {row.kind: asdict(row) for row in scores}
        results |= rows if whole else {name: rows}
        if answers is not None:
            with answers.open("a", encoding="utf-8") as lines:
                for one in asked:
                    row = of | {"suite": name, "kind": one.item.kind, "picture": one.item.picture}
                    row |= {"question": one.item.question, "right": one.item.is_right(one.answer)}
                    row |= {"answer": one.answer, "shuffled": one.shuffled, "blank": one.blank}
                    row |= {"question_only": one.question_only, "expected": one.item.right}
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not as_json:
            print(f"{name}: {len(suite.media)} pictures or videos, model {assistant.name}")
            print(table(scores), flush=True)
    if "moments" in suites:
        moments = find_moments(assistant, sources, limit)
        results["moments"] = asdict(moments)
        if not as_json:
            print(
                f"moments: {moments.n} videos, the frame that shows something attended to most in "
                f"{100 * moments.accuracy:.1f} % ({100 * moments.low:.0f}–{100 * moments.high:.0f}), "
                f"when it is empty too {100 * moments.blank:.1f} %"
            )
    if as_json:
        print(json.dumps(results))
    told = "shuffled: another item's picture · blank: a grey one · question: the words alone"
    print(f"{told} · majority: the best one answer to all questions of a form · 95 % by picture", file=sys.stderr)
