"""Rules of TCP numbers: sequence, acknowledgement, window and timestamp values.

Shape letters: N flows, P packets.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ACK,
    FIN,
    PSH,
    RST,
    SYN,
    TCP_ACKN,
    TCP_FLAGS,
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
    """Sequence and acknowledgement numbers, modulo 2**32 (RFC 9293 sections 3.4, 3.8).

    SYN and FIN count one. Each acknowledgement covers only what was received before it, never
    less than the one before; segments without data share what there is to acknowledge, so
    that none repeats another (RFC 5681 section 2 would take it for a sign of loss), and the
    last before new data covers all. One that can acknowledge nothing new is `stuck`: after
    a silence it is a keep-alive (RFC 9293 section 3.8.4), or it answers one. A lone byte after
    a silence, not pushed, is a keep-alive too.
    """
    _tcp_numbers(
        batch.flow_starts, batch.seed, batch.protocol, batch.opens, batch.direction,
        batch.interarrival_ns, batch.payload_bytes, batch.rows["transport"], batch.stuck,
    )  # fmt: skip


@numba.njit(cache=True)
def _tcp_numbers(
    flow_starts, seed, protocol, opens, direction, interarrival_ns, payload_bytes, transport,
    stuck,
):  # fmt: skip
    waiting = np.empty((2, MAX_ROWS + 1), np.int64)
    ends = np.empty((2, MAX_ROWS + 1), np.int64)
    run = np.empty(2, np.int64)
    in_run = np.empty(2, np.bool_)
    left = np.empty(2, np.int64)
    next_seq = np.empty(2, np.int64)
    acked = np.empty(2, np.int64)
    head = np.empty(2, np.int64)
    tail = np.empty(2, np.int64)
    spoke = np.empty(2, np.bool_)
    finished = np.empty(2, np.bool_)
    for f in range(len(seed)):
        if protocol[f] != 6:
            continue
        begin, end = flow_starts[f], flow_starts[f + 1]
        # A run of a side: its packets between two arrivals of something to acknowledge.
        run[:] = 0
        in_run[:] = False
        waiting[:, : end - begin + 1] = 0
        spoke[:] = False
        finished[:] = False
        for i in range(begin, end):
            side = direction[i]
            flags = transport[i, TCP_FLAGS]
            in_run[side] = True
            stuck[i] = 0
            probe = payload_bytes[i] == 1 and not flags & (SYN | FIN | RST | PSH)
            if probe and interarrival_ns[i] >= KEEP_ALIVE_NS and spoke[side] > finished[side]:
                stuck[i] = KEEP_ALIVE
            plain = payload_bytes[i] == 0 and not flags & (SYN | FIN | RST)
            waiting[side, run[side]] += plain
            if (payload_bytes[i] and not stuck[i]) or flags & (SYN | FIN):
                run[1 - side] += in_run[1 - side]
                in_run[1 - side] = False
            spoke[side] = True
            finished[side] |= flags & FIN != 0
        for side in range(2):
            first = np.int64(draw(seed[f], FOR_SEQ, side) & np.uint64(_MASK_32))
            next_seq[side] = first + (np.int64(1) << 40)
        for side in range(2):
            acked[side] = next_seq[1 - side]
            if not opens[f]:
                acked[side] -= _EARLIER_SEGMENT * waiting[side, 0]
        run[:] = 0
        in_run[:] = False
        head[:] = 0
        tail[:] = 0
        spoke[:] = False
        finished[:] = False
        for i in range(begin, end):
            side = direction[i]
            peer = 1 - side
            flags = transport[i, TCP_FLAGS]
            plain = payload_bytes[i] == 0 and not flags & (SYN | FIN | RST)
            if not in_run[side]:
                in_run[side] = True
                left[side] = waiting[side, run[side]]
            seq = next_seq[side] - (stuck[i] == KEEP_ALIVE)
            ack = np.int64(0)
            if flags & ACK:
                received = next_seq[peer]
                ack = acked[side]
                if opens[f] and not plain and tail[peer]:
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
                    elif interarrival_ns[i] >= KEEP_ALIVE_NS and spoke[side] and not finished[side]:
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
            if opens[f] and i == begin + 1 and flags & RST:
                seq = 0
            put32(transport, i, TCP_SEQ, seq & _MASK_32)
            put32(transport, i, TCP_ACKN, ack & _MASK_32)
            spoke[side] = True
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
    """Windows that hold what is sent into them (RFC 9293 section 3.8.6), scaled after the
    handshake (RFC 7323), and never 0. A RST without ACK tells none, but where a lone byte is sent
    after one it is not 0 either: readers would take the byte for a probe of a shut window (section
    3.8.6.1). A stuck acknowledgement that is no keep-alive updates the window: it differs from its
    sender's one before. Each change sets as low a bit as will do.
    """
    _tcp_window(
        batch.flow_starts, batch.protocol, batch.opens, batch.direction, batch.payload_bytes,
        batch.stuck, batch.rows["transport"], batch.rows["transport_len"],
    )  # fmt: skip


@numba.njit(cache=True)
def _tcp_window(
    flow_starts, protocol, opens, direction, payload_bytes, stuck, transport, transport_len
):
    scale = np.empty(2, np.int64)
    last = np.empty(2, np.int64)
    latest = np.empty(2, np.int64)
    before = np.empty(2, np.int64)
    needed = np.zeros(MAX_ROWS, np.int64)
    for f in range(len(protocol)):
        if protocol[f] != 6:
            continue
        begin, end = flow_starts[f], flow_starts[f + 1]
        scales(begin, end, opens[f], transport, transport_len, scale)
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
    """A window of at least `least` that is not `taken`, with the lowest bit set that gives one."""
    for b in range(16):
        raised = window | (1 << b)
        if raised != window and raised >= least and raised != taken:
            return raised
    return MOST_WINDOW if taken == MOST_WINDOW + 1 else MOST_WINDOW + 1


def tcp_timestamps(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Values of timestamp options (RFC 7323 section 4): each side's clock ticks milliseconds
    with the packet times, and the echo is the last value that came from the other side."""
    _tcp_timestamps(
        batch.flow_starts, batch.seed, batch.protocol, batch.opens, batch.direction,
        batch.rows["transport"], batch.rows["transport_len"], batch.rows["ts_ns"],
    )  # fmt: skip


@numba.njit(cache=True)
def _tcp_timestamps(flow_starts, seed, protocol, opens, direction, transport, transport_len, ts_ns):
    clock = np.empty(2, np.int64)
    heard = np.empty(2, np.int64)
    for f in range(len(seed)):
        if protocol[f] != 6:
            continue
        begin = flow_starts[f]
        for side in range(2):
            clock[side] = np.int64(draw(seed[f], FOR_STAMP, side) & np.uint64(_MASK_32))
        for side in range(2):
            heard[side] = 0 if opens[f] else clock[1 - side]
        for i in range(begin, flow_starts[f + 1]):
            side = direction[i]
            _, _, at = parse(transport, i, np.int64(transport_len[i]) - 20)
            if at == 0:
                continue
            value = (clock[side] + (ts_ns[i] - ts_ns[begin]) // 1_000_000) & _MASK_32
            put32(transport, i, at + 2, value)
            put32(transport, i, at + 6, heard[side] & _MASK_32)
            heard[1 - side] = value
