"""`llava-mini evaluate`: accuracy beside shuffled and blank pictures."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_mini.cli import options


def evaluate(
    suites: Annotated[
        list[str], typer.Argument(help="photographs, scenes, unseen-scenes, videos, moments", show_default=False)
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
    """Ask held-out pictures, each question with the right, another and a blank picture.

    Examples:

      llava-mini evaluate photographs scenes

      llava-mini evaluate unseen-scenes --limit 200 --json
    """
    from dataclasses import asdict

    from llava_mini.evaluation.controls import ask_with_controls, score, table
    from llava_mini.evaluation.moments import find_moments
    from llava_mini.evaluation.suites import find_suite

    builders = {name: find_suite(name) for name in suites if name != "moments"}
    made = {name: build(sources, limit) for name, build in builders.items()}
    assistant = options.load_assistant(model, device, dtype)
    results: dict[str, Any] = {}
    for name, suite in made.items():
        asked = ask_with_controls(assistant, suite.media, suite.items)
        scores = score(asked)
        results[name] = {row.kind: asdict(row) for row in scores}
        if answers is not None:
            with answers.open("a", encoding="utf-8") as lines:
                for one in asked:
                    row = {"suite": name, "kind": one.item.kind, "picture": one.item.picture}
                    row |= {"question": one.item.question, "right": one.item.is_right(one.answer)}
                    row |= {"answer": one.answer, "shuffled": one.shuffled, "blank": one.blank}
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
    print("shuffled: another item's picture · blank: a grey picture · 95 %: Wilson interval", file=sys.stderr)
