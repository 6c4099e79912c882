"""Files of JSON lines that are written while others may stop us: only whole lines count."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_mini.errors import DataError

_BLOCK = 2**16


def read_whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file's whole lines; a last line without its end was being written when something stopped.

    Raises:
        DataError: for a whole line that is no JSON object.
    """
    rows = []
    for number, line in enumerate(_whole(path).split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: it is no JSON object; mend or delete the file")
        rows.append(row)
    return rows


def each_whole_line(path: Path) -> Iterator[bytes]:
    """Give a file's whole lines one by one, without their ends; none is kept.

    Raises:
        DataError: when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line.rstrip(b"\r\n")
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or 'unknown error').lower()}") from error


def mend(path: Path) -> None:
    """Cut off a last line without its end, so that the next one begins on a line of its own.

    Raises:
        DataError: when the file cannot be written.
    """
    if not path.is_file():
        return
    try:
        _cut(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {(error.strerror or 'unknown error').lower()}") from error


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        end = size = file.seek(0, 2)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def _whole(path: Path) -> bytes:
    """Return a file up to its last line end."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or 'unknown error').lower()}") from error
    return text[: text.rfind(b"\n") + 1]
