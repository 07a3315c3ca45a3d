"""Rules of TCP numbers: sequence, acknowledgement, window and timestamp values.

Shape letters: N flows, P packets.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ACK,
    FIN,
    IPPROTO_TCP,
    PSH,
    RST,
    SYN,
    TCP_ACKN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_SEQ,
    TCP_WSIZE,
    get16,
    put16,
    put32,
)
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import KEEP_ALIVE, KEEP_ALIVE_ANSWER, MAX_ROWS, NOTHING_NEW, Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.lengths import MOST_WINDOW, scales
from netdiff_ray.repair.rules.tcp_options import parse
from netdiff_ray.repair.splitmix import FOR_SEQ, FOR_STAMP, draw

KEEP_ALIVE_NS = 1_000_000_000
"""An acknowledgement that has nothing to acknowledge is a keep-alive after this long."""
_EARLIER_SEGMENT = 1448
_MASK_32 = 0xFFFFFFFF


def tcp_numbers(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle sequence and acknowledgement numbers, modulo 2**32 (RFC 9293 sections 3.4, 3.8).

    SYN and FIN count 1. Each acknowledgement covers only what was received before it, never
    less than the one before; segments without data share what is to be acknowledged, so
    that none repeats another (RFC 5681 section 2 would take it for a sign of loss), and the
    last before new data covers all. A segment that can acknowledge nothing new is `stuck`: after
    a silence it is a keep-alive (RFC 9293 section 3.8.4), or it answers one. A lone byte after
    a silence, not pushed, is a keep-alive too.
    """
    _tcp_numbers(batch.flows, batch.packets)


class _Sides(NamedTuple):
    """Where each side of a flow stands; each (2,) but for two tables."""

    waiting: np.ndarray
    """(2, MAX_ROWS + 1) int64: segments of each run that have nothing but an acknowledgement. A
    run of a side is its packets between two arrivals of something to acknowledge."""
    ends: np.ndarray
    """(2, MAX_ROWS + 1) int64: sequence numbers after each segment sent."""
    head: np.ndarray
    """int64: the first of `ends` that the other side has not acknowledged."""
    tail: np.ndarray
    """int64: entries of `ends`."""
    run: np.ndarray
    """int64: number of the side's run."""
    in_run: np.ndarray
    """bool: whether the run has packets."""
    left: np.ndarray
    """int64: of `waiting`, what is still to come in the run."""
    next_seq: np.ndarray
    """int64: number of the next byte."""
    acked: np.ndarray
    """int64: the last acknowledgement."""
    has_sent: np.ndarray
    """bool."""
    finished: np.ndarray
    """bool: whether the side has sent a FIN."""


@numba.njit(cache=True)
def _tcp_numbers(flows, packets):
    table = (2, MAX_ROWS + 1)
    sides = _Sides(
        np.empty(table, np.int64), np.empty(table, np.int64), np.empty(2, np.int64),
        np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.bool_),
        np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64),
        np.empty(2, np.bool_), np.empty(2, np.bool_),
    )  # fmt: skip
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin, end = flows.starts[f], flows.starts[f + 1]
        _count_waiting(begin, end, packets, sides)
        for side in range(2):
            first = np.int64(draw(flows.seed[f], FOR_SEQ, side) & np.uint64(_MASK_32))
            sides.next_seq[side] = first + (np.int64(1) << 40)
        for side in range(2):
            sides.acked[side] = sides.next_seq[1 - side]
            if not flows.opens[f]:
                sides.acked[side] -= _EARLIER_SEGMENT * sides.waiting[side, 0]
        _number(begin, end, flows.opens[f], packets, sides)


@numba.njit(cache=True)
def _count_waiting(begin, end, packets, sides):
    """Fill `sides.waiting`, and settle which lone bytes are keep-alives."""
    transport, payload_bytes = packets.rows["transport"], packets.payload_bytes
    stuck, run, in_run = packets.stuck, sides.run, sides.in_run
    run[:] = 0
    in_run[:] = False
    sides.waiting[:, : end - begin + 1] = 0
    sides.has_sent[:] = False
    sides.finished[:] = False
    for i in range(begin, end):
        side = packets.direction[i]
        flags = transport[i, TCP_FLAGS]
        in_run[side] = True
        stuck[i] = 0
        probe = payload_bytes[i] == 1 and not flags & (SYN | FIN | RST | PSH)
        silent = packets.interarrival_ns[i] >= KEEP_ALIVE_NS
        if probe and silent and sides.has_sent[side] > sides.finished[side]:
            stuck[i] = KEEP_ALIVE
        plain = payload_bytes[i] == 0 and not flags & (SYN | FIN | RST)
        sides.waiting[side, run[side]] += plain
        if (payload_bytes[i] and not stuck[i]) or flags & (SYN | FIN):
            run[1 - side] += in_run[1 - side]
            in_run[1 - side] = False
        sides.has_sent[side] = True
        sides.finished[side] |= flags & FIN != 0


