"""Sample values from a label's profile, given the bits that were drawn."""

import numba
import numpy as np

from netdiff_ray.header_bytes import ONES
from netdiff_ray.labels.profile import SUPPRESSED
from netdiff_ray.repair.splitmix import draw

LIKELIHOOD = np.exp(-0.5 * np.arange(64.0))
"""Likelihood of a value, by the number of bits that were drawn otherwise. Wrong bits come together,
so that each counts as if a bit were wrong in three of eight cases, though fewer are."""
SUPPRESSED_BITS = 2
"""Bits by which a suppressed value counts as wrong, in each length or window field."""


@numba.njit(cache=True)
def uniform(seed, purpose, position):
    """Return a float64 of [0, 1) that depends on the seed, purpose and position alone."""
    return np.float64(draw(seed, purpose, position) >> np.uint64(11)) * 2.0**-53


@numba.njit(cache=True)
def index_at(weight, count, u):
    """Return the index in the first `count` weights at the share `u` of their sum; -1 if all
    are 0."""
    total = 0.0
    for k in range(count):
        total += weight[k]
    left = u * total
    last = -1
    for k in range(count):
        if weight[k] > 0:
            last = k
            if left < weight[k]:
                return k
            left -= weight[k]
    return last


@numba.njit(cache=True)
def bits_apart(drawn, value):
    """Return the number of bits in which 16 drawn bits differ from a value."""
    word = drawn ^ min(value, 65_535)
    return np.int64(ONES[word & 255]) + np.int64(ONES[word >> 8])


@numba.njit(cache=True)
def sample_word(drawn, row, table, weight, u):
    """Sample a 16-bit value from row `row` of a WordTable, given the drawn bits. Return the drawn
    bits unchanged if the row is empty or its suppressed value is sampled."""
    first, end = table.starts[row], table.starts[row + 1]
    for k in range(first, end):
        value = table.values[k]
        bits = SUPPRESSED_BITS if value == SUPPRESSED else bits_apart(drawn, value)
        weight[k - first] = table.share[k] * LIKELIHOOD[bits]
    k = index_at(weight, end - first, u)
    return drawn if k < 0 or table.values[first + k] == SUPPRESSED else table.values[first + k]
