"""Inter-arrival times as bits: log-quantised, Gray-coded, every bit three times.

The 256 levels: 0 is under a microsecond, each further level an eighth of an octave, up
to an hour. Neighbouring levels differ in one bit (Gray code), and each of
the eight bits stands in three columns side by side, of which the majority counts, so
that a single wrong pixel is no error, and two wrong pixels of three are a small error.
"""

import math

import numba
import numpy as np

SHORTEST_NS = 1_000
LEVELS_PER_OCTAVE = 8
MOST_LEVEL = 255
"""The largest level; the smallest is 0."""
_LOG2_SHORTEST = math.log2(SHORTEST_NS)


@numba.njit(cache=True)
def level_of(interarrival_ns):
    """Return the level (0 to 255) of a time in nanoseconds; negative times count as 0."""
    if interarrival_ns < SHORTEST_NS:
        return 0
    octaves = np.log2(float(interarrival_ns)) - _LOG2_SHORTEST
    return min(1 + int(octaves * LEVELS_PER_OCTAVE + 1e-9), MOST_LEVEL)


@numba.njit(cache=True)
def levels_of(interarrival_ns):
    """Return (P,) int64: the levels of (P,) int64 times in nanoseconds."""
    levels = np.empty(len(interarrival_ns), np.int64)
    for i in range(len(interarrival_ns)):
        levels[i] = level_of(interarrival_ns[i])
    return levels


def nanoseconds_of(level: np.ndarray, within: np.ndarray | float = 0.5) -> np.ndarray:
    """Return the time that a level stands for.

    Args:
        level: any shape, 0 to 255.
        within: position inside the level's span on the log scale, 0 <= within < 1; the
            middle unless given.

    Returns:
        int64 nanoseconds of the same shape; `level_of` gives the level back. Level 0 is 0.
    """
    octaves = (np.asarray(level, np.float64) - 1 + within) / LEVELS_PER_OCTAVE
    ns = np.ceil(SHORTEST_NS * 2.0**octaves).astype(np.int64)
    return np.where(np.asarray(level) == 0, 0, ns)


def _code_bytes() -> np.ndarray:
    """Return (256, 3) uint8: the three bytes that encode each level."""
    levels = np.arange(256)
    gray = levels ^ (levels >> 1)
    bits = (gray[:, None] >> np.arange(7, -1, -1)) & 1
    return np.packbits(np.repeat(bits, 3, axis=1).astype(np.uint8), axis=1)


CODE_BYTES = _code_bytes()


@numba.njit(cache=True)
def level_of_bytes(first, second, third):
    """Return the level whose 24 code bits, by majority of each three, these bytes hold."""
    word = (np.int64(first) << 16) | (np.int64(second) << 8) | np.int64(third)
    level = np.int64(0)
    bit = np.int64(0)
    for k in range(8):
        three = (word >> (21 - 3 * k)) & 7
        ones = (three & 1) + ((three >> 1) & 1) + (three >> 2)
        bit ^= np.int64(ones >= 2)
        level = (level << 1) | bit
    return level
