"""The pace of flows: how long their packets are apart in the mean, and times given the pace.

A model draws the times of packets one by one, so that a slow flow has gaps of fast ones and
flows last alike. The plan of a flow draws its pace, and the rule `pace` moves drawn times to those
that flows of the pace have.

Shape letters: P packets, W windows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.labels.by_size import draw_by_size, fold_rare, kept_values, nearest
from netdiff_ray.nprint.timecode import LEVELS_PER_OCTAVE, MOST_LEVEL, level_of, nanoseconds_of

OCTAVES_OF_A_PACE = 2
"""Twofold steps of the mean time that a pace holds: few enough paces that flows share them."""
NUM_PACES = (MOST_LEVEL + 1) // (OCTAVES_OF_A_PACE * LEVELS_PER_OCTAVE)
UNPACED = -1
"""The pace of a flow of a packet, or of which none is planned."""
LEVEL_NS = nanoseconds_of(np.arange(MOST_LEVEL + 1))
"""(256,) int64: nanoseconds that stand for a level in a mean."""


class PaceCount(NamedTuple):
    """How many flows have a pace."""

    octave: int
    """Of packets in the first window, see `by_size.size_octave`."""
    pace: int
    flows: int


class PacedTimeCount(NamedTuple):
    """How many packets in windows of a pace have a level of the time before them."""

    pace: int
    packet: int
    """As in `LevelCount`."""
    side: int
    level: int
    packets: int


@numba.njit(cache=True)
def pace_of(levels):
    """Return the pace, 0 to NUM_PACES - 1, of packets by the levels of the times between them.

    Args:
        levels: (P,) of the time before each packet; the first is left out. UNPACED if it is alone.
    """
    if len(levels) < 2:
        return UNPACED
    total = np.int64(0)
    for k in range(1, len(levels)):
        total += LEVEL_NS[levels[k]]
    return level_of(total / (len(levels) - 1)) // (OCTAVES_OF_A_PACE * LEVELS_PER_OCTAVE)


@numba.njit(cache=True)
def paces_of(level, starts):
    """Return (W,) int64: the pace of each of the windows that begin at `starts` (W,)."""
    paces = np.empty(len(starts), np.int64)
    for k in range(len(starts)):
        end = starts[k + 1] if k + 1 < len(starts) else len(level)
        paces[k] = pace_of(level[starts[k] : end])
    return paces


def disclosed_paces(
    flows: Mapping[tuple[int, int], int], times: Mapping[tuple[int, ...], int], least: int
) -> tuple[list[PaceCount], Counter[tuple[int, ...]]]:
    """Fold paces that fewer than `least` flows have into the nearest that more have.

    Args:
        flows: by octave and pace.
        times: packets by pace, number, side and level.

    Returns:
        Flows by octave and pace, without cells of fewer flows: these are counted with the nearest
        pace of the octave, or not at all; packets by what `times` has. Both are empty if no pace
        has enough flows.
    """
    kept = kept_values(flows, least)
    table = fold_rare(flows, least)
    folded: Counter[tuple[int, ...]] = Counter()
    if kept:
        for (pace, *row), packets in times.items():
            folded[nearest(pace, kept), *row] += packets
    return [PaceCount(*cell, number) for cell, number in sorted(table.items())], folded


def draw_pace(rows: Sequence[PaceCount], num_packets: int, max_height: int, seed: int) -> int:
    """Draw the pace of a flow from those of flows of its size, or of the nearest that is known.

    Returns:
        UNPACED if none is known, or a flow has a packet alone.
    """
    if not rows or num_packets < 2:
        return UNPACED
    return draw_by_size(rows, num_packets, max_height, seed)
