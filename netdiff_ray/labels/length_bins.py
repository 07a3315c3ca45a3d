"""Lengths of flows in bins: exact up to 32 packets, then an eighth of an octave."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

_EXACT_LENGTHS = 32
_BINS_PER_OCTAVE = 8


class LengthBin(NamedTuple):
    """How many flows have a length within bounds, in packets."""

    fewest: int
    most: int
    """Inclusive."""
    flows: int


def bin_lengths(lengths: Collection[int]) -> list[LengthBin]:
    """Return the bins of lengths, those without flows left out."""
    edges = [*range(1, _EXACT_LENGTHS + 1)]
    while edges[-1] <= max(lengths):
        edges.append(max(edges[-1] + 1, round(edges[-1] * 2 ** (1 / _BINS_PER_OCTAVE))))
    counts, _ = np.histogram(list(lengths), bins=[*edges, edges[-1] + 1])
    bounds = zip(edges, [*edges[1:], edges[-1] + 1], counts, strict=True)
    return [LengthBin(low, high - 1, int(n)) for low, high, n in bounds if n]
