"""Held-out batches with their own pictures and with others': a model that does not look loses nothing by the swap."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llava_mini.data.collator import ExampleCollator, Skipped
from llava_mini.data.examples import Example
from llava_mini.data.prepared import PreparedScene
from llava_mini.data.readers import DataFile, Examples
from llava_mini.errors import DataError
from llava_mini.inputs.chat import MEDIA_KEYS
from llava_mini.training.batches import Collator
from llava_mini.training.scene_batches import SceneCollator

_MOST = 256
"""Examples that are measured of each file: the loss of a few hundred answers is sharp enough to be watched."""


@dataclass(frozen=True)
class HeldOut:
    """Items as batches, made anew each time that they are measured: pictures are large."""

    items: Sequence[Any]
    collator: Collator
    size: int

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(self.items), self.size):
            yield self.collator.join([self.collator.prepare(item) for item in self.items[start : start + self.size]])


def example_controls(
    files: Sequence[DataFile], collator: ExampleCollator, size: int, skipped: Skipped
) -> dict[str, HeldOut]:
    """Return the first examples of each file as batches: as they are, and with the pictures of others.

    Raises:
        DataError: when there is nothing to exchange: no two pictures, and no text.
    """
    examples = [example for file in files for example in _good(Examples(file), collator, skipped)]
    kinds: dict[tuple[str, ...], list[int]] = {}
    for index, example in enumerate(examples):
        kinds.setdefault(tuple(part["type"] for part in example.media), []).append(index)
    own: list[Example] = []
    others: list[Example] = []
    for kind, group in kinds.items():
        for place, index in enumerate(group):
            one = examples[index]
            following = [examples[i] for i in (*group[place + 1 :], *group[:place])] if kind else [one]
            exchanged = (_with_media_of(one, each) for each in following if not kind or _media(each) != _media(one))
            found = next((each for each in exchanged if "video" not in kind or _fits(each, collator)), None)
            if found is not None:
                own.append(one)
                others.append(found)
    if not own:
        names = ", ".join(file.path for file in files)
        raise DataError(
            f"of {names} nothing can be measured with another's picture: "
            "two examples with different ones that fit are needed"
        )
    return {"": HeldOut(own, collator, size), "_shuffled": HeldOut(others, collator, size)}


def scene_controls(scenes: Sequence[PreparedScene], collator: SceneCollator) -> dict[str, HeldOut]:
    """Return scenes as batches: as they are, and each with the picture of the next."""
    following = [*scenes[1:], scenes[0]]
    others = [
        dataclasses.replace(scene, features=other.features) for scene, other in zip(scenes, following, strict=True)
    ]
    plain = dataclasses.replace(
        collator,
        stage=dataclasses.replace(
            collator.stage, data=dataclasses.replace(collator.data, imagined=0.0, videos=0, texts=0)
        ),
    )
    return {"": HeldOut(scenes, plain, 4), "_shuffled": HeldOut(others, plain, 4)}


def _good(found: Examples, collator: ExampleCollator, skipped: Skipped) -> Iterator[Example]:
    """Give the first examples but those that are bad, which are written down."""
    for index in range(min(_MOST, len(found))):
        id_ = f"{found.name}, record {index}"
        try:
            example = found[index]
            id_ = example.id
            collator.prepare(example)
            yield example
        except DataError as error:
            skipped.add(id_, error)


def _fits(example: Example, collator: ExampleCollator) -> bool:
    """Tell whether an example is a sample: another's video may be too long for it."""
    try:
        return bool(collator.prepare(example))
    except DataError:
        return False


def _media(example: Example) -> list[dict[str, Any]]:
    return [_shown(part) for part in example.media]


def _with_media_of(example: Example, other: Example) -> Example:
    """Ask an example's questions about another's pictures."""
    media = iter(other.media)
    messages = []
    for message in example.messages:
        content = message["content"]
        if isinstance(content, list):
            content = [part if part["type"] == "text" else _shown(next(media)) for part in content]
        messages.append({**message, "content": content})
    return Example(example.id, messages)


def _shown(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": part["type"], **{key: part[key] for key in MEDIA_KEYS if key in part}}
