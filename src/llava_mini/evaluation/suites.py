"""What is asked: photographs that were never trained on, and scenes drawn from held-out seeds, cut-outs and grounds."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llava_mini.data.cutouts import load_cutouts
from llava_mini.data.layouts import SceneSplit
from llava_mini.data.questions import ask_about, is_correct
from llava_mini.data.scenes import SceneLibrary, draw_scene
from llava_mini.data.videos import draw_video
from llava_mini.errors import ConfigError
from llava_mini.evaluation.controls import Item
from llava_mini.evaluation.photographs import load_photographs, names_match
from llava_mini.inputs.media import Picture, Video
from llava_mini.inputs.processor import Media

# Seeds that training never uses: it counts up from 0.
_FIRST_SEED = {"new": 10_000_000, "unseen": 20_000_000}
_NAMING = ("What is this?", "What do you see in the picture?")


@dataclass(frozen=True)
class Suite:
    """Pictures or videos, and the questions about them."""

    media: list[Media]
    items: list[Item]


def photographs(sources: Path, limit: int | None = None) -> Suite:
    """Name the main object of photographs; each is asked once, in two phrasings by turns."""
    chosen = load_photographs(sources)[:limit]
    items = [
        Item(photo.group, index, _NAMING[index % 2], partial(names_match, names=photo.names), photo.names[0])
        for index, photo in enumerate(chosen)
    ]
    return Suite([Picture(photo.image, photo.group) for photo in chosen], items)


def scenes(sources: Path, limit: int | None = None, *, split: SceneSplit = "new") -> Suite:
    """Ask about new scenes of trained cut-outs ("new"), or of held-out ones on held-out grounds ("unseen")."""
    library = SceneLibrary(load_cutouts(sources, "train"), load_cutouts(sources, "unseen"))
    names = library.unseen_names if split == "unseen" else library.names
    pictures: list[Media] = []
    items = []
    for index in range(limit or 100):
        seed = _FIRST_SEED[split] + index
        image, scene = draw_scene(seed, library, split)
        pictures.append(Picture(image, f"scene {seed}"))
        for question in ask_about(scene, random.Random(seed), names):
            if question.kind != "caption":  # a caption is right or wrong in too many ways
                items.append(Item(question.kind, index, question.text, partial(is_correct, question), question.answer))
    return Suite(pictures, items)


def videos(sources: Path, limit: int | None = None, *, split: SceneSplit = "new") -> Suite:
    """Ask about made videos: what comes first, what moves, what changes, how many there are at the end."""
    library = SceneLibrary(load_cutouts(sources, "train"), load_cutouts(sources, "unseen"))
    films: list[Media] = []
    items = []
    for index in range(limit or 100):
        made = draw_video(_FIRST_SEED[split] + index, library, split)
        films.append(Video.of(made.frames, f"video {index}"))
        items += [Item(q.kind, index, q.text, partial(is_correct, q), q.answer) for q in made.questions]
    return Suite(films, items)


SUITES: dict[str, Callable[[Path, int | None], Suite]] = {
    "photographs": photographs,
    "scenes": scenes,
    "unseen-scenes": partial(scenes, split="unseen"),
    "videos": videos,
}


BENCHMARK_VERSION = 1
"""Of the benchmark "embedded": what is drawn, asked and counted as right. Numbers of two versions do not compare."""
BENCHMARK: tuple[tuple[str, int | None, str], ...] = (
    ("scenes", 300, ""),
    ("unseen-scenes", 150, "unseen "),
    ("photographs", None, "photographs "),
    ("videos", 150, "video "),
)
"""Its suites, how many pictures of each, and what is put before the name of a kind of question."""


def find_suite(name: str) -> Callable[[Path, int | None], Suite]:
    """Return a suite by name.

    Raises:
        ConfigError: when there is none.
    """
    if name not in SUITES:
        raise ConfigError(f"no evaluation is called {name!r}; there are {', '.join(SUITES)}, moments, embedded")
    return SUITES[name]
