"""`llava-mini evaluate`: made suites and published benchmarks, beside shuffled and blank pictures."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_mini.cli import options
from llava_mini.cli.made_suites import evaluate_made
from llava_mini.errors import ConfigError

if TYPE_CHECKING:
    from llava_mini.evaluation.benchmarks import Benchmark
    from llava_mini.evaluation.judge import Judge
    from llava_mini.evaluation.results import Result

_TINY = "all-tiny"
_OUT, _BATCH = Path("runs/evaluation"), 16


def evaluate(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Benchmarks of --list, 'all' of them, 'all-tiny' (made copies of all); or made suites: embedded "
            "(all of one version), photographs, scenes, shapes, unseen-scenes, videos, moments.",
            show_default=False,
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Print the benchmarks, and end.")] = False,
    model: options.Model = None,
    data: Annotated[Path, typer.Option(help="Folder that holds a folder a benchmark.")] = Path("data/benchmarks"),
    out: Annotated[Path, typer.Option(help="Folder of answers, scores and reports.")] = _OUT,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions a benchmark, drawn with a fixed seed; pictures a made suite.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Compare two folders of --out, and end.", show_default=False),
    ] = None,
    controls: Annotated[bool, typer.Option(help="Ask with shuffled and blank pictures too.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions at a time.")] = _BATCH,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer in tokens; default: the benchmark's.")
    ] = None,
    max_frames: options.MaxFrames = None,
    judge: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of the judge of open answers, up to /v1.")
    ] = None,
    judge_model: Annotated[str, typer.Option(help="Its model.")] = "",
    judge_price: Annotated[
        tuple[float, float], typer.Option(metavar="IN OUT", help="Its price for a million tokens in, and out.")
    ] = (0.0, 0.0),
    sources: Annotated[Path, typer.Option(help="Folder of 'llava-mini data fetch', for made suites.")] = Path(
        "data/sources"
    ),
    answers: Annotated[
        Path | None, typer.Option(help="Made suites: write every question and its answers here (JSONL).")
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    engine: options.Engine = "torch",
) -> None:
    """Measure a model; a benchmark that was stopped goes on where it was.

    The judge's key is read from JUDGE_API_KEY.

    Examples:

      llava-mini evaluate embedded --json

      llava-mini evaluate gqa pope --data data/benchmarks --model DIR
    """
    from dataclasses import asdict, replace

    from llava_mini.evaluation.benchmarks import BENCHMARKS, find_benchmark
    from llava_mini.evaluation.suites import MADE

    if list_:
        _print_list(as_json)
        return
    asked = list(dict.fromkeys(names or ()))
    if compare is not None:
        wanted = [find_benchmark(name) for name in asked] if asked and asked != ["all"] else list(BENCHMARKS)
        _print_comparison(wanted, data, compare, limit, as_json)
        return
    if not asked:
        raise ConfigError("nothing is to be measured; give a name of --list, or embedded")
    made = [name for name in asked if name in MADE]
    if made and len(made) < len(asked):
        raise ConfigError(f"{made[0]} is a made suite; measure it and benchmarks one after the other")
    if made:
        given = {
            "--no-controls": not controls,
            "--batch-size": batch_size != _BATCH,
            "--max-new-tokens": max_new_tokens is not None,
            "--max-frames": max_frames is not None,
            "--judge": judge is not None,
            "--out": out != _OUT,
        }
        if refused := [name for name, is_given in given.items() if is_given]:
            raise ConfigError(f"{refused[0]} is for benchmarks of --list; {made[0]} is always asked in one way")
        if "embedded" in made and (limit is not None or len(made) > 1):
            raise ConfigError("embedded is fixed: all its suites, whole; give it alone and without --limit")
        evaluate_made(
            made,
            sources,
            model=model,
            limit=limit,
            as_json=as_json,
            answers=answers,
            device=device,
            dtype=dtype,
            engine=engine,
        )
        return
    from llava_mini.evaluation.answering import Asking, draw
    from llava_mini.evaluation.measure import measure, processes
    from llava_mini.evaluation.tiny import write_tiny

    state = processes(cpu=device == "cpu")
    if _TINY in asked:
        data = out / "tiny-data"
        if state.is_main_process:
            write_tiny(data)
        state.wait_for_everyone()
    all_ = {"all", _TINY} & set(asked)
    rows = list(BENCHMARKS) if all_ else [find_benchmark(name, MADE) for name in asked]
    referee = _judge(judge, judge_model, judge_price, out)
    questions = {row.name: row.samples(data) for row in rows}  # what is missing is said before a model is loaded
    for row in rows:
        if note := row.check_media(draw(questions[row.name], limit)):
            print(note, file=sys.stderr)
    if state.num_processes > 1 and device == "auto":
        device = str(state.device)  # each process its own
    assistant = options.load_assistant(model, device, dtype, engine=engine)
    frames = assistant.processor.sampling
    if max_frames is not None:
        frames = replace(frames, max_frames=max_frames)
    asking = Asking(frames, max_new_tokens or 0, batch_size, controls)
    results = []
    for result in measure(assistant, rows, questions, out, asking, limit=limit, judge=referee):
        results.append(result)
        if not as_json:
            print(_told(find_benchmark(result.benchmark), result), flush=True)
    if results and as_json:
        by_name = {result.benchmark: asdict(result) for result in results}
        print(json.dumps({row.name: by_name[row.name] for row in rows}))
    if results:
        print(f"every answer: {out}/{results[0].benchmark}/report.html, and so on", file=sys.stderr)


def _told(row: "Benchmark", result: "Result") -> str:
    """Return a line of the table."""
    head = f"{row.title:<24}{result.asked:>7}"
    if result.score is None:
        why = "the server's, from the file beside" if result.unscored else "a judge's: give --judge URL"
        line = f"{head}  {result.metric} is {why}"
    else:
        controls = {"shuffled": result.shuffled, "blank": result.blank}
        shares = [f"{name} {value:.1f}" for name, value in controls.items() if value is not None]
        line = f"{head}  {result.metric} {result.score:.1f} ({result.low:.1f}–{result.high:.1f})  {' · '.join(shares)}"
    notes = []
    if result.asked < result.of:
        notes.append(f"{result.asked} of {result.of} questions")
    if result.unscored and result.score is not None:
        notes.append(f"{result.unscored} without a published answer")
    if result.failed:
        notes.append(f"{result.failed} could not be asked and count as wrong")
    if result.judge:
        costs = result.judge
        told = [f"{costs['requests']} requests", f"{costs['tokens_in']} tokens in, {costs['tokens_out']} out"]
        told += [f"{costs['money']:.2f} paid"] if costs["money"] else []
        told += [f"{costs['unread']} verdicts could not be read"] if costs["unread"] else []
        notes.append(f"judged by {costs['model']}, not the paper's judge: {', '.join(told)}")
    if result.submission:
        notes.append(f"submission in {result.submission}")
    return "\n".join([line, *(f"{'':<24}  {note}" for note in notes)])


def _judge(url: str | None, model: str, price: tuple[float, float], out: Path) -> "Judge | None":
    import os

    from llava_mini.evaluation.judge import Judge

    if url is None:
        return None
    if not model:
        raise ConfigError("a judge was given without its model; add --judge-model NAME")
    out.mkdir(parents=True, exist_ok=True)
    return Judge(url, model, out / "verdicts.jsonl", os.environ.get("JUDGE_API_KEY", ""), price)


def _print_list(as_json: bool) -> None:
    from llava_mini.evaluation.benchmarks import BENCHMARKS

    if as_json:
        told = ("name", "title", "media", "headline", "layout", "page", "licence", "paper")
        print(json.dumps([{name: getattr(row, name) for name in told} for row in BENCHMARKS], ensure_ascii=False))
        return
    for row in BENCHMARKS:
        by = "a judge" if row.asks else "its truth, or a server" if row.submission else "its truth"
        paper = ", ".join(f"{name} {value:g}" for name, value in row.paper.items())
        print(f"{row.name:<16}{row.title}: {row.headline}, {row.media}, scored by {by}")
        print(f"{'':<16}licence: {row.licence}")
        print(f"{'':<16}from: {row.page}")
        print(f"{'':<16}in DIR/{row.name}/: {', '.join(row.layout)}")
        print(f"{'':<16}in the paper: {paper or 'none'}")


def _print_comparison(
    rows: "list[Benchmark]", data: Path, folders: tuple[Path, Path], limit: int | None, as_json: bool
) -> None:
    from llava_mini.errors import DataError
    from llava_mini.evaluation.answering import draw
    from llava_mini.evaluation.results import compare

    there = [row for row in rows if any((folder / row.name).is_dir() for folder in folders)]
    made = [folder / "tiny-data" for folder in folders if (folder / "tiny-data").is_dir()]
    results = []
    for row in there:
        where = made[0] if made and not (data / row.name).is_dir() else data
        try:
            one = compare(row, draw(row.samples(where), limit), *(folder / row.name for folder in folders))
        except DataError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        results.append(one)
        if not as_json:
            print(
                f"{row.title:<24}{one['questions']:>7}  {one['metric']} {one['first']:.1f} → {one['second']:.1f}: "
                f"{one['lead']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f}); better on "
                f"{one['second_better']}, worse on {one['first_better']} questions"
            )
    if not results:
        raise ConfigError(f"{folders[0]} and {folders[1]} share no scored benchmark; evaluate both with --out first")
    if as_json:
        print(json.dumps(results))
    print("interval: 95 %, paired bootstrap over questions that are scored together", file=sys.stderr)
