"""What one process of many is given in each micro-batch, so that a stopped run goes on where it was."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from llava_mini.data.collator import Skipped
from llava_mini.data.examples import BadExample
from llava_mini.data.mixture import Reader
from llava_mini.errors import DataError

_PATIENCE = 100


class Collator(Protocol):
    """Turns items into what the objective takes, one by one and then together."""

    def prepare(self, item: Any) -> Any:
        """Make one item ready; a bad one is a `DataError`."""
        ...

    def join(self, samples: Sequence[Any], number: int = 0) -> dict[str, Tensor]:
        """Stack prepared items; whatever is drawn by chance hangs on the micro-batch's number."""
        ...


@dataclass
class MicroBatches(IterableDataset[dict[str, Tensor]]):
    """Micro-batch n of process r: which items it holds hangs on n, r and the seed, not on the number of workers.

    (Items of streams are the exception: each worker reads its own part of them.)
    """

    reader: Reader
    collator: Collator
    size: int
    """Items of one micro-batch."""
    skipped: Skipped
    process: int = 0
    processes: int = 1
    first: int = 0
    """The first micro-batch that is wanted: those before it were taken before the run was stopped."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        # The loader asks worker 0 first, whichever micro-batch the run goes on with.
        number = self.first + worker
        # Group g of the reader is micro-batch g // processes of process g % processes.
        group, groups = number * self.processes + self.process, workers * self.processes
        items = self.reader.read(group % groups, groups, self.size, group)
        while True:
            samples = self._good(islice(items, self.size))
            ahead = group
            while not samples:  # all were bad: the next ones stand in, and are taken in their own turn too
                ahead += groups
                if ahead - group > _PATIENCE * groups:
                    raise DataError(f"{_PATIENCE} micro-batches in a row hold no good sample; see {self.skipped.path}")
                samples = self._good(islice(self.reader.read(ahead % groups, groups, self.size, ahead), self.size))
            yield self.collator.join(samples, group)
            group += groups

    def _good(self, items: Iterator[Any]) -> list[Any]:
        """Prepare items; those that are bad are left out and written down."""
        samples = []
        for item in items:
            try:
                if isinstance(item, BadExample):
                    raise item.error
                samples.append(self.collator.prepare(item))
            except DataError as error:
                self.skipped.add(item.id, error)
        return samples
