"""How a host's TCP windows go on after the handshake: classes of steps, and their counts.

Shape letters: P packets.
"""

from collections import Counter

import numba
import numpy as np

from netdiff_ray.header_bytes import ACK, IPPROTO_TCP, RST, SYN, TCP_FLAGS, TCP_WSIZE, words16

_LIMITS = (1 / 64, 1 / 16, 1 / 4, 1.0)
"""Octaves at which classes of steps end; the last is of more than twofold steps."""
NUM_STEPS = 1 + 2 * (len(_LIMITS) + 1)
"""Classes of steps: 0 for none, then those to smaller windows, then those to larger ones."""


@numba.njit(cache=True)
def window_step(before, window):
    """Return the class of the step from a window to the next, as in the header."""
    if window == before:
        return 0
    octaves = np.log2((window + 1.0) / (before + 1.0))
    size = 0
    for limit in _LIMITS:
        size += abs(octaves) > limit
    return 1 + size if octaves < 0 else 1 + len(_LIMITS) + 1 + size


@numba.njit(cache=True)
def _steps(values, pairs):
    """Return the classes of the steps from `values` at `pairs` (K,) to the next."""
    steps = np.empty(len(pairs), np.int64)
    for k in range(len(pairs)):
        steps[k] = window_step(values[pairs[k]], values[pairs[k] + 1])
    return steps


def count_window_steps(
    rows: np.ndarray, direction: np.ndarray, window: np.ndarray, chosen: np.ndarray
) -> tuple[Counter, Counter, Counter]:
    """Count steps of the windows that hosts advertise after the handshake.

    Args:
        rows: (P,) HEADER_ROW.
        direction: (P,).
        window: (P,) which run of a flow's packets each is of, ascending.
        chosen: (P,) bool, the packets to count.

    Returns:
        hosts of at least two windows, by side and whether they change (1) or keep (0) it; of those
        that change, steps by side and class, and hosts by side and class.
    """
    flags = rows["transport"][:, TCP_FLAGS]
    advertises = (rows["protocol"] == IPPROTO_TCP) & (flags & ACK > 0) & (flags & (SYN | RST) == 0)
    index = np.flatnonzero(chosen & advertises)
    index = index[np.lexsort((index, direction[index], window[index]))]
    host = 2 * window[index].astype(np.int64) + direction[index]
    values = words16(rows["transport"], TCP_WSIZE)[index]
    pairs = np.flatnonzero(host[1:] == host[:-1])
    steps = _steps(values, pairs)
    host, at = np.unique(host[pairs], return_inverse=True)
    changes = np.bincount(at, steps > 0, len(host)) > 0
    side = host % 2
    kept = changes[at]
    by_host = np.unique(np.column_stack([at[kept], side[at[kept]], steps[kept]]), axis=0)[:, 1:]
    return (
        Counter(zip(side.tolist(), changes.astype(int).tolist(), strict=True)),
        Counter(zip(side[at[kept]].tolist(), steps[kept].tolist(), strict=True)),
        Counter(map(tuple, by_host.tolist())),
    )
