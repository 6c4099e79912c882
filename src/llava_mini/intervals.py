"""How sure a measured share is."""

import math


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share."""
    z = 1.959964
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
