"""Which TCP segments go on, which are sent again, and which leave a hole before them.

Shape letters: P packets.
"""

import numba
import numpy as np

from netdiff_ray.flow_state import AFTER_HOLE, AGAIN, IN_ORDER
from netdiff_ray.header_bytes import FIN, PSH, RST, SYN, TCP_FLAGS
from netdiff_ray.repair.batch import KEEP_ALIVE

FILLS = 3
"""In `PacketColumns.state`, beside those of `flow_state`: a segment that fills the oldest hole."""


@numba.njit(cache=True)
def settle_segments(begin, end, packets):
    """Settle `state.sequence` and `hole_bytes` of the packets of a TCP flow, and which are
    keep-alives.

    A hole is as long as the next segment of its side that is sent again, which fills it, and at
    most as long as `hole_bytes` says before; without such there is none. Another segment without
    data that is sent again is a keep-alive (RFC 9293 section 3.8.4), or has the FIN once more. A
    segment of more data than was sent cannot be sent again and goes on.
    """
    sequence, hole_bytes = packets.state["sequence"], packets.hole_bytes
    payload_bytes, transport = packets.payload_bytes, packets.rows["transport"]
    last_new = np.full(2, -1)
    for i in range(begin, end):
        if transport[i, TCP_FLAGS] & (SYN | RST):
            sequence[i] = IN_ORDER
        if payload_bytes[i] and sequence[i] != AGAIN:
            last_new[packets.direction[i]] = i
        elif sequence[i] == AFTER_HOLE:
            sequence[i] = IN_ORDER
    next_again = np.full(2, begin)
    sent = np.zeros(2, np.int64)
    moved = np.zeros(2, np.bool_)
    finished = np.zeros(2, np.bool_)
    for i in range(begin, end):
        side = np.int64(packets.direction[i])
        flags = transport[i, TCP_FLAGS]
        if sequence[i] == AFTER_HOLE:
            filler = _next_again(max(next_again[side], i + 1), end, side, packets)
            next_again[side] = filler
            if filler < end and payload_bytes[filler] <= hole_bytes[i] and moved[side]:
                next_again[side] = filler + 1
                sequence[filler] = FILLS
                hole_bytes[i] = payload_bytes[filler]
            else:
                sequence[i] = IN_ORDER
        if sequence[i] == AGAIN:
            _settle_again(i, packets, sent[side], moved[side], finished[side])
        if sequence[i] != AFTER_HOLE:
            hole_bytes[i] = 0
        if sequence[i] in (IN_ORDER, AFTER_HOLE):
            grown = payload_bytes[i] + hole_bytes[i]
            sent[side] += grown
            moved[side] |= grown > 0 or flags & (SYN | FIN) != 0
        finished[side] |= (
            flags & FIN != 0 and i >= last_new[side] and sequence[i] in (IN_ORDER, AFTER_HOLE)
        )


@numba.njit(cache=True)
def _next_again(begin, end, side, packets):
    """Return the first segment with data that a side sends again; `end` if there is none."""
    for i in range(begin, end):
        again = packets.state["sequence"][i] == AGAIN and packets.payload_bytes[i] > 0
        if again and packets.direction[i] == side:
            return i
    return end


@numba.njit(cache=True)
def _settle_again(i, packets, sent, moved, finished):
    """Settle packet `i`, which fills no hole but is drawn to be sent again.

    Args:
        sent: bytes of data that its side has sent.
        moved: whether it has sent anything that has a number.
        finished: whether it has sent a FIN.
    """
    sequence, payload_bytes = packets.state["sequence"], packets.payload_bytes
    flags = packets.rows["transport"][i, TCP_FLAGS]
    if payload_bytes[i] == 0:
        if flags & FIN:
            sequence[i] = AGAIN if finished else IN_ORDER
        elif moved and not finished:
            packets.stuck[i] = KEEP_ALIVE
        else:
            sequence[i] = IN_ORDER
    elif payload_bytes[i] > sent or (flags & FIN and not finished):
        sequence[i] = IN_ORDER
        if finished:
            payload_bytes[i] = 0
    elif payload_bytes[i] == 1 and not flags & (PSH | FIN) and not finished:
        packets.stuck[i] = KEEP_ALIVE
