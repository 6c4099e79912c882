"""The folder of a benchmark's published files: what is read from it, and clear words for what is missing or odd."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_mini.errors import DataError


class Published:
    """The folder of one benchmark; every name given is one below it.

    Args:
        page: where its files are to be had, for messages.
    """

    def __init__(self, root: Path, title: str, page: str) -> None:
        self.root, self.title, self.page = root, title, page

    def has(self, name: str) -> bool:
        """Tell whether a file or folder is there."""
        return (self.root / name).exists()

    def first(self, *names: str) -> str:
        """Return the first name that is there.

        Raises:
            DataError: when none is.
        """
        for name in names:
            if self.has(name):
                return name
        others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
        raise DataError(f"{self.title}: {self.root / names[0]} is missing{others}; get it from {self.page}")

    def text(self, name: str) -> str:
        """Return a text file."""
        path = self.root / self.first(name)
        try:
            return path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.title}: {path} cannot be read ({error})") from error

    def json(self, name: str) -> Any:
        """Return what a JSON file holds."""
        try:
            return json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.title}: {self.root / name} is no JSON ({error})") from error

    def json_lines(self, name: str) -> Iterator[Any]:
        """Yield the objects of a file of JSON lines."""
        for number, line in enumerate(self.text(name).split("\n"), 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{self.title}: {self.root / name}, line {number}: no JSON ({error})") from error

    def table(self, name: str) -> Iterator[dict[str, str]]:
        """Yield the rows of a table with tabs and a head line; pictures may stand in it."""
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        with (self.root / self.first(name)).open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                yield {key: value or "" for key, value in row.items() if key is not None}

    def media(self, *parts: str) -> Path:
        """Return the path of a picture or video.

        Raises:
            DataError: when the name leads out of the folder.
        """
        path = self.root.joinpath(*parts)
        if any(part.startswith("/") or ".." in Path(part).parts or "\0" in part for part in parts):
            raise DataError(f"{self.title}: {'/'.join(parts)!r} is no name of a file below {self.root}")
        return path

    def video(self, folder: str, name: str) -> Path:
        """Return the path of a video that is named without its ending."""
        path = self.media(folder, name)
        return next((found for found in map(path.with_name, _with_endings(path.name)) if found.is_file()), path)


def _with_endings(name: str) -> list[str]:
    return [name + ending for ending in (".mp4", ".avi", ".mkv", ".webm", ".mov")]
