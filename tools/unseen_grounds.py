"""How well the tower alone tells shapes on photographs it never saw, by what grounds it was shown before.

Scenes of one to four shapes; of each shape the tower's features, on average over the cells that it covers; a ridge
regression tells which shape it is, and which colour. It learns from 300 scenes on drawn grounds, with some on views of
panoramas beside them, or on photographs of the same kind as those that it is asked about, half of the benchmark's. An
easier task than a question's, which must find the shape as well.

    python tools/unseen_grounds.py data/sources
"""

import random
import sys
from collections.abc import Callable, Container, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from PIL import Image
from unseen_names import name_by_ridge

from llava_mini.checkpoints.embedded import assemble
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
    """The shapes of many scenes, a row each: features `(n, d_v)`, which shape, which colour, of which scene."""

    @torch.no_grad()
    def __init__(self, scenes: Sequence[DrawnScene]) -> None:
        model, processor = assemble(None)
        features, labels, self.scene = [], [], []
        for start in range(0, len(scenes), 32):
            some = scenes[start : start + 32]
            frames = processor.prepare_frames([one.image for one in some])
            seen = model.model.get_vision_features(frames[:, None]).flatten(0, 2)
            for number, (one, cells) in enumerate(zip(some, seen, strict=True), start):
                for index, thing in enumerate(one.scene.objects):
                    covered = torch.from_numpy(one.scene.cell_objects == index).flatten()
                    if covered.any():
                        features.append(cells[covered].mean(0))
                        labels.append((SHAPES.index(thing.name), COLOURS.index(str(thing.colour))))
                        self.scene.append(number)
        self.features = torch.stack(features).double()
        self.shape, self.colour = torch.tensor(labels).T

    def of(self, scenes: Container[int]) -> list[int]:
        """Return the rows of some scenes."""
        return [row for row, number in enumerate(self.scene) if number in scenes]


def right(shapes: Shapes, learned: list[int], asked: list[int]) -> tuple[float, float]:
    """Return the share of shapes and of colours that are told rightly, in percent."""
    told = (
        (name_by_ridge(shapes.features, said, learned, asked), said[asked]) for said in (shapes.shape, shapes.colour)
    )
    shape, colour = (100 * (named == wanted).double().mean().item() for named, wanted in told)
    return shape, colour


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

    def row(panoramas: object, scenes: object, found: Sequence[tuple[float, float]]) -> None:
        both = zip(*found, strict=True)
        cells = [f"{sum(one) / len(one):.0f} ({min(one):.0f}–{max(one):.0f})" for one in both]
        print(f"| {panoramas} | {scenes} | {' | '.join(cells)} |")

    print(f"| panoramas | scenes on them | shape, of {len(asked)} (least–most of draws) | colour |\n|---|---|---|---|")
    row("none", 0, [right(shapes, plain, asked)])
    for count, each in SHOWN:
        found = []
        for seed in range(SEEDS):
            draws = random.Random(seed)
            firsts = {one: draws.sample(range(VIEWS), each) for one in draws.sample(range(len(panoramas)), count)}
            scenes = {starts[4 + one] + view for one, chosen in firsts.items() for view in chosen}
            found.append(right(shapes, [*plain, *shapes.of(scenes)], asked))
        row(count, count * each, found)
    row("other photographs", VIEWS * len(panoramas), [right(shapes, [*plain, *alike], asked)])
    print("new scenes on drawn grounds: shape {:.0f}, colour {:.0f}".format(*right(shapes, plain, new)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
