"""A paired difference is that of the means, as sure as the pairs agree."""

import math

import pytest

from llava_mini.intervals import paired_difference


def test_a_paired_difference_and_its_interval_are_those_of_the_pairs() -> None:
    first, second = [1] * 60 + [0] * 40, [1] * 40 + [0] * 60
    mean, low, high = paired_difference(first, second)
    assert mean == pytest.approx(-0.2)
    half = 1.96 * math.sqrt((0.2 - 0.04) / 100)  # of a mean of 20 times −1 and 80 times 0
    assert low == pytest.approx(-0.2 - half, abs=0.015)
    assert high == pytest.approx(-0.2 + half, abs=0.015)
    apart = paired_difference(first, second[::-1])  # the same means, other pairs
    assert apart[0] == pytest.approx(-0.2)
    assert apart[2] - apart[1] > 1.5 * (high - low)
    assert paired_difference(first, second) == (mean, low, high)


def test_one_pair_has_no_interval() -> None:
    mean, low, high = paired_difference([1], [0])
    assert mean == -1
    assert math.isnan(low)
    assert math.isnan(high)
