"""A file of questions → a file of answers, line by line; a run that was stopped goes on where it stopped."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from tqdm import tqdm

from llava_mini.assistant import Assistant
from llava_mini.errors import DataError, InputError
from llava_mini.lines import each_whole_line, mend
from llava_mini.serving.many import Many, answer_rows, id_of
from llava_mini.serving.rows import parse


class Done(NamedTuple):
    """What a run did."""

    answered: int
    failed: int
    """Lines that have an error in place of an answer."""
    before: int
    """Lines that an earlier run had written."""


def check_files(source: Path | None, target: Path | None) -> None:
    """Refuse files that cannot be read or written, before a model is loaded.

    Raises:
        InputError: with the file.
    """
    if source is not None and not source.is_file():
        raise InputError(f"there is no file {source}; give a file of JSON lines, or - for standard input")
    if target is None:
        return
    check_target(target)
    if source is not None and target.exists() and source.samefile(target):
        raise InputError(f"{target} is both read and written; give another file for the answers")
    if source is None and target.exists() and target.stat().st_size:
        raise InputError(f"{target} holds answers, and standard input cannot be read again; give another file")


def check_target(target: Path) -> None:
    """Refuse a file that cannot be written; what it holds stays.

    Raises:
        InputError: with the file.
    """
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise InputError(f"{target} cannot be written; give a file in a folder that is there")
    try:
        target.open("ab").close()
    except OSError as error:
        raise InputError(f"{target} cannot be written: {(error.strerror or 'unknown error').lower()}") from error


def answer_file(assistant: Assistant, source: Path | None, target: Path | None, many: Many) -> Done:
    """Answer the lines of a file that are not answered yet; each answer is written as it comes.

    Args:
        source: file of JSON lines (`serving.rows`); None: standard input.
        target: file to write, or to go on with; None: standard output.

    Raises:
        DataError: when `target` holds answers to other questions.
        LlavaMiniError: as `answer_rows` does; what was answered is written.
    """
    if target is not None:
        mend(target)
    with ExitStack() as stack:
        given: BinaryIO = sys.stdin.buffer if source is None else stack.enter_context(source.open("rb"))
        lines = (line for line in given if line.strip())
        before = 0 if target is None or not target.is_file() else _pass_over(lines, target)
        out: TextIO = sys.stdout if target is None else stack.enter_context(target.open("a", encoding="utf-8"))
        total = None if source is None else _count(source)
        bar = stack.enter_context(
            tqdm(total=total, initial=before, desc="answering", unit="line", mininterval=2.0, smoothing=0.05)
        )
        answered = failed = 0
        made = answer_rows(assistant, map(parse, lines), many, first=before + 1)
        for row in stack.enter_context(closing(made)):
            failed += "error" in row
            answered += "error" not in row
            out.write(json.dumps(row) + "\n")
            out.flush()
            bar.update()
    return Done(answered, failed, before)


def _pass_over(lines: Iterator[bytes], target: Path) -> int:
    """Pass over the questions whose answers are there."""
    count = 0
    for count, line in enumerate(each_whole_line(target), 1):
        answer, question = parse(line), next(lines, None)
        if question is None:
            raise DataError(f"{target} holds more answers than there are questions; give another file")
        wanted, found = id_of(parse(question), count), answer.get("id") if isinstance(answer, dict) else None
        if found != wanted:
            raise DataError(f"{target}, line {count}: it answers {found!r}, not {wanted!r}; give another file")
    return count


def _count(source: Path) -> int:
    with source.open("rb") as file:
        return sum(1 for line in file if line.strip())
