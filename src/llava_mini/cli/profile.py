"""`llava-mini profile`: operations, time and memory of questions and videos."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_mini.cli import options

app = typer.Typer(help="Measure speed and memory.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Preset = Annotated[str, typer.Option(help="vicuna-7b, llama-3.1-8b, tinyllama-1.1b, smollm2-135m or embedded.")]
Folder = Annotated[str | None, typer.Option(help="Folder of a model, in place of a preset; its sizes alone are read.")]
TextTokens = Annotated[int, typer.Option(help="Words of the prompt, in tokens.")]
Compare = Annotated[bool, typer.Option("--compare", help="Beside ours, LLaVA-v1.5 and transformers' own LLaVA.")]
Frames = Annotated[int, typer.Option(help="Frames of the video.")]
Forms = Annotated[
    list[str] | None,
    typer.Option("--form", help="mini, mini-kept, all-tokens, all-tokens-kept, transformers; repeat it."),
]
Asked = Annotated[list[str] | None, typer.Option("--asked", help="first, second, video; repeat it. Default: all.")]


@app.command("flops")
def flops(
    preset: Preset = "vicuna-7b",
    model: Folder = None,
    text_tokens: Annotated[int, typer.Option(help="Words of the prompt, in tokens.")] = 60,
    prefix_tokens: Annotated[
        int | None,
        typer.Option(help="Of them, those that every conversation begins with. Default: 36, or all but one."),
    ] = None,
    frames: Annotated[int, typer.Option(help="Pictures, or frames of a video.")] = 1,
    hd: options.Hd = False,
    as_json: Json = False,
) -> None:
    """Count what an answer's first token costs: LLaVA-v1.5, the released LLaVA-Mini, and ours. No weight is loaded.

    Examples:

      llava-mini profile flops --preset vicuna-7b

      llava-mini profile flops --preset llama-3.1-8b --hd --json
    """
    from llava_mini.profiling.flops import PAPER_TEXT_TOKENS, Question, compare_flops, count_flops, known_config

    config = known_config(preset, model, hd=hd)
    begun = min(36, max(text_tokens - 1, 0)) if prefix_tokens is None else prefix_tokens
    question = Question(text_tokens, frames, begun)
    if as_json:
        print(json.dumps(count_flops(config, question)))
        return
    print(compare_flops(config, question))
    print(compare_flops(config, Question(PAPER_TEXT_TOKENS, frames, min(begun, PAPER_TEXT_TOKENS - 1)), "paper"))


@app.command("cost")
def cost(
    preset: Preset = "vicuna-7b",
    model: Folder = None,
    gpu: Annotated[str, typer.Option(help="RTX 3090, A100 or A800.")] = "RTX 3090",
    figure: Annotated[Path | None, typer.Option(help="Draw the curves here, PNG and SVG.")] = None,
    as_json: Json = False,
) -> None:
    """Estimate what questions cost on a GPU as they grow, and which part costs most; nothing is run.

    Example: llava-mini profile cost --figure cost.png
    """
    from llava_mini.errors import ConfigError
    from llava_mini.profiling.cost import DEVICES, PAPER_MS, curves, draw, estimate, turning_points
    from llava_mini.profiling.flops import Question, known_config

    if gpu not in DEVICES:
        raise ConfigError(f"no data sheet of {gpu!r} is known; there are {', '.join(DEVICES)}")
    config, name = known_config(preset, model), model or preset
    estimates = {one.name: estimate(config, Question(), one) for one in DEVICES.values()}
    points = curves(config, DEVICES[gpu])
    if figure is not None:
        draw(points, DEVICES[gpu], figure, model=name)
    paper = PAPER_MS if name == "vicuna-7b" else {}
    if as_json:
        rows = [dataclasses.asdict(point) for point in points]
        print(json.dumps({"estimate_ms": estimates, "paper_ms": paper, "gpu": gpu, "curves": rows}))
        return
    print(f"least ms to the first token, 60 words, one picture: a roofline estimate ({name})")
    print(f"{'':<12}" + "".join(f"{way:>15}" for way in estimates[gpu]))
    for one, ways in estimates.items():
        print(f"{one:<12}" + "".join(f"{ways[way]['total']:>15.1f}" for way in ways))
        if one in paper:
            measured = (f"{paper[one][way]:.1f}" if way in paper[one] else "" for way in ways)
            print(f"{'  the paper':<12}" + "".join(f"{text:>15}" for text in measured))
    print(f"\nwhich part costs most as a question grows ({gpu})")
    for axis, at, part in turning_points(points):
        print(f"  {axis.replace('_', ' ')} from {at} on: {part.replace('_', '-')}")


@app.command("latency")
def latency(
    preset: Preset = "smollm2-135m",
    model: Folder = None,
    text_tokens: TextTokens = 60,
    frames: Frames = 16,
    new_tokens: Annotated[int, typer.Option(help="Tokens after the first.")] = 16,
    repeats: Annotated[int, typer.Option(help="How often each variant is timed.")] = 5,
    engine: Annotated[str, typer.Option(help="torch, or packed: all forms laid out for a CPU.")] = "torch",
    asked: Asked = None,
    compare: Compare = False,
    form: Forms = None,
    as_json: Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "bfloat16",
) -> None:
    """Time the first token and those after it, on random weights.

    Examples:

      llava-mini profile latency --compare

      llava-mini profile latency --preset vicuna-7b --asked first --asked second --repeats 3 --compare --engine packed

      llava-mini profile latency --preset vicuna-7b --asked video --form mini
    """
    from tqdm import tqdm

    from llava_mini.profiling.latency import Work, time_variants

    built, forms = _random(preset, model, device, dtype, compare, form)
    chosen = _asked(asked)
    work = Work(text_tokens, min(36, text_tokens - 1), frames, new_tokens)
    with tqdm(unit="run") as bar:

        def tell(what: str) -> None:
            bar.set_description(what)
            bar.update()

        machine, made = time_variants(
            built, work, forms=forms, asked=chosen, repeats=repeats, engine=engine, on_done=tell
        )
    if as_json:
        method = {"geometry": model or preset, "engine": engine, "repeats": repeats, **dataclasses.asdict(work)}
        rows = [dataclasses.asdict(row) for row in made]
        print(json.dumps({"machine": dataclasses.asdict(machine), "method": method, "timings": rows}))
        return
    print(
        f"{machine.processor}, {machine.threads} threads, {machine.dtype}, torch {machine.torch}: "
        f"{machine.matmul_gflops:.0f} GFLOP/s in matrix products, {machine.read_gb_s:.1f} GB/s read, "
        f"{machine.row_gb_s:.1f} GB/s by one row times matrices ({engine})"
    )
    print(
        f"{'':<16}{'asked':<8}{'first token, s':>15}{'spread':>9}{'TFLOP':>9}{'of matmul':>11}{'tokens/s':>10}"
        f"{'spread':>8}{'of memory':>11}{'of one row':>12}"
    )
    for row in made:
        print(
            f"{row.form:<16}{row.asked:<8}{row.ttft_s:>15.3f}{row.ttft_spread_s:>9.3f}{row.tflops:>9.3f}"
            f"{100 * row.matmul_share:>10.0f}%"
            + ("" if row.tokens_per_s is None else f"{row.tokens_per_s:>10.1f}{row.tokens_spread:>8.1f}")
            + ("" if row.read_share is None else f"{100 * row.read_share:>10.0f}%")
            + ("" if row.row_share is None else f"{100 * row.row_share:>11.0f}%")
        )


@app.command("products")
def products(
    preset: Preset = "vicuna-7b",
    model: Folder = None,
    rows: Annotated[list[int] | None, typer.Option(help="Rows of a product; repeat it. Default: 1, 61, 640.")] = None,
    repeats: Annotated[int, typer.Option(help="How often each product is timed; the fastest counts.")] = 3,
    as_json: Json = False,
    dtype: options.Dtype = "bfloat16",
) -> None:
    """Time a CPU's products of rows with matrices of a language model, weights plain and laid out once.

    Example: llava-mini profile products --preset vicuna-7b
    """
    import torch

    from llava_mini.devices import find_dtype
    from llava_mini.profiling.flops import known_config
    from llava_mini.profiling.products import time_products

    precision = find_dtype(dtype, torch.device("cpu"))
    read, made = time_products(known_config(preset, model), precision, rows or (1, 61, 640), repeats)
    if as_json:
        print(json.dumps({"read_gb_s": round(read / 1e9, 2), "products": [dataclasses.asdict(one) for one in made]}))
        return
    print(
        f"{torch.get_num_threads()} threads, {dtype}, torch {torch.__version__}: plain sums read {read / 1e9:.1f} GB/s"
    )
    print(f"{'matrix':<16}{'rows':>6}{'GB/s':>8}{'packed':>8}{'GFLOP/s':>10}{'packed':>8}{'difference':>12}")
    for one in made:
        print(
            f"{f'{one.outputs} × {one.inputs}':<16}{one.rows:>6}{one.plain_gb_s:>8.1f}{one.packed_gb_s:>8.1f}"
            f"{one.plain_gflops:>10.0f}{one.packed_gflops:>8.0f}{one.difference:>12.0e}"
        )


@app.command("engines")
def engines(
    engine: Annotated[
        list[str] | None,
        typer.Option(help="torch, packed, int8, llama.cpp, or a .gguf file; repeat it. Default: the first three."),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="A made suite of pictures, or embedded: those of the benchmark.")
    ] = "scenes",
    limit: Annotated[int, typer.Option(min=1, help="Pictures of each suite; embedded has three suites.")] = 10,
    sources: Annotated[Path, typer.Option(help="Folder of 'llava-mini data fetch'.")] = Path("data/sources"),
    model: options.Model = None,
    as_json: Json = False,
    dtype: options.Dtype = "auto",
) -> None:
    """Ask the same questions in several engines, on the CPU: how many answers are the same, and right, and how fast.

    Example: llava-mini profile engines --engine torch --engine int8 --engine llama.cpp --limit 10
    """
    from tqdm import tqdm

    from llava_mini.evaluation.engines import compare_engines, pictures_of

    asked, chosen = pictures_of(suite, sources, limit), engine or ["torch", "packed", "int8"]
    with tqdm(total=len(chosen) * len(asked), unit="answer") as bar:
        made = compare_engines(
            lambda one: options.load_assistant(model, "cpu", dtype, engine=one), chosen, asked, bar.update
        )
    if as_json:
        print(json.dumps([dataclasses.asdict(run) for run in made]))
        return
    print(f"{'engine':<24}{'n':>5}{'same':>8}{'right':>8}{'first token, s':>16}{'tokens/s':>10}{'weights, MB':>13}")
    for run in made:
        print(
            f"{Path(run.engine).name:<24}{run.n:>5}{100 * run.same:>7.1f}%{100 * run.right:>7.1f}%"
            f"{run.first_token_s:>16.3f}{run.tokens_per_s:>10.1f}{run.weights_mb:>13.1f}"
        )


@app.command("memory")
def memory(
    preset: Preset = "smollm2-135m",
    model: Folder = None,
    text_tokens: TextTokens = 60,
    frames: Frames = 16,
    asked: Asked = None,
    compare: Compare = False,
    form: Forms = None,
    as_json: Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "bfloat16",
) -> None:
    """Measure what a question holds up to its first token, and what is kept of a picture; on random weights.

    Example: llava-mini profile memory --compare
    """
    from llava_mini.profiling.latency import Work, measure_memory
    from llava_mini.profiling.machine import this_machine

    built, forms = _random(preset, model, device, dtype, compare, form)
    work = Work(text_tokens, min(36, text_tokens - 1), frames)
    made = measure_memory(built, work, forms=forms, asked=_asked(asked))
    if as_json:
        method = {"geometry": model or preset, **dataclasses.asdict(work)}
        machine = dataclasses.asdict(this_machine(built.device, built.dtype))
        print(json.dumps({"machine": machine, "method": method, "memory": [dataclasses.asdict(row) for row in made]}))
        return
    print(f"{'MB':<16}{'asked':<8}{'weights':>10}{'peak beside':>13}{'kept of picture':>17}{'cache':>9}")
    for row in made:
        print(
            f"{row.form:<16}{row.asked:<8}{row.weights_mb:>10.0f}{row.peak_mb:>13.1f}{row.kept_mb:>17.2f}"
            f"{row.cache_mb:>9.2f}"
        )


def _random(
    preset: str, model: str | None, device: str, dtype: str, compare: bool, chosen: list[str] | None
) -> tuple[Any, tuple[Any, ...]]:
    """Build a model of random weights; return it and the forms that are measured."""
    from llava_mini.devices import find_device, find_dtype
    from llava_mini.errors import ConfigError
    from llava_mini.inputs.memory import keep_freed
    from llava_mini.profiling.flops import known_config
    from llava_mini.profiling.forms import is_transformers_llava, random_model
    from llava_mini.profiling.latency import FORMS, check_forms

    keep_freed()
    check_forms(chosen or ())
    where = find_device(device)
    built = random_model(known_config(preset, model), find_dtype(dtype, where)).to(where)
    if chosen:
        if compare:
            raise ConfigError("--form and --compare were both given; --compare takes every form")
        if not any(one.startswith("mini") for one in chosen):
            built.model.pre_fusion = None  # 1.6 GB at 7B sizes, which LLaVA-v1.5 needs for sixteen frames
        return built, tuple(chosen)
    theirs = is_transformers_llava(built.config)
    return built, tuple(form for form in FORMS if theirs or form != "transformers") if compare else FORMS[:1]


def _asked(asked: list[str] | None) -> Any:
    """Check which questions are asked."""
    from typing import get_args

    from llava_mini.errors import ConfigError
    from llava_mini.profiling.latency import Asked

    known = get_args(Asked)
    for one in asked or ():
        if one not in known:
            raise ConfigError(f"--asked is {one!r}; it must be one of {', '.join(known)}")
    return tuple(asked or known)


@app.command("video")
def video(
    frames: Annotated[int, typer.Option(min=1, help="Seconds of made video; one frame a second is looked at.")] = 100,
    model: options.Model = None,
    as_json: Json = False,
    hd: options.Hd = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Make a video and send it through decoding, tower, compression and pre-fusion.

    Examples:

      llava-mini profile video --frames 100

      llava-mini profile video --frames 10000 --json
    """
    from tqdm import tqdm

    from llava_mini.profiling.video import profile_video

    assistant = options.load_assistant(model, device, dtype, hd=hd)
    with tqdm(total=frames, unit="frame", desc="reading") as bar:
        made = profile_video(assistant, frames, bar.update)
    if as_json:
        print(json.dumps(dataclasses.asdict(made)))
    else:
        print(
            f"{made.frames} frames: decode {made.decode_fps:.1f}/s, encode {made.encode_fps:.1f}/s, "
            f"total {made.total_fps:.1f}/s, peak memory {made.peak_mb:.0f} MB"
        )


