"""What the tower and the embedded model's patches know of shapes on photographs, by what grounds were shown before.

Scenes of one to four shapes; of each shape the mean of the tower's features over the cells that it covers, and of what
the projector makes of them; a ridge regression tells which shape it is, and which colour. It learns from 300 scenes on
drawn grounds, with some on views of panoramas beside them (the mean of ten draws, least and most), or on photographs of
the same kind as those that it is asked about, half of the benchmark's each. An easier task than a question's, which
must find the shape as well; and the projector has learned from panoramas before.

    python tools/unseen_grounds.py data/sources
"""

import random
import sys
from collections.abc import Callable, Container, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from unseen_names import name_by_ridge

from llava_mini.assistant import Assistant
from llava_mini.data.backgrounds import cut_corner, draw_background
from llava_mini.data.colours import COLOURS
from llava_mini.data.cutouts import load_cutouts
from llava_mini.data.layouts import SIDE, SceneLibrary, draw_layout
from llava_mini.data.panoramas import load_panoramas, look_around
from llava_mini.data.scenes import SHAPES, DrawnScene, compose
from llava_mini.evaluation.photographs import load_photographs

LEARNED, ASKED, VIEWS = 300, 240, 30
"""Scenes on drawn grounds that are learned from, scenes that are asked about, scenes on a panorama at most."""
SHOWN = ((2, 30), (4, 15), (15, 4), (18, 1), (18, 7), (18, 30))
"""Panoramas, and scenes on each."""
SEEDS = 10
FEATURES = ("tower", "projected")


def draw(
    seed: str, count: int, library: SceneLibrary, ground: Callable[[random.Random], Image.Image]
) -> list[DrawnScene]:
    """Draw so many scenes of shapes on grounds of one kind."""
    scenes = []
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        layout = draw_layout(rng, library, "new")
        while layout.kind != "shapes":
            layout = draw_layout(rng, library, "new")
        scenes.append(compose(ground(rng), None, layout))
    return scenes


class Shapes:
    """The shapes of many scenes, a row each: features `(n, ·)` of two kinds, which shape, which colour, which scene."""

    @torch.no_grad()
    def __init__(self, scenes: Sequence[DrawnScene]) -> None:
        assistant = Assistant.load(device="cpu", dtype="float32")
        core, prepare = assistant.model.model, assistant.processor.prepare_frames
        rows: list[tuple[Tensor, Tensor]] = []
        labels: list[tuple[int, int]] = []
        self.scene: list[int] = []
        for start in range(0, len(scenes), 32):
            some = scenes[start : start + 32]
            seen = core.get_vision_features(prepare([one.image for one in some])[:, None]).flatten(0, 2)
            for number, (one, tower, patches) in enumerate(zip(some, seen, core._project(seen), strict=True), start):
                for index, thing in enumerate(one.scene.objects):
                    covered = torch.from_numpy(one.scene.cell_objects == index).flatten()
                    if covered.any():
                        rows.append((tower[covered].mean(0), patches[covered].mean(0)))
                        labels.append((SHAPES.index(thing.name), COLOURS.index(str(thing.colour))))
                        self.scene.append(number)
        stacked = (torch.stack(kind).double() for kind in zip(*rows, strict=True))
        self.features = dict(zip(FEATURES, stacked, strict=True))
        self.shape, self.colour = torch.tensor(labels).T

    def of(self, scenes: Container[int]) -> list[int]:
        """Return the rows of some scenes."""
        return [row for row, number in enumerate(self.scene) if number in scenes]

    def right(self, learned: list[int], asked: list[int]) -> list[float]:
        """Return how many shapes and colours are told rightly, by each kind of features in turn, in percent."""
        return [
            100 * (name_by_ridge(features, said, learned, asked) == said[asked]).double().mean().item()
            for features in self.features.values()
            for said in (self.shape, self.colour)
        ]


def main(sources: Path) -> None:
    """Print the table, and beside it what is right of new scenes on drawn grounds."""
    library, panoramas = SceneLibrary(load_cutouts(sources, "train")), load_panoramas(sources)
    photographs = [one.image for one in load_photographs(sources) if one.group != "stamps"]

    def on(pictures: Sequence[Image.Image]) -> Callable[[random.Random], Image.Image]:
        return lambda rng: cut_corner(rng, rng.choice(pictures), SIDE)

    def around(picture: Image.Image) -> Callable[[random.Random], Image.Image]:
        return lambda rng: look_around(rng, picture, SIDE)

    parts = [
        draw("drawn", LEARNED, library, lambda rng: draw_background(rng, SIDE, [], calm=True)[0]),
        draw("new", ASKED, library, lambda rng: draw_background(rng, SIDE, [], calm=True)[0]),
        draw("photographs", ASKED, library, on(photographs[::2])),
        draw("other photographs", VIEWS * len(panoramas), library, on(photographs[1::2])),
        *(draw(f"panorama {number}", VIEWS, library, around(one.picture)) for number, one in enumerate(panoramas)),
    ]
    shapes = Shapes([scene for part in parts for scene in part])
    starts = list(accumulate((len(part) for part in parts), initial=0))
    plain, new, asked, alike, *_ = (shapes.of(range(*ends)) for ends in pairwise(starts))
    kinds = [f"{said}, {kind}" for kind in FEATURES for said in ("shape", "colour")]
    print(f"| {len(asked)} shapes on photographs: panoramas | scenes on them | {' | '.join(kinds)} |")
    print(f"|---|---|{'---|' * len(kinds)}")

    def row(panoramas: object, scenes: int, found: Sequence[Sequence[float]]) -> None:
        cells = [f"{sum(one) / len(one):.0f} ({min(one):.0f}–{max(one):.0f})" for one in zip(*found, strict=True)]
        print(f"| {panoramas} | {scenes} | {' | '.join(cells)} |")

    row("none", 0, [shapes.right(plain, asked)])
    for count, each in SHOWN:
        found = []
        for seed in range(SEEDS):
            draws = random.Random(seed)
            firsts = {one: draws.sample(range(VIEWS), each) for one in draws.sample(range(len(panoramas)), count)}
            scenes = {starts[4 + one] + view for one, chosen in firsts.items() for view in chosen}
            found.append(shapes.right([*plain, *shapes.of(scenes)], asked))
        row(count, count * each, found)
    row("other photographs", VIEWS * len(panoramas), [shapes.right([*plain, *alike], asked)])
    row("none, asked of new drawn grounds", 0, [shapes.right(plain, new)])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
