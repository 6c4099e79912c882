"""Draw labelled scenes: cut-outs and shapes on many kinds of ground, each a pure function of its seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_mini.data.backgrounds import cut_corner, draw_background
from llava_mini.data.layouts import SIDE, Layout, SceneKind, SceneLibrary, SceneSplit, Sprite, draw_layout
from llava_mini.data.names import plain_name
from llava_mini.data.panoramas import look_around
from llava_mini.data.shapes import SHAPES

__all__ = ["CELLS", "SHAPES", "SIDE", "DrawnScene", "Scene", "SceneLibrary", "SceneObject", "draw_scene"]

_PHOTOGRAPHED = 0.5
"""How often training scenes stand on a view of a panorama."""
CELLS = 9
"""Cells along a side: 260 pixels at a stride of 32, as the embedded tower sees them."""


@dataclass(frozen=True)
class SceneObject:
    """Say what one object is and where it stands."""

    name: str
    kind: Literal["cutout", "shape"]
    colour: str | None
    """Colour word, None when no single word fits."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels."""
    area: int
    """Visible pixels."""

    @property
    def centre(self) -> tuple[float, float]:
        """Return the middle of the box as fractions of the picture."""
        return (self.box[0] + self.box[2]) / (2 * SIDE), (self.box[1] + self.box[3]) / (2 * SIDE)

    @property
    def size(self) -> tuple[float, float]:
        """Return width and height of the box as fractions of the picture."""
        return (self.box[2] - self.box[0]) / SIDE, (self.box[3] - self.box[1]) / SIDE


@dataclass(frozen=True, eq=False)
class Scene:
    """Hold everything that is known about a picture."""

    objects: tuple[SceneObject, ...]
    background: str | None
    """Colour word of a plain ground, else None."""
    cell_objects: NDArray[np.int8]
    """(9, 9) int8: the object that covers at least 40 % of a cell, else -1."""
    kind: SceneKind
    behind: tuple[str, ...] = ()
    """What the ground may show besides, when it is of a photograph."""

    @property
    def only_shapes(self) -> bool:
        """Whether it shows nothing but shapes."""
        return all(thing.kind == "shape" for thing in self.objects)

    @property
    def shown(self) -> frozenset[str]:
        """Plain names of all that may be seen in it, behind the things too: none of them is absent."""
        return frozenset((*(thing.name for thing in self.objects), *(plain_name(one) or one for one in self.behind)))


class DrawnScene(NamedTuple):
    """Hold a picture and what it shows."""

    image: Image.Image
    """RGB, 260 × 260."""
    scene: Scene


def draw_scene(seed: int, library: SceneLibrary, split: SceneSplit) -> DrawnScene:
    """Draw the scene of a seed.

    Args:
        seed: the only source of chance.
        library: the cut-outs.
        split: "train" and "new" draw from trained cut-outs, often on views of the library's panoramas if it has any
            (use other seeds for "new"); "unseen" draws from held-out cut-outs (and shapes) on corners of its
            photographs.
    """
    rng = random.Random(f"{split}/{seed}" if split == "unseen" else str(seed))
    layout = draw_layout(rng, library, split)
    if split == "unseen":
        photograph = rng.choice(library.grounds)
        drawn = compose(cut_corner(rng, photograph.picture, SIDE), None, layout)
        return drawn._replace(scene=replace(drawn.scene, behind=photograph.shows))
    ground, word, behind = draw_ground(rng, library, layout.sprites, calm=layout.kind in ("shapes", "count"))
    drawn = compose(ground, word, layout)
    return drawn._replace(scene=replace(drawn.scene, behind=behind))


def draw_ground(
    rng: random.Random, library: SceneLibrary, sprites: Sequence[Sprite], *, calm: bool
) -> tuple[Image.Image, str | None, tuple[str, ...]]:
    """Draw a ground, or take a view of a panorama; return it, its colour word if it is plain, and what it may show."""
    if library.grounds and rng.random() < _PHOTOGRAPHED:
        panorama = rng.choice(library.grounds)
        return look_around(rng, panorama.picture, SIDE), None, panorama.shows
    avoid = [sprite.colour for sprite in sprites if sprite.colour is not None]
    return *draw_background(rng, SIDE, avoid, calm=calm), ()


def compose(ground: Image.Image, word: str | None, layout: Layout) -> DrawnScene:
    """Paste the sprites and note what each pixel and cell shows."""
    owner = np.full((SIDE, SIDE), -1, dtype=np.int8)
    boxes = []
    for index, (sprite, (left, top)) in enumerate(zip(layout.sprites, layout.places, strict=True)):
        ground.paste(sprite.picture, (left, top), sprite.picture)
        width, height = sprite.picture.size
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, SIDE), min(top + height, SIDE)
        alpha = np.asarray(sprite.picture.getchannel("A"))[y0 - top : y1 - top, x0 - left : x1 - left]
        owner[y0:y1, x0:x1][alpha > 127] = index
        boxes.append((x0, y0, x1, y1))
    cells = np.full((CELLS, CELLS), -1, dtype=np.int8)
    objects = []
    for index, (sprite, box) in enumerate(zip(layout.sprites, boxes, strict=True)):
        mask = owner == index
        cover = Image.fromarray(mask.astype(np.uint8) * 255).resize((CELLS, CELLS), Image.Resampling.BOX)
        cells[np.asarray(cover) >= 0.4 * 255] = index
        objects.append(SceneObject(sprite.name, sprite.kind, sprite.colour, box, int(mask.sum())))
    return DrawnScene(ground, Scene(tuple(objects), word, cells, layout.kind))
