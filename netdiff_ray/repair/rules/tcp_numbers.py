"""Rules of TCP numbers: sequence, acknowledgement and timestamp values.

Shape letters: N flows, P packets.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.flow_state import AGAIN, DUPLICATE
from netdiff_ray.header_bytes import (
    ACK,
    FIN,
    IPPROTO_TCP,
    RST,
    SYN,
    TCP_ACKN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_SEQ,
    put32,
)
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import KEEP_ALIVE, KEEP_ALIVE_ANSWER, MAX_ROWS, NOTHING_NEW, Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.lengths import MOST_WINDOW, scales
from netdiff_ray.repair.rules.tcp_options import parse
from netdiff_ray.repair.rules.tcp_path import KEEP_ALIVE_NS, is_answered, is_plain
from netdiff_ray.repair.rules.tcp_segments import FILLS
from netdiff_ray.repair.splitmix import FOR_SEQ, FOR_STAMP, draw

_EARLIER_SEGMENT = 1448
_MASK_32 = 0xFFFFFFFF
_MOST_SEARCHED = 64
"""Segments among which one is looked for that is sent again."""


def tcp_numbers(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle sequence and acknowledgement numbers, modulo 2**32 (RFC 9293 sections 3.4, 3.8).

    SYN and FIN count 1. A segment that is sent again has the numbers of what it fills, else of the
    oldest segment as long as it that is not acknowledged, else of the latest such one, else of the
    oldest bytes that are not acknowledged.

    Acknowledgements are cumulative and fall on the ends of segments that have arrived. Where it is
    not drawn how many, segments without data share what they can acknowledge evenly until more
    arrives, so that none repeats another (RFC 5681 section 2 would take it for a sign of loss);
    others acknowledge the latest that this leaves. A segment that can acknowledge nothing new is
    `stuck`: after a silence it is a keep-alive (RFC 9293 section 3.8.4), or it answers a
    keep-alive.
    """
    _tcp_numbers(batch.flows, batch.packets, layout.has_state)


class _Sides(NamedTuple):
    """Where each side of a flow stands; each (2,) but for three tables."""

    ends: np.ndarray
    """(2, 2 * MAX_ROWS + 1) int64: bytes sent up to the end of each segment, SYN and FIN counted;
    what is missing in a hole is a segment too."""
    holes: np.ndarray
    """(2, MAX_ROWS) int64: bytes before each hole."""
    left: np.ndarray
    """(MAX_ROWS,) int64: segments with nothing but an acknowledgement that a packet's side sends,
    from this packet on, before more arrives; where it is drawn what is acknowledged, those behind
    it that acknowledge anything new."""
    first: np.ndarray
    """int64: the first sequence number."""
    num_ends: np.ndarray
    """int64: segments sent."""
    sent: np.ndarray
    """int64: bytes sent."""
    data: np.ndarray
    """int64: bytes of data sent, holes counted."""
    num_holes: np.ndarray
    """int64: holes left."""
    filled: np.ndarray
    """int64: of these, holes filled."""
    acked: np.ndarray
    """int64: segments of the other side that the side has acknowledged."""
    most_window: np.ndarray
    """int64: the largest window, in bytes."""
    has_sent: np.ndarray
    """bool."""
    finished: np.ndarray
    """bool: whether the side has sent a FIN."""


@numba.njit(cache=True)
def _tcp_numbers(flows, packets, has_state):
    sides = _Sides(
        np.empty((2, 2 * MAX_ROWS + 1), np.int64), np.empty((2, MAX_ROWS), np.int64),
        np.empty(MAX_ROWS, np.int64), np.empty(2, np.int64), np.empty(2, np.int64),
        np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64),
        np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64),
        np.empty(2, np.bool_), np.empty(2, np.bool_),
    )  # fmt: skip
    transport, transport_len = packets.rows["transport"], packets.rows["transport_len"]
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin, end = flows.starts[f], flows.starts[f + 1]
        for side in range(2):
            sides.first[side] = np.int64(draw(flows.seed[f], FOR_SEQ, side) & np.uint64(_MASK_32))
        scales(begin, end, flows.opens[f], transport, transport_len, sides.most_window)
        for side in range(2):
            sides.most_window[side] = MOST_WINDOW << sides.most_window[side]
        if has_state:
            _count_news(begin, end, packets, sides)
        else:
            _count_left(begin, end, packets, sides)
        opening = (
            flows.opens[f],
            is_answered(flows, f, packets) or (flows.opens[f] and not has_state),
        )
        _number(begin, end, opening, packets, sides, has_state)


