"""How sure a measured share is."""

import math
from collections.abc import Sequence

import numpy as np


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share."""
    z = 1.959964
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Return how much higher the second's mean is than the first's, and the ends of its 95 % interval.

    Pairs are drawn anew (percentile bootstrap), so what both share, as hard questions, does not widen it. Of one pair
    there is no interval: its ends are NaN. Where no pair differs it has no width, which is not certainty.
    """
    differences = np.subtract(second, first, dtype=float)
    n = len(differences)
    if n < 2:
        return float(differences.mean()), math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    low, high = np.quantile(differences[drawn].mean(axis=1), (0.025, 0.975))
    return float(differences.mean()), float(low), float(high)
