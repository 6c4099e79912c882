"""`llava-mini chat`: several questions about the same files."""

import sys
from typing import Annotated

import typer

from llava_mini.cli import options
from llava_mini.cli.ask import check_files, cost_line


def chat(
    files: Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", show_default=False)] = None,
    model: options.Model = None,
    hd: options.Hd = False,
    fps: options.Fps = None,
    max_frames: options.MaxFrames = None,
    start: options.Start = None,
    end: options.End = None,
    max_new_tokens: options.MaxNewTokens = 64,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    engine: options.Engine = "torch",
) -> None:
    """Talk about pictures or videos: a question a line, an empty line or Ctrl-D ends.

    Examples:

      llava-mini chat cat.jpg

      printf 'What is this?\\nWhat colour is it?\\n' | llava-mini chat cat.jpg
    """
    check_files(files or [])
    sampling = options.sampling(max_new_tokens, temperature, seed)
    frames = options.frame_sampling(fps, max_frames, start, end)
    assistant = options.load_assistant(model, device, dtype, hd=hd, engine=engine)
    with options.open_chat(assistant, files or [], frames) as conversation:
        while question := _next_question():
            reply = conversation.stream(question, sampling=sampling)
            for piece in reply:
                print(piece, end="", flush=True)
            print()
            print(cost_line(reply.answer), file=sys.stderr)
            options.say_damage(conversation)


def _next_question() -> str:
    """Read a line; the prompt goes to stderr and only to a person."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
