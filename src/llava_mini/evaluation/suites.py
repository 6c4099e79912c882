"""What is asked: photographs that were never trained on, and scenes drawn from held-out seeds, cut-outs and grounds."""

import hashlib
import random
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol

from llava_mini.data.answers import Question, is_correct, says_name
from llava_mini.data.cutouts import load_cutouts
from llava_mini.data.layouts import Ground, SceneSplit
from llava_mini.data.questions import ask_about
from llava_mini.data.scenes import SceneLibrary, draw_scene
from llava_mini.data.videos import draw_video
from llava_mini.errors import ConfigError
from llava_mini.evaluation.controls import Item
from llava_mini.evaluation.photographs import load_photographs
from llava_mini.inputs.media import Picture, Video
from llava_mini.inputs.processor import Media

_FIRST_SEED: dict[SceneSplit, int] = {"new": 10_000_000, "unseen": 20_000_000}
"""Training never comes here: it counts up from 0."""
_NAMING = ("What is this?", "What do you see in the picture?")


@dataclass(frozen=True)
class Suite:
    """Pictures or videos, and the questions about them."""

    media: list[Media]
    items: list[Item]


def photographs(sources: Path, limit: int | None = None, first: int = 0) -> Suite:
    """Name the main object of photographs; each is asked once, in two phrasings by turns."""
    chosen = load_photographs(sources)[first:][:limit]
    items = [
        Item(
            photo.group,
            index,
            _NAMING[index % 2],
            partial(says_name, accepted=photo.names),
            photo.names[0],
            photo.names,
        )
        for index, photo in enumerate(chosen)
    ]
    return Suite([Picture(photo.image, photo.group) for photo in chosen], items)


def scenes(
    sources: Path, limit: int | None = None, first: int = 0, *, split: SceneSplit = "new", only_shapes: bool = False
) -> Suite:
    """Ask about new scenes of trained cut-outs ("new"), or of held-out ones on corners of photographs ("unseen").

    Args:
        first: the first seed is so many after the split's own.
        only_shapes: leave out the scenes that show anything but shapes; then there are fewer pictures than seeds.
    """
    library = SceneLibrary(load_cutouts(sources, "train"))
    if split == "unseen":
        whole = [photo for photo in load_photographs(sources) if photo.group != "stamps"]
        grounds = [Ground(photo.image, photo.names) for photo in whole]
        library = SceneLibrary(library.trained, load_cutouts(sources, "unseen"), grounds)
    return ask_scenes(library, split, limit or 100, first, only_shapes=only_shapes)


def ask_scenes(
    library: SceneLibrary, split: SceneSplit, number: int, first: int = 0, *, only_shapes: bool = False
) -> Suite:
    """Ask about so many scenes that are drawn with a library, as `scenes` does."""
    names = library.unseen_names if split == "unseen" else library.names
    pictures: list[Media] = []
    items: list[Item] = []
    for seed in count(_FIRST_SEED[split] + first):
        if len(pictures) == number:
            break
        image, scene = draw_scene(seed, library, split)
        if only_shapes and not scene.only_shapes:
            continue
        asked = ask_about(scene, random.Random(seed), names)
        # A caption is right or wrong in too many ways.
        items += [_item(question, len(pictures)) for question in asked if question.kind != "caption"]
        pictures.append(Picture(image, f"scene {seed}"))
    return Suite(pictures, items)


def videos(sources: Path, limit: int | None = None, first: int = 0) -> Suite:
    """Ask about made videos: what comes first, what moves, what changes, how many there are at the end."""
    library = SceneLibrary(load_cutouts(sources, "train"))
    films: list[Media] = []
    items: list[Item] = []
    for index in range(limit or 100):
        made = draw_video(_FIRST_SEED["new"] + first + index, library)
        films.append(Video.of(made.frames, f"video {index}"))
        items += [_item(question, index) for question in made.questions]
    return Suite(films, items)


def _item(question: Question, picture: int) -> Item:
    return Item(
        question.kind, picture, question.text, partial(is_correct, question), question.answer, question.accepted
    )


class MakeSuite(Protocol):
    """What makes a suite."""

    def __call__(self, sources: Path, limit: int | None = None, first: int = 0) -> Suite:
        """Make it of fetched sources: as many pictures as are wanted, from one on."""


SUITES: dict[str, MakeSuite] = {
    "photographs": photographs,
    "scenes": scenes,
    "shapes": partial(scenes, only_shapes=True),
    "unseen-scenes": partial(scenes, split="unseen"),
    "videos": videos,
}
MADE = ("embedded", *SUITES, "moments")
"""What `llava-mini evaluate` draws itself: the benchmark, its suites and others, and where answers to videos looked."""

BENCHMARK_VERSION = 2
"""Of the benchmark "embedded": what is drawn, asked and counted as right. Numbers of two versions do not compare."""
_UNTOUCHED = 1_000_000
"""Seeds from here on are for the benchmark alone: on those before it adapters were compared while they were made."""
BENCHMARK: tuple[tuple[str, int | None, int, str], ...] = (
    ("scenes", 300, _UNTOUCHED, ""),
    ("unseen-scenes", 150, _UNTOUCHED, "unseen "),
    ("photographs", None, 0, "photographs "),
    ("videos", 150, _UNTOUCHED, "video "),
)
"""Its suites, how many pictures of each, from which on, and what is put before the name of a kind of question."""


def digest(suite: Suite) -> str:
    """Return a SHA-256 of what is shown, asked and counted as right: equal digests, equal questions."""
    taken = hashlib.sha256()
    for shown in suite.media:
        taken.update(shown.image.tobytes() if isinstance(shown, Picture) else shown.content.encode())
    for one in suite.items:
        taken.update(repr((one.kind, one.picture, one.question, one.right, one.accepted)).encode())
    return taken.hexdigest()


def find_suite(name: str) -> MakeSuite:
    """Return what makes a suite, by its name.

    Raises:
        ConfigError: when there is none.
    """
    if name not in SUITES:
        raise ConfigError(f"no suite of questions is called {name!r}; there are {', '.join(SUITES)}")
    return SUITES[name]
