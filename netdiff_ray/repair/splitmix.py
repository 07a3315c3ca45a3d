"""Draw numbers from a flow's seed.

The draws are SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a pure function of the flow's seed, a
purpose and a position, so that a value never depends on what else is in the batch.
"""

import numba
import numpy as np

(
    FOR_TIME, FOR_SEQ, FOR_ID, FOR_PORT, FOR_STAMP, FOR_PAYLOAD, FOR_HOST, FOR_ECHO,
    FOR_PAYLOAD_LENGTH, FOR_WINDOW, FOR_LEVEL, FOR_MSS, FOR_PACE, FOR_LOSS, FOR_REPEAT,
    FOR_COPY, FOR_DUPLICATE,
) = range(17)  # fmt: skip
"""Purposes of a draw."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


@numba.njit(cache=True)
def mix(word):
    """Return `word` (uint64) scrambled, one to one."""
    word = (word ^ (word >> _30)) * _MIX_1
    word = (word ^ (word >> _27)) * _MIX_2
    return word ^ (word >> _31)


@numba.njit(cache=True)
def draw(seed, purpose, position):
    """Return a uint64 that depends on the seed (uint64), purpose and position (ints) alone."""
    word = mix(seed + _GOLDEN * np.uint64(purpose + 1))
    return mix(word + _GOLDEN * np.uint64(position + 1))


@numba.njit(cache=True)
def draw_below(seed, purpose, position, end):
    """Return an int64 in 0..end-1, drawn like `draw`."""
    return np.int64((draw(seed, purpose, position) >> np.uint64(1)) % np.uint64(end))
