"""Rules of TCP numbers: sequence, acknowledgement and timestamp values.

Shape letters: N flows, P packets.
"""

from typing import NamedTuple

import numba
import numpy as np

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
from netdiff_ray.repair.rules.tcp_path import KEEP_ALIVE_NS, is_plain, sequence_bytes
from netdiff_ray.repair.splitmix import FOR_SEQ, FOR_STAMP, draw

_EARLIER_SEGMENT = 1448
_MASK_32 = 0xFFFFFFFF


def tcp_numbers(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle sequence and acknowledgement numbers, modulo 2**32 (RFC 9293 sections 3.4, 3.8).

    SYN and FIN count 1. Acknowledgements are cumulative and fall on the ends of segments that have
    arrived. Segments without data share what they can acknowledge evenly until more arrives, so
    that none repeats another (RFC 5681 section 2 would take it for a sign of loss); others
    acknowledge the latest that this leaves. A segment that can acknowledge nothing new is `stuck`:
    after a silence it is a keep-alive (RFC 9293 section 3.8.4), or it answers a keep-alive.
    """
    _tcp_numbers(batch.flows, batch.packets)


class _Sides(NamedTuple):
    """Where each side of a flow stands; each (2,) but for two tables."""

    ends: np.ndarray
    """(2, MAX_ROWS + 1) int64: bytes sent up to the end of each segment, SYN and FIN counted."""
    left: np.ndarray
    """(MAX_ROWS,) int64: segments with nothing but an acknowledgement that a packet's side sends,
    from this packet on, before more arrives."""
    first: np.ndarray
    """int64: the first sequence number."""
    num_ends: np.ndarray
    """int64: segments sent."""
    sent: np.ndarray
    """int64: bytes sent."""
    acked: np.ndarray
    """int64: segments of the other side that the side has acknowledged."""
    most_window: np.ndarray
    """int64: the largest window, in bytes."""
    has_sent: np.ndarray
    """bool."""
    finished: np.ndarray
    """bool: whether the side has sent a FIN."""


@numba.njit(cache=True)
def _tcp_numbers(flows, packets):
    sides = _Sides(
        np.empty((2, MAX_ROWS + 1), np.int64), np.empty(MAX_ROWS, np.int64),
        np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64),
        np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.bool_),
        np.empty(2, np.bool_),
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
        _count_left(begin, end, packets, sides)
        _number(begin, end, flows.opens[f], packets, sides)


@numba.njit(cache=True)
def _count_left(begin, end, packets, sides):
    """Fill `sides.left`."""
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
def _number(begin, end, opens, packets, sides):
    """Write the numbers of a flow, and settle which segments are stuck."""
    transport, direction = packets.rows["transport"], packets.direction
    payload_bytes, stuck = packets.payload_bytes, packets.stuck
    arrived, promised, acknowledged = packets.arrived, packets.promised, packets.acknowledged
    first, sent, acked, ends = sides.first, sides.sent, sides.acked, sides.ends
    num_ends, left, most_window = sides.num_ends, sides.left, sides.most_window
    has_sent, finished = sides.has_sent, sides.finished
    num_ends[:] = 0
    sent[:] = 0
    acked[:] = 0
    has_sent[:] = False
    finished[:] = False
    for i in range(begin, end):
        side = np.int64(direction[i])
        peer = 1 - side
        flags = transport[i, TCP_FLAGS]
        seq, ack = first[side] + sent[side], np.int64(0)
        acknowledged[i] = 0
        if flags & ACK:
            plain = is_plain(flags, payload_bytes[i])
            if arrived[i] == 0 and not opens:
                acknowledged[i] = _EARLIER_SEGMENT * (plain - left[i - begin])
            else:
                latest = _latest(acked[side], arrived[i], left[i - begin], plain, opens)
                least = promised[i] - most_window[side]
                while least > 0 and latest < arrived[i]:
                    if latest > 0 and ends[peer, latest - 1] >= least:
                        break
                    latest += 1
                if plain and latest == acked[side]:
                    stuck[i] = _kind_of_stuck(i, begin, packets, has_sent, finished)
                acked[side] = latest
                acknowledged[i] = ends[peer, latest - 1] if latest else 0
            ack = first[peer] + acknowledged[i]
        seq -= stuck[i] == KEEP_ALIVE
        if flags & SYN:
            seq = first[side]
        if opens and i == begin + 1 and flags & RST:
            seq = 0
        put32(transport, i, TCP_SEQ, seq & _MASK_32)
        put32(transport, i, TCP_ACKN, ack & _MASK_32)
        has_sent[side] = True
        finished[side] |= flags & FIN != 0
        grown = sequence_bytes(flags, payload_bytes[i], stuck[i])
        if grown:
            sent[side] += grown
            ends[side, num_ends[side]] = sent[side]
            num_ends[side] += 1


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
