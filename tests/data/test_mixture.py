"""The order of a mixture hangs on its seed, its counts on the weights, and nobody reads what another has read."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from llava_mini.data.collator import Skipped
from llava_mini.data.mixture import Mixture, mix
from llava_mini.data.readers import DataFile
from llava_mini.errors import DataError
from llava_mini.training.batches import MicroBatches

LETTERS, DIGITS = "abcdefgh", "0123"


def mixture(seed: int = 0, *, letters: float = 1.0, digits: float = 1.0) -> Mixture:
    return Mixture([(LETTERS, letters), (DIGITS, digits)], seed)


def epoch(made: Mixture, number: int = 0) -> list[str]:
    return [made.at(number * made.epoch_length + place) for place in range(made.epoch_length)]


def test_a_weight_says_how_often_an_epoch_shows_each_item() -> None:
    counts = Counter(epoch(mixture(letters=0.5, digits=2)))
    assert all(counts[digit] == 2 for digit in DIGITS)
    assert sum(counts[letter] for letter in LETTERS) == 4
    assert max(counts[letter] for letter in LETTERS) == 1
    assert Counter(epoch(mixture(letters=0))) == Counter(DIGITS)


def test_half_of_a_file_is_drawn_anew_in_each_epoch() -> None:
    made = mixture(letters=0.5, digits=0)
    assert len({frozenset(epoch(made, number)) for number in range(6)}) > 1


def test_the_order_hangs_on_the_seed_and_the_epoch_alone() -> None:
    assert epoch(mixture()) == epoch(mixture())
    assert epoch(mixture()) != epoch(mixture(1))
    assert epoch(mixture()) != epoch(mixture(), 1)
    made = mixture()
    assert made.at(30) == epoch(mixture(), 2)[6]


def test_mixtures_of_nothing_and_negative_weights_are_refused() -> None:
    with pytest.raises(DataError, match="holds no example"):
        mixture(letters=0, digits=0)
    with pytest.raises(DataError, match="give one with --data"):
        mix([], 0)
    with pytest.raises(DataError, match="must not be negative"):
        mix([DataFile("a.json", weight=-1.0)], 0)


@dataclass(frozen=True)
class Item:
    id: str


class Plain:
    """A collator that shows what it is given; `bad` items are refused."""

    def __init__(self, bad: str = "") -> None:
        self.bad = bad

    def prepare(self, item: Item) -> int:
        if item.id in self.bad:
            raise DataError(f"{item.id}: broken")
        return ord(item.id)

    def join(self, samples: Sequence[Any], number: int = 0) -> dict[str, torch.Tensor]:
        return {"items": torch.tensor(samples)}


def batches(folder: Path, *, bad: str = "", allowed: int = 0, **changes: Any) -> MicroBatches:
    items = [Item(letter) for letter in LETTERS + DIGITS]
    return MicroBatches(
        Mixture([(items, 1.0)], 0), Plain(bad), 2, Skipped(folder / "skipped.jsonl", allowed), **changes
    )


def given(made: MicroBatches, count: int, workers: int = 0) -> list[str]:
    loader = DataLoader(made, batch_size=None, num_workers=workers)
    return ["".join(map(chr, batch["items"].tolist())) for batch in islice(loader, count)]


def test_two_processes_see_every_item_of_an_epoch_once(tmp_path: Path) -> None:
    shares = [given(batches(tmp_path, process=process, processes=2), 3) for process in (0, 1)]
    assert sorted("".join(shares[0] + shares[1])) == sorted(LETTERS + DIGITS)


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    alone = given(batches(tmp_path), 12)
    assert given(batches(tmp_path), 12, workers=3) == alone
    assert given(batches(tmp_path, first=5), 7, workers=2) == alone[5:]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_run_goes_on_with_the_batches_that_come_next(tmp_path: Path, processes: int) -> None:
    for process in range(processes):
        whole = given(batches(tmp_path, process=process, processes=processes), 9)
        assert given(batches(tmp_path, process=process, processes=processes, first=4), 5) == whole[4:]


def test_one_process_with_large_batches_takes_what_two_with_small_ones_take(tmp_path: Path) -> None:
    items = [Item(letter) for letter in LETTERS + DIGITS]
    large = MicroBatches(Mixture([(items, 1.0)], 0), Plain(), 4, Skipped(tmp_path / "s", 0))
    small = [given(batches(tmp_path, process=process, processes=2), 3) for process in (0, 1)]
    assert given(large, 3) == [one + other for one, other in zip(*small, strict=True)]


def test_bad_items_are_left_out_and_listed_and_the_others_stay_where_they_were(tmp_path: Path) -> None:
    whole = given(batches(tmp_path), 6)
    bad = whole[1][0] + whole[3]  # one of a micro-batch, and both of another
    lenient = given(batches(tmp_path, bad=bad, allowed=3), 6)
    assert lenient[1] == whole[1][1]
    assert lenient[3] == lenient[4] == whole[4]  # stands in, and is taken in its own turn too
    assert [lenient[i] for i in (0, 2, 4, 5)] == [whole[i] for i in (0, 2, 4, 5)]
    assert Skipped(tmp_path / "skipped.jsonl", 0).ids() == set(bad)


def test_one_bad_item_too_many_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 samples are bad, --skip-bad allows 2"):
        given(batches(tmp_path, bad="abc", allowed=2), 6)
    with pytest.raises(DataError, match="a: broken"):
        given(batches(tmp_path / "strict", bad="a"), 6)


def test_streams_mixed_by_weight_go_on_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    files = []
    for name, letters, weight in (("letters", "abcd", 3.0), ("digits", "01", 1.0)):
        path = tmp_path / f"{name}.parquet"
        rows = [{"id": one, "messages": [{"role": "assistant", "content": one}]} for one in letters]
        Dataset.from_list(rows).to_parquet(str(path))
        files.append(DataFile(str(path), weight=weight, stream=True))

    class Contents(Plain):
        def prepare(self, item: Any) -> int:
            return ord(item.messages[0]["content"])

    def made(first: int = 0) -> MicroBatches:
        return MicroBatches(mix(files, 0), Contents(), 2, Skipped(tmp_path / "skipped.jsonl", 0), first=first)

    whole = given(made(), 20)
    assert given(made(first=7), 13) == whole[7:]
    letters = sum(one in "abcd" for one in "".join(whole))
    assert 20 < letters < 38  # 30 of 40 are expected