@numba.njit(cache=True)
def _number(begin, end, opens, packets, sides):
    """Write the numbers of one flow, and settle which segments are stuck."""
    transport, direction = packets.rows["transport"], packets.direction
    payload_bytes, stuck = packets.payload_bytes, packets.stuck
    run, in_run, left = sides.run, sides.in_run, sides.left
    next_seq, acked, ends = sides.next_seq, sides.acked, sides.ends
    head, tail, has_sent, finished = sides.head, sides.tail, sides.has_sent, sides.finished
    run[:] = 0
    in_run[:] = False
    head[:] = 0
    tail[:] = 0
    has_sent[:] = False
    finished[:] = False
    for i in range(begin, end):
        side = direction[i]
        peer = 1 - side
        flags = transport[i, TCP_FLAGS]
        plain = payload_bytes[i] == 0 and not flags & (SYN | FIN | RST)
        if not in_run[side]:
            in_run[side] = True
            left[side] = sides.waiting[side, run[side]]
        seq = next_seq[side] - (stuck[i] == KEEP_ALIVE)
        ack = np.int64(0)
        if flags & ACK:
            received = next_seq[peer]
            ack = acked[side]
            if opens and not plain and tail[peer]:
                ack = max(ack, ends[peer, 0])
            pending = tail[peer] - head[peer]
            if plain:
                if pending >= left[side]:
                    ack = max(ack, ends[peer, tail[peer] - left[side]])
                elif received - ack >= left[side]:
                    ack += (received - ack) // left[side]
                elif received > ack:
                    ack += 1
                elif i > begin and direction[i - 1] == peer and stuck[i - 1] == KEEP_ALIVE:
                    stuck[i] = KEEP_ALIVE_ANSWER
                elif (
                    packets.interarrival_ns[i] >= KEEP_ALIVE_NS
                    and has_sent[side]
                    and not finished[side]
                ):
                    stuck[i] = KEEP_ALIVE
                    seq -= 1
                else:
                    stuck[i] = NOTHING_NEW
                left[side] -= 1
            elif left[side] == 0:
                ack = received
            elif pending > left[side]:
                ack = max(ack, ends[peer, tail[peer] - left[side] - 1])
            acked[side] = ack
            while head[peer] < tail[peer] and ends[peer, head[peer]] <= ack:
                head[peer] += 1
        if opens and i == begin + 1 and flags & RST:
            seq = 0
        put32(transport, i, TCP_SEQ, seq & _MASK_32)
        put32(transport, i, TCP_ACKN, ack & _MASK_32)
        has_sent[side] = True
        finished[side] |= flags & FIN != 0
        grown = (flags & (SYN | FIN)) != 0
        if stuck[i] != KEEP_ALIVE:
            grown += payload_bytes[i]
        if grown:
            next_seq[side] += grown
            ends[side, tail[side]] = next_seq[side]
            tail[side] += 1
            run[peer] += in_run[peer]
            in_run[peer] = False


def tcp_window(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle windows that hold what is sent into them (RFC 9293 section 3.8.6), scaled after the
    handshake (RFC 7323), and never 0. A RST without ACK advertises none, but where a lone byte is
    sent after it, its window is not 0 either: readers would take the byte for a probe of a shut
    window (section 3.8.6.1). A stuck acknowledgement that is no keep-alive updates the window: it
    differs from its sender's window before. Each change sets the lowest bit that suffices.
    """
    _tcp_window(batch.flows, batch.packets)


@numba.njit(cache=True)
def _tcp_window(flows, packets):
    transport, transport_len = packets.rows["transport"], packets.rows["transport_len"]
    direction, payload_bytes, stuck = packets.direction, packets.payload_bytes, packets.stuck
    scale = np.empty(2, np.int64)
    last = np.empty(2, np.int64)
    latest = np.empty(2, np.int64)
    before = np.empty(2, np.int64)
    needed = np.zeros(MAX_ROWS, np.int64)
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin, end = flows.starts[f], flows.starts[f + 1]
        scales(begin, end, flows.opens[f], transport, transport_len, scale)
        # `needed`: how much the peer sends before the side's next window, all else acknowledged.
        last[:] = -1
        latest[:] = -1
        for i in range(begin, end):
            side = direction[i]
            peer = 1 - side
            needed[i - begin] = 0
            latest[side] = i
            if transport[i, TCP_FLAGS] & (ACK | SYN):
                last[side] = i
            if last[peer] >= 0:
                at = last[peer] - begin
                needed[at] += payload_bytes[i] + ((transport[i, TCP_FLAGS] & FIN) != 0)
            if latest[peer] > last[peer] and payload_bytes[i] == 1:
                needed[latest[peer] - begin] = 1
        before[:] = -1
        for i in range(begin, end):
            side = direction[i]
            flags = transport[i, TCP_FLAGS]
            shift = 0 if flags & SYN else scale[side]
            least = ((needed[i - begin] >> shift) + 1) if needed[i - begin] else 0
            if not flags & (SYN | FIN | RST):
                least = max(least, 1)
            window = get16(transport, i, TCP_WSIZE)
            taken = before[side] if stuck[i] == NOTHING_NEW else -1
            if window < least or window == taken:
                window = _raised(window, least, taken)
            put16(transport, i, TCP_WSIZE, window)
            before[side] = window


@numba.njit(cache=True)
def _raised(window, least, taken):
    """Return a window of at least `least` that is not `taken`: `window` with the lowest bit set
    that makes it so."""
    for b in range(16):
        raised = window | (1 << b)
        if raised != window and raised >= least and raised != taken:
            return raised
    return MOST_WINDOW if taken == MOST_WINDOW + 1 else MOST_WINDOW + 1


def tcp_timestamps(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle the values of timestamp options (RFC 7323 section 4): each side's clock ticks
    milliseconds with the packet times, and the echo is the last value from the other side."""
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
            put32(transport, i, at + 6, heard[side] & _MASK_32)
            heard[1 - side] = value
