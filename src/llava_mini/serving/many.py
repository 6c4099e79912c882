"""Many questions about local files, answered in their order: one machine's share of a large piece of work.

Files are opened and encoded beside the language model, which answers `batch_size` questions at a time; a picture that
was asked about a moment ago is not encoded again. Nothing is held but the questions that are being answered.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from llava_mini.assistant import MAX_FILES, Assistant
from llava_mini.errors import ConfigError, InputError, LlavaMiniError, MediaError
from llava_mini.inputs.media import DEFAULT_LIMITS
from llava_mini.reply import Sampling
from llava_mini.serving.choice import Settings
from llava_mini.serving.relay import Relay
from llava_mini.serving.requests import Event, Said, ServerLimits, Started, UnpreparedError
from llava_mini.serving.rows import read_row
from llava_mini.serving.scheduler import Scheduler

_OWN = (InputError, MediaError, UnpreparedError)
"""Errors that cost their own row; any other ends the work."""


@dataclasses.dataclass(frozen=True)
class Many:
    """How many questions are asked."""

    media: Path = Path()
    """Folder of the files that rows name by relative paths."""
    batch_size: int = 16
    """Questions that the language model answers at a time."""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    """How tokens are chosen; a row may have `max_new_tokens` of its own."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; it must be at least 1")


def answer_rows(
    assistant: Assistant, rows: Iterable[Any], many: Many | None = None, *, first: int = 1
) -> Generator[dict[str, Any]]:
    """Answer each row, in the order of the rows; what is wrong with a row costs that row only.

    Args:
        rows: objects as `read_row` takes them, or the errors of lines that are none.
        many: how they are asked.
        first: number of the first row; a row without an id gets its number as one.

    Yields:
        `{"id", "answer", "vision_tokens", "prompt_tokens"}`, or `{"id", "error"}`.

    Raises:
        LlavaMiniError: when the language model fails, or its servers are away.
    """
    many = many or Many()
    window = 3 * many.batch_size
    limits = ServerLimits(
        waiting=2 * window,  # who is told the end may count a moment longer
        rows=many.batch_size,
        answer_tokens=assistant.model.config.text.max_position_embeddings,
        media=MAX_FILES,
        frames=assistant.processor.max_frames,
        file=DEFAULT_LIMITS,
    )
    scheduler = Scheduler(assistant, limits) if assistant.served is None else Relay(assistant, limits, at_once=True)
    asked: deque[_Asked] = deque()
    upcoming = enumerate(rows, first)
    try:
        while True:
            for number, row in itertools.islice(upcoming, window - len(asked)):
                asked.append(_Asked(number, row))
                asked[-1].submit(scheduler, many)
            if not asked:
                return
            yield asked.popleft().result()
    finally:
        scheduler.close(grace_s=0)


def id_of(row: Any, number: int) -> Any:
    """Return a row's id; of one that has none, its number."""
    return row["id"] if isinstance(row, dict) and row.get("id") is not None else number


class _Asked:
    """One row on its way."""

    def __init__(self, number: int, row: Any) -> None:
        self._row = row
        self._id = id_of(row, number)
        self._pieces: list[str] = []
        self._cost: dict[str, int] = {}
        self._future: Future[None] = Future()

    def submit(self, scheduler: Scheduler, many: Many) -> None:
        """Send it on; an error is told with the result."""
        sampling = many.sampling
        try:
            row = read_row(self._row, many.media)
            most = row.max_new_tokens or sampling.max_new_tokens
            settings = Settings(max_tokens=most, temperature=sampling.temperature, seed=sampling.seed)
            scheduler.submit(row.messages, settings, self._hear)
        except LlavaMiniError as error:
            self._future.set_exception(error)

    def result(self) -> dict[str, Any]:
        """Wait for the answer, or for the error that is the row's own."""
        try:
            self._future.result()
        except _OWN as error:
            return {"id": self._id, "error": str(error)}
        return {"id": self._id, "answer": "".join(self._pieces).strip(), **self._cost}

    def _hear(self, event: Event) -> None:
        if isinstance(event, LlavaMiniError):
            self._future.set_exception(event)
        elif isinstance(event, Started):
            self._cost = {"vision_tokens": event.vision_tokens, "prompt_tokens": event.prompt_tokens}
        elif isinstance(event, Said):
            self._pieces.append(event.piece.text)
            if event.piece.ending:
                self._future.set_result(None)
