"""The rule of cause and effect: what of the other side's segments has arrived at each packet.

The capture point splits the round trip. What it sees of the peer needs half of the side's part of
the handshake (SYN to SYN-ACK for the server, SYN-ACK to ACK for the client) to arrive there.

Shape letters: N flows, P packets.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.header_bytes import ACK, FIN, IPPROTO_TCP, PSH, RST, SYN, TCP_FLAGS
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import MOST_LEVEL
from netdiff_ray.repair.batch import KEEP_ALIVE, MAX_ROWS, Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.flow import LEVEL_STARTS, interarrival_of
from netdiff_ray.repair.rules.lengths import MOST_WINDOW, scales

KEEP_ALIVE_NS = 1_000_000_000
"""An acknowledgement that has nothing to acknowledge is a keep-alive after this long."""


class _Sides(NamedTuple):
    """Where each side of a flow stands; each (2,) but for two tables."""

    ends: np.ndarray
    """(2, MAX_ROWS + 1) int64: bytes sent up to the end of each segment, SYN and FIN counted."""
    seen_ns: np.ndarray
    """(2, MAX_ROWS + 1) int64: when the segment was captured."""
    num_ends: np.ndarray
    """int64: segments sent."""
    sent: np.ndarray
    """int64: bytes sent."""
    arrived: np.ndarray
    """int64: segments of the other side that have arrived."""
    fresh: np.ndarray
    """int64: of these, how many segments without data can still acknowledge something new."""
    delay_ns: np.ndarray
    """int64: half the time from the capture point to the side and back."""
    most_window: np.ndarray
    """int64: the largest window, in bytes."""


def tcp_path(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle which of the peer's segments have arrived at each packet, and delay those that come
    before what they acknowledge.

    A segment without data acknowledges something. If nothing new has arrived but something is on
    its way, it waits for that; so does a side whose largest window could not hold what is sent
    to it until its next acknowledgement. A lone byte after a silence, not pushed, is a keep-alive
    (RFC 9293 section 3.8.4) and sends nothing new.
    """
    _tcp_path(batch.flows, batch.packets, LEVEL_STARTS)


@numba.njit(cache=True)
def is_plain(flags, payload_bytes):
    """Return whether a segment has nothing but an acknowledgement."""
    return payload_bytes == 0 and not flags & (SYN | FIN | RST)


@numba.njit(cache=True)
def sequence_bytes(flags, payload_bytes, stuck):
    """Return how far a segment moves its sender's sequence number."""
    if stuck == KEEP_ALIVE:
        return np.int64(0)
    return payload_bytes + ((flags & (SYN | FIN)) != 0)


@numba.njit(cache=True)
def _tcp_path(flows, packets, level_starts):
    table = (2, MAX_ROWS + 1)
    sides = _Sides(
        np.empty(table, np.int64), np.empty(table, np.int64), np.empty(2, np.int64),
        np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64),
        np.empty(2, np.int64), np.empty(2, np.int64),
    )  # fmt: skip
    transport, transport_len = packets.rows["transport"], packets.rows["transport_len"]
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin, end = flows.starts[f], flows.starts[f + 1]
        scales(begin, end, flows.opens[f], transport, transport_len, sides.most_window)
        for side in range(2):
            sides.most_window[side] = MOST_WINDOW << sides.most_window[side]
        _find_promises(begin, end, packets)
        sides.num_ends[:] = 0
        sides.sent[:] = 0
        sides.arrived[:] = 0
        sides.fresh[:] = 0
        sides.delay_ns[:] = 0
        _follow(flows, f, packets, sides, level_starts)


@numba.njit(cache=True)
def _find_promises(begin, end, packets):
    """Fill `packets.promised`, and settle which lone bytes are keep-alives as yet."""
    transport, direction = packets.rows["transport"], packets.direction
    sent = np.zeros(2, np.int64)
    goes_on = np.zeros(2, np.bool_)
    finished = np.zeros(2, np.bool_)
    for i in range(begin, end):
        side = direction[i]
        flags = transport[i, TCP_FLAGS]
        packets.promised[i] = sent[1 - side]
        probe = packets.payload_bytes[i] == 1 and not flags & (SYN | FIN | RST | PSH)
        silent = packets.interarrival_ns[i] >= KEEP_ALIVE_NS
        packets.stuck[i] = KEEP_ALIVE if probe and silent and goes_on[side] else 0
        sent[side] += sequence_bytes(flags, packets.payload_bytes[i], packets.stuck[i])
        finished[side] |= flags & FIN != 0
        goes_on[side] = not finished[side]
    for i in range(end - 1, begin - 1, -1):
        peer = 1 - direction[i]
        received = packets.promised[i]
        packets.promised[i] = 0
        if transport[i, TCP_FLAGS] & (ACK | SYN):
            packets.promised[i] = sent[peer]
            if not transport[i, TCP_FLAGS] & RST:
                sent[peer] = received


