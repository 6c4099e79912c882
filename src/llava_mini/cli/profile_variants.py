"""`llava-mini profile latency` and `memory`: the same question to several programs of the same random weights."""

import dataclasses
import json
from typing import Annotated, Any

import typer

from llava_mini.cli import options

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Preset = Annotated[str, typer.Option(help="vicuna-7b, llama-3.1-8b, tinyllama-1.1b, smollm2-135m or embedded.")]
Folder = Annotated[str | None, typer.Option(help="Folder of a model, in place of a preset; its sizes alone are read.")]
TextTokens = Annotated[int, typer.Option(help="Words of the prompt, in tokens.")]
Frames = Annotated[int, typer.Option(help="Frames of the video.")]
Compare = Annotated[bool, typer.Option("--compare", help="Beside ours, LLaVA-v1.5 and transformers' own LLaVA.")]
Forms = Annotated[
    list[str] | None,
    typer.Option("--form", help="mini, mini-kept, all-tokens, all-tokens-kept, transformers; repeat it."),
]
Asked = Annotated[list[str] | None, typer.Option("--asked", help="first, second, video; repeat it. Default: all.")]


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

    from llava_mini.profiling.latency import time_variants
    from llava_mini.profiling.variants import Work

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
    from llava_mini.profiling.machine import this_machine
    from llava_mini.profiling.memory import measure_memory
    from llava_mini.profiling.variants import Work

    built, forms = _random(preset, model, device, dtype, compare, form)
    work = Work(text_tokens, min(36, text_tokens - 1), frames)
    made = measure_memory(built, work, forms=forms, asked=_asked(asked))
    if as_json:
        method = {"geometry": model or preset, **dataclasses.asdict(work)}
        machine = dataclasses.asdict(this_machine(built.device, built.dtype))
        print(json.dumps({"machine": machine, "method": method, "memory": [dataclasses.asdict(row) for row in made]}))
        return
    print(f"{'MB':<16}{'asked':<8}{'weights':>10}{'peak beside':>13}{'kept':>17}{'cache':>9}")
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
    from llava_mini.profiling.variants import FORMS, check_forms

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
    from llava_mini.profiling.variants import Asked

    known = get_args(Asked)
    for one in asked or ():
        if one not in known:
            raise ConfigError(f"--asked is {one!r}; it must be one of {', '.join(known)}")
    return tuple(asked or known)