@app.command("ways")
def ways(
    frames: Annotated[int, typer.Option(help="Frames of random pixels.")] = 64,
    words: Annotated[int, typer.Option(help="Words that read them.")] = 60,
    repeats: Annotated[int, typer.Option(help="How often each way is timed.")] = 5,
    model: options.Model = None,
    as_json: Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Compare reading a video in chunks with a loop over its frames, and with the released program's way.

    Example: llava-mini profile ways --words 60
    """
    from llava_mini.profiling.ways import compare_ways, divide

    assistant = options.load_assistant(model, device, dtype)
    made = compare_ways(assistant, frames, words, repeats)
    parts = divide(assistant, frames, words, repeats)
    if as_json:
        tables = {
            "ways": [dataclasses.asdict(way) for way in made],
            "parts": [dataclasses.asdict(part) for part in parts],
        }
        print(json.dumps(tables))
        return
    print(f"{'way':<12}{'frames/s':>10}{'spread':>8}{'GFLOP/frame':>13}{'of matmul':>11}{'difference':>12}")
    for way in made:
        print(
            f"{way.name:<12}{way.frames_per_second:>10.1f}{way.spread:>8.1f}{way.gflops_per_frame:>13.2f}"
            f"{100 * way.matmul_share:>10.0f}%{way.max_difference:>12.1e}"
        )
    print(f"\n{'part of together':<48}{'ms/frame':>10}{'GFLOP/frame':>13}{'of matmul':>11}")
    for part in parts:
        share = f"{100 * part.matmul_share:.0f}%"
        print(f"{part.name:<48}{part.ms_per_frame:>10.1f}{part.gflops_per_frame:>13.2f}{share:>11}")
