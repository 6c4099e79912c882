"""How long until the first token, how fast the others follow, and what is kept: variants side by side in one process.

Each repeat measures the machine and then every variant, one after the other, so that what else the machine does meets
all of them alike. Pixels are ready; opening and resizing a picture is not timed.
L text tokens · T frames · N² patches · d width.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import DynamicCache

from llava_mini.engines.packed import pack
from llava_mini.errors import ConfigError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.dialogue import Dialogue
from llava_mini.profiling.flops import count_run
from llava_mini.profiling.forms import all_tokens_of, transformers_llava
from llava_mini.profiling.machine import Machine, matmul_rate, read_rate, row_rate, this_machine, wait

Asked = Literal["first", "second", "video"]
Form = Literal["mini", "mini-kept", "all-tokens", "all-tokens-kept", "transformers"]
FORMS: tuple[Form, ...] = get_args(Form)


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


@dataclass(frozen=True)
class Work:
    """What is asked."""

    text_tokens: int = 60
    system_tokens: int = 36
    """Of them, those before the picture."""
    frames: int = 16
    new_tokens: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.system_tokens < self.text_tokens or self.frames < 1 or self.new_tokens < 1:
            raise ConfigError(
                f"system_tokens ({self.system_tokens}) must be fewer than text_tokens ({self.text_tokens}); frames "
                f"({self.frames}) and new_tokens ({self.new_tokens}) 1 or more"
            )


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
    runs = _runs(model, work, forms, asked)
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
    for run in _runs(model, work, forms, asked):
        peak, (_, cache) = _peak(run.first_token, model.device)
        kept = run.kept_bytes / 1e6
        weights = sum({p.data_ptr(): p.nbytes for p in run.model.parameters()}.values()) / 1e6
        sizes = (weights, peak / 1e6, kept, _cache_bytes(cache) / 1e6)
        made.append(Memory(run.form, run.asked, *(round(size, 3) for size in sizes)))
    return made


def check_forms(forms: Sequence[str]) -> None:
    """Refuse forms that there are not.

    Raises:
        ConfigError: for an unknown one.
    """
    for form in forms:
        if form not in FORMS:
            raise ConfigError(f"no form is called {form!r}; there are {', '.join(FORMS)}")


State = tuple[Tensor, Any]
"""The token that was read last `(1, 1)`, and the language model's keys and values."""


@dataclass(frozen=True)
class _Run:
    form: Form
    asked: Asked
    model: Any
    first_token: Callable[[], State]
    kept_bytes: int = 0

    def go_on(self, state: State, count: int) -> None:
        """Read `count` more tokens, one by one."""
        token, cache = state
        for _ in range(count):
            out = self.model(input_ids=token, past_key_values=cache, use_cache=True)
            token = out.logits[:, -1:].argmax(dim=-1)


def _runs(
    model: LlavaMiniForConditionalGeneration, work: Work, forms: Sequence[Form], asked: Sequence[Asked]
) -> list[_Run]:
    """Return every variant, ready to run."""
    config, device = model.config, model.device
    if not config.fusion_layers or config.compression == "none":
        raise ConfigError("the model has no compression or no pre-fusion; time one that has both")
    check_forms(forms)
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, min(30000, config.text.vocab_size) - 1, (1, work.text_tokens), generator=generator)
    side, parts = config.vision.image_size, config.parts_per_frame
    pixels = torch.randn(1, work.frames, parts, 3, side, side, generator=generator).to(device, model.dtype)
    before, after = words[:, : work.system_tokens].to(device), words[:, work.system_tokens :].to(device)

    def ids(vision_tokens: int, token: int) -> Tensor:
        return torch.cat([before, torch.full((1, vision_tokens), token, device=device), after], dim=1)

    runs: list[_Run] = []
    everything = all_tokens_of(model) if {"all-tokens", "all-tokens-kept"} & set(forms) else None
    theirs: Any = transformers_llava(model) if "transformers" in forms else None
    for what in asked:
        frames = work.frames if what == "video" else 1
        shown = pixels[:, :frames]
        for form in forms:
            if form == "mini":
                runs.append(_mini(model, what, ids(frames * config.tokens_per_frame, config.image_token_id), shown))
                continue
            if form == "mini-kept":
                if what == "second":
                    rows = ids(frames * config.tokens_per_frame, config.image_token_id)
                    runs.append(_mini_kept(model, rows, shown, rows.shape[1] - after.shape[1]))
                continue
            many = frames * config.all_tokens_per_frame
            if form == "transformers":
                rows = ids(many, theirs.config.image_token_id)
                runs.append(_Run(form, what, theirs, _plain(theirs, rows, shown.flatten(0, 2))))
            elif form == "all-tokens":
                runs.append(_Run(form, what, everything, _plain(everything, ids(many, config.image_token_id), shown)))
            elif what == "second":
                runs.append(_kept(everything, ids(many, config.image_token_id), shown, after))
    if not runs:
        raise ConfigError(f"{', '.join(forms)} keep what was asked before; ask them second")
    return runs


