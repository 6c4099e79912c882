"""Scenes and made videos, drawn and looked at once: frozen vision features, and what they show, in a folder of shards.

The tower is frozen in every stage, so its features are computed once; one frame of the embedded tower is 244 kB.
F frames · P parts · N² patches · d_v width.
"""

import json
from collections.abc import Callable, Sequence
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

from llava_mini.data.cutouts import load_cutouts
from llava_mini.data.layouts import SceneSplit
from llava_mini.data.questions import Question
from llava_mini.data.scenes import Scene, SceneLibrary, SceneObject, draw_scene
from llava_mini.data.videos import draw_video
from llava_mini.errors import DataError

SHARD = 500
Encode = Callable[[Sequence[Any]], Tensor]
"""RGB pictures → features `(n, P, N², d_v)`."""


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
    folder: Path, sources: Path, *, split: SceneSplit, count: int, first_seed: int, encode: Encode
) -> None:
    """Draw and encode `count` scenes; a run that was stopped goes on with the first missing shard.

    Args:
        split: "train", "new" (new scenes of trained cut-outs) or "unseen" (held-out cut-outs and backgrounds).
        first_seed: seed of the first scene; scene i has seed first_seed + i.
        encode: the frozen tower.
    """
    library = _library(sources)

    def make(seed: int) -> _Drawn:
        image, scene = draw_scene(seed, library, split)
        return [image], {"scene": _plain(scene)}

    _prepare(folder, range(first_seed, first_seed + count), make, encode, desc=f"{split} scenes")


def prepare_videos(
    folder: Path, sources: Path, *, split: SceneSplit, count: int, first_seed: int, encode: Encode
) -> None:
    """Draw and encode `count` made videos, as `prepare_scenes` does scenes."""
    library = _library(sources)

    def make(seed: int) -> _Drawn:
        video = draw_video(seed, library)
        return list(video.frames), {"questions": [asdict(question) for question in video.questions]}

    _prepare(folder, range(first_seed, first_seed + count), make, encode, desc=f"{split} videos")


class PreparedScenes(Dataset[PreparedScene]):
    """The scenes or videos of a folder, features mapped from disk.

    Raises:
        DataError: when the folder holds no prepared scenes.
    """

    def __init__(self, folder: Path) -> None:
        shards = sorted(folder.glob("shard-*.json"))
        if not shards:
            raise DataError(f"no prepared scenes in {folder}; make them with 'llava-mini data scenes'")
        self._features = [np.load(path.with_suffix(".npy"), mmap_mode="r") for path in shards]
        self._rows = [json.loads(path.read_text(encoding="utf-8")) for path in shards]
        self._index = [
            (shard, place, end - row["frames"], end)
            for shard, rows in enumerate(self._rows)
            for place, (row, end) in enumerate(zip(rows, accumulate(row["frames"] for row in rows), strict=True))
        ]

    def __len__(self) -> int:
        return len(self._index)

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


def _library(sources: Path) -> SceneLibrary:
    return SceneLibrary(load_cutouts(sources, "train"), load_cutouts(sources, "unseen"))


def _prepare(folder: Path, seeds: range, make: Callable[[int], _Drawn], encode: Encode, *, desc: str) -> None:
    """Write the shards that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(seeds), desc=desc, unit="scene") as bar:
        for number, start in enumerate(range(0, len(seeds), SHARD)):
            chosen = seeds[start : start + SHARD]
            path = folder / f"shard-{number:04d}"
            if not path.with_suffix(".json").is_file():
                drawn = [make(seed) for seed in chosen]
                pictures = [frame for frames, _ in drawn for frame in frames]
                features = torch.cat([encode(pictures[i : i + 25]) for i in range(0, len(pictures), 25)])
                np.save(path.with_suffix(".npy"), features.half().numpy())
                rows = [{**row, "frames": len(frames)} for frames, row in drawn]
                path.with_suffix(".tmp").write_text(json.dumps(rows), encoding="utf-8")
                path.with_suffix(".tmp").rename(path.with_suffix(".json"))
            bar.update(len(chosen))


def _plain(scene: Scene) -> dict[str, Any]:
    return {**asdict(scene), "cell_objects": scene.cell_objects.tolist()}


def _scene(row: dict[str, Any]) -> Scene:
    objects = tuple(SceneObject(**{**thing, "box": tuple(thing["box"])}) for thing in row["objects"])
    return Scene(objects, row["background"], np.array(row["cell_objects"], dtype=np.int8), row["kind"])


def _question(row: dict[str, Any]) -> Question:
    return Question(**{**row, "accepted": tuple(row["accepted"]), "rivals": tuple(row["rivals"])})
