"""Scenes and made videos, drawn and looked at once: frozen vision features and questions in a folder of shards.

The tower is frozen in every stage, so its features are computed once; one frame of the embedded tower is 244 kB.
F frames · P parts · N² patches · d_v width.
"""

import json
import random
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
from llava_mini.data.questions import Question, ask_about
from llava_mini.data.scenes import Scene, SceneLibrary, draw_scene
from llava_mini.data.videos import draw_video
from llava_mini.errors import DataError

SHARD = 500
Encode = Callable[[Sequence[Any]], Tensor]
"""RGB pictures → features `(n, P, N², d_v)`."""


@dataclass(frozen=True)
class PreparedScene:
    """One scene as training sees it, or one video: a scene of several frames, known by its questions alone."""

    index: int
    """Its place in the data set."""
    features: Tensor
    """`(F, P, N², d_v)`; a scene has one frame."""
    cells: Tensor
    """`(N²,)`: index of the object that covers a cell, −1 where none does."""
    names: list[str]
    """Name of each object."""
    colours: list[str | None]
    """Colour of each object, where it has one."""
    background: str | None
    """Colour of a plain background."""
    questions: list[Question]


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
    names = library.unseen_names if split == "unseen" else library.names

    def make(seed: int) -> _Drawn:
        scene = draw_scene(seed, library, split)
        return [scene.image], _row(scene, ask_about(scene, random.Random(seed), names))

    _prepare(folder, range(first_seed, first_seed + count), make, encode, desc=f"{split} scenes")


def prepare_videos(
    folder: Path, sources: Path, *, split: SceneSplit, count: int, first_seed: int, encode: Encode
) -> None:
    """Draw and encode `count` made videos, as `prepare_scenes` does scenes."""
    library = _library(sources)

    def make(seed: int) -> _Drawn:
        video = draw_video(seed, library, split)
        questions = [asdict(question) for question in video.questions]
        row: dict[str, Any] = {"cells": [], "names": [], "colours": [], "background": None, "questions": questions}
        return list(video.frames), row

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
            index=index,
            features=torch.from_numpy(self._features[shard][start:end].astype(np.float32)),
            cells=torch.tensor(row["cells"]),
            names=row["names"],
            colours=row["colours"],
            background=row["background"],
            questions=[
                Question(**{**q, "accepted": tuple(q["accepted"]), "rivals": tuple(q["rivals"])})
                for q in row["questions"]
            ],
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


def _row(scene: Scene, questions: list[Question]) -> dict[str, Any]:
    return {
        "cells": scene.cell_objects.flatten().tolist(),
        "names": [item.name for item in scene.objects],
        "colours": [item.colour for item in scene.objects],
        "background": scene.background,
        "questions": [asdict(question) for question in questions],
    }