def _mini(model: Any, asked: Asked, ids: Tensor, pixels: Tensor) -> _Run:
    prefix = model.encode_images(pixels)

    def first() -> State:
        return _read(model(input_ids=ids, pixel_values=pixels, use_cache=True, logits_to_keep=1))

    def second() -> State:
        return _read(model(input_ids=ids, vision_prefix=prefix, use_cache=True, logits_to_keep=1))

    return _Run("mini", asked, model, second if asked == "second" else first, prefix.nbytes)


def _mini_kept(model: Any, ids: Tensor, pixels: Tensor, stem: int) -> _Run:
    """Return a question that begins with the first `stem` tokens of another conversation about the picture."""
    before, all_fused = Dialogue(model, model.encode_images(pixels)), torch.ones_like(ids, dtype=torch.bool)
    before.remember(_ask(model, before, ids, all_fused)[0])
    begun = before.opening(stem)
    return _Run("mini-kept", "second", model, lambda: _ask(model, begun.opening(stem), ids, all_fused), begun.nbytes)


def _ask(model: Any, dialogue: Dialogue, ids: Tensor, fused: Tensor) -> State:
    given = dialogue.advance(ids, fused)
    given["inputs_embeds"] = given["inputs_embeds"][:, dialogue.kept :]
    return _read(model(**given, use_cache=True, logits_to_keep=1))


def _plain(model: Any, ids: Tensor, pixels: Tensor) -> Callable[[], State]:
    """Return a question to a model that forgets every picture."""
    return lambda: _read(model(input_ids=ids, pixel_values=pixels, use_cache=True, logits_to_keep=1))


def _kept(model: Any, ids: Tensor, pixels: Tensor, after: Tensor) -> _Run:
    """Return a question to a model that keeps the keys and values of all that stands before the question."""
    stem = ids[:, : ids.shape[1] - after.shape[1]]
    cache = DynamicCache()
    model(input_ids=stem, pixel_values=pixels, past_key_values=cache, use_cache=True, logits_to_keep=1)
    length = cache.get_seq_length()

    def second() -> State:
        grown = cache.get_seq_length() - length
        if grown:
            cache.crop(-grown)
        return _read(model(input_ids=after, past_key_values=cache, use_cache=True, logits_to_keep=1))

    return _Run("all-tokens-kept", "second", model, second, _cache_bytes(cache))


def _read(out: Any) -> State:
    return out.logits[:, -1:].argmax(dim=-1), out.past_key_values


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


def _cache_bytes(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if layer.keys is not None)


def _weights(module: torch.nn.Module) -> int:
    """Return the bytes of the layers, word embeddings apart: of those a token reads one row."""
    return sum(p.nbytes for name, p in module.named_parameters() if "embed_tokens" not in name)


def _head(model: LlavaMiniForConditionalGeneration) -> int:
    return int(model.lm_head.weight.nbytes)
