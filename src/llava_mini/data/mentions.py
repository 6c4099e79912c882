"""Names read beside a scene, and what the scene says of each: is it there, how many, what colour, where, how large."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from llava_mini.data.answers import gives_away
from llava_mini.data.colours import COLOURS
from llava_mini.data.names import are_kin, category_of, is_countable, plain_name, plural
from llava_mini.data.relations import larger_of, place_of
from llava_mini.data.scenes import SHAPES, Scene, SceneObject

_THIS = ("picture", "image", "this", "thing", "object")
_ALL = ("objects", "things")
_APART = 0.15
"""Nearer together than this share of the side, two things are not compared."""
_NEAR = 0.6
"""How often an absent name is one of the same category as something that is there."""
_TELLING = {
    "west": (("on the", "left"), ("what is on the", "left"), ("which one is on the", "left")),
    "east": (("on the", "right"), ("what is on the", "right"), ("which one is on the", "right")),
    "above": (("at the", "top"), ("what is at the", "top"), ("which one is at the", "top")),
    "below": (("at the", "bottom"), ("what is at the", "bottom"), ("which one is at the", "bottom")),
    "bigger": (("", "bigger"), ("", "larger"), ("which is", "bigger"), ("which one looks", "larger")),
    "smaller": (("", "smaller"), ("which is", "smaller")),
}
"""Words that are true of one of two things, each after words that questions have before them, by how it stands to the
other."""
_CLAIMED = {
    "west": ("to the", "left", "of the"),
    "east": ("to the", "right", "of the"),
    "above": ("", "above", "the"),
    "below": ("", "below", "the"),
}
"""What is claimed of one thing beside another: words before, the word that says it, words before the other's name."""
_OPPOSITE = {"west": "east", "east": "west", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Mention:
    """One name, and what the scene says of it; None where it says nothing."""

    text: str
    present: bool | None = None
    number: int | None = None
    """How many there are, one to four."""
    name: str | None = None
    """What it is, of a word that is not itself a name: a colour, "the picture"."""
    colour: str | None = None
    box: tuple[float, float, float, float] | None = None
    """Centre and size of the only one, across and down, as shares of the picture's side."""
    side: str | None = None
    """"west" or "east" of the thing named before it; left and right say where in the picture."""
    height: str | None = None
    """"above" or "below" the thing named before it."""
    size: str | None = None
    """"smaller" or "bigger" than the thing named before it."""
    place: str | None = None
    """Where in the picture the only one is, if it is clearly at a side or in the middle."""
    holds: bool | None = None
    """Of a word that claims something of the thing named before it, as "left": whether it holds beside all other
    things, or beside none."""
    lead: str = ""
    """Words before it that name nothing, as "which one is on the"."""
    joined: bool = False
    """Whether it goes on with what was named before it: no other words come between."""


def mention_things(
    scene: Scene, rng: random.Random, names: Sequence[str], most: int, *, pairs: int = 0, claims: int = 0
) -> list[Mention]:
    """Name what the scene shows, and as many things that it does not, in random order.

    Args:
        scene: what was drawn.
        rng: the source of chance.
        names: the names such scenes can show; absent things are drawn from them.
        most: mentions that are returned at most, without those that `pairs` and `claims` bring.
        pairs: two things named one after the other, the second compared with the first; so many at most. Where just
            two things are shown, at most twice as many words that are true of one, as "left" or "bigger", name it.
        claims: two things named with a claim between them, as "the cat to the left of the dog", whose "left" says
            whether it holds; so many at most.
    """
    there: list[Mention] = []
    while len(there) < most // 3:  # few things are named several times, each time after other words
        there += [*_names(scene, rng), *_colours(scene)]
    there = rng.sample(there, most // 3)
    generic = _generic(scene)
    rng.shuffle(generic)
    single = [[mention] for mention in (*there, *_absent(scene, rng, names, most // 3), *generic[: most // 3])]
    rows = [*single, *_pairs(scene, rng, pairs), *_telling(scene, rng, 2 * pairs), *_claims(scene, rng, claims)]
    rng.shuffle(rows)
    return [mention for row in rows for mention in row]


def mention_one(name: str, rng: random.Random, absent: Sequence[str]) -> list[Mention]:
    """Name the one thing that is known of a picture, and what is not in it, in random order."""
    mentions = [Mention(name, True), Mention(rng.choice(_THIS), name=name), *(Mention(one, False) for one in absent)]
    rng.shuffle(mentions)
    return mentions


def draw_absent(chances: Mapping[str, float], rng: random.Random, there: Sequence[str], count: int) -> list[str]:
    """Draw different names of things that are not there.

    Args:
        chances: how often each name is drawn, beside the others. A name that is as often said to be there as its
            chance says is then as often said to be absent.
        rng: the source of chance.
        there: names of all that the picture shows; they and their kin are never drawn.
        count: how many names; fewer come back where there are no more.
    """
    shown = [plain_name(name) or name for name in there]
    left = {
        name: chance
        for name, chance in chances.items()
        if not any(are_kin(plain_name(name) or name, other) for other in shown)
    }
    drawn: list[str] = []
    while left and len(drawn) < count:
        drawn += rng.choices(list(left), list(left.values()))
        del left[drawn[-1]]
    return drawn


def _names(scene: Scene, rng: random.Random) -> list[Mention]:
    """Name each kind of thing, in the singular or the plural."""
    mentions = []
    for name in dict.fromkeys(thing.name for thing in scene.objects):
        these = [thing for thing in scene.objects if thing.name == name]
        colours = {thing.colour for thing in these}
        colour = these[0].colour if len(colours) == 1 and not gives_away(name, COLOURS) else None
        text = plural(name) if len(these) > 1 or (is_countable(name) and rng.random() < 0.3) else name
        # Most things are alone; asked of all, the number would be learned as "one".
        number = len(these) if len(these) > 1 or rng.random() < 0.2 else None
        mentions.append(Mention(text, True, number, colour=colour, box=_only(these), place=_place(these)))
    return mentions


def _pairs(scene: Scene, rng: random.Random, most: int) -> list[list[Mention]]:
    """Name two things that are alone of their name, and how the second stands to the first."""
    counts = Counter(thing.name for thing in scene.objects)
    alone = [thing for thing in scene.objects if counts[thing.name] == 1]
    ways = list(permutations(alone, 2))
    return [_compared(*pair) for pair in rng.sample(ways, min(most, len(ways)))]


def _compared(one: SceneObject, other: SceneObject) -> list[Mention]:
    across, down = (there - here for here, there in zip(one.centre, other.centre, strict=True))
    larger = larger_of(one, other)
    return [
        Mention(one.name, box=_only([one]), place=_place([one])),
        Mention(
            other.name,
            box=_only([other]),
            place=_place([other]),
            side=None if abs(across) < _APART else "east" if across > 0 else "west",
            height=None if abs(down) < _APART else "below" if down > 0 else "above",
            size=None if larger is None else "bigger" if larger is other else "smaller",
        ),
    ]


def _telling(scene: Scene, rng: random.Random, most: int) -> list[list[Mention]]:
    """Read words that are true of one of two things: a question that has one has its answer in it."""
    counts = Counter(thing.name for thing in scene.objects)
    if len(counts) != 2 or len(scene.objects) != 2:
        return []
    told = []
    for one, other in permutations(scene.objects):
        stands = _compared(other, one)[1]
        for how in (stands.side, stands.height, stands.size):
            if how is not None:
                lead, word = rng.choice(_TELLING[how])
                told.append([Mention(word, name=one.name, box=_only([one]), lead=lead)])
    return rng.sample(told, min(most, len(told)))


def _claims(scene: Scene, rng: random.Random, most: int) -> list[list[Mention]]:
    """Claim how one thing stands to another.

    The word that claims it is read before the other is named, so what it says must hold of all others or of none. The
    other's name could say it too, but would have to find out first how the things stand and then what was claimed,
    which was not learned (lab book).
    """
    counts = Counter(thing.name for thing in scene.objects)
    ways = []
    for one, other in permutations([thing for thing in scene.objects if counts[thing.name] == 1], 2):
        compared = [_compared(thing, one)[1] for thing in scene.objects if thing is not one]
        for stands in ({it.side for it in compared}, {it.height for it in compared}):
            if len(stands) == 1 and (how := stands.pop()) is not None:
                ways += [(one, other, how, True), (one, other, _OPPOSITE[how], False)]
    claims = []
    for one, other, how, holds in rng.sample(ways, min(most, len(ways))):
        before, word, after = _CLAIMED[how]
        first, second = _compared(one, other)
        claimed = Mention(word, holds=holds, lead=before, joined=True)
        claims.append([replace(first, lead="the"), claimed, replace(second, lead=after, joined=True)])
    return claims


def _colours(scene: Scene) -> list[Mention]:
    """Name each colour, where every thing has one: what is it that has it?"""
    if not all(thing.colour for thing in scene.objects):
        return []
    mentions = []
    for colour in dict.fromkeys(thing.colour for thing in scene.objects if thing.colour):
        these = [thing for thing in scene.objects if thing.colour == colour]
        names = {thing.name for thing in these}
        mentions.append(Mention(colour, True, name=names.pop() if len(names) == 1 else None, box=_only(these)))
    return mentions


def _generic(scene: Scene) -> list[Mention]:
    """Read words that stand for the picture, its ground, or all things in it."""
    mentions = []
    if ground := scene.background:
        mentions = [Mention("background", colour=ground), Mention("everything", colour=ground, lead="behind")]
    first = scene.objects[0]
    if len(scene.objects) == 1:
        mentions += [Mention(word, name=first.name, box=_only(scene.objects)) for word in _THIS]
    elif len({thing.name for thing in scene.objects}) > 1:
        mentions += [Mention(word, number=len(scene.objects)) for word in _ALL]
    if scene.only_shapes:
        mentions.append(Mention("shapes", number=len(scene.objects)))
        if len(scene.objects) == 1:
            mentions.append(Mention("shape", name=first.name, colour=first.colour, box=_only(scene.objects)))
    return mentions


def _absent(scene: Scene, rng: random.Random, names: Sequence[str], count: int) -> list[Mention]:
    """Name things, shapes and colours that are not there, many of them like those that are.

    Each once and in the singular, so a row tells something of what is there; rows that do not taught less (lab book).
    """
    used = {thing.colour for thing in scene.objects} | {scene.background}
    said = {
        *used,
        *(plural(thing.name) for thing in scene.objects),
    }  # an orange beside a thing that is orange
    near = {category_of(thing.name) for thing in scene.objects if thing.kind == "cutout"}
    alike = [name for name in names if near and category_of(name) in near] or names
    absent: list[str] = []
    for _ in range(4 * count):
        if any(thing.kind == "shape" for thing in scene.objects) and rng.random() < 0.4:
            name = rng.choice(SHAPES)
        else:
            name = rng.choice(alike if rng.random() < _NEAR else names)
        if name not in absent and name not in said and not any(are_kin(name, other) for other in scene.shown):
            absent.append(name)
    if None not in used:
        absent.insert(rng.randrange(2), rng.choice([colour for colour in COLOURS if colour not in used]))
    return [Mention(name, False) for name in absent[:count]]


def _only(things: Sequence[SceneObject]) -> tuple[float, float, float, float] | None:
    """Return centre and size of the only one."""
    return (*things[0].centre, *things[0].size) if len(things) == 1 else None


def _place(things: Sequence[SceneObject]) -> str | None:
    """Return where the only one is."""
    return place_of(things[0]) if len(things) == 1 else None
