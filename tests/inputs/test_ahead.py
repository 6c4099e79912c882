"""What is prepared in a thread comes in order, not too early, and the thread ends with its reader."""

import threading
from collections.abc import Iterator

import pytest

from llava_mini.errors import MediaError
from llava_mini.inputs.ahead import read_ahead


def test_items_come_in_order() -> None:
    assert list(read_ahead(range(50), depth=3)) == list(range(50))
    assert list(read_ahead([])) == []


def test_no_more_than_the_depth_is_made_ahead() -> None:
    made: list[int] = []
    taken = threading.Event()

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number
            if number > 4:
                taken.wait(5)

    ahead = read_ahead(items(), depth=2)
    for number in range(3):
        assert next(ahead) == number
        assert len(made) <= number + 1 + 2 + 1  # taken, waiting, and the one in the thread's hand
    taken.set()
    assert list(ahead) == list(range(3, 20))


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise MediaError("broken")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(MediaError, match="broken"):
        next(ahead)


def test_a_reader_that_goes_away_ends_the_thread_and_closes_the_source() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    threads = threading.active_count()
    ahead = read_ahead(items())
    assert next(ahead) == 0
    ahead.close()
    assert threading.active_count() == threads
    assert closed.wait(5)
