"""`llava-mini batch`: a file of questions, a file of answers."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llava_mini.cli import options


def batch(
    source: Annotated[str, typer.Argument(metavar="IN.jsonl", help="Questions, one JSON object a line; - for stdin.")],
    target: Annotated[str, typer.Argument(metavar="OUT.jsonl", help="Answers, in the same order; - for stdout.")],
    media: Annotated[Path | None, typer.Option(help="Folder of their files; default: the questions' own.")] = None,
    model: options.Model = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered at a time.")] = 16,
    max_new_tokens: options.MaxNewTokens = 64,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = 0,
    hd: options.Hd = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    engine: options.BatchEngine = "torch",
) -> None:
    """Answer many questions about local files, many at a time; a run that was stopped goes on when it is started again.

    A line is {"id": "a", "image": "a.jpg", "question": "What is this?"}; "images" (a list), "video" or "messages" in
    place of "image", and "max_new_tokens", may be given. An answer is {"id", "answer", "vision_tokens",
    "prompt_tokens"}, or {"id", "error"}.

    Examples:

      llava-mini batch questions.jsonl answers.jsonl --media pictures

      llava-mini batch - - --batch-size 64 < questions.jsonl > answers.jsonl
    """
    from llava_mini.errors import InputError
    from llava_mini.reply import Sampling
    from llava_mini.serving.jsonl import answer_file, check_files
    from llava_mini.serving.many import Many

    given, written = (None if name == "-" else Path(name) for name in (source, target))
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    if media is not None and not media.is_dir():
        raise InputError(f"--media is {media}, which is no folder")
    folder = media or (Path() if given is None else given.parent)
    check_files(given, written)
    many = Many(media=folder, batch_size=batch_size, sampling=sampling)
    assistant = options.load_assistant(model, device, dtype, hd=hd, engine=engine, batches=True)
    done = answer_file(assistant, given, written, many)
    told = f"{done.answered} lines answered"
    told += f", {done.failed} have an error in place of an answer" if done.failed else ""
    told += f"; {done.before} were there before" if done.before else ""
    print(told, file=sys.stderr)
