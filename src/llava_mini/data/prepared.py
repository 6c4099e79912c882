"""Scenes and made videos, drawn and looked at once: frozen vision features, and what they show, in a folder of shards.

The tower is frozen in every stage, so its features are computed once; one frame of the embedded tower is 244 kB.
F frames · P parts · N² patches · d_v width.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from llava_mini.data.cutouts import CUTOUT_SOURCES, GLYPH_SOURCE, load_cutouts, load_glyphs
from llava_mini.data.panoramas import PANORAMA_SOURCE, load_panoramas
from llava_mini.data.questions import Question
from llava_mini.data.scenes import Scene, SceneLibrary, SceneObject, draw_scene
from llava_mini.data.sources import SOURCES, version_of
from llava_mini.data.videos import draw_video
from llava_mini.errors import DataError

SHARD = 500
_DRAWING = 2
"""Counts up when a seed comes to give another scene or video: what was drawn before is not mixed with it."""
Encode = Callable[[Sequence[Any]], Tensor]
"""RGB pictures → features `(n, P, N², d_v)`."""


@dataclass(frozen=True)
class Extras:
    """Say what scenes are drawn with besides, so that a switch can measure what each gives."""

    glyphs: bool = True
    """A second artist's cut-outs of the names."""
    panoramas: bool = True
    """Views of photographs as grounds."""


_ALL = Extras()


@dataclass(frozen=True)
class PreparedScene:
    """One scene as training sees it, or one video, of several frames."""

    index: int
    """Its place in the data set."""
    features: Tensor
    """`(F, P, N², d_v)`; a scene has one frame."""
    scene: Scene | None
    """What a scene shows; its questions are asked anew whenever it is met. None for a video."""
    questions: tuple[Question, ...] = ()
    """The questions of a video."""

    @property
    def known(self) -> Scene:
        """What is known about it.

        Raises:
            DataError: when it is a video, or was drawn by an earlier version.
        """
        if self.scene is None:
            raise DataError("a folder of scenes holds something else; draw them anew with 'llava-mini data scenes'")
        return self.scene


def prepare_scenes(
    folder: Path, sources: Path, *, count: int, tiles: int, encode: Encode, extras: Extras = _ALL
) -> int:
    """Draw and encode training scenes until there are `count`: shards that are missing or too short; seeds from 0 on.

    What they are made with is kept beside them in `prepared.json`.

    Args:
        tiles: tiles a side that `encode` cuts.
        encode: the frozen tower.
        extras: what to draw with besides.

    Returns:
        How many the folder holds. More than `count` stay there, and all are learned from.

    Raises:
        DataError: when the folder holds scenes of other tiles, other sources or extras or an earlier way to draw.
    """
    library = _library(sources, extras)

    def make(seed: int) -> _Drawn:
        image, scene = draw_scene(seed, library, "train")
        return [image], {"scene": _plain(scene)}

    _claim(folder, {"kind": "scenes", "tiles": tiles, "drawing": _DRAWING, **_versions(sources, extras)})
    return _prepare(folder, count, make, encode, desc="scenes")


def prepare_videos(
    folder: Path, sources: Path, *, count: int, tiles: int, encode: Encode, extras: Extras = _ALL
) -> int:
    """Draw and encode made videos, as `prepare_scenes` does scenes."""
    library = _library(sources, extras)

    def make(seed: int) -> _Drawn:
        video = draw_video(seed, library)
        return list(video.frames), {"questions": [asdict(question) for question in video.questions]}

    _claim(folder, {"kind": "videos", "tiles": tiles, "drawing": _DRAWING, **_versions(sources, extras)})
    return _prepare(folder, count, make, encode, desc="videos")


class PreparedScenes(Dataset[PreparedScene]):
    """The scenes or videos of a folder, features mapped from disk.

    `digest` is of all that is said of them, not of their features.

    Raises:
        DataError: when the folder holds no prepared scenes.
    """

    def __init__(self, folder: Path) -> None:
        shards = sorted(folder.glob("shard-*.json"))
        if not shards:
            raise DataError(f"no prepared scenes in {folder}; make them with 'llava-mini data scenes'")
        self._features = [np.load(path.with_suffix(".npy"), mmap_mode="r") for path in shards]
        texts = [path.read_bytes() for path in shards]
        self.digest = hashlib.sha256(b"".join(texts)).hexdigest()
        self._rows = [json.loads(text) for text in texts]
        self._index = [
            (shard, place, end - row["frames"], end)
            for shard, rows in enumerate(self._rows)
            for place, (row, end) in enumerate(zip(rows, accumulate(row["frames"] for row in rows), strict=True))
        ]

    def __len__(self) -> int:
        return len(self._index)

    @property
    def parts(self) -> int:
        """P, parts a frame: 1, or of a picture in tiles its tiles and the whole."""
        return int(self._features[0].shape[1])

    def known(self) -> Iterator[tuple[int, Scene]]:
        """Give what each scene shows, with its index and without its features; videos are left out."""
        for index, (shard, place, _, _) in enumerate(self._index):
            if (row := self._rows[shard][place].get("scene")) is not None:
                yield index, _scene(row)

    def __getitem__(self, index: int) -> PreparedScene:
        shard, place, start, end = self._index[index]
        row = self._rows[shard][place]
        return PreparedScene(
            index,
            torch.from_numpy(self._features[shard][start:end].astype(np.float32)),
            _scene(row["scene"]) if "scene" in row else None,
            tuple(_question(question) for question in row.get("questions", ())),
        )


