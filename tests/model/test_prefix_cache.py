"""What is kept is what was made, the last used first, and never more than was allowed."""

import threading

import pytest
import torch
from PIL import Image

from llava_mini.errors import ConfigError
from llava_mini.inputs.media import Picture
from llava_mini.model.prefix_cache import PrefixCache
from llava_mini.model.vision_prefix import VisionPrefix


def prefix(value: float, floats: int = 25) -> VisionPrefix:
    """A prefix of 4 × `floats` bytes."""
    return VisionPrefix(torch.full((1, 1, floats), float(value)), [], torch.ones(1, dtype=torch.long))


def test_a_picture_is_made_once_and_found_again() -> None:
    cache, made = PrefixCache(1000), []
    for _ in range(3):
        found = cache.find("a", lambda: (made.append(1), prefix(1))[1])
    assert made == [1]
    assert (cache.hits, cache.misses, len(cache), cache.nbytes) == (2, 1, 1, 100)
    assert float(found.tokens[0, 0, 0]) == 1


def test_the_last_used_stay_and_the_bytes_are_bounded() -> None:
    cache = PrefixCache(300)
    for name in "abc":
        cache.find(name, lambda: prefix(0))
    cache.find("a", lambda: prefix(1))
    cache.find("d", lambda: prefix(0))
    assert cache.nbytes == 300
    misses = cache.misses
    for name in "acd":
        cache.find(name, lambda: prefix(0))
    assert cache.misses == misses  # b was used longest ago
    cache.find("b", lambda: prefix(0))
    assert cache.misses == misses + 1


def test_what_is_larger_than_all_is_made_and_not_kept() -> None:
    cache = PrefixCache(99)
    assert cache.find("a", lambda: prefix(1)).nbytes == 100
    assert (len(cache), cache.nbytes) == (0, 0)
    with pytest.raises(ConfigError, match="max_bytes is -1"):
        PrefixCache(-1)


def test_what_is_too_large_leaves_what_was_kept_under_its_name() -> None:
    cache, small = PrefixCache(150), prefix(1)
    cache.put("a", small)
    cache.put("a", VisionPrefix.concatenate([small, prefix(2)]))
    assert cache.get("a") is small
    assert cache.nbytes == 100


def test_threads_share_it_and_the_count_stays_right() -> None:
    cache = PrefixCache(1000)
    threads = [
        threading.Thread(target=lambda: [cache.find(str(n % 15), lambda: prefix(0)) for n in range(200)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.nbytes == 100 * len(cache) == 1000
    assert cache.hits + cache.misses == 1600
    cache.clear()
    assert (cache.nbytes, len(cache)) == (0, 0)


def test_what_two_threads_want_at_once_is_made_once_and_a_failure_is_nobody_elses() -> None:
    cache, inside, go = PrefixCache(1000), threading.Event(), threading.Event()
    made: list[str] = []

    def slow() -> VisionPrefix:
        made.append("slow")
        inside.set()
        assert go.wait(timeout=30)
        raise RuntimeError("broken")

    def first() -> None:
        with pytest.raises(RuntimeError):
            cache.find("a", slow)

    def second() -> None:
        cache.find("a", lambda: made.append("second") or prefix(0))  # type: ignore[func-returns-value]

    threads = [threading.Thread(target=first), *(threading.Thread(target=second) for _ in range(3))]
    threads[0].start()
    assert inside.wait(timeout=30)
    for thread in threads[1:]:
        thread.start()
    assert cache.find("b", lambda: prefix(1)) is not None  # others are not kept waiting
    go.set()
    for thread in threads:
        thread.join(timeout=30)
    assert made == ["slow", "second"]


def test_a_picture_is_named_by_what_it_shows() -> None:
    red = Image.new("RGB", (4, 2), "red")
    assert Picture(red, "a").content == Picture(red.copy(), "b").content
    others = [Image.new("RGB", (2, 4), "red"), Image.new("RGB", (4, 2), "blue"), red.convert("RGBA")]
    assert len({Picture(one, "a").content for one in (red, *others)}) == 4
