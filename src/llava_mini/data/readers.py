"""Files of training data → examples: JSON, JSONL, parquet, and webdataset tars; at random places or as a stream."""

import glob
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval, MinLen

from llava_mini.data.examples import BadExample, Example, example_of
from llava_mini.errors import DataError

_PICTURES, _VIDEOS = ("jpg", "jpeg", "png", "webp", "gif", "bmp"), ("mp4", "mkv", "webm", "mov", "avi")


@dataclass(frozen=True)
class DataFile:
    """A file of examples, as a recipe names it."""

    path: Annotated[str, MinLen(1)]
    """A .json, .jsonl, .parquet or .tar file; `*` names many of one kind."""
    media: str = ""
    """Folder that names of pictures and videos are relative to; empty: the file's own folder."""
    weight: Annotated[float, Interval(ge=0, lt=math.inf)] = 1.0
    """How often each example is seen in an epoch: 0.5 draws half of them anew each time. Of a stream: its share."""
    stream: bool = False
    """Read on and on, without knowing how many there are; for parquet and tar files larger than the memory."""


class Records(Sequence[Any]):
    """The records of a JSON or JSONL file, kept as bytes: a list of dicts needs several times as much memory.

    Worker processes share them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {(error.strerror or 'unknown error').lower()}") from error
        rows = text.splitlines() if path.suffix == ".jsonl" else _encoded(text, path)
        rows = [row for row in rows if row.strip()]
        if not rows:
            raise DataError(f"{path} holds no records; it must be a list of at least one")
        self._bytes = b"".join(rows)
        self._ends = np.cumsum([len(row) for row in rows])

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        start = self._ends[index - 1] if index else 0
        row = self._bytes[start : self._ends[index]]
        try:
            return json.loads(row)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}, record {index}: it is no JSON ({error})") from error


class Examples(Sequence[Example]):
    """The examples of one file or of many, at random places.

    Raises:
        DataError: for a file that is missing, empty or of another kind.
    """

    def __init__(self, file: DataFile) -> None:
        paths = find_paths(file)
        self.root = _root(file, paths)
        self.name = paths[0].name if len(paths) == 1 else file.path
        self.records: Any
        if paths[0].suffix in (".json", ".jsonl"):
            if len(paths) > 1:
                raise DataError(f"{file.path} names {len(paths)} JSON files; give one, or a DataFile for each")
            self.records = Records(paths[0])
        else:
            self.records = _load(paths, stream=False)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        return example_of(self.records[int(index)], f"{self.name}, record {index}", self.root)


class ExampleStream:
    """The examples of parquet or tar files as a stream; each of `parts` readers gets its own."""

    def __init__(self, file: DataFile) -> None:
        self.paths = find_paths(file)
        self.root = _root(file, self.paths)
        self.name = Path(file.path).name

    def read(self, part: int, parts: int, *, seed: int, shuffle_buffer: int = 1000) -> Iterator[Example | BadExample]:
        """Read one part for ever, epoch after epoch, in an order that hangs on the seed."""
        for epoch in count():
            rows = _load(self.paths, stream=True)
            whole_files = rows.num_shards >= parts  # else every reader reads all, and takes its own
            if whole_files:
                rows = rows.shard(parts, part)
            given = 0
            # `iter` of `datasets` does not divide the rows among the loader's workers once more, as `__iter__` does.
            batches = rows.shuffle(seed=seed + epoch, buffer_size=shuffle_buffer).iter(batch_size=1)
            for index, batch in enumerate(batches):
                if whole_files or index % parts == part:
                    given += 1
                    row = _tar_record({name: values[0] for name, values in batch.items()})
                    try:
                        yield example_of(row, f"{self.name}, record {_digest(row)}", self.root)
                    except DataError as error:
                        yield BadExample(error)
            if not given:
                raise DataError(f"{self.name} has no record for reader {part + 1} of {parts}; use fewer workers")


def _digest(row: Any) -> str:
    """Name a record by what it says: its place changes with every shuffle."""
    said = [row.get(name) for name in ("id", "__key__", "messages", "conversations", "q")]
    return hashlib.sha1(repr(said).encode(), usedforsecurity=False).hexdigest()[:8]


def find_paths(file: DataFile) -> list[Path]:
    """Return the files that a `DataFile` names, all of one kind.

    Raises:
        DataError: when there is none.
    """
    paths = sorted(Path(path) for path in glob.glob(file.path)) if "*" in file.path else [Path(file.path)]  # noqa: PTH207
    if not paths:
        raise DataError(f"no file matches {file.path}")
    for path in paths:
        if path.is_dir():
            raise DataError(f"{path} is a folder; give a file in it, .json, .jsonl, .parquet or .tar")
        if path.suffix not in (".json", ".jsonl", ".parquet", ".tar"):
            raise DataError(f"{path} is of no known kind; give .json, .jsonl, .parquet or .tar")
        if not path.is_file():
            raise DataError(f"no such file: {path}")
    if len({path.suffix for path in paths}) > 1:
        raise DataError(f"{file.path} names files of several kinds; give a DataFile for each")
    return paths


def _root(file: DataFile, paths: list[Path]) -> Path:
    root = Path(file.media) if file.media else paths[0].parent
    if not root.is_dir():
        raise DataError(f"no such folder of pictures and videos: {root}")
    return root


def _encoded(text: bytes, path: Path) -> list[bytes]:
    if not text.strip():
        raise DataError(f"{path} is empty; it must be a list of records")
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(rows, list):
        kind = "one object" if isinstance(rows, dict) else "no list"
        raise DataError(f"{path} holds {kind}; it must be a list of records")
    return [json.dumps(row).encode() for row in rows]


def _load(paths: list[Path], *, stream: bool) -> Any:
    """Open parquet and tar files with `datasets`; pictures stay encoded until they are needed."""
    import datasets

    datasets.disable_progress_bars()
    kind = "parquet" if paths[0].suffix == ".parquet" else "webdataset"
    names = [str(path) for path in paths]
    try:
        rows = datasets.load_dataset(kind, data_files=names, split="train", streaming=stream)
    except Exception as error:  # damaged files raise many kinds
        raise DataError(f"{paths[0]} cannot be read: {' '.join(str(error).split())[:200]}") from error
    for name, feature in (rows.features or {}).items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.Image | datasets.Video):
            plain = type(inner)(decode=False)
            rows = rows.cast_column(name, datasets.List(plain) if inner is not feature else plain)
    return rows if stream else _Rows(rows)


class _Rows(Sequence[Any]):
    """Rows of `datasets`, the members of a tar joined to one record."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return _tar_record(self.rows[index])


def _tar_record(row: dict[str, Any]) -> dict[str, Any]:
    """Join what lies under one key of a tar: its JSON, and the picture or video beside it."""
    if not isinstance(row.get("json"), dict):
        return row
    record = {**row["json"], "__key__": row.get("__key__")}
    for kind, endings in (("image", _PICTURES), ("video", _VIDEOS)):
        member = next((row[ending] for ending in endings if row.get(ending) is not None), None)
        if member is not None:
            record = {name: value for name, value in record.items() if name not in (kind, f"{kind}s")}
            record[kind] = member
    return record
