"""`llava-mini profile`: how fast videos go through, and in how much memory."""

import dataclasses
import json
from typing import Annotated

import typer

from llava_mini.cli import options

app = typer.Typer(help="Measure speed and memory.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("flops")
def flops(
    preset: Annotated[str, typer.Option(help="vicuna-7b, llama-3.1-8b or embedded.")] = "vicuna-7b",
    model: Annotated[str | None, typer.Option(help="Folder of a model, in place of a preset.")] = None,
    text_tokens: Annotated[int, typer.Option(help="Words of the prompt, in tokens.")] = 60,
    prefix_tokens: Annotated[int, typer.Option(help="Of them, those that every conversation begins with.")] = 36,
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
    question = Question(text_tokens, frames, prefix_tokens)
    if as_json:
        print(json.dumps(count_flops(config, question)))
        return
    print(compare_flops(config, question))
    prefix = min(prefix_tokens, PAPER_TEXT_TOKENS - 1)
    print(compare_flops(config, Question(PAPER_TEXT_TOKENS, frames, prefix), "paper"))


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
