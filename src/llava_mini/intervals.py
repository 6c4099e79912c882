"""How sure a measured share is."""

import math
from collections.abc import Sequence

import numpy as np


def wilson(right: float, n: float) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share `right` / `n`."""
    z = 1.959964
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered_wilson(right: Sequence[bool], cluster: Sequence[int]) -> tuple[float, float]:
    """Return the 95 % interval of a share of answers of which several belong together, as those about one picture.

    It is Wilson's for as many answers as the clusters are worth: n divided by Kish's design effect, the variance
    between clusters over that of independent answers, where that is above 1.
    """
    rights, n = np.asarray(right, dtype=float), len(right)
    share = float(rights.mean())
    independent = n * share * (1 - share)
    if not independent:
        return wilson(share * n, n)
    _, where = np.unique(np.asarray(cluster), return_inverse=True)
    surplus = np.bincount(where, weights=rights - share)
    worth = n / max(1.0, float((surplus**2).sum()) / independent)
    return wilson(share * worth, worth)


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