@numba.njit(cache=True)
def _count_left(begin, end, packets, sides):
    """Fill `sides.left`, where it is not drawn what packets acknowledge."""
    transport = packets.rows["transport"]
    arrived = np.full(2, -1, np.int64)
    count = np.zeros(2, np.int64)
    for i in range(end - 1, begin - 1, -1):
        side = packets.direction[i]
        if packets.arrived[i] != arrived[side]:
            arrived[side], count[side] = packets.arrived[i], 0
        count[side] += is_plain(transport[i, TCP_FLAGS], packets.payload_bytes[i])
        sides.left[i - begin] = count[side]


@numba.njit(cache=True)
def _count_news(begin, end, packets, sides):
    """Fill `sides.left` of the packets that acknowledge only what was not captured,
    where it is drawn what packets acknowledge."""
    count = np.zeros(2, np.int64)
    for i in range(end - 1, begin - 1, -1):
        side = packets.direction[i]
        sides.left[i - begin] = count[side]
        is_earlier = packets.arrived[i] == 0 and packets.rows["transport"][i, TCP_FLAGS] & ACK
        count[side] += is_earlier and packets.state[i].acknowledged > DUPLICATE


@numba.njit(cache=True)
def _begin(sides):
    """Forget what the sides sent."""
    sides.num_ends[:] = 0
    sides.sent[:] = 0
    sides.data[:] = 0
    sides.num_holes[:] = 0
    sides.filled[:] = 0
    sides.acked[:] = 0
    sides.has_sent[:] = False
    sides.finished[:] = False


@numba.njit(cache=True)
def _number(begin, end, opening, packets, sides, has_state):
    """Write the numbers of a flow, and settle which segments are stuck.

    Args:
        opening: whether it begins with a handshake, and whether all that its packets acknowledge
            is in it.
    """
    opens, answered = opening
    transport, direction = packets.rows["transport"], packets.direction
    acknowledged, first = packets.acknowledged, sides.first
    _begin(sides)
    for i in range(begin, end):
        side = np.int64(direction[i])
        flags = transport[i, TCP_FLAGS]
        ack = np.int64(0)
        acknowledged[i] = 0
        if flags & ACK:
            if packets.arrived[i] == 0 and not answered:
                plain = is_plain(flags, packets.payload_bytes[i]) and not has_state
                acknowledged[i] = _EARLIER_SEGMENT * (plain - sides.left[i - begin])
            else:
                latest = packets.arrived[i]
                if not has_state:
                    latest = _share(i, begin, opens, packets, sides)
                sides.acked[side] = latest
                acknowledged[i] = sides.ends[1 - side, latest - 1] if latest else 0
            ack = first[1 - side] + acknowledged[i]
        seq = first[side] + (0 if flags & SYN else _offset(i, packets, sides))
        if opens and i == begin + 1 and flags & RST:
            seq = 0
        put32(transport, i, TCP_SEQ, seq & _MASK_32)
        put32(transport, i, TCP_ACKN, ack & _MASK_32)
        _send(i, packets, sides)


@numba.njit(cache=True)
def _share(i, begin, opens, packets, sides):
    """Return how many segments of the other side packet `i` acknowledges, where it is not drawn,
    and settle whether it is stuck."""
    flags = packets.rows["transport"][i, TCP_FLAGS]
    side = np.int64(packets.direction[i])
    plain = is_plain(flags, packets.payload_bytes[i])
    acked = sides.acked[side]
    latest = _latest(acked, packets.arrived[i], sides.left[i - begin], plain, opens)
    least = packets.promised[i] - sides.most_window[side]
    while least > 0 and latest < packets.arrived[i]:
        if latest > 0 and sides.ends[1 - side, latest - 1] >= least:
            break
        latest += 1
    if plain and latest == acked:
        packets.stuck[i] = _kind_of_stuck(i, begin, packets, sides.has_sent, sides.finished)
    return latest


@numba.njit(cache=True)
def _offset(i, packets, sides):
    """Return how many bytes of its side lie before packet `i`, which may have some again."""
    side, payload = np.int64(packets.direction[i]), packets.payload_bytes[i]
    sequence, sent = packets.state[i].sequence, sides.sent[side]
    if packets.stuck[i] == KEEP_ALIVE:
        return sent - 1
    if sequence == FILLS:
        return sides.holes[side, sides.filled[side]]
    if sequence == AGAIN:
        if packets.rows["transport"][i, TCP_FLAGS] & FIN:
            return sent - 1 - payload
        return _resent(side, payload, sides)
    return sent + packets.hole_bytes[i]


