"""How lengths and times repeat: a codec's packets have one size and one gap, a download's segments
one size, and a conversation's neither.

Shape letters: P packets.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from netdiff_ray.labels.row_counts import count_rows

REPEATED_FIELDS = ("same_length", "same_gap")
"""Fields of `flow_state.PACKET_STATE` whose runs are counted."""


class RepeatCount(NamedTuple):
    """How many packets behind the opening repeat what their side's packet before had."""

    transport: int
    """One of `profile.TRANSPORTS`."""
    field: int
    """Index in REPEATED_FIELDS."""
    side: int
    """0 for the client, 1 for the server."""
    before: int
    """1 if their side's packet before repeats the one before that, else 0."""
    repeating: int
    """Packets that repeat it."""
    changing: int
    """Packets that do not."""


def count_repeats(
    states: np.ndarray, transport: np.ndarray, direction: np.ndarray, window: np.ndarray,
    is_later: np.ndarray, is_first: np.ndarray,
) -> tuple[Counter, Counter]:  # fmt: skip
    """Count the packets that repeat lengths and times.

    Args:
        states: (P,) `flow_state.PACKET_STATE`.
        transport: (P,) int64, 0 of packets that are not counted.
        direction: (P,) 0 from the client, 1 to it.
        window: (P,) which window each packet is of, ascending.
        is_later: (P,) bool, whether it comes behind the opening.
        is_first: (P,) bool, whether its window is the first of its flow.

    Returns:
        packets by transport, field, side, whether the packet before repeats, and whether this does;
        and flows by the same, of their first windows.
    """
    index = np.flatnonzero(transport > 0)
    index = index[np.lexsort((index, direction[index], window[index]))]
    before, after = index[:-1], index[1:]
    pairs = (window[before] == window[after]) & (direction[before] == direction[after])
    pairs &= (transport[before] == transport[after]) & is_later[after]
    before, after = before[pairs], after[pairs]
    packets: Counter = Counter()
    flows: Counter = Counter()
    for k, name in enumerate(REPEATED_FIELDS):
        rows = np.stack(
            [transport[after], np.full(len(after), k), direction[after], states[name][before],
             states[name][after]], axis=1,
        ).astype(np.int64)  # fmt: skip
        packets += count_rows(rows)
        of_flows = np.column_stack([window[after], rows])[is_first[after]]
        flows += count_rows(np.unique(of_flows, axis=0)[:, 1:])
    return packets, flows


def disclosed_repeats(packets: Counter, flows: Counter, min_flows: int) -> list[RepeatCount]:
    """Return the counts of packets that follow as many repeating, or changing, ones in at least
    `min_flows` flows; what fewer flows do is left out."""
    rows = []
    for key in sorted({row[:-1] for row in packets}):
        if max(flows[*key, 0], flows[*key, 1]) < min_flows:
            continue
        changing, repeating = (
            packets[*key, k] if flows[*key, k] >= min_flows else 0 for k in (0, 1)
        )
        rows.append(RepeatCount(*key, repeating=repeating, changing=changing))
    return rows