@numba.njit(cache=True)
def _follow(flows, f, packets, sides, level_starts):
    """Follow the packets of flow `f`, delay some, and fill `packets.arrived`."""
    transport, ts_ns = packets.rows["transport"], packets.rows["ts_ns"]
    begin = flows.starts[f]
    delayed_ns = np.int64(0)
    for i in range(begin, flows.starts[f + 1]):
        side = np.int64(packets.direction[i])
        flags = transport[i, TCP_FLAGS]
        ts_ns[i] += delayed_ns
        if flags & ACK:
            plain = is_plain(flags, packets.payload_bytes[i])
            late_ns = _wait(sides, side, plain, packets.promised[i], ts_ns[i])
            if late_ns > 0:
                before_ns = packets.interarrival_ns[i]
                _lengthen(packets, i, (flows.seed[f], i - begin), late_ns, level_starts)
                moved_ns = packets.interarrival_ns[i] - before_ns
                ts_ns[i] += moved_ns
                delayed_ns += moved_ns
            _arrive(sides, side, plain, ts_ns[i])
            if flags & SYN:
                sides.fresh[side] = 0
        packets.arrived[i] = sides.arrived[side]
        if flows.opens[f] and i == begin + 1 and flags & SYN:
            sides.delay_ns[1] = (ts_ns[i] - ts_ns[begin] + 1) // 2
        if flows.opens[f] and i == begin + 2 and not flags & RST:
            sides.delay_ns[0] = (ts_ns[i] - ts_ns[begin + 1] + 1) // 2
        grown = sequence_bytes(flags, packets.payload_bytes[i], packets.stuck[i])
        if grown:
            sides.sent[side] += grown
            sides.ends[side, sides.num_ends[side]] = sides.sent[side]
            sides.seen_ns[side, sides.num_ends[side]] = ts_ns[i]
            sides.num_ends[side] += 1


@numba.njit(cache=True)
def _wait(sides, side, plain, promised, now_ns):
    """Return how long a packet has to wait for what it acknowledges."""
    peer = 1 - side
    arrived = sides.arrived[side]
    while (
        arrived < sides.num_ends[peer]
        and sides.seen_ns[peer, arrived] + sides.delay_ns[side] <= now_ns
    ):
        arrived += 1
    wanted = arrived
    if plain and sides.fresh[side] == 0 and arrived == sides.arrived[side]:
        wanted = min(arrived + 1, sides.num_ends[peer])
    first = promised - sides.most_window[side]
    while wanted < sides.num_ends[peer] and (
        first > 0 and (wanted == 0 or sides.ends[peer, wanted - 1] < first)
    ):
        wanted += 1
    if wanted == arrived:
        return np.int64(0)
    return sides.seen_ns[peer, wanted - 1] + sides.delay_ns[side] - now_ns


@numba.njit(cache=True)
def _lengthen(packets, i, drawing, late_ns, level_starts):
    """Raise the level of the time before packet `i` until it is `late_ns` longer, at least."""
    seed, position = drawing
    least_ns = packets.interarrival_ns[i] + late_ns
    level = np.int64(packets.level[i])
    while level < MOST_LEVEL and packets.interarrival_ns[i] < least_ns:
        level += 1
        if level_starts[level + 1] > least_ns:
            packets.interarrival_ns[i] = interarrival_of(seed, position, level, level_starts)
    packets.level[i] = level


@numba.njit(cache=True)
def _arrive(sides, side, plain, now_ns):
    """Note what has arrived at a side, and what its packet leaves for the next to acknowledge."""
    peer = 1 - side
    arrived = sides.arrived[side]
    while (
        arrived < sides.num_ends[peer]
        and sides.seen_ns[peer, arrived] + sides.delay_ns[side] <= now_ns
    ):
        arrived += 1
    if arrived > sides.arrived[side]:
        sides.fresh[side] = arrived - sides.arrived[side]
        sides.arrived[side] = arrived
    if plain and sides.fresh[side] > 0:
        sides.fresh[side] -= 1