@numba.njit(cache=True)
def _resent(side, payload, sides):
    """Return the first of `payload` bytes of a side that are sent again."""
    end = sides.sent[side] - sides.finished[side]
    begin = end - sides.data[side]
    unacked, ends = sides.acked[1 - side], sides.ends
    for k in range(unacked, min(unacked + _MOST_SEARCHED, sides.num_ends[side])):
        start = ends[side, k - 1] if k else np.int64(0)
        if start >= begin and ends[side, k] <= end and ends[side, k] - start == payload:
            return start
    for k in range(unacked - 1, max(unacked - _MOST_SEARCHED, 0), -1):
        start = ends[side, k - 1]
        if start >= begin and ends[side, k] <= end and ends[side, k] - start == payload:
            return start
    start = ends[side, unacked - 1] if unacked else np.int64(0)
    return min(max(start, begin), end - payload)


@numba.njit(cache=True)
def _send(i, packets, sides):
    """Note what packet `i` sends."""
    side, flags = np.int64(packets.direction[i]), packets.rows["transport"][i, TCP_FLAGS]
    sides.has_sent[side] = True
    sides.finished[side] |= flags & FIN != 0
    if packets.state[i].sequence == FILLS:
        sides.filled[side] += 1
    if packets.hole_bytes[i]:
        sides.holes[side, sides.num_holes[side]] = sides.sent[side]
        sides.num_holes[side] += 1
        sides.ends[side, sides.num_ends[side]] = sides.sent[side] + packets.hole_bytes[i]
        sides.num_ends[side] += 1
    if packets.moves[i]:
        sides.sent[side] += packets.moves[i]
        sides.data[side] += packets.moves[i] - (flags & (SYN | FIN) != 0)
        sides.ends[side, sides.num_ends[side]] = sides.sent[side]
        sides.num_ends[side] += 1


@numba.njit(cache=True)
def _latest(acked, arrived, left, plain, opens):
    """Return how many segments of the other side a packet acknowledges.

    Args:
        acked: how many its side has acknowledged.
        arrived: how many have arrived.
        left: segments with nothing but an acknowledgement, from this packet on, before more do.
        plain: whether it is such a segment.
        opens: whether the flow does, so that all but such segments acknowledge the SYN.
    """
    fresh = arrived - acked
    if not plain:
        return max(arrived - left, acked, min(arrived, 1) if opens else 0)
    if fresh <= 0:
        return acked
    return acked + max(fresh // left, 1)


@numba.njit(cache=True)
def _kind_of_stuck(i, begin, packets, has_sent, finished):
    """Return what a segment is that acknowledges nothing new and has nothing else."""
    side = np.int64(packets.direction[i])
    if i > begin and packets.direction[i - 1] != side and packets.stuck[i - 1] == KEEP_ALIVE:
        return KEEP_ALIVE_ANSWER
    silent = packets.interarrival_ns[i] >= KEEP_ALIVE_NS
    if silent and has_sent[side] and not finished[side]:
        return KEEP_ALIVE
    return NOTHING_NEW


def tcp_timestamps(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle the values of timestamp options (RFC 7323 section 4).

    Each side's clock ticks milliseconds with the packet times, and the echo is the last value from
    the other side, or 0 without ACK.
    """
    _tcp_timestamps(batch.flows, batch.packets)


@numba.njit(cache=True)
def _tcp_timestamps(flows, packets):
    transport, transport_len = packets.rows["transport"], packets.rows["transport_len"]
    ts_ns = packets.rows["ts_ns"]
    clock = np.empty(2, np.int64)
    heard = np.empty(2, np.int64)
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin = flows.starts[f]
        for side in range(2):
            clock[side] = np.int64(draw(flows.seed[f], FOR_STAMP, side) & np.uint64(_MASK_32))
        for side in range(2):
            heard[side] = 0 if flows.opens[f] else clock[1 - side]
        for i in range(begin, flows.starts[f + 1]):
            side = packets.direction[i]
            _, _, at = parse(transport, i, np.int64(transport_len[i]) - TCP_HEADER_BYTES)
            if at == 0:
                continue
            value = (clock[side] + (ts_ns[i] - ts_ns[begin]) // 1_000_000) & _MASK_32
            put32(transport, i, at + 2, value)
            echo = heard[side] if transport[i, TCP_FLAGS] & ACK else np.int64(0)
            put32(transport, i, at + 6, echo & _MASK_32)
            heard[1 - side] = value
