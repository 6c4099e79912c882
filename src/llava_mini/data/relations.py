"""Questions that compare two things of a scene, or a thing with the picture: sides, sizes, places."""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from typing import Literal

from llava_mini.data.answers import (
    PLACES,
    Question,
    gives_away,
    longer_names,
    pose,
    side_words,
    verb,
    words_for,
)
from llava_mini.data.answers import capitalised as cap
from llava_mini.data.scenes import SIDE, Scene, SceneObject

_SideKind = Literal["left_right", "above_below"]
_KINDS: tuple[_SideKind, _SideKind] = ("left_right", "above_below")
_SIDES = (("left", "right"), ("top", "bottom"))
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_BESIDE = {"left": "to the left of", "right": "to the right of", "top": "above", "bottom": "below"}
_ALL_SIDES = tuple(word for place in PLACES for word in side_words(place))
_LARGER = 1.7
"""The least ratio of two areas of which one is called the larger."""
_LARGEST_PLACED = 0.54
"""A thing longer than this share of the side fills the picture and has no place in it."""


def ask_relations(scene: Scene, rng: random.Random) -> list[Question]:
    """Ask how things stand to each other and in the picture, at most two questions of a kind, in random order.

    The plainest form, "to the left or to the right of", is asked here alone: a step towards the others, not a measure.
    """
    asked = (
        *ask_left_right(scene, rng),
        *ask_above_below(scene, rng),
        *ask_bigger(scene, rng),
        *ask_where(scene, rng),
        *_ask_either(scene, rng),
    )
    return rng.sample(asked, len(asked))


