"""How long until the first token, and how fast the others follow: variants side by side in one process.

Each repeat measures the machine and then every variant, one after the other, so that what else the machine does meets
all of them alike. Pixels are ready; opening and resizing a picture is not timed.
L text tokens · T frames · N² patches · d width.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from llava_mini.engines.packed import pack
from llava_mini.errors import ConfigError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.profiling.flops import count_run
from llava_mini.profiling.machine import Machine, matmul_rate, read_rate, row_rate, this_machine, wait
from llava_mini.profiling.variants import Asked, Form, Work, ready_variants


@dataclass(frozen=True)
class Timing:
    """One variant's times."""

    form: Form
    """`mini`: ours. `all-tokens`: LLaVA-v1.5 in our class. `transformers`: its own LLaVA. Of `mini-kept` and
    `all-tokens-kept` the keys and values of the system prompt and the picture are kept."""
    asked: Asked
    """`first`: the picture is new. `second`: it was asked about before. `video`: so many frames, new."""
    ttft_s: float
    """Seconds from pixels and token ids to the first token, median."""
    ttft_spread_s: float
    """Largest minus smallest."""
    tokens_per_s: float | None
    """Tokens after the first, a second, median."""
    tokens_spread: float | None
    tflops: float
    """10¹² operations up to the first token, as torch counts what runs."""
    matmul_share: float
    """Operations a second up to the first token, of what plain matrix multiplication reaches here."""
    read_share: float | None
    """Bytes of weights read a second after the first token, of what this machine's memory gives."""
    row_share: float | None
    """The same, of what one row times matrices reads here."""


@torch.no_grad()
def time_variants(
    model: LlavaMiniForConditionalGeneration,
    work: Work,
    *,
    forms: Sequence[Form] = ("mini",),
    asked: Sequence[Asked] = get_args(Asked),
    repeats: int = 5,
    engine: str = "torch",
    on_done: Callable[[str], object] = lambda _: None,
) -> tuple[Machine, list[Timing]]:
    """Time variants by turns; the first turn warms up and is not counted.

    Args:
        engine: "torch", or "packed": all forms, the model included, are laid out for good.
        on_done: is told what has been measured.
    """
    if repeats < 1:
        raise ConfigError(f"repeats is {repeats}; it must be 1 or more")
    if engine not in ("torch", "packed"):
        raise ConfigError(f"engine is {engine!r}; torch and packed are timed")
    runs = ready_variants(model, work, forms, asked)
    device, dtype = model.device, model.dtype
    read_bytes = _weights(model.model.language_model) + _head(model)
    flops = {}
    for run in runs:
        flops[run.form, run.asked] = count_run(run.first_token)
        on_done(f"{run.form} {run.asked}, warm-up")
    if engine == "packed":
        pack(*{id(run.model): run.model for run in runs}.values())
        for run in runs:
            run.first_token()
            on_done(f"{run.form} {run.asked}, warm-up again, packed")
    first: dict[tuple[Form, Asked], list[float]] = {(run.form, run.asked): [] for run in runs}
    rates: dict[tuple[Form, Asked], list[float]] = {(run.form, run.asked): [] for run in runs}
    matmul, read, row = [], [], []
    for repeat in range(repeats):
        matmul.append(matmul_rate(device, dtype))
        read.append(read_rate(device))
        row.append(row_rate(device, dtype, engine))
        for run in runs:
            wait(device)
            began_s = time.perf_counter()
            state = run.first_token()
            wait(device)
            first[run.form, run.asked].append(time.perf_counter() - began_s)
            if run.asked == "first":
                began_s = time.perf_counter()
                run.go_on(state, work.new_tokens)
                wait(device)
                rates[run.form, run.asked].append(work.new_tokens / (time.perf_counter() - began_s))
            on_done(f"{run.form} {run.asked}, {repeat + 1} of {repeats}")
    machine = this_machine(
        device, dtype, matmul=statistics.median(matmul), read=statistics.median(read), row=statistics.median(row)
    )
    made = []
    for run in runs:
        key = (run.form, run.asked)
        ttft, rate = statistics.median(first[key]), statistics.median(rates[key]) if rates[key] else None
        made.append(
            Timing(
                run.form,
                run.asked,
                round(ttft, 5),
                round(max(first[key]) - min(first[key]), 5),
                None if rate is None else round(rate, 2),
                None if rate is None else round(max(rates[key]) - min(rates[key]), 2),
                round(flops[key] / 1e12, 6),
                round(flops[key] / ttft / statistics.median(matmul), 3),
                None if rate is None else round(rate * read_bytes / statistics.median(read), 3),
                None if rate is None else round(rate * read_bytes / statistics.median(row), 3),
            )
        )
    return machine, made


def _weights(module: torch.nn.Module) -> int:
    """Return the bytes of the layers, word embeddings apart: of those a token reads one row."""
    return sum(p.nbytes for name, p in module.named_parameters() if "embed_tokens" not in name)


def _head(model: LlavaMiniForConditionalGeneration) -> int:
    return int(model.lm_head.weight.nbytes)
