"""The rule of cause and effect: what of the other side's segments has arrived at each packet.

The capture point splits the round trip: SYN to SYN-ACK is the server's part, SYN-ACK to ACK the
client's. What is captured of a side answers what was captured as long before; no acknowledgement is
captured sooner than half of that after what it acknowledges.

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

_EARLY_SHARE = 0.05
"""Share of a flow's packets that may come early without being delayed: so many do in real flows,
whose handshakes may take longer than the path, and whose times are known by their level."""
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
    trip_ns: np.ndarray
    """int64: time from the capture point to the side and back, by the handshake."""
    most_window: np.ndarray
    """int64: the largest window, in bytes."""


def tcp_path(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle which of the peer's segments have arrived at each packet, and delay those that come
    before what they acknowledge.

    A segment without data acknowledges something. If nothing new has arrived but something is on
    its way, it waits for that; so does a side whose largest window could not hold what is sent
    to it until its next acknowledgement. In a flow with few such packets, _EARLY_SHARE at most,
    they stand as drawn. A lone byte after a silence, not pushed, is a keep-alive
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
        num_early = _follow(flows, f, packets, sides, level_starts, False)
        if num_early > _EARLY_SHARE * (end - begin):
            _follow(flows, f, packets, sides, level_starts, True)


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
def _follow(flows, f, packets, sides, level_starts, delays):
    """Follow the packets of flow `f`, and fill `packets.arrived`; return how many came early.

    These are delayed if `delays`; else what they acknowledge is taken to have arrived.
    """
    transport, ts_ns = packets.rows["transport"], packets.rows["ts_ns"]
    begin = flows.starts[f]
    delayed_ns, num_early = np.int64(0), 0
    sides.num_ends[:] = 0
    sides.sent[:] = 0
    sides.arrived[:] = 0
    sides.fresh[:] = 0
    sides.trip_ns[:] = 0
    for i in range(begin, flows.starts[f + 1]):
        side = np.int64(packets.direction[i])
        flags = transport[i, TCP_FLAGS]
        ts_ns[i] += delayed_ns
        if flags & ACK:
            plain = is_plain(flags, packets.payload_bytes[i])
            wanted = _wanted(sides, side, plain, packets.promised[i], ts_ns[i])
            late_ns = _early_ns(sides, side, wanted, ts_ns[i])
            num_early += late_ns > 0
            if delays and late_ns > 0:
                before_ns = packets.interarrival_ns[i]
                _lengthen(packets, i, (flows.seed[f], i - begin), late_ns, level_starts)
                moved_ns = packets.interarrival_ns[i] - before_ns
                ts_ns[i] += moved_ns
                delayed_ns += moved_ns
            _arrive(sides, side, plain, wanted, ts_ns[i])
            if flags & SYN:
                sides.fresh[side] = 0
        packets.arrived[i] = sides.arrived[side]
        if flows.opens[f] and i == begin + 1 and flags & SYN:
            sides.trip_ns[1] = ts_ns[i] - ts_ns[begin]
        if flows.opens[f] and i == begin + 2 and not flags & RST:
            sides.trip_ns[0] = ts_ns[i] - ts_ns[begin + 1]
        grown = sequence_bytes(flags, packets.payload_bytes[i], packets.stuck[i])
        if grown:
            sides.sent[side] += grown
            sides.ends[side, sides.num_ends[side]] = sides.sent[side]
            sides.seen_ns[side, sides.num_ends[side]] = ts_ns[i]
            sides.num_ends[side] += 1
    return num_early


@numba.njit(cache=True)
def _arrived_by(sides, side, now_ns):
    """Return how many segments of the other side have arrived at a side."""
    peer = 1 - side
    arrived = sides.arrived[side]
    while (
        arrived < sides.num_ends[peer]
        and sides.seen_ns[peer, arrived] + sides.trip_ns[side] <= now_ns
    ):
        arrived += 1
    return arrived


@numba.njit(cache=True)
def _wanted(sides, side, plain, promised, now_ns):
    """Return how many segments of the other side have to have arrived for a packet."""
    peer = 1 - side
    arrived = _arrived_by(sides, side, now_ns)
    wanted = arrived
    if plain and sides.fresh[side] == 0 and arrived == sides.arrived[side]:
        wanted = min(arrived + 1, sides.num_ends[peer])
    first = promised - sides.most_window[side]
    while wanted < sides.num_ends[peer] and (
        first > 0 and (wanted == 0 or sides.ends[peer, wanted - 1] < first)
    ):
        wanted += 1
    return wanted


@numba.njit(cache=True)
def _early_ns(sides, side, wanted, now_ns):
    """Return how long before `wanted` segments have arrived a packet comes; 0 or less if not."""
    if wanted == 0:
        return np.int64(0)
    return sides.seen_ns[1 - side, wanted - 1] + (sides.trip_ns[side] + 1) // 2 - now_ns


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
def _arrive(sides, side, plain, wanted, now_ns):
    """Note what has arrived at a side, and what its packet leaves for the next to acknowledge."""
    arrived = max(_arrived_by(sides, side, now_ns), wanted)
    if arrived > sides.arrived[side]:
        sides.fresh[side] = arrived - sides.arrived[side]
        sides.arrived[side] = arrived
    if plain and sides.fresh[side] > 0:
        sides.fresh[side] -= 1
