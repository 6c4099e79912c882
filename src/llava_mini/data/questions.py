"""Questions with short answers about a scene, balanced: `tools/words_alone.py` measures what they give away alone."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from llava_mini.data.answers import (
    NUMBERS,
    Question,
    QuestionKind,
    capitalised,
    gives_away,
    is_correct,
    other_colours,
    pose,
    spellings,
    verb,
    words_for,
)
from llava_mini.data.colours import COLOURS
from llava_mini.data.names import are_kin, category_of, is_countable, is_plural, plural, with_article
from llava_mini.data.relations import ask_above_below, ask_bigger, ask_left_right, ask_where, only_ones
from llava_mini.data.scenes import SHAPES, Scene

__all__ = ["Question", "QuestionKind", "ask_about", "ask_name", "ask_presence", "is_correct"]

_CLASS_WORDS = {
    "animal": "animal", "plant": "plant", "food": "food", "vehicle": "vehicle",
    "clothing": "piece of clothing", "instrument": "instrument", "tool": "tool", "building": "building",
}  # fmt: skip
_NAME_TEXTS = (
    "What is this?", "What do you see in the picture?", "Name the main object.", "What is shown here?",
    "What does the picture show?", "What can you see?", "What is in the image?",
    "Which object is in the picture?",
    "Tell me what this is.", "Identify the object.",
)  # fmt: skip
_CAPTION_TEXTS = (
    "Describe the picture.", "Describe this image briefly.", "Write a caption for the picture.",
    "Give a short description.", "Say in one sentence what you see.",
    "What is shown, and on what background?",
)  # fmt: skip
_COLOUR_RATE = {
    "red": 0.44, "green": 0.25, "blue": 0.24, "yellow": 0.3, "orange": 0.2, "purple": 1.0, "pink": 0.63,
    "black": 0.29, "white": 0.6, "brown": 0.5, "gray": 0.5,
}  # fmt: skip
"""How often the colour of a cut-out is asked for; common colours are asked for more rarely."""


def ask_about(scene: Scene, rng: random.Random, names: Sequence[str]) -> list[Question]:
    """Ask what the scene can answer, at most one question of a kind (two for presence), in random order.

    Args:
        scene: what was drawn.
        rng: the source of chance.
        names: the names such scenes can show; absent things are drawn from them.
    """
    questions = [
        *_ask_name(scene, rng),
        *_ask_caption(scene, rng),
        *_ask_shape(scene, rng),
        *_ask_colour(scene, rng),
        *_ask_background(scene, rng),
        *_ask_count(scene, rng),
        *_ask_presence(scene, rng, names),
        *ask_left_right(scene, rng),
        *ask_above_below(scene, rng),
        *ask_bigger(scene, rng),
        *ask_where(scene, rng),
    ]
    rng.shuffle(questions)
    return questions


def ask_name(name: str, rng: random.Random, *, accepted: Sequence[str] = ()) -> Question:
    """Ask what one thing is.

    Args:
        accepted: words that make an answer right; by default the name and its plural.
    """
    word = _CLASS_WORDS.get(category_of(name) or "")
    special = (
        f"What {word} is this?",
        f"What {word} is shown?",
        f"Which {word} do you see?",
        f"Name the {word}.",
    )
    texts = special if word and rng.random() < 0.3 else _NAME_TEXTS
    phrase, they = with_article(name), "They are" if is_plural(name) else "It is"
    plain, there = f"{they} {phrase}.", f"There {verb(name)} {phrase}."
    sentences = (plain, plain, there, f"The picture shows {phrase}.")
    accepted = accepted or (name, plural(name))
    return pose("name", rng, texts, sentences, short=name, accepted=accepted)


def _ask_name(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """Ask what the only thing is."""
    thing = scene.objects[0]
    if len(scene.objects) != 1 or thing.kind == "shape":
        return
    yield ask_name(thing.name, rng, accepted=words_for(thing))


def _ask_caption(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """Ask for everything, the largest first."""
    things = sorted(scene.objects, key=lambda thing: thing.area, reverse=True)
    counts = Counter((thing.name, thing.colour if thing.kind == "shape" else None) for thing in things)
    parts = []
    for (name, colour), count in counts.items():
        prefix = f"{colour} " if colour else ""
        if count > 1:
            parts.append(f"{NUMBERS[count]} {prefix}{plural(name)}")
        else:
            parts.append(with_article(f"{prefix}{name}") if is_countable(name) else name)
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    text = rng.choice(_CAPTION_TEXTS if scene.background else _CAPTION_TEXTS[:-1])
    if scene.background and (text == _CAPTION_TEXTS[-1] or rng.random() < 0.6):
        listed += f" on {with_article(scene.background + ' background')}"
    accepted = tuple(dict.fromkeys(word for thing in things for word in words_for(thing)))
    yield Question("caption", text, f"{capitalised(listed)}.", accepted)


def _ask_shape(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """Ask for the shape that alone has a colour."""
    colours = Counter(thing.colour for thing in scene.objects)
    shapes = [thing for thing in only_ones(scene) if thing.kind == "shape" and colours[thing.colour] == 1]
    if not shapes:
        return
    thing = rng.choice(shapes)
    texts = [
        f"What shape is the {thing.colour} object?",
        f"Which shape is {thing.colour}?",
        f"What is the {thing.colour} shape?",
    ]
    if len(scene.objects) == 1:
        texts += ["What shape is this?", "What shape is shown?", "Which shape do you see?"]
    phrase = with_article(thing.name)
    sentences = (f"It is {phrase}.", f"The {thing.colour} shape is {phrase}.")
    rivals = (*SHAPES, *(plural(shape) for shape in SHAPES))
    yield pose("shape", rng, texts, sentences, short=thing.name, accepted=words_for(thing), rivals=rivals)


def _ask_colour(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """Ask for the colour of a shape, or now and then of a cut-out."""
    things = list({thing.name: thing for thing in scene.objects if thing.colour}.values())
    shapes = [thing for thing in things if thing.kind == "shape"]
    cutouts = [thing for thing in things if thing.kind == "cutout" and not gives_away(thing.name, COLOURS)]
    cutouts = [thing for thing in cutouts if rng.random() < _COLOUR_RATE[thing.colour or ""]]
    if not shapes and not cutouts:
        return
    thing = rng.choice(shapes or cutouts)
    colour = thing.colour or ""
    several = sum(other.name == thing.name for other in scene.objects) > 1
    noun = plural(thing.name) if several else thing.name
    is_ = "are" if several else verb(thing.name)
    spelling = rng.choice(("color", "color", "colour"))
    texts = (
        f"What {spelling} {is_} the {noun}?",
        f"Which {spelling} {'do' if is_ == 'are' else 'does'} the {noun} have?",
        f"Tell me the {spelling} of the {noun}.",
    )
    sentences = (f"The {noun} {is_} {colour}.",)
    accepted, rivals = spellings(colour), other_colours(colour)
    yield pose("colour", rng, texts, sentences, short=colour, accepted=accepted, rivals=rivals)


def _ask_background(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """Ask for the colour of a plain ground."""
    word = scene.background
    if word is None:
        return
    spelling = rng.choice(("color", "color", "colour"))
    texts = (
        f"What {spelling} is the background?",
        f"Which {spelling} is behind everything?",
        f"What is the {spelling} of the background?",
        f"Name the background {spelling}.",
    )
    sentences = (f"The background is {word}.", f"It is {word}.")
    accepted, rivals = spellings(word), other_colours(word)
    yield pose("background", rng, texts, sentences, short=word, accepted=accepted, rivals=rivals)


def _ask_count(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """Ask for the number of copies or of shapes; one to four come about equally often."""
    if scene.kind not in ("count", "shapes"):
        return
    singular = scene.objects[0].name if scene.kind == "count" else "shape"
    if not is_countable(singular):
        return
    count, noun = len(scene.objects), plural(singular)
    texts = (
        f"How many {noun} are there?",
        f"How many {noun} do you see?",
        f"Count the {noun}.",
        f"How many {noun} are in the picture?",
        f"What is the number of {noun}?",
    )
    number = NUMBERS[count]
    there = "There is" if count == 1 else "There are"
    sentences = (f"{there} {number}.", f"{there} {number} {singular if count == 1 else noun}.")
    yield pose("count", rng, texts, sentences, short=number, accepted=(number,), rivals=NUMBERS)


def _ask_presence(scene: Scene, rng: random.Random, names: Sequence[str]) -> Iterator[Question]:
    """Ask for something that is there, and for something like it that is not."""
    yield ask_presence(rng.choice(scene.objects).name, rng, present=True)
    thing = rng.choice(scene.objects)
    pool = SHAPES if thing.kind == "shape" else names
    absent = [name for name in pool if not any(are_kin(name, other) for other in scene.shown)]
    alike = [name for name in absent if category_of(name) == category_of(thing.name)]
    if absent:
        yield ask_presence(rng.choice(alike if alike and rng.random() < 0.6 else absent), rng, present=False)


def ask_presence(name: str, rng: random.Random, *, present: bool) -> Question:
    """Ask whether something is there."""
    asked = with_article(name) if is_countable(name) else f"any {name}"
    is_ = verb(name)
    texts = (
        f"{capitalised(is_)} there {asked}?",
        f"{capitalised(is_)} there {asked} in the picture?",
        f"Do you see {asked}?",
        f"Can you see {asked} here?",
        f"Does the picture show {asked}?",
    )
    short = "yes" if present else "no"
    shown = with_article(name) if present else f"no {name}"
    sentences: tuple[str, ...] = (f"{short}, there {is_} {shown}.", f"{short}.")
    return pose("presence", rng, texts, sentences, short=short, accepted=(short,), rivals=("yes", "no"))
