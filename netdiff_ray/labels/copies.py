"""When segments are sent again: a timer waits, and longer each time (RFC 6298 section 5); a capture
that has every packet twice does not.

Shape letters: P packets.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from netdiff_ray.flow_state import AGAIN
from netdiff_ray.header_bytes import FIN, IPPROTO_TCP
from netdiff_ray.labels.row_counts import count_rows
from netdiff_ray.nprint.timecode import LEVELS_PER_OCTAVE, MOST_LEVEL

MOST_COPIES = 8
"""Copies in a row that are counted apart; later ones count as the last of them."""
NUM_OCTAVES = MOST_LEVEL // LEVELS_PER_OCTAVE + 1
"""Octaves of time."""


class CopyTimeCount(NamedTuple):
    """How many segments that are sent again come an octave of time after the packet before."""

    copy: int
    """Of the segments that their side has sent again since it last sent new data, from 0 to
    MOST_COPIES - 1."""
    octave: int
    """Levels of `nprint.timecode` by LEVELS_PER_OCTAVE."""
    segments: int


def count_copies(
    states: np.ndarray, transport: np.ndarray, has_data: np.ndarray, flags: np.ndarray,
    direction: np.ndarray, level: np.ndarray, window: np.ndarray, is_first: np.ndarray,
) -> tuple[Counter, Counter]:  # fmt: skip
    """Count the segments that are sent again.

    Args:
        states: (P,) `flow_state.PACKET_STATE`.
        transport: (P,) int64 protocol, 0 of packets that are not counted.
        has_data: (P,) bool.
        flags: (P,) of TCP.
        direction: (P,) 0 from the client, 1 to it.
        level: (P,) of the time before each packet.
        window: (P,) which window each packet is of, ascending.
        is_first: (P,) bool, whether its window is the first of its flow.

    Returns:
        segments by copy and octave, and flows by the same, of their first windows.
    """
    sends = (transport == IPPROTO_TCP) & (has_data | (flags & FIN > 0))
    index = np.flatnonzero(sends)
    index = index[np.lexsort((index, direction[index], window[index]))]
    again = states["sequence"][index] == AGAIN
    side = 2 * window[index] + direction[index]
    copies = np.cumsum(again)
    begins = ~again | np.append(True, side[1:] != side[:-1])
    last_new = np.maximum.accumulate(np.where(begins, np.arange(len(index)), 0))
    copy = copies - copies[last_new] + again[last_new] - 1
    octave = level[index].astype(np.int64) // LEVELS_PER_OCTAVE
    rows = np.column_stack([window[index], np.minimum(copy, MOST_COPIES - 1), octave])
    flows = np.unique(rows[again & is_first[index]], axis=0)
    return count_rows(rows[again, 1:]), count_rows(flows[:, 1:])
