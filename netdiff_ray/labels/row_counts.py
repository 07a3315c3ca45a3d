"""Count equal rows of arrays.

Shape letters: P packets, K columns.
"""

from collections import Counter

import numpy as np

Row = tuple[int, ...]


def count_rows(rows: np.ndarray) -> Counter[Row]:
    """Count equal rows of (P, K)."""
    return Counter({tuple(row): number for row, number in zip(*counted(rows), strict=True)})


def counted(values: np.ndarray) -> tuple[list, list[int]]:
    """Return the distinct values of (P,), or the distinct rows of (P, K), and how often each is
    there."""
    distinct, numbers = np.unique(values, axis=0, return_counts=True)
    return distinct.tolist(), numbers.tolist()
