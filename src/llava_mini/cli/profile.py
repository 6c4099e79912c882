"""`llava-mini profile`: operations, time and memory of questions and videos."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from llava_mini.cli import options
from llava_mini.cli.profile_variants import Folder, Json, Preset, latency, memory

app = typer.Typer(help="Measure speed and memory.", no_args_is_help=True)
app.command("latency")(latency)
app.command("memory")(memory)


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