def _ask_either(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """Ask on which side of one thing another stands, along the axis on which they are further apart."""
    things = only_ones(scene)
    if len(things) < 2:
        return
    one, other = rng.sample(things, 2)
    gaps = [here - there for here, there in zip(one.centre, other.centre, strict=True)]
    axis = 0 if abs(gaps[0]) > abs(gaps[1]) else 1
    if abs(gaps[axis]) < 0.2:
        return
    near, far = _SIDES[axis]
    side = near if gaps[axis] < 0 else far
    is_, choices = verb(one.name), [_BESIDE[near], _BESIDE[far]]
    rng.shuffle(choices)
    texts = (f"{cap(is_)} the {one.name} {' or '.join(choices)} the {other.name}?",)
    sentences = (f"The {one.name} {is_} {_BESIDE[side]} the {other.name}.",)
    short = side if axis == 0 else _BESIDE[side]
    accepted, rivals = side_words(side), side_words(_OPPOSITE[side])
    yield pose(_KINDS[axis], rng, texts, sentences, short=short, accepted=accepted, rivals=rivals)


def ask_left_right(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """Ask about two things side by side."""
    yield from _ask_side(scene, rng, "left_right")


def ask_above_below(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """Ask about two things one above the other."""
    yield from _ask_side(scene, rng, "above_below")


def ask_sides(scene: Scene, rng: random.Random, most: int) -> list[Question]:
    """Ask of two things that are clearly apart whether a claim of how they stand holds, and which is on a side.

    One answer gives others away, so each is for a conversation of its own; so many at most.
    """
    asked = []
    for pair in permutations(only_ones(scene), 2):
        for axis, kind in enumerate(_KINDS):
            if (side := _apart(*pair, axis)) is not None:
                asked += [_claim(rng, kind, pair, side), _which(scene, rng, kind, pair, side)]
    return rng.sample(asked, min(most, len(asked)))


def _ask_side(scene: Scene, rng: random.Random, kind: _SideKind) -> Iterator[Question]:
    """Draw two things that are clearly apart along one axis and ask in one of three forms."""
    things = only_ones(scene)
    if len(things) < 2:
        return
    axis = 0 if kind == "left_right" else 1
    one, other = rng.sample(things, 2)
    stands = _apart(one, other, axis)
    if stands is None:
        return
    near, far = _SIDES[axis]
    first, second = (one, other) if stands == near else (other, one)
    side, right, wrong = rng.choice(((near, first, second), (far, second, first)))
    in_its_half = (right.centre[axis] < 0.45) if side == near else (right.centre[axis] > 0.55)
    form = rng.randrange(3)
    if form == 0:
        yield _which(scene, rng, kind, (right, wrong), side)
    elif form == 1 and in_its_half and not gives_away(right.name, _ALL_SIDES):
        is_, place, either = verb(right.name), PLACES[side], f"{PLACES[near]} or {PLACES[far]}"
        texts = (
            f"{cap(is_)} the {right.name} {either}?",
            f"On which side {is_} the {right.name}, {near} or {far}?",
            f"Where {is_} the {right.name}, {either}?",
        )
        sentences = (f"The {right.name} {is_} {place}.",)
        rivals = side_words(_OPPOSITE[side])
        yield pose(kind, rng, texts, sentences, short=side, accepted=side_words(side), rivals=rivals)
    else:
        yield _claim(rng, kind, (right, wrong), side)


def _which(
    scene: Scene, rng: random.Random, kind: _SideKind, pair: tuple[SceneObject, SceneObject], side: str
) -> Question:  # fmt: skip
    """Ask which of the two is on a side."""
    right, wrong = pair
    named, place = rng.sample((right.name, wrong.name), 2), PLACES[side]
    texts = [f"Which one is {place}, the {named[0]} or the {named[1]}?"]
    if len(scene.objects) == 2:
        texts += [f"What is {place}?", f"What do you see {place}?"]
    sentences = (f"The {right.name} {verb(right.name)} {place}.", f"The {right.name}.")
    accepted = words_for(right)
    rivals = (*words_for(wrong), *longer_names(accepted))
    return pose(kind, rng, texts, sentences, short=right.name, accepted=accepted, rivals=rivals)


def _apart(one: SceneObject, other: SceneObject, axis: int) -> str | None:
    """Return the side of another thing that one stands on; None where they are not clearly apart along this axis."""
    gaps = [there - here for here, there in zip(one.centre, other.centre, strict=True)]
    if abs(gaps[axis]) < 0.25 or abs(gaps[axis]) < 1.3 * abs(gaps[1 - axis]):
        return None
    return _SIDES[axis][gaps[axis] < 0]


def _claim(
    rng: random.Random, kind: _SideKind, pair: tuple[SceneObject, SceneObject], side: str
) -> Question:  # fmt: skip
    """Claim a relation that holds half of the time and ask for yes or no."""
    right, wrong = pair
    holds = rng.random() < 0.5
    claimed = _BESIDE[side if holds else _OPPOSITE[side]]
    short = "yes" if holds else "no"
    is_ = verb(right.name)
    texts = (
        f"{cap(is_)} the {right.name} {claimed} the {wrong.name}?",
        f"Do you see the {right.name} {claimed} the {wrong.name}?",
    )
    sentences = (f"{short}, the {right.name} {is_} {_BESIDE[side]} the {wrong.name}.",)
    return pose(kind, rng, texts, sentences, short=short, accepted=(short,), rivals=("yes", "no"))


def ask_bigger(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """Ask which of two things covers more of the picture, when the difference is plain."""
    things = only_ones(scene)
    if len(things) < 2:
        return
    pair = rng.sample(things, 2)
    big = larger_of(*pair)
    if big is None:
        return
    small = pair[1] if big is pair[0] else pair[0]
    bigger = rng.random() < 0.5
    right, wrong = (big, small) if bigger else (small, big)
    word = rng.choice(("bigger", "larger")) if bigger else "smaller"
    named = rng.sample((right.name, wrong.name), 2)
    texts = (
        f"Which is {word} in the picture, the {named[0]} or the {named[1]}?",
        f"Which one looks {word}, the {named[0]} or the {named[1]}?",
    )
    sentences = (f"The {right.name} {verb(right.name)} {word}.", f"The {right.name}.")
    accepted, rivals = words_for(right), words_for(wrong)
    yield pose("bigger", rng, texts, sentences, short=right.name, accepted=accepted, rivals=rivals)


def ask_where(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """Ask in which part of the picture a thing stands; most pairs are left out: they have no middle."""
    placed = [(thing, place) for thing in only_ones(scene) if (place := place_of(thing)) is not None]
    if not placed or (scene.kind == "pair" and rng.random() < 0.75):
        return
    thing, place = rng.choice(placed)
    is_ = verb(thing.name)
    texts = (
        f"Where {is_} the {thing.name}?",
        f"Where in the picture {is_} the {thing.name}?",
        f"In which part of the picture {is_} the {thing.name}?",
    )
    sentences = (f"The {thing.name} {is_} {PLACES[place]}.",)
    yield pose("where", rng, texts, sentences, short=place, accepted=side_words(place), rivals=_ALL_SIDES)


def only_ones(scene: Scene) -> list[SceneObject]:
    """List the objects whose name occurs once."""
    counts = Counter(thing.name for thing in scene.objects)
    return [thing for thing in scene.objects if counts[thing.name] == 1]


def larger_of(one: SceneObject, other: SceneObject) -> SceneObject | None:
    """Return which of two covers more of the picture; None where the difference is not plain."""
    small, big = sorted((one, other), key=lambda thing: thing.area)
    return big if big.area >= _LARGER * small.area and _span(big) > _span(small) else None


def _span(thing: SceneObject) -> int:
    left, top, right, bottom = thing.box
    return (right - left) * (bottom - top)


def place_of(thing: SceneObject) -> str | None:
    """Name the part of the picture an object is in; None for large ones and for corners."""
    left, top, right, bottom = thing.box
    across, down = (value - 0.5 for value in thing.centre)
    if max(right - left, bottom - top) > _LARGEST_PLACED * SIDE or gives_away(thing.name, _ALL_SIDES):
        return None
    if max(abs(across), abs(down)) < 0.1:
        return "middle"
    if abs(across) > 0.18 and abs(across) > 2 * abs(down):
        return "left" if across < 0 else "right"
    if abs(down) > 0.18 and abs(down) > 2 * abs(across):
        return "top" if down < 0 else "bottom"
    return None
