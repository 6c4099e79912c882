"""Read Qt's binary resource archives (.rcc): some packages keep their pictures in them.

Source: the layout that Qt documents for `rcc --binary`: big-endian, a tree of nodes, a table of names, the data.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from llava_mini.errors import DataError

_HEADER = struct.Struct(">4sIIII")  # magic, version, offsets of tree, data and names
_ZLIB, _DIRECTORY, _ZSTD = 1, 2, 4


def read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file of an archive, in the archive's order.

    Raises:
        DataError: when the file is no such archive, or is compressed in a way that is not read here.
    """
    raw = path.read_bytes()
    if len(raw) < _HEADER.size or raw[:4] != b"qres":
        raise DataError(f"{path.name} is no Qt resource archive")
    _, version, tree, data, names = _HEADER.unpack_from(raw)
    node_size = 14 if version < 2 else 22  # later versions add a time of change

    def name_of(offset: int) -> str:
        length = struct.unpack_from(">H", raw, names + offset)[0]
        start = names + offset + 6  # length, hash
        return raw[start : start + 2 * length].decode("utf-16-be")

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        name_at, flags = struct.unpack_from(">IH", raw, tree + index * node_size)
        first, second = struct.unpack_from(">II", raw, tree + index * node_size + 6)
        name = name_of(name_at) if index else ""
        if flags & _DIRECTORY:
            for child in range(second, second + first):
                yield from walk(child, f"{prefix}{name}/" if name else prefix)
            return
        length = struct.unpack_from(">I", raw, data + second)[0]
        content = raw[data + second + 4 : data + second + 4 + length]
        if flags & _ZSTD:
            raise DataError(f"{path.name} holds {name} compressed with zstd, which is not read here")
        yield prefix + name, zlib.decompress(content[4:]) if flags & _ZLIB else content

    try:
        yield from walk(0, "")
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} is damaged: {error}") from error
