"""Archives are read as they were written."""

import struct
import zlib
from pathlib import Path

import pytest

from llava_mini.errors import DataError
from llava_mini.evaluation.photographs import load_photographs
from llava_mini.evaluation.qt_resources import read_archive


def made_archive(files: dict[str, bytes], *, compress: bool) -> bytes:
    """A folder "pictures" with files, as Qt's resource compiler lays it out (version 1)."""
    names, name_at = b"", {}
    for name in ["pictures", *files]:
        name_at[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    data, data_at = b"", {}
    for name, content in files.items():
        packed = struct.pack(">I", len(content)) + zlib.compress(content) if compress else content
        data_at[name] = len(data)
        data += struct.pack(">I", len(packed)) + packed
    tree = struct.pack(">IHII", 0, 2, 1, 1) + struct.pack(">IHII", name_at["pictures"], 2, len(files), 2)
    for name in files:
        tree += struct.pack(">IHHHI", name_at[name], int(compress), 0, 0, data_at[name])
    start = 20
    return (
        struct.pack(">4sIIII", b"qres", 1, start, start + len(tree), start + len(tree) + len(data))
        + tree
        + data
        + names
    )


@pytest.mark.parametrize("compress", [False, True])
def test_an_archive_gives_back_what_was_put_in(tmp_path: Path, compress: bool) -> None:
    files = {"cat.webp": b"cat" * 50, "hündchen.webp": b"dog"}
    path = tmp_path / "made.rcc"
    path.write_bytes(made_archive(files, compress=compress))
    assert dict(read_archive(path)) == {f"pictures/{name}": content for name, content in files.items()}


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "made.rcc"
    path.write_bytes(b"PK\x03\x04" + b"\0" * 40)
    with pytest.raises(DataError, match=r"made\.rcc is no Qt resource archive"):
        list(read_archive(path))


def test_a_missing_package_is_named_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gcompris-qt-data.*llava-mini data fetch --use test"):
        load_photographs(tmp_path)
