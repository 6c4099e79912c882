"""What was computed of pictures, kept for whoever asks about the same ones again: bounded in bytes, found by content.

Source: the causal order of pre-fusion (LLaVA-Mini, section 4.2): what is kept of a picture hangs on no word, what is
kept of the words before a question on no later word.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from llava_mini.errors import ConfigError


class Sized(Protocol):
    """Anything that knows its size."""

    @property
    def nbytes(self) -> int:
        """Bytes kept."""


T = TypeVar("T", bound=Sized)


class PrefixCache(Generic[T]):
    """The items that were used last, within `max_bytes`; threads may share one.

    An item larger than the whole is made and not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ConfigError(f"max_bytes is {max_bytes}; it must be 0 or more")
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._nbytes = 0
        self._making: dict[str, threading.Event] = {}
        """What is being made now, and who else waits for it."""
        self._busy = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: str, make: Callable[[], T]) -> T:
        """Return what is kept under a key, or make and keep it; of two threads that want it one waits for the other."""
        while True:
            with self._busy:
                making = self._making.get(key)
                if making is None:
                    self._making[key] = threading.Event()
                    break
            making.wait()
        try:
            found = self.get(key)
            if found is not None:
                return found
            made = make()
            self.put(key, made)
            return made
        finally:
            with self._busy:
                self._making.pop(key).set()

    def get(self, key: str) -> T | None:
        """Return what is kept under a key, None for nothing."""
        with self._busy:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
            else:
                self._kept.move_to_end(key)
                self.hits += 1
            return found

    def put(self, key: str, made: T) -> None:
        """Keep something under a key, in place of what was there; what is larger than the whole changes nothing."""
        with self._busy:
            if made.nbytes > self.max_bytes:
                return
            self._drop(key)
            self._kept[key] = made
            self._nbytes += made.nbytes
            while self._nbytes > self.max_bytes:
                self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget everything."""
        with self._busy:
            self._kept.clear()
            self._nbytes = 0

    def _drop(self, key: str) -> None:
        gone = self._kept.pop(key, None)
        self._nbytes -= 0 if gone is None else gone.nbytes
