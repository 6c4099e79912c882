"""`llava-mini analyze`: where a model looks, layer by layer, and what it loses without vision tokens."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_mini.cli import options


def analyze(
    model: Annotated[
        str, typer.Argument(help="'embedded', a folder in our form, or a folder of transformers' LLaVA.")
    ] = "embedded",
    data: Annotated[
        Path | None, typer.Option(help="Questions in LLaVA's JSON; default: the made suite of --suite.")
    ] = None,
    suite: Annotated[str, typer.Option(help="photographs, scenes, shapes, unseen-scenes or videos.")] = "scenes",
    sources: Annotated[Path, typer.Option(help="Folder of 'llava-mini data fetch', for --suite.")] = Path(
        "data/sources"
    ),
    out: Annotated[Path, typer.Option(help="Folder of numbers, figures and report.")] = Path("runs/analysis"),
    limit: Annotated[int, typer.Option(min=1, help="Questions whose attention is averaged.")] = 100,
    shown: Annotated[int, typer.Option(min=1, help="Of them, those that the report shows one by one.")] = 12,
    removal: Annotated[int, typer.Option(min=0, help="Questions answered without vision tokens; 0: none.")] = 0,
    step: Annotated[int, typer.Option(min=1, help="Layers between two places of removal.")] = 3,
    window: Annotated[int, typer.Option(min=1, help="Layers of a window of removal.")] = 6,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Average a model's attention over questions, draw it, and write a page on which layers and samples are chosen.

    Examples:

      llava-mini analyze embedded --suite scenes --removal 100

      llava-mini analyze llava-1.5-7b-hf --data my/questions.json --limit 50
    """
    import os

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from llava_mini.analysis.attention import Asked, attention_profile
    from llava_mini.analysis.fusion import can_read, read
    from llava_mini.analysis.removal import as_rows, gaps, removal_curve
    from llava_mini.analysis.report import write_report
    from llava_mini.analysis.subjects import load_subject
    from llava_mini.inputs.processor import frames_of

    count = limit + removal
    questions = _of_file(data, count) if data is not None else _of_suite(suite, sources, count)
    subject = load_subject(model, device=device, dtype=dtype)
    if removal:
        gaps(len(subject.language_model.layers), step=step, window=window)  # refuses what does not fit before all work
        if len(questions) < count:
            print(f"{len(questions)} questions are fewer than {count}: some are in both samples", file=sys.stderr)
    asked = [Asked(one.text, one.media, kind=one.kind) for one in questions[:limit]]
    profile = attention_profile(subject, asked, progress=True)
    told: dict[str, Any] = {"profile": profile.as_dict()}
    told["profile"]["samples"] = told["profile"]["samples"][:shown]
    if removal:
        last = questions[-removal:]  # others than those above, where there are enough
        curve = removal_curve(subject, last, step=step, window=window, progress=True)
        told["removal"] = as_rows(curve)
    if can_read(subject):
        told["readings"] = [read(subject, one.question, one.media).as_dict() for one in asked[:shown]]
    pictures = [[frame.copy() for frame in frames_of(one.media)] for one in asked[:shown]]
    out.mkdir(parents=True, exist_ok=True)
    (out / "analysis.json").write_text(json.dumps(told), encoding="utf-8")
    _draw(told, pictures, out / "figures")
    write_report(told, pictures, out / "report.html")
    print(_summary(told))
    print(
        f"numbers in {out / 'analysis.json'}, figures in {out / 'figures'}, page in {out / 'report.html'}",
        file=sys.stderr,
    )


def _of_suite(suite: str, sources: Path, count: int) -> list[Any]:
    """Return questions of a made suite, drawn over all its kinds."""
    import random

    from llava_mini.analysis.removal import Question
    from llava_mini.evaluation.suites import find_suite

    made = find_suite(suite)(sources, count)
    items = random.Random(0).sample(made.items, min(count, len(made.items)))
    return [Question(item.question, made.media[item.picture], item.is_right, item.kind) for item in items]


def _of_file(path: Path, count: int) -> list[Any]:
    """Return the first turn of a file's first examples; right is its answer, but for case and a last full stop."""
    from itertools import islice

    from llava_mini.analysis.removal import Question
    from llava_mini.data.examples import parts_of
    from llava_mini.data.readers import DataFile, Examples
    from llava_mini.errors import DataError
    from llava_mini.inputs.media import load_media

    questions = []
    for example in islice(Examples(DataFile(str(path))), count):
        media = example.media
        if len(media) != 1 or len(example.messages) < 2:
            raise DataError(f"{example.id}: one picture or video and an answer are needed to look at it")
        source = next(media[0][key] for key in ("path", "image", "video") if key in media[0])
        text = "".join(part.get("text", "") for part in parts_of(example.messages[0]))
        right = "".join(part.get("text", "") for part in parts_of(example.messages[1])).strip().lower().rstrip(".")
        questions.append(
            Question(text, load_media(source), lambda said, right=right: said.strip().lower().rstrip(".") == right)  # type: ignore[misc]
        )
    return questions


def _draw(told: dict[str, Any], pictures: list[list[Any]], folder: Path) -> None:
    from llava_mini.analysis import figures

    profile = told["profile"]
    figures.shares(profile, folder / "attention")
    first = profile["samples"][0]["maps"]
    tokens = len(first[0]) * len(first[0][0]) * len(first[0][0][0])
    if tokens > 1:
        figures.entropy(profile, folder / "entropy", tokens=tokens)
    if "removal" in told:
        figures.removal(told["removal"], folder / "removal", model=profile["model"])
    for place, (sample, frames) in enumerate(zip(profile["samples"], pictures, strict=True), 1):
        title = f"{sample['question']} → {sample['response']}"
        grid = sample["maps"][0][0]
        if len(grid) * len(grid[0]) > 1:
            chosen = sorted({round(part * (len(sample["maps"]) - 1) / 5) for part in range(6)})
            layers = {layer: sample["maps"][layer][0] for layer in chosen}
            figures.maps(frames[0], layers, folder / f"map-{place}", title=title)
        if "readings" in told:
            reading = told["readings"][place - 1]
            figures.strip(frames, reading["compression"], folder / f"compression-{place}", title=title)
            figures.words(reading, folder / f"words-{place}", title=title)


def _summary(told: dict[str, Any]) -> str:
    """Return a few lines for people: attention early and late, and accuracy without vision tokens."""
    profile = told["profile"]
    lines = [f"{profile['model']}: {profile['n']} questions"]
    layers = len(profile["shares"]["mean"])
    for row, target in enumerate(profile["targets"]):
        early, late = (
            100 * sum(profile["shares"]["mean"][layer][row][1] for layer in part) / len(part)
            for part in (range(layers // 3), range(2 * layers // 3, layers))
        )
        lines.append(f"attention of {target} tokens to vision: first third {early:.1f} %, last third {late:.1f} %")
    for one in told.get("removal", ()):
        done = "" if one["where"] == "hidden" else "removed "
        where = {"none": "nothing removed", "all": "removed in all layers"}.get(
            one["where"], f"{done}{one['where']} {one['first']}–{one['end']}"
        )
        lines.append(
            f"{where:<28} {100 * one['accuracy']:5.1f} % right ({100 * one['low']:.0f}–{100 * one['high']:.0f})"
            + (f"{100 * one['difference']:+7.1f} {_ends(one)}" if one["where"] != "none" else "")
        )
    return "\n".join(lines)


def _ends(one: dict[str, Any]) -> str:
    low, high = one["difference_low"], one["difference_high"]
    return "" if low is None else f"({100 * low:+.1f} to {100 * high:+.1f})"
