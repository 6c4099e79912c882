"""`llava-mini evaluate`: accuracy beside shuffled and blank pictures."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_mini.cli import options


def evaluate(
    suites: Annotated[
        list[str],
        typer.Argument(
            help="embedded (all of one version), photographs, scenes, unseen-scenes, videos, moments",
            show_default=False,
        ),
    ],
    sources: Annotated[Path, typer.Option(help="Folder of 'llava-mini data fetch'.")] = Path("data/sources"),
    model: options.Model = None,
    limit: Annotated[int | None, typer.Option(help="Pictures a suite; default: all photographs, 100 scenes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    answers: Annotated[
        Path | None, typer.Option(help="Write every question and its three answers here (JSONL).")
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Ask held-out pictures, each question with the right, another and a blank picture, and with none.

    Examples:

      llava-mini evaluate embedded --json

      llava-mini evaluate unseen-scenes --limit 200 --json
    """
    from dataclasses import asdict, replace

    from llava_mini.evaluation.controls import ask_with_controls, score, table
    from llava_mini.evaluation.moments import find_moments
    from llava_mini.evaluation.suites import BENCHMARK, BENCHMARK_VERSION, find_suite

    wanted = [(name, limit, "") for name in suites if name not in ("moments", "embedded")]
    wanted += BENCHMARK if "embedded" in suites else ()
    made = [(name, before, find_suite(name)(sources, most)) for name, most, before in wanted]
    assistant = options.load_assistant(model, device, dtype)
    results: dict[str, Any] = {}
    if "embedded" in suites:
        results["benchmark"] = {"version": BENCHMARK_VERSION, "model": assistant.name}
    for name, before, suite in made:
        asked = ask_with_controls(assistant, suite.media, suite.items)
        scores = [replace(row, kind=before + row.kind) for row in score(asked)]
        rows = {row.kind: asdict(row) for row in scores}
        results |= rows if "embedded" in suites else {name: rows}
        if answers is not None:
            with answers.open("a", encoding="utf-8") as lines:
                for one in asked:
                    row = {"suite": name, "kind": one.item.kind, "picture": one.item.picture}
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
    print(f"{told} · majority: always the best one answer · 95 %: Wilson interval", file=sys.stderr)
