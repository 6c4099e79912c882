"""Options that several verbs share, and how a verb loads its model."""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llava_mini.assistant import Assistant, Chat
    from llava_mini.inputs.media import FrameSampling
    from llava_mini.reply import Sampling


def seconds(text: str) -> float:
    """Read a time as seconds, minutes:seconds or hours:minutes:seconds.

    Raises:
        InputError: when it is none of them.
    """
    from llava_mini.errors import InputError

    parts = str(text).split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or not all(0 <= number < math.inf for number in numbers):
        raise InputError(f"{text!r} is no time; write 90, 1:30 or 0:01:30")
    return sum(number * 60**place for place, number in enumerate(reversed(numbers)))


def clock(time_s: float) -> str:
    """Write a time as hours:minutes:seconds."""
    whole = int(time_s)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


Model = Annotated[str | None, typer.Option(help="Folder or hub name of a model; default: the embedded model.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
Seed = Annotated[int, typer.Option(help="Seed of the sampling.")]
Hd = Annotated[bool, typer.Option("--hd", help="Cut pictures and frames into 2×2 tiles beside the whole.")]
Fps = Annotated[float | None, typer.Option(help="Frames per second of video; default: as the model says, mostly 1.")]
MaxFrames = Annotated[
    int | None, typer.Option(help="Most frames of one video; default: as the model says, mostly 128.")
]
Start = Annotated[str | None, typer.Option(metavar="TIME", help="Where to begin: 90, 1:30 or 0:01:30.")]
End = Annotated[str | None, typer.Option(metavar="TIME", help="Where to end, written likewise.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
Engine = Annotated[
    str,
    typer.Option(
        help="What the language model runs in: torch, packed (auto: where it can), int8, llama.cpp "
        "(Q8_0, or a .gguf file), vLLM's http://…"
    ),
]
BatchEngine = Annotated[
    str, typer.Option(help="What the language model runs in: torch, packed (auto: where it can), int8, vLLM's http://…")
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.")]


def frame_sampling(
    fps: float | None, max_frames: int | None, start: str | None, end: str | None
) -> Callable[["Assistant"], "FrameSampling"]:
    """Check what is asked for, before a model is loaded; what is left open will be as the model's processor says."""
    from llava_mini.inputs.media import FrameSampling

    start_s, end_s = (None if text is None else seconds(text) for text in (start, end))
    asked = {"fps": fps, "max_frames": max_frames, "start_s": start_s, "end_s": end_s}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    FrameSampling(**given)
    return lambda assistant: dataclasses.replace(assistant.processor.sampling, **given)


def sampling(max_new_tokens: int, temperature: float, seed: int) -> "Sampling":
    """Check how tokens are to be chosen, before a model is loaded."""
    from llava_mini.cli.quick import collect_later, scan_once

    with collect_later():
        scan_once()
        from llava_mini.reply import Sampling

        return Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)


@contextmanager
def open_chat(
    assistant: "Assistant", files: list[str], frames: Callable[["Assistant"], "FrameSampling"]
) -> Iterator["Chat"]:
    """Open a conversation; while many frames are read, show how long it will take."""
    from tqdm import tqdm

    with tqdm(unit="frame", desc="reading", leave=False, delay=1.0, disable=None) as bar:
        chat = assistant.chat(*files, frames=frames(assistant), on_frames=lambda more: bar.update(more))
        bar.total = chat.frame_count
        yield chat


def say_damage(chat: "Chat") -> None:
    """Say which videos had packets that could not be decoded."""
    from llava_mini.inputs.media import Video

    for item in chat.media:
        if isinstance(item, Video) and item.damaged_packets:
            print(f"note: {item.damaged_packets} damaged packets of {item.name} were skipped", file=sys.stderr)


def load_assistant(
    model: str | None, device: str, dtype: str, *, hd: bool = False, engine: str = "torch", batches: bool = False
) -> "Assistant":
    """Load a model quietly; say so when the embedded one has to be assembled first.

    Args:
        batches: it is to answer in batches that rows join and leave.
    """
    import os

    from llava_mini.engines import check_batches

    if batches:
        check_batches(engine)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from llava_mini.cli.quick import collect_later, scan_once
    from llava_mini.inputs.memory import keep_freed

    keep_freed()
    with collect_later():
        scan_once()
        import transformers

        from llava_mini.assistant import Assistant
        from llava_mini.checkpoints import embedded

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        if model is None and not embedded.is_assembled():
            print("joining the embedded model's parts, this once (about half a minute)", file=sys.stderr)
        return Assistant.load(model, hd=hd, device=device, dtype=dtype, engine=engine)