_Drawn = tuple[list[Image.Image], dict[str, Any]]
"""The frames of a scene or video, and its row."""


def _library(sources: Path, extras: Extras) -> SceneLibrary:
    glyphs = load_glyphs(sources) if extras.glyphs else []
    panoramas = load_panoramas(sources) if extras.panoramas else []
    return SceneLibrary([*load_cutouts(sources, "train"), *glyphs], grounds=panoramas)


def _versions(sources: Path, extras: Extras) -> dict[str, str]:
    used = {**dict.fromkeys(CUTOUT_SOURCES, True), GLYPH_SOURCE: extras.glyphs, PANORAMA_SOURCE: extras.panoramas}
    drawn = [source for source in SOURCES if source.name in used]
    return {source.name: version_of(source, sources) if used[source.name] else "left out" for source in drawn}


def _claim(folder: Path, made: dict[str, int | str]) -> None:
    """Write beside the shards what they are made with; refuse a folder whose shards were made with something else."""
    folder.mkdir(parents=True, exist_ok=True)
    path, begun = folder / "prepared.json", any(folder.glob("shard-*.npy"))
    before = made
    if begun:  # the first way to draw was not written down
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {**made, "drawing": 1}
    other = next((key for key, now in made.items() if before.get(key) != now), None)
    if other is not None:
        raise DataError(
            f"{folder} was made with {other} {before.get(other)}, not {made[other]}; "
            "choose another folder with --out, or delete it"
        )
    if not begun:
        path.with_suffix(".tmp").write_text(json.dumps(made, indent=1), encoding="utf-8")
        path.with_suffix(".tmp").rename(path)


def _prepare(folder: Path, count: int, make: Callable[[int], _Drawn], encode: Encode, *, desc: str) -> int:
    """Write the shards that are missing or too short; return how many rows the folder holds then."""
    with tqdm(total=count, desc=desc, unit=desc.removesuffix("s")) as bar:
        for number, start in enumerate(range(0, count, SHARD)):
            seeds = range(start, min(start + SHARD, count))
            path = folder / f"shard-{number:04d}.json"
            if _length(path) < len(seeds):
                _write_shard(path, [make(seed) for seed in seeds], encode)
            bar.update(len(seeds))
    return sum(_length(path) for path in folder.glob("shard-*.json"))


def _length(path: Path) -> int:
    """Return how many rows a shard has, 0 for none."""
    return len(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0


def _write_shard(path: Path, drawn: Sequence[_Drawn], encode: Encode) -> None:
    """Write features and then rows; a shorter shard of the same seeds, cut off in between, still fits."""
    pictures = [frame for frames, _ in drawn for frame in frames]
    features = torch.cat([encode(pictures[i : i + 25]) for i in range(0, len(pictures), 25)])
    partial = path.with_suffix(".tmp")
    with partial.open("wb") as file:
        np.save(file, features.half().numpy())
    partial.rename(path.with_suffix(".npy"))  # who learns from the one before keeps it open
    partial.write_text(json.dumps([{**row, "frames": len(frames)} for frames, row in drawn]), encoding="utf-8")
    partial.rename(path)


def _plain(scene: Scene) -> dict[str, Any]:
    return {**asdict(scene), "cell_objects": scene.cell_objects.tolist()}


def _scene(row: dict[str, Any]) -> Scene:
    objects = tuple(SceneObject(**{**thing, "box": tuple(thing["box"])}) for thing in row["objects"])
    return Scene(
        objects,
        row["background"],
        np.array(row["cell_objects"], dtype=np.int8),
        row["kind"],
        tuple(row.get("behind", ())),
    )


def _question(row: dict[str, Any]) -> Question:
    return Question(**{**row, "accepted": tuple(row["accepted"]), "rivals": tuple(row["rivals"])})
