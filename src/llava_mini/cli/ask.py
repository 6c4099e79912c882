"""`llava-mini ask`: one question about some files."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from llava_mini.cli import options
from llava_mini.errors import InputError


def ask(
    arguments: Annotated[list[str], typer.Argument(metavar="[FILE]... QUESTION", show_default=False)],
    model: options.Model = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of the streamed answer.")
    ] = False,
    hd: options.Hd = False,
    fps: options.Fps = None,
    max_frames: options.MaxFrames = None,
    start: options.Start = None,
    end: options.End = None,
    moments: Annotated[
        int, typer.Option(min=0, help="Print the moments of a video that the answer attended to most.")
    ] = 0,
    explain: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Write a page that shows where it looked: one picture or video.")
    ] = None,
    max_new_tokens: options.MaxNewTokens = 64,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    engine: options.Engine = "torch",
) -> None:
    """Ask a question about pictures (JPEG, PNG, WEBP, GIF, BMP) or videos (mp4, mov, webm, mkv, avi), or about nothing.

    Examples:

      llava-mini ask cat.jpg "What is this?"

      llava-mini ask clip.mp4 "What appears first?" --start 1:30 --fps 2 --moments 3
    """
    files, question = split_arguments(arguments)
    check_files(files)
    sampling = options.sampling(max_new_tokens, temperature, seed)
    if explain is not None and len(files) != 1:
        raise InputError(f"--explain takes one picture or video, {len(files)} were given")
    if explain is not None and engine not in ("torch", "int8"):
        name = "vLLM" if engine.startswith("http") else engine
        raise InputError(f"{name} does not say where it looked; leave the engine out to use --explain")
    frames = options.frame_sampling(fps, max_frames, start, end)
    assistant = options.load_assistant(model, device, dtype, hd=hd, engine=engine)
    with options.open_chat(assistant, files, frames) as chat:
        reply = chat.stream(question, sampling=sampling, attention=moments > 0 or (as_json and assistant.looks_inside))
        for piece in reply:
            if not as_json:
                print(piece, end="", flush=True)
    if as_json:
        fields = dataclasses.asdict(reply.answer)
        if not reply.answer.frames:
            del fields["frames"]  # there is no video
        print(json.dumps({"answer": fields.pop("text"), **fields}, ensure_ascii=False))
    else:
        print()
        most = sorted(reply.answer.frames, key=lambda frame: frame.attention, reverse=True)[:moments]
        for frame in sorted(most, key=lambda frame: (frame.file, frame.time_s)):
            print(f"{options.clock(frame.time_s)}  {100 * frame.attention:.2f} % of the attention  {frame.file}")
        print(cost_line(reply.answer), file=sys.stderr)
    options.say_damage(chat)
    if explain is not None:
        from llava_mini.analysis.explain import write_explanation

        write_explanation(assistant, question, chat.media[0], reply.answer.text, explain)
        print(f"where it looked: {explain}", file=sys.stderr)


def split_arguments(arguments: list[str]) -> tuple[list[str], str]:
    """Return the files and the question, which stands last.

    Raises:
        InputError: when the question is missing, empty, or stands before the files.
    """
    *files, question = arguments
    if not question.strip():
        raise InputError("the question is empty; type what you want to know after the files")
    if _is_file(question):
        raise InputError(f"the question must stand last, but {question!r} is a file")
    return files, question


def check_files(files: list[str]) -> None:
    """Open every file before a model is loaded, so that a mistake is told at once."""
    from llava_mini.inputs.media import kind_of

    for file in files:
        kind_of(file)


def cost_line(answer: object) -> str:
    """Say in one line what an answer cost."""
    from llava_mini.reply import Answer

    assert isinstance(answer, Answer)
    return (
        f"[vision tokens {answer.vision_tokens} · prompt tokens {answer.prompt_tokens} · "
        f"first token after {answer.seconds_to_first_token:.2f} s · {answer.tokens_per_second:.0f} tokens/s]"
    )


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # too long for a file name
        return False
