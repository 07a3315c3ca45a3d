"""How the packets of flows were captured twice, as where a port mirror copies frames on their way
in and on their way out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from netdiff_ray.labels.stack import UNKNOWN, FlowStack
from netdiff_ray.nprint.timecode import LEVELS_PER_OCTAVE, MOST_LEVEL, levels_of, nanoseconds_of


class FlowDuplicates(NamedTuple):
    """How every packet of a flow was captured again."""

    hops: int
    """By how much its lifetime is less the second time."""
    octave: int
    """Levels of `nprint.timecode`, by LEVELS_PER_OCTAVE, of the time between both."""


class CapturedHosts(NamedTuple):
    """What says where flows were captured: whether a handshake opens them, and how far their hosts
    are. UNKNOWN stands for flows that have this in common with few others."""

    opens: int
    client_lifetime: int
    server_lifetime: int


_ANY = CapturedHosts(UNKNOWN, UNKNOWN, UNKNOWN)


class DuplicateCount(NamedTuple):
    """How many flows were captured so."""

    opens: int
    """Of `CapturedHosts`, and so the next two."""
    client_lifetime: int
    server_lifetime: int
    times: int
    """1 for flows that were captured once, else 2."""
    hops: int
    """Of `FlowDuplicates`, 0 for flows that were captured once, and so the next."""
    octave: int
    flows: int

    @property
    def hosts(self) -> CapturedHosts:
        """Between which they were captured."""
        return CapturedHosts(*self[:3])


def captured_hosts(stack: FlowStack) -> CapturedHosts:
    """Return what the stack of a flow says of where it was captured."""
    return CapturedHosts(stack.opens, stack.client_lifetime, stack.server_lifetime)


def check_duplicate_count(row: DuplicateCount, min_flows: int) -> None:
    """Raise ValueError unless a row is possible and of at least `min_flows` flows."""
    is_once = row.times == 1 and row.hops == row.octave == 0
    is_twice = row.times == 2 and -128 <= row.hops < 128
    is_twice &= 0 <= row.octave <= MOST_LEVEL // LEVELS_PER_OCTAVE
    known = all(UNKNOWN <= value <= 255 for value in row.hosts)
    if not known or not (is_once or is_twice) or row.flows < min_flows:
        raise ValueError(
            f"duplicates cannot have {row}; flows are captured 1 time, or 2 times with "
            f"lifetimes less by -128 to 127 after an octave from 0 to "
            f"{MOST_LEVEL // LEVELS_PER_OCTAVE}, at least {min_flows} flows each"
        )


def duplicates_of(hops: int, later_ns: int) -> FlowDuplicates:
    """Return how packets were captured again, `later_ns` nanoseconds later."""
    return FlowDuplicates(hops, int(levels_of(np.array([later_ns]))[0]) // LEVELS_PER_OCTAVE)


def disclosed_duplicates(
    flows: Iterable[tuple[CapturedHosts, FlowDuplicates | None]], min_flows: int
) -> list[DuplicateCount]:
    """Return how many flows were captured how.

    A way of which there are fewer than `min_flows` counts as the nearest of the others; hosts
    between which fewer flows were captured so count together.

    Returns:
        sorted; each of at least `min_flows` flows; none if no flow was captured twice.
    """
    flows = list(flows)
    counts = Counter(own for _, own in flows if own is not None)
    kept = sorted(own for own, number in counts.items() if number >= min_flows)
    if not kept:
        return []
    ways = {own: min(kept, key=lambda other: _distance(own, other)) for own in counts}
    table = Counter((hosts, (1, 0, 0) if own is None else (2, *ways[own])) for hosts, own in flows)
    common: Counter[tuple[CapturedHosts, tuple[int, int, int]]] = Counter()
    for (hosts, way), number in table.items():
        common[hosts if number >= min_flows else _ANY, way] += number
    return [
        DuplicateCount(*hosts, *way, number)
        for (hosts, way), number in sorted(common.items())
        if number >= min_flows
    ]


def _distance(key: FlowDuplicates, other: FlowDuplicates) -> int:
    return abs(key.hops - other.hops) + abs(key.octave - other.octave)


def draw_duplicates(
    rows: Sequence[DuplicateCount], hosts: CapturedHosts, seed: int
) -> FlowDuplicates | None:
    """Draw how a flow is captured again, in proportion to flows between such hosts, else between
    rarer ones, else to all; None if it is captured once.

    Args:
        rows: of the flow's service.
        seed: a number of 63 bits.
    """
    for among in ([hosts], [_ANY], [row.hosts for row in rows]):
        alike = [row for row in rows if row.hosts in among]
        if alike:
            ends = np.cumsum([row.flows for row in alike])
            row = alike[int(np.searchsorted(ends, seed % int(ends[-1]), side="right"))]
            return FlowDuplicates(row.hops, row.octave) if row.times == 2 else None
    return None


def bounds_ns(duplicates: FlowDuplicates) -> tuple[int, int]:
    """Return the least and the most time between both, in nanoseconds."""
    levels = duplicates.octave * LEVELS_PER_OCTAVE + np.array([0, LEVELS_PER_OCTAVE - 1])
    least, most = nanoseconds_of(np.minimum(levels, MOST_LEVEL), np.array([0.0, 1.0]))
    return int(least), int(most)
