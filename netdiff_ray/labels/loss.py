"""The loss of flows: how large a part of their segments is sent again.

Shape letters: P packets, W windows.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.flow_state import AGAIN, PACKET_STATE
from netdiff_ray.header_bytes import IPPROTO_TCP
from netdiff_ray.labels.by_size import draw_by_size, fold_rare, size_octave
from netdiff_ray.packets.headers import HEADER_ROW

UNPLANNED_LOSS = -1
"""The loss of a flow without segments, or of which none is planned."""
LOSSLESS = 0
MOST_LOSS = 8
KEEP_ALIVE_BYTES = 1
"""A segment of that much data that is sent again may be a keep-alive (RFC 9293 section 3.8.4)."""


class LossCount(NamedTuple):
    """How many flows have a loss."""

    octave: int
    """Of packets in the first window, see `by_size.size_octave`."""
    loss: int
    """LOSSLESS, or from 1 to MOST_LOSS, see `loss_of`."""
    flows: int


def check_loss_count(row: LossCount, min_flows: int) -> None:
    """Raise ValueError unless a row is possible and of at least `min_flows` flows."""
    if row.octave < 1 or not LOSSLESS <= row.loss <= MOST_LOSS or row.flows < min_flows:
        raise ValueError(
            f"losses cannot have {row}; octaves are 1 or more, losses {LOSSLESS} to {MOST_LOSS}, "
            f"of at least {min_flows} flows each"
        )


@numba.njit(cache=True)
def loss_of(num_again, num_segments):
    """Return LOSSLESS if no segment is sent again; else a class of their share, of an octave each:
    MOST_LOSS for half of them or more, one less for a quarter or more, and so on, 1 for the rest.

    Args:
        num_again: segments with data that are sent again.
        num_segments: all segments with data.
    """
    loss = np.int64(LOSSLESS)
    if num_again:
        loss = np.int64(MOST_LOSS)
        while loss > 1 and (num_again << (MOST_LOSS + 1 - loss)) < num_segments:
            loss -= 1
    return loss


def share_bounds(loss: int) -> tuple[float, float]:
    """Return the least and the most share of segments that a class stands for."""
    if loss == LOSSLESS:
        return 0.0, 0.0
    return 0.0 if loss == 1 else 2.0 ** (loss - MOST_LOSS - 1), 2.0 ** (loss - MOST_LOSS)


def window_losses(
    rows: np.ndarray, payload_bytes: np.ndarray, state: np.ndarray, window: np.ndarray
) -> list[tuple[int, int]]:
    """Return the octave of packets and the loss of each window; UNPLANNED_LOSS if it has no segment
    with data.

    Args:
        rows: (P,) HEADER_ROW, window by window.
        payload_bytes: (P,) int64.
        state: (P,) PACKET_STATE.
        window: (P,) int64, which of the W windows each packet is of, ascending from 0.
    """
    assert rows.dtype == HEADER_ROW
    assert state.dtype == PACKET_STATE
    num_windows = int(window[-1]) + 1 if len(window) else 0
    is_segment = (rows["protocol"] == IPPROTO_TCP) & (payload_bytes > 0)
    is_again = is_segment & (state["sequence"] == AGAIN) & (payload_bytes > KEEP_ALIVE_BYTES)
    sizes, segments, again = (
        np.bincount(window[chosen], minlength=num_windows).tolist()
        for chosen in (np.ones(len(window), np.bool_), is_segment, is_again)
    )
    return [
        (size_octave(size), int(loss_of(lost, sent)) if sent else UNPLANNED_LOSS)
        for size, sent, lost in zip(sizes, segments, again, strict=True)
    ]


def disclosed_losses(losses: Iterable[tuple[int, int]], min_flows: int) -> list[LossCount]:
    """Return how many flows have which loss, by octave; rare ones count as the nearest.

    Returns:
        sorted; each of at least `min_flows` flows.
    """
    known = Counter(row for row in losses if row[1] != UNPLANNED_LOSS)
    return [LossCount(*row, flows) for row, flows in sorted(fold_rare(known, min_flows).items())]


def draw_loss(rows: Sequence[LossCount], num_packets: int, max_height: int, seed: int) -> int:
    """Draw the loss of a flow from those of flows of its size, or of the nearest that is known.

    Returns:
        UNPLANNED_LOSS if none is known.
    """
    if not rows:
        return UNPLANNED_LOSS
    return draw_by_size(rows, num_packets, max_height, seed)


def losses_between(rows: Sequence[LossCount], low: float, high: float) -> list[LossCount]:
    """Return the rows whose classes hold shares within bounds, inclusive."""
    return [row for row in rows if _holds(row.loss, low, high)]


def _holds(loss: int, low: float, high: float) -> bool:
    least, most = share_bounds(loss)
    return low == 0 if loss == LOSSLESS else low < most and high >= least and high > 0
