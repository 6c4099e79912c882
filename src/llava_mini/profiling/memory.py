"""What a question holds up to its first token, and what is kept of it, in several programs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.profiling.variants import Asked, Form, State, Work, cache_bytes, ready_variants


@dataclass(frozen=True)
class Memory:
    """What one variant needs beside its weights."""

    form: Form
    asked: Asked
    weights_mb: float
    """MB are 10⁶ bytes."""
    peak_mb: float
    """Largest sum of tensors up to the first token, weights apart."""
    kept_mb: float
    """What stays for a second question of the picture, and of kept words; nothing of a form that forgets."""
    cache_mb: float
    """Keys and values of the language model when the first token is there."""


@torch.no_grad()
def measure_memory(
    model: LlavaMiniForConditionalGeneration,
    work: Work,
    *,
    forms: Sequence[Form] = ("mini",),
    asked: Sequence[Asked] = get_args(Asked),
) -> list[Memory]:
    """Measure what each variant holds up to its first token."""
    made = []
    for run in ready_variants(model, work, forms, asked):
        peak, (_, cache) = _peak(run.first_token, model.device)
        kept = run.kept_bytes / 1e6
        owned = run.model.state_dict().values()
        weights = sum({tensor.data_ptr(): tensor.nbytes for tensor in owned}.values()) / 1e6
        sizes = (weights, peak / 1e6, kept, cache_bytes(cache) / 1e6)
        made.append(Memory(run.form, run.asked, *(round(size, 3) for size in sizes)))
    return made


def _peak(run: Callable[[], State], device: torch.device) -> tuple[int, State]:
    """Return the largest sum of tensors that were made in a run and not yet freed, and what the run returned."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        made = run()
        return torch.cuda.max_memory_allocated(device) - before, made
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        made = run()
    total = peak = 0
    results = profiler.profiler.kineto_results
    for event in sorted((one for one in results.events() if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak, made
