"""Scenes drawn, asked about and looked at once: frozen vision features and questions in a folder of shards.

The tower is frozen in every stage, so its features are computed once; one scene of the embedded tower is 238 kB.
N² patches · d_v width.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from llava_mini.data.cutouts import load_cutouts
from llava_mini.data.layouts import SceneSplit
from llava_mini.data.questions import Question, ask_about
from llava_mini.data.scenes import Scene, SceneLibrary, draw_scene
from llava_mini.errors import DataError

SHARD = 500
Encode = Callable[[Sequence[Any]], Tensor]
"""RGB pictures → features `(n, N², d_v)`."""


@dataclass(frozen=True)
class PreparedScene:
    """One scene as training sees it."""

    index: int
    """Its place in the data set."""
    features: Tensor
    """`(N², d_v)`."""
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
    """
    folder.mkdir(parents=True, exist_ok=True)
    library = SceneLibrary(load_cutouts(sources, "train"), load_cutouts(sources, "unseen"))
    names = library.unseen_names if split == "unseen" else library.names
    with tqdm(total=count, desc=f"{split} scenes", unit="scene") as bar:
        for start in range(0, count, SHARD):
            size = min(SHARD, count - start)
            path = folder / f"shard-{start // SHARD:04d}"
            if not path.with_suffix(".json").is_file():
                scenes = [draw_scene(first_seed + start + i, library, split) for i in range(size)]
                features = torch.cat([encode([s.image for s in batch]) for batch in _batched(scenes, 25)])
                np.save(path.with_suffix(".npy"), features.half().numpy())
                rows = [
                    _row(scene, ask_about(scene, random.Random(first_seed + start + i), names))
                    for i, scene in enumerate(scenes)
                ]
                path.with_suffix(".tmp").write_text(json.dumps(rows), encoding="utf-8")
                path.with_suffix(".tmp").rename(path.with_suffix(".json"))
            bar.update(size)


class PreparedScenes(Dataset[PreparedScene]):
    """The scenes of a folder, features mapped from disk.

    Raises:
        DataError: when the folder holds no prepared scenes.
    """

    def __init__(self, folder: Path) -> None:
        shards = sorted(folder.glob("shard-*.json"))
        if not shards:
            raise DataError(f"no prepared scenes in {folder}; make them with 'llava-mini data scenes'")
        self._features = [np.load(path.with_suffix(".npy"), mmap_mode="r") for path in shards]
        self._rows = [json.loads(path.read_text(encoding="utf-8")) for path in shards]
        self._index = [(s, i) for s, rows in enumerate(self._rows) for i in range(len(rows))]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> PreparedScene:
        shard, place = self._index[index]
        row = self._rows[shard][place]
        return PreparedScene(
            index=index,
            features=torch.from_numpy(self._features[shard][place].astype(np.float32)),
            cells=torch.tensor(row["cells"]),
            names=row["names"],
            colours=row["colours"],
            background=row["background"],
            questions=[
                Question(**{**q, "accepted": tuple(q["accepted"]), "rivals": tuple(q["rivals"])})
                for q in row["questions"]
            ],
        )


def _row(scene: Scene, questions: list[Question]) -> dict[str, Any]:
    return {
        "cells": scene.cell_objects.flatten().tolist(),
        "names": [item.name for item in scene.objects],
        "colours": [item.colour for item in scene.objects],
        "background": scene.background,
        "questions": [asdict(question) for question in questions],
    }


def _batched(items: Sequence[Scene], size: int) -> Iterator[Sequence[Scene]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
