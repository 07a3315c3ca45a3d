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
    """Of packets in the first window, see `size_octave`."""
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


def size_octave(num_packets: int, max_height: int | None = None) -> int:
    """Return how many binary digits a window's number of packets has.

    Args:
        num_packets: of a flow or a window.
        max_height: packets of a flow's windows but the last; no limit unless given.
    """
    return min(num_packets, max_height or num_packets).bit_length()


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
    of_pace: Counter[int] = Counter()
    for (_, pace), number in flows.items():
        of_pace[pace] += number
    kept = sorted(pace for pace, number in of_pace.items() if number >= least)
    if not kept:
        return [], Counter()
    cells: Counter[tuple[int, int]] = Counter()
    for (octave, pace), number in flows.items():
        cells[octave, nearest(pace, kept)] += number
    shared = sorted(cell for cell, number in cells.items() if number >= least)
    table: Counter[tuple[int, int]] = Counter()
    for (octave, pace), number in cells.items():
        of_octave = [p for o, p in shared if o == octave]
        if of_octave:
            table[octave, nearest(pace, of_octave)] += number
    folded: Counter[tuple[int, ...]] = Counter()
    for (pace, *row), packets in times.items():
        folded[nearest(pace, kept), *row] += packets
    return [PaceCount(*cell, number) for cell, number in sorted(table.items())], folded


def nearest(value: int, kept: Sequence[int]) -> int:
    """Return the value of `kept`, ascending, that is nearest; the smaller of two."""
    return min(kept, key=lambda other: (abs(other - value), other))


def draw_pace(rows: Sequence[PaceCount], num_packets: int, max_height: int, seed: int) -> int:
    """Draw the pace of a flow from those of flows of its size, or of the nearest that is known.

    Returns:
        UNPACED if none is known, or a flow has a packet alone.
    """
    if not rows or num_packets < 2:
        return UNPACED
    octave = nearest(size_octave(num_packets, max_height), sorted({row.octave for row in rows}))
    alike = [row for row in rows if row.octave == octave]
    ends = np.cumsum([row.flows for row in alike])
    return alike[int(np.searchsorted(ends, seed % int(ends[-1]), side="right"))].pace
