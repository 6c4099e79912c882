"""Draw short labelled videos: things that come one after the other, move, change colour, become more or fewer.

Each is a pure function of its seed. A second is a frame: that is how often a film is looked at.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from llava_mini.data.answers import NUMBERS, Question, pose, spellings, verb, words_for
from llava_mini.data.colours import COLOURS, draw_colour, shade
from llava_mini.data.layouts import (
    SIDE,
    Layout,
    SceneLibrary,
    Sprite,
    cutout_sprite,
    place_around,
    scatter,
    shape_sprite,
)
from llava_mini.data.names import are_kin, is_countable, plural, with_article
from llava_mini.data.scenes import compose, draw_ground

VideoKind = Literal["sequence", "motion", "change", "number"]
_KINDS: tuple[VideoKind, ...] = ("sequence", "motion", "change", "number")
_KIND_WEIGHTS = (40, 20, 20, 20)
_SHORTEST, _LONGEST = 3, 6
_DIRECTIONS: tuple[str, ...] = ("left", "right", "up", "down")
_YES_NO: tuple[str, ...] = ("yes", "no")
_SHAKE = 4
"""How far a thing at rest trembles, in pixels: no two frames of a film are the same."""


@dataclass(frozen=True, eq=False)
class MadeVideo:
    """Hold the frames of a video, one a second, and what can be asked about it."""

    frames: tuple[Image.Image, ...]
    """RGB, 260 × 260."""
    questions: tuple[Question, ...]
    kind: VideoKind


def draw_video(seed: int, library: SceneLibrary) -> MadeVideo:
    """Draw the video of a seed from trained cut-outs; use other seeds than training for new ones."""
    rng = random.Random(f"video/{seed}")
    kind = rng.choices(_KINDS, _KIND_WEIGHTS)[0]
    stage = _Stage(rng, library)
    frames, questions = {"sequence": _sequence, "motion": _motion, "change": _change, "number": _number}[kind](stage)
    rng.shuffle(questions)
    return MadeVideo(tuple(stage.film(frames)), tuple(questions), kind)


_Frame = list[tuple[Sprite, tuple[int, int]]]
"""What a frame shows, and where."""


@dataclass(frozen=True, eq=False)
class _Stage:
    """Hold what every kind draws with."""

    rng: random.Random
    library: SceneLibrary

    def sprite(self, longest: float, used: Sequence[Sprite] = ()) -> Sprite:
        """Draw a shape or a cut-out that is unlike those already used."""
        taken = [(one.name, one.colour or "") for one in used if one.kind == "shape"]
        if self.rng.random() < 0.5:
            return shape_sprite(self.rng, int(SIDE * longest), taken)
        for _ in range(20):
            made = cutout_sprite(self.rng, self.library, "train", int(SIDE * longest))
            if not any(are_kin(made.name, one.name) for one in used):
                return made
        return shape_sprite(self.rng, int(SIDE * longest), taken)

    def length(self, least: int = _SHORTEST) -> int:
        """Draw a number of frames."""
        return self.rng.randint(max(least, _SHORTEST), _LONGEST)

    def film(self, frames: Sequence[_Frame]) -> list[Image.Image]:
        """Lay every frame on one ground, each thing a little off its place."""
        shown = [sprite for frame in frames for sprite, _ in frame]
        calm = self.rng.random() < 0.5
        ground, word, _ = draw_ground(self.rng, self.library, shown, calm=calm)
        return [self._picture(ground, word, frame) for frame in frames]

    def _picture(self, ground: Image.Image, word: str | None, frame: _Frame) -> Image.Image:
        places = [(x + self._shake(), y + self._shake()) for _, (x, y) in frame]
        return compose(ground.copy(), word, Layout("mixed", [sprite for sprite, _ in frame], places)).image

    def _shake(self) -> int:
        return self.rng.randint(-_SHAKE, _SHAKE)


def _sequence(stage: _Stage) -> tuple[list[_Frame], list[Question]]:
    """Show one to three things, one after the other."""
    rng, count = stage.rng, stage.rng.randint(1, 3)
    things: list[Sprite] = []
    for _ in range(count):
        things.append(stage.sprite(rng.uniform(0.5, 0.8), things))
    length = stage.length(count)
    cuts = [0, *sorted(rng.sample(range(1, length), count - 1)), length]
    frames: list[_Frame] = [
        [(thing, place_around(rng, thing, 0.5, 0.5))]
        for thing, start, end in zip(things, cuts, cuts[1:], strict=False)
        for _ in range(start, end)
    ]
    number = NUMBERS[count]
    texts: tuple[str, ...] = (
        "How many different things appear in the video?",
        "How many different things are shown one after the other?",
    )
    sentences = (f"{number} different thing{'s' if count > 1 else ''}.",)
    questions = [pose("things", rng, texts, sentences, short=number, accepted=(number,), rivals=NUMBERS)]
    if count == 1:
        return frames, questions
    first = rng.random() < 0.5
    where, right = ("first", things[0]) if first else ("last", things[-1])
    texts = (
        f"What appears {where}?",
        f"What is shown {where}?",
        f"What do you see {'at the beginning' if first else 'at the end'}?",
    )
    questions.append(_name(rng, texts, right, [one for one in things if one is not right], f"appears {where}"))
    at = rng.randrange(count - 1)
    texts = (f"What comes after the {things[at].name}?", f"What appears after the {things[at].name}?")
    others = [one for one in things if one not in (things[at], things[at + 1])]  # the first is named in the answer
    questions.append(_name(rng, texts, things[at + 1], others, f"comes after the {things[at].name}"))
    one, other = rng.sample(things, 2)
    earlier = one if things.index(one) < things.index(other) else other
    texts = (f"Which appears first, the {one.name} or the {other.name}?",)
    questions.append(_name(rng, texts, earlier, [other if earlier is one else one], "appears first"))
    return frames, questions


def _name(rng: random.Random, texts: Sequence[str], right: Sprite, others: Sequence[Sprite], does: str) -> Question:
    """Ask for one of the things."""
    sentences = (
        f"{with_article(right.name)} {does}." if verb(right.name) == "is" else f"{right.name}.",
        f"{with_article(right.name)}.",
    )
    accepted = words_for(right)
    rivals = tuple(word for other in others for word in words_for(other))
    return pose("order", rng, texts, sentences, short=right.name, accepted=accepted, rivals=rivals)


def _motion(stage: _Stage) -> tuple[list[_Frame], list[Question]]:
    """Let one thing cross the picture, or rest in one of the places it would have passed."""
    rng, thing = stage.rng, stage.sprite(stage.rng.uniform(0.28, 0.4))
    length, moves = stage.length(), stage.rng.random() < 0.6
    direction = rng.choice(_DIRECTIONS)
    drift = rng.uniform(0.35, 0.65)
    way = [0.2 + 0.6 * step / (length - 1) for step in range(length)]
    if direction in ("left", "up"):
        way.reverse()
    if not moves:
        way = [rng.choice(way)] * length
    spots = [(at, drift) if direction in ("left", "right") else (drift, at) for at in way]
    frames = [[(thing, place_around(rng, thing, *spot))] for spot in spots]
    several = verb(thing.name) == "are"
    does, moving, staying = ("Do", "move", "stay where they are") if several else ("Does", "moves", "stays where it is")
    if moves and rng.random() < 0.5:
        texts = tuple(f"{word} {does.lower()} the {thing.name} move?" for word in ("In which direction", "Where"))
        shown = f"to the {direction}" if direction in ("left", "right") else direction
        sentences: tuple[str, ...] = (f"the {thing.name} {moving} {shown}.",)
        short, rivals = direction, _DIRECTIONS
    else:
        short, rivals = "yes" if moves else "no", _YES_NO
        sentences = (f"{short}, the {thing.name} {moving if moves else staying}.", f"{short}.")
        texts = (f"{does} the {thing.name} move?", f"{does} the {thing.name} move in the video?")
    question = pose("motion", rng, texts, sentences, short=short, accepted=(short,), rivals=rivals)
    return frames, [question]


def _change(stage: _Stage) -> tuple[list[_Frame], list[Question]]:
    """Let a shape take another colour, or keep its own."""
    rng, length = stage.rng, stage.length()
    before = shape_sprite(rng, int(SIDE * rng.uniform(0.4, 0.7)))
    old = before.colour or ""
    changes = rng.random() < 0.6
    new = draw_colour(rng, [old]) if changes else old
    picture = Image.new("RGB", before.picture.size, shade(rng, new)).convert("RGBA")
    picture.putalpha(before.picture.getchannel("A"))
    after = Sprite(before.name, "shape", new, picture) if changes else before
    place, cut = place_around(rng, before, 0.5, 0.5), rng.randint(1, length - 1)
    frames: list[_Frame] = [[(before if step < cut else after, place)] for step in range(length)]
    questions = []
    spelling = rng.choice(("color", "color", "colour"))
    short = "yes" if changes else "no"
    sentences = (
        f"{short}, the {before.name} {f'changes from {old} to {new}' if changes else f'stays {old}'}.",
        f"{short}.",
    )
    texts = (f"Does the {before.name} change its {spelling}?", f"Does the {spelling} of the {before.name} change?")
    questions.append(pose("change", rng, texts, sentences, short=short, accepted=(short,), rivals=_YES_NO))
    when, right = rng.choice((("at first", old), ("at the end", new)))
    texts = (f"What {spelling} is the {before.name} {when}?", f"Which {spelling} does the {before.name} have {when}?")
    rivals = tuple(form for other in COLOURS if other != right for form in spellings(other))
    sentences = (f"The {before.name} is {right} {when}.", f"The {before.name} is {right}.")
    questions.append(pose("change", rng, texts, sentences, short=right, accepted=spellings(right), rivals=rivals))
    return frames, questions


def _number(stage: _Stage) -> tuple[list[_Frame], list[Question]]:
    """Let copies of one thing become more or fewer."""
    rng, length = stage.rng, stage.length()
    longest = int(SIDE * rng.uniform(0.25, 0.34))
    thing = shape_sprite(rng, longest)
    if rng.random() < 0.5:
        drawn = cutout_sprite(rng, stage.library, "train", longest)
        thing = drawn if is_countable(drawn.name) else thing
    start, end = rng.sample(range(1, 5), 2)
    sprites, places = scatter(rng, [thing] * max(start, end))
    cut = rng.randint(1, length - 1)
    shown = list(zip(sprites, places, strict=True))
    frames: list[_Frame] = [shown[: start if step < cut else end] for step in range(length)]
    noun = plural(thing.name)
    when, count = rng.choice((("at first", start), ("at the end", end)))
    texts = (f"How many {noun} are there {when}?", f"How many {noun} do you see {when}?")
    there = "there is" if count == 1 else "there are"
    sentences = (f"{there} {NUMBERS[count]}.", f"{there} {NUMBERS[count]} {thing.name if count == 1 else noun} {when}.")
    questions = [
        pose("number", rng, texts, sentences, short=NUMBERS[count], accepted=(NUMBERS[count],), rivals=NUMBERS)
    ]
    short = "more" if end > start else "fewer"
    texts = (f"Do the {noun} become more or fewer?", f"Are there more or fewer {noun} at the end?")
    sentences = (f"The {noun} become {short}.", f"There are {short} {noun} at the end.")
    questions.append(pose("number", rng, texts, sentences, short=short, accepted=(short,), rivals=("more", "fewer")))
    return frames, questions
