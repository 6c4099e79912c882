"""Several files of examples as one: mixed by weight, in an order that hangs on a seed and on nothing else.

Which example stands at a position is the same for every process and worker, so each takes its own positions, and a
run that was stopped goes on at the position it had reached.
"""

from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Any, Protocol

import numpy as np

from llava_mini.data.examples import BadExample, Example
from llava_mini.data.readers import DataFile, Examples, ExampleStream, find_paths
from llava_mini.errors import DataError


class Reader(Protocol):
    """What gives a process's worker the items that it is to learn from."""

    def read(self, part: int, parts: int, size: int, first: int) -> Iterator[Any]:
        """Give without end the items of the groups `part`, `part + parts`, … of `size`, from group `first` on."""
        ...


class Mixture:
    """Items at random places, each seen as often in an epoch as its file's weight says."""

    def __init__(self, files: Sequence[tuple[Sequence[Any], float]], seed: int) -> None:
        self.files = [items for items, _ in files]
        self.weights = [weight for _, weight in files]
        self.seed = seed
        self._epoch, self._order = -1, np.zeros((0, 2), dtype=np.int64)
        self.epoch_length = sum(round(len(items) * weight) for items, weight in files)
        if not self.epoch_length:
            raise DataError("a mixture holds no example; give a file, and a weight above 0")

    def at(self, position: int) -> Any:
        """Return the item at a position; positions go on over the epochs."""
        epoch, place = divmod(position, self.epoch_length)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        file, index = self._order[place]
        return self.files[file][int(index)]

    def read(self, part: int, parts: int, size: int, first: int) -> Iterator[Any]:
        """Give the items of every `parts`-th group of `size` positions."""
        for group in count(first + (part - first) % parts, parts):
            for position in range(group * size, (group + 1) * size):
                try:
                    yield self.at(position)
                except DataError as error:
                    yield BadExample(error)

    def _shuffled(self, epoch: int) -> Any:
        """Return (file, place) of every item of an epoch: whole weights repeat, the rest of a weight is drawn."""
        rng = np.random.default_rng([self.seed, epoch])
        rows = []
        for number, (items, weight) in enumerate(zip(self.files, self.weights, strict=True)):
            wanted = round(len(items) * weight)
            passes = max(1, -(-wanted // len(items)))
            places = np.concatenate([rng.permutation(len(items)) for _ in range(passes)])
            rows.append(np.stack([np.full(wanted, number), places[:wanted]], axis=1))
        order = np.concatenate(rows)
        rng.shuffle(order)
        return order


class StreamMixture:
    """Examples of files that are read on and on; each reader draws from its own parts of them, by weight."""

    def __init__(self, files: Sequence[DataFile], seed: int) -> None:
        self.files = files
        self.streams = [
            ExampleStream(file) if file.stream else Mixture([(Examples(file), 1.0)], seed) for file in files
        ]
        self.seed = seed

    def read(self, part: int, parts: int, size: int, first: int) -> Iterator[Example | BadExample]:
        """Give one reader's examples, after those of its earlier groups."""
        weights = np.array([file.weight for file in self.files])
        rng = np.random.default_rng([self.seed, part])
        streams = [
            stream.read(part, parts, seed=self.seed)
            if isinstance(stream, ExampleStream)
            else stream.read(part, parts, 1, 0)
            for stream in self.streams
        ]

        def drawn() -> Iterator[Example | BadExample]:
            while True:
                yield next(streams[int(rng.choice(len(streams), p=weights / weights.sum()))])

        earlier = len(range(part, first, parts))
        return islice(drawn(), earlier * size, None)


def check_named(files: Sequence[DataFile]) -> None:
    """Check that there are files, without reading them.

    Raises:
        DataError: when none is named, or one is missing, of an unknown kind, or has a weight below 0.
    """
    if not files:
        raise DataError("no file of examples is named; give one with --data")
    for file in files:
        if not 0 <= file.weight < float("inf"):
            raise DataError(f"the weight of {file.path} is {file.weight}; it must be a number and must not be negative")
        find_paths(file)
    if not any(file.weight for file in files):
        raise DataError("all weights are 0; give one file a weight above 0")


def mix(files: Sequence[DataFile], seed: int) -> Mixture | StreamMixture:
    """Open the files of a stage.

    Raises:
        DataError: when there is none, or one that cannot be read.
    """
    check_named(files)
    if any(file.stream for file in files):
        return StreamMixture(files, seed)
    return Mixture([(Examples(file), file.weight) for file in files], seed)
