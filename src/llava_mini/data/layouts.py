"""Choose what a scene shows and where it stands: one thing, shapes, pairs, copies, mixtures."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from PIL import Image, ImageOps

from llava_mini.data.colours import draw_colour, shade
from llava_mini.data.cutouts import Cutout
from llava_mini.data.names import are_kin
from llava_mini.data.shapes import SHAPES, shape_mask

SIDE = 260
"""Side of a scene in pixels."""
SceneSplit = Literal["train", "new", "unseen"]
SceneKind = Literal["single", "shapes", "pair", "count", "mixed"]
_KINDS: tuple[SceneKind, ...] = ("single", "shapes", "pair", "count", "mixed")
_KIND_WEIGHTS = (38, 20, 18, 12, 12)
_ANCHORS = ((0.5, 0.5), (0.2, 0.5), (0.8, 0.5), (0.5, 0.2), (0.5, 0.8))
_ANCHOR_WEIGHTS = (3, 2, 2, 2, 2)
"""The middle comes from here alone, the sides also from pairs."""
_LARGEST_STORED = 240


@dataclass(frozen=True, eq=False)
class Sprite:
    """Hold one thing before it is placed: its pixels, sized."""

    name: str
    kind: Literal["cutout", "shape"]
    colour: str | None
    picture: Image.Image
    """RGBA."""


class Layout(NamedTuple):
    """Hold what is shown and where."""

    kind: SceneKind
    sprites: list[Sprite]
    places: list[tuple[int, int]]
    """Left and top of each sprite."""


class Ground(NamedTuple):
    """Hold a photograph or panorama to cut grounds from."""

    picture: Image.Image
    """RGB."""
    shows: tuple[str, ...]
    """What may be seen in it: nothing of it is said to be absent."""


_Composition = tuple[list[Sprite], list[tuple[int, int]]]


@dataclass(eq=False)
class SceneLibrary:
    """Keep the cut-outs by name and a bounded store of their shrunken pictures."""

    trained: Sequence[Cutout]
    unseen: Sequence[Cutout] = ()
    grounds: Sequence[Ground] = ()
    """Photographs behind the things: of "unseen" scenes always, of others, if there are any, often."""
    _pictures: dict[str, Image.Image] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._by_name = {"train": _group(self.trained), "unseen": _group(self.unseen)}

    @property
    def names(self) -> tuple[str, ...]:
        """List the names that are trained on."""
        return tuple(self._by_name["train"])

    @property
    def unseen_names(self) -> tuple[str, ...]:
        """List the names of which a cut-out is held out; use them to ask about "unseen" scenes."""
        return tuple(self._by_name["unseen"])

    def draw_cutout(self, rng: random.Random, split: SceneSplit) -> Cutout:
        """Draw a name, then one of its cut-outs."""
        groups = self._by_name["unseen" if split == "unseen" else "train"]
        return rng.choice(groups[rng.choice(tuple(groups))])

    def picture(self, cutout: Cutout) -> Image.Image:
        """Give the cut-out with its longest side at most 240 pixels; it is read once."""
        key = f"{cutout.path}{cutout.glyph}"
        if key not in self._pictures:
            picture = cutout.image
            picture.thumbnail((_LARGEST_STORED, _LARGEST_STORED), Image.Resampling.BOX)
            self._pictures[key] = picture
        return self._pictures[key]


def draw_layout(rng: random.Random, library: SceneLibrary, split: SceneSplit) -> Layout:
    """Draw the kind of a scene, its things and their places."""
    kind = rng.choices(_KINDS, _KIND_WEIGHTS)[0]
    if kind == "shapes":
        return Layout(kind, *_shapes(rng))
    compose = {"single": _single, "pair": _pair, "count": _count, "mixed": _mixed}[kind]
    return Layout(kind, *compose(rng, library, split))


def _group(cutouts: Sequence[Cutout]) -> dict[str, list[Cutout]]:
    groups: dict[str, list[Cutout]] = {}
    for cutout in cutouts:
        groups.setdefault(cutout.name, []).append(cutout)
    return groups


def cutout_sprite(rng: random.Random, library: SceneLibrary, split: SceneSplit, longest: int) -> Sprite:
    """Size a cut-out to a longest side in pixels; mirror it half of the time, tilt it sometimes."""
    cutout = library.draw_cutout(rng, split)
    picture = library.picture(cutout)
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    scale = longest / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    if rng.random() < 0.25:
        picture = picture.rotate(rng.uniform(-14, 14), Image.Resampling.BILINEAR, expand=True)
        picture.thumbnail((longest, longest))
    return Sprite(cutout.name, "cutout", cutout.colour, picture)


def shape_sprite(rng: random.Random, longest: int, avoid: Sequence[tuple[str, str]] = ()) -> Sprite:
    """Draw a shape in a named colour; neither word is used twice in a scene."""
    name = rng.choice([shape for shape in SHAPES if shape not in [used for used, _ in avoid]])
    word = draw_colour(rng, [colour for _, colour in avoid])
    mask = shape_mask(name, longest, rng.uniform(-10, 10))
    picture = Image.new("RGB", (longest, longest), shade(rng, word)).convert("RGBA")
    picture.putalpha(mask)
    return Sprite(name, "shape", word, picture)


def _single(rng: random.Random, library: SceneLibrary, split: SceneSplit) -> _Composition:
    """Place one cut-out: mostly large, sometimes smaller and clearly to one side."""
    if rng.random() < 0.3:
        sprite = cutout_sprite(rng, library, split, int(SIDE * rng.uniform(0.3, 0.45)))
        across, down = rng.choices(_ANCHORS, _ANCHOR_WEIGHTS)[0]
        return [sprite], [place_around(rng, sprite, across, down)]
    sprite = cutout_sprite(rng, library, split, int(SIDE * rng.uniform(0.5, 0.95)))
    room_x, room_y = SIDE - sprite.picture.width, SIDE - sprite.picture.height
    return [sprite], [(int(rng.uniform(0.2, 0.8) * room_x), int(rng.uniform(0.2, 0.8) * room_y))]


def _shapes(rng: random.Random) -> _Composition:
    """Place one to four different shapes."""
    count = rng.randint(1, 4)
    if count == 1:
        sprite = shape_sprite(rng, int(SIDE * rng.choice((0.35, 0.45, 0.6, 0.75))))
        small = sprite.picture.width < 0.5 * SIDE
        across, down = rng.choices(_ANCHORS, _ANCHOR_WEIGHTS)[0] if small else (0.5, 0.5)
        return [sprite], [place_around(rng, sprite, across, down)]
    sprites: list[Sprite] = []
    for _ in range(count):
        used = [(sprite.name, sprite.colour or "") for sprite in sprites]
        sprites.append(shape_sprite(rng, int(SIDE * rng.uniform(0.24, 0.5 if count == 2 else 0.38)), used))
    return scatter(rng, sprites)


def _pair(rng: random.Random, library: SceneLibrary, split: SceneSplit) -> _Composition:
    """Place two cut-outs side by side or one above the other, half of the time of clearly different sizes."""
    large = rng.uniform(0.4, 0.49)
    small = large * (rng.uniform(0.45, 0.6) if rng.random() < 0.5 else rng.uniform(0.85, 1.0))
    sizes = [large, small]
    rng.shuffle(sizes)
    first = cutout_sprite(rng, library, split, int(SIDE * sizes[0]))
    second = cutout_sprite(rng, library, split, int(SIDE * sizes[1]))
    for _ in range(20):
        if not are_kin(second.name, first.name):
            break
        second = cutout_sprite(rng, library, split, int(SIDE * sizes[1]))
    else:
        return [first], [place_around(rng, first, 0.5, 0.5)]
    drift = rng.uniform(0.35, 0.65)
    spots = [(0.25, drift), (0.75, rng.uniform(0.35, 0.65))]
    if rng.random() < 0.5:
        spots = [(down, across) for across, down in spots]
    places = [place_around(rng, first, *spots[0]), place_around(rng, second, *spots[1])]
    return [first, second], places


def _count(rng: random.Random, library: SceneLibrary, split: SceneSplit) -> _Composition:
    """Place one to four copies of one thing, apart from each other."""
    count = rng.randint(1, 4)
    longest = int(SIDE * rng.uniform(0.25, 0.36))
    one = shape_sprite(rng, longest) if rng.random() < 0.4 else cutout_sprite(rng, library, split, longest)
    return scatter(rng, [one] * count)


def _mixed(rng: random.Random, library: SceneLibrary, split: SceneSplit) -> _Composition:
    """Place one or two cut-outs and one or two shapes."""
    sprites = [cutout_sprite(rng, library, split, int(SIDE * rng.uniform(0.3, 0.44)))]
    for _ in range(rng.randint(1, 2)):
        used = [(sprite.name, sprite.colour or "") for sprite in sprites if sprite.kind == "shape"]
        sprites.append(shape_sprite(rng, int(SIDE * rng.uniform(0.24, 0.36)), used))
    if rng.random() < 0.4:
        other = cutout_sprite(rng, library, split, int(SIDE * rng.uniform(0.28, 0.4)))
        if not are_kin(other.name, sprites[0].name):
            sprites.append(other)
    return scatter(rng, sprites)


def place_around(rng: random.Random, sprite: Sprite, across: float, down: float) -> tuple[int, int]:
    """Centre a sprite near a spot and keep it inside the picture."""
    left = (across + rng.uniform(-0.03, 0.03)) * SIDE - sprite.picture.width / 2
    top = (down + rng.uniform(-0.03, 0.03)) * SIDE - sprite.picture.height / 2
    return _inside(left, SIDE - sprite.picture.width), _inside(top, SIDE - sprite.picture.height)


def _inside(value: float, room: int) -> int:
    return int(min(max(value, 0), max(room, 0)))


def scatter(rng: random.Random, sprites: list[Sprite]) -> _Composition:
    """Find places without overlap by trying; fall back to the corners, which never overlap."""
    for _ in range(40):
        places: list[tuple[int, int]] = []
        for sprite in sprites:
            width, height = sprite.picture.size
            place = (rng.randint(0, SIDE - width), rng.randint(0, SIDE - height))
            if any(_overlap(place, sprite, other, taken) for other, taken in zip(places, sprites, strict=False)):
                break
            places.append(place)
        if len(places) == len(sprites):
            return sprites, places
    corners = [(0.25, 0.25), (0.75, 0.75), (0.75, 0.25), (0.25, 0.75)]
    return sprites, [place_around(rng, sprite, *corner) for sprite, corner in zip(sprites, corners, strict=False)]


def _overlap(place: tuple[int, int], sprite: Sprite, other: tuple[int, int], taken: Sprite) -> bool:
    """Tell whether two boxes touch, with four pixels between them."""
    return (
        place[0] < other[0] + taken.picture.width + 4
        and other[0] < place[0] + sprite.picture.width + 4
        and place[1] < other[1] + taken.picture.height + 4
        and other[1] < place[1] + sprite.picture.height + 4
    )
