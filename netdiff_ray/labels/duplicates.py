"""How the packets of flows were captured twice, as where a port mirror copies frames on their way
in and on their way out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from netdiff_ray.nprint.timecode import LEVELS_PER_OCTAVE, MOST_LEVEL, levels_of, nanoseconds_of


class FlowDuplicates(NamedTuple):
    """How every packet of a flow was captured again."""

    hops: int
    """By how much its lifetime is less the second time."""
    octave: int
    """Levels of `nprint.timecode`, by LEVELS_PER_OCTAVE, of the time between both."""


class DuplicateCount(NamedTuple):
    """How many flows were captured so."""

    times: int
    """1 for flows that were captured once, else 2."""
    hops: int
    """Of `FlowDuplicates`, 0 for flows that were captured once, and so the next."""
    octave: int
    flows: int


def check_duplicate_count(row: DuplicateCount, min_flows: int) -> None:
    """Raise ValueError unless a row is possible and of at least `min_flows` flows."""
    is_once = row.times == 1 and row.hops == row.octave == 0
    is_twice = row.times == 2 and -128 <= row.hops < 128
    is_twice &= 0 <= row.octave <= MOST_LEVEL // LEVELS_PER_OCTAVE
    if not (is_once or is_twice) or row.flows < min_flows:
        raise ValueError(
            f"duplicates cannot have {row}; flows are captured 1 time, or 2 times with "
            f"lifetimes less by -128 to 127 after an octave from 0 to "
            f"{MOST_LEVEL // LEVELS_PER_OCTAVE}, at least {min_flows} flows each"
        )


def duplicates_of(hops: int, later_ns: int) -> FlowDuplicates:
    """Return how packets were captured again, `later_ns` nanoseconds later."""
    return FlowDuplicates(hops, int(levels_of(np.array([later_ns]))[0]) // LEVELS_PER_OCTAVE)


def disclosed_duplicates(
    flows: Iterable[FlowDuplicates | None], min_flows: int
) -> list[DuplicateCount]:
    """Return how many flows were captured how.

    Those that were captured twice as fewer than `min_flows` were count as the nearest of the
    others, or as captured once if there are none.

    Returns:
        sorted; each of at least `min_flows` flows; none if no flow was captured twice.
    """
    counts = Counter(flows)
    num_once = counts.pop(None, 0)
    kept = sorted(key for key, number in counts.items() if number >= min_flows)
    if not kept:
        return []
    table: Counter[FlowDuplicates] = Counter()
    for key, number in sorted(counts.items()):
        table[min(kept, key=lambda other: _distance(key, other))] += number
    once = [DuplicateCount(1, 0, 0, num_once)] if num_once >= min_flows else []
    return once + [DuplicateCount(2, *key, number) for key, number in sorted(table.items())]


def _distance(key: FlowDuplicates, other: FlowDuplicates) -> int:
    return abs(key.hops - other.hops) + abs(key.octave - other.octave)


def draw_duplicates(rows: Sequence[DuplicateCount], seed: int) -> FlowDuplicates | None:
    """Draw how a flow is captured again in proportion to flows; None if it is captured once.

    Args:
        rows: of the flow's service.
        seed: a number of 63 bits.
    """
    ends = np.cumsum([row.flows for row in rows])
    if not len(ends):
        return None
    row = rows[int(np.searchsorted(ends, seed % int(ends[-1]), side="right"))]
    return FlowDuplicates(row.hops, row.octave) if row.times == 2 else None


def bounds_ns(duplicates: FlowDuplicates) -> tuple[int, int]:
    """Return the least and the most time between both, in nanoseconds."""
    levels = duplicates.octave * LEVELS_PER_OCTAVE + np.array([0, LEVELS_PER_OCTAVE - 1])
    least, most = nanoseconds_of(np.minimum(levels, MOST_LEVEL), np.array([0.0, 1.0]))
    return int(least), int(most)
