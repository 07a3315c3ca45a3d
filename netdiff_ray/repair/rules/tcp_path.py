"""The rule of cause and effect: what of the other side's segments has arrived at each packet.

The capture point splits the round trip: SYN to SYN-ACK is the server's part, SYN-ACK to ACK the
client's. What is captured of a side answers what was captured as long before; no acknowledgement is
captured sooner than half of that after what it acknowledges.

Shape letters: N flows, P packets.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.flow_state import (
    AFTER_HOLE,
    AGAIN,
    COUNT_STARTS,
    DUPLICATE,
    NO_NEWS,
    NUM_ACK_LEVELS,
    ack_level,
)
from netdiff_ray.header_bytes import ACK, FIN, IPPROTO_TCP, PSH, RST, SYN, TCP_FLAGS
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import MOST_LEVEL
from netdiff_ray.repair.batch import (
    KEEP_ALIVE,
    MAX_ROWS,
    NOTHING_NEW,
    REPEATED_ACK,
    Batch,
)
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.flow import (
    NO_REPEAT,
    STANDS,
    SideTimes,
    begin_times,
    levels_of,
    next_interarrival,
    note_time,
)
from netdiff_ray.repair.rules.lengths import MOST_WINDOW, scales
from netdiff_ray.repair.rules.tcp_segments import FILLS

_EARLY_SHARE = 0.05
"""Share of a flow's packets that may come early without being delayed: so many do in real flows,
whose handshakes may take longer than the path, and whose times are known by their level."""
KEEP_ALIVE_NS = 1_000_000_000
"""An acknowledgement that has nothing to acknowledge is a keep-alive after this long."""
_NEVER = np.iinfo(np.int64).max
_ANY_NUMBER = 1 << 40


class _Sides(NamedTuple):
    """Where each side of a flow stands; each (2,) int64 but for two tables."""

    ends: np.ndarray
    """(2, 2 * MAX_ROWS + 1) int64: bytes sent up to the end of each segment, SYN and FIN counted;
    what is missing in a hole is a segment too."""
    seen_ns: np.ndarray
    """(2, 2 * MAX_ROWS + 1) int64: when the segment was captured; _NEVER as long as it is missing.
    """
    num_ends: np.ndarray
    """Segments sent."""
    whole: np.ndarray
    """Segments before the first that is missing."""
    sent: np.ndarray
    """Bytes sent."""
    arrived: np.ndarray
    """Segments of the other side that have arrived."""
    acked: np.ndarray
    """Segments of the other side that it has acknowledged; only where that is drawn."""
    fresh: np.ndarray
    """Of those that have arrived, how many segments without data can still acknowledge something
    new; only where that is not drawn."""
    has_acked: np.ndarray
    """1 if it has sent an acknowledgement, else 0."""
    has_copy: np.ndarray
    """1 if the other side has sent something again since its last acknowledgement, else 0."""
    trip_ns: np.ndarray
    """Time from the capture point to the side and back, by the handshake."""
    lag_ns: np.ndarray
    """Time after which the side has what was captured: all of that, or where it is drawn how much
    it acknowledges, half, before which it cannot have it."""
    most_window: np.ndarray
    """The largest window, in bytes."""


def tcp_path(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle which of the peer's segments have arrived at each packet, and delay those that come
    before what they acknowledge.

    Where it is drawn how many segments a packet acknowledges, it waits for as many as are on their
    way; in a drawing that is settled by a profile, a segment without data that is drawn to
    acknowledge nothing, not even once more, acknowledges one (`idle_segments`). Where it
    is not drawn, a segment without data acknowledges something: if nothing new has arrived
    but something is on its way, it waits for that. So does a side whose largest window could not
    hold what is sent to it until its next acknowledgement. In a flow with few such packets,
    _EARLY_SHARE at most, they stand as drawn. Nothing behind a hole is acknowledged before what
    fills it. A lone byte after a silence, not pushed, is a keep-alive (RFC 9293 section 3.8.4) and
    sends nothing new, where it is not drawn what is sent again.
    """
    drawn = layout.has_state, bool(context.profile.payloads)
    _tcp_path(batch.flows, batch.packets, levels_of(context), drawn)


@numba.njit(cache=True)
def is_plain(flags, payload_bytes):
    """Return whether a segment has nothing but an acknowledgement."""
    return payload_bytes == 0 and not flags & (SYN | FIN | RST)


@numba.njit(cache=True)
def is_answered(flows, f, packets):
    """Return whether flow `f` begins with a handshake and holds packets of both sides, so that all
    that its packets acknowledge is in it."""
    begin, end = flows.starts[f], flows.starts[f + 1]
    if flows.opens[f]:
        for i in range(begin + 1, end):
            if packets.direction[i] != packets.direction[begin]:
                return True
    return False


@numba.njit(cache=True)
def _sequence_bytes(packets, i):
    """Return how far packet `i` moves its sender's sequence number."""
    sequence = packets.state[i].sequence
    if packets.stuck[i] == KEEP_ALIVE or sequence == AGAIN or sequence == FILLS:
        return np.int64(0)
    flags = packets.rows["transport"][i, TCP_FLAGS]
    return packets.hole_bytes[i] + packets.payload_bytes[i] + ((flags & (SYN | FIN)) != 0)


@numba.njit(cache=True)
def _tcp_path(flows, packets, levels, drawn):
    has_state = drawn[0]
    table = (2, 2 * MAX_ROWS + 1)
    sides = _Sides(
        np.empty(table, np.int64), np.empty(table, np.int64), np.empty(2, np.int64),
        np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64),
        np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64),
        np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64),
        np.empty(2, np.int64),
    )  # fmt: skip
    times = SideTimes(np.empty(2, np.int64), np.empty(2, np.int64))
    transport, transport_len = packets.rows["transport"], packets.rows["transport_len"]
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin, end = flows.starts[f], flows.starts[f + 1]
        scales(begin, end, flows.opens[f], transport, transport_len, sides.most_window)
        for side in range(2):
            sides.most_window[side] = MOST_WINDOW << sides.most_window[side]
        _find_promises(begin, end, packets, has_state)
        num_early = _follow(flows, f, packets, sides, times, levels, (*drawn, False))
        if num_early > _EARLY_SHARE * (end - begin):
            _follow(flows, f, packets, sides, times, levels, (*drawn, True))


@numba.njit(cache=True)
def _find_promises(begin, end, packets, has_state):
    """Fill `packets.moves` and `packets.promised`; settle which lone bytes are keep-alives as yet,
    unless it `has_state`."""
    transport, direction = packets.rows["transport"], packets.direction
    sent = np.zeros(2, np.int64)
    goes_on = np.zeros(2, np.bool_)
    finished = np.zeros(2, np.bool_)
    for i in range(begin, end):
        side = direction[i]
        flags = transport[i, TCP_FLAGS]
        packets.promised[i] = sent[1 - side]
        if not has_state:
            probe = packets.payload_bytes[i] == 1 and not flags & (SYN | FIN | RST | PSH)
            silent = packets.interarrival_ns[i] >= KEEP_ALIVE_NS
            packets.stuck[i] = KEEP_ALIVE if probe and silent and goes_on[side] else 0
        packets.moves[i] = _sequence_bytes(packets, i)
        sent[side] += packets.moves[i]
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
def _begin(sides, times):
    """Forget what the sides sent."""
    sides.num_ends[:] = 0
    sides.whole[:] = 0
    sides.sent[:] = 0
    sides.arrived[:] = 0
    sides.acked[:] = 0
    sides.fresh[:] = 0
    sides.has_acked[:] = 0
    sides.has_copy[:] = 0
    sides.trip_ns[:] = 0
    sides.lag_ns[:] = 0
    begin_times(times)


@numba.njit(cache=True)
def _follow(flows, f, packets, sides, times, levels, options):
    """Follow the packets of flow `f`, and fill `packets.arrived`; return how many came early.

    Args:
        times: of the sides' packets.
        levels: of the label's times.
        options: whether it is drawn what packets acknowledge; whether a profile settles what was
            drawn; whether early packets are delayed, else what they acknowledge is taken to have
            arrived.
    """
    has_state, by_profile, delays = options
    transport, ts_ns = packets.rows["transport"], packets.rows["ts_ns"]
    begin, seed = flows.starts[f], flows.seed[f]
    num_early, answered = 0, is_answered(flows, f, packets)
    _begin(sides, times)
    for i in range(begin, flows.starts[f + 1]):
        side = np.int64(packets.direction[i])
        flags = transport[i, TCP_FLAGS]
        if delays and i > begin:
            packet = (seed, i - begin, side, ts_ns[i - 1])
            level, repeats = np.int64(packets.level[i]), packets.state[i].same_gap
            interarrival_ns, level = next_interarrival(packet, level, repeats, times, levels)
            _set_time(packets, i, interarrival_ns, level)
        counts = np.int64(0), np.int64(0)
        if flags & ACK:
            plain = is_plain(flags, packets.payload_bytes[i])
            answers = flows.opens[f] and i <= begin + 2
            state = packets.state[i]
            says_nothing = plain and state.acknowledged == NO_NEWS and state.sequence != AGAIN
            answers |= by_profile and says_nothing
            if by_profile and says_nothing and not answered and not sides.acked[side]:
                state.acknowledged = ack_level(1)  # of what was not captured
            if has_state:
                counts = _drawn_counts(packets.state[i].acknowledged, answers)
                wanted = _wanted_drawn(sides, side, counts[0], packets.promised[i], ts_ns[i])
            else:
                wanted = _wanted(sides, side, plain, packets.promised[i], ts_ns[i])
            late_ns = _early_ns(sides, side, wanted, ts_ns[i])
            num_early += late_ns > 0
            if delays and late_ns > 0 and i > begin:
                _lengthen(packets, i, (seed, i - begin), late_ns, times, levels)
            _arrive(sides, side, plain, wanted, ts_ns[i])
            if flags & SYN:
                sides.fresh[side] = 0
            if has_state:
                _acknowledge(packets, i, sides, counts[1], (plain, answered))
        packets.arrived[i] = sides.acked[side] if has_state else sides.arrived[side]
        note_time(times, side, ts_ns[i])
        if flows.opens[f] and i == begin + 1 and flags & SYN:
            sides.trip_ns[1] = ts_ns[i] - ts_ns[begin]
        if flows.opens[f] and i == begin + 2 and not flags & RST:
            sides.trip_ns[0] = ts_ns[i] - ts_ns[begin + 1]
        for me in range(2):
            sides.lag_ns[me] = (sides.trip_ns[me] + 1) // 2 if has_state else sides.trip_ns[me]
        _send(packets, i, sides)
    return num_early


@numba.njit(cache=True)
def _set_time(packets, i, interarrival_ns, level):
    """Let packet `i`, not a flow's first, come that long after the packet before."""
    packets.interarrival_ns[i] = interarrival_ns
    packets.level[i] = level
    packets.rows["ts_ns"][i] = packets.rows["ts_ns"][i - 1] + interarrival_ns


@numba.njit(cache=True)
def _send(packets, i, sides):
    """Note what packet `i` sends."""
    side, now_ns = packets.direction[i], packets.rows["ts_ns"][i]
    ends, seen_ns, num_ends = sides.ends, sides.seen_ns, sides.num_ends
    sequence = packets.state[i].sequence
    if sequence == AGAIN:
        sides.has_copy[1 - side] = 1
    if sequence == FILLS:
        seen_ns[side, sides.whole[side]] = now_ns
    if sequence == AFTER_HOLE:
        ends[side, num_ends[side]] = sides.sent[side] + packets.hole_bytes[i]
        seen_ns[side, num_ends[side]] = _NEVER
        num_ends[side] += 1
    if packets.moves[i]:
        sides.sent[side] += packets.moves[i]
        ends[side, num_ends[side]] = sides.sent[side]
        seen_ns[side, num_ends[side]] = now_ns
        num_ends[side] += 1
    while sides.whole[side] < num_ends[side] and seen_ns[side, sides.whole[side]] != _NEVER:
        sides.whole[side] += 1


@numba.njit(cache=True)
def _arrived_by(sides, side, now_ns):
    """Return how many segments of the other side have arrived at a side."""
    peer = 1 - side
    arrived = sides.arrived[side]
    while (
        arrived < sides.whole[peer] and sides.seen_ns[peer, arrived] + sides.lag_ns[side] <= now_ns
    ):
        arrived += 1
    return arrived


@numba.njit(cache=True)
def _wanted(sides, side, plain, promised, now_ns):
    """Return how many segments of the other side have to have arrived for a packet."""
    arrived = _arrived_by(sides, side, now_ns)
    wanted = arrived
    if plain and sides.fresh[side] == 0 and arrived == sides.arrived[side]:
        wanted = min(arrived + 1, sides.whole[1 - side])
    return _promised_by(sides, side, wanted, promised)


@numba.njit(cache=True)
def _wanted_drawn(sides, side, least, promised, now_ns):
    """Return how many segments of the other side have to have arrived for a packet that is drawn to
    acknowledge `least` more; of what is on its way, the least of a level."""
    count = min(least, sides.whole[1 - side] - sides.acked[side])
    wanted = sides.acked[side]
    if count > 0:
        wanted += COUNT_STARTS[ack_level(count) - 2]
    arrived = _arrived_by(sides, side, now_ns)
    return max(_promised_by(sides, side, wanted, promised), arrived)


@numba.njit(cache=True)
def _promised_by(sides, side, acked, promised):
    """Return how many segments a packet has to acknowledge, `acked` or more, so that the largest
    window holds what is sent to its side until the next."""
    peer = 1 - side
    first = promised - sides.most_window[side]
    while acked < sides.whole[peer] and (
        first > 0 and (acked == 0 or sides.ends[peer, acked - 1] < first)
    ):
        acked += 1
    return acked


@numba.njit(cache=True)
def _drawn_counts(level, answers):
    """Return the least and the greatest number of segments of a level.

    Args:
        level: see `flow_state.ack_level`.
        answers: whether the packet acknowledges one at least, whatever the level.
    """
    least, most = np.int64(0), np.int64(0)
    if level > DUPLICATE:
        least = COUNT_STARTS[level - 2]
        most = COUNT_STARTS[level - 1] - 1 if level + 1 < NUM_ACK_LEVELS else _ANY_NUMBER
    if answers:
        least, most = max(least, 1), max(most, 1)
    return least, most


@numba.njit(cache=True)
def _acknowledge(packets, i, sides, most, kind):
    """Settle what packet `i` acknowledges of what has arrived, and whether it is stuck.

    Args:
        most: the greatest number of segments that it is drawn to acknowledge.
        kind: whether it has nothing but an acknowledgement; whether its flow `is_answered`.
    """
    plain, answered = kind
    side = np.int64(packets.direction[i])
    before = sides.acked[side]
    acked = min(sides.arrived[side], before + most)
    acked = _promised_by(sides, side, acked, packets.promised[i])
    sides.acked[side] = acked
    is_first, answers_copy = not sides.has_acked[side], sides.has_copy[side]
    sides.has_acked[side], sides.has_copy[side] = 1, 0
    if packets.stuck[i] == KEEP_ALIVE:
        return
    packets.stuck[i] = 0
    if not plain or acked > before:
        return
    if is_first or (acked == 0 and not answered and packets.state[i].acknowledged > DUPLICATE):
        return  # it acknowledges what was not captured
    packets.stuck[i] = NOTHING_NEW
    if answers_copy or packets.state[i].acknowledged == DUPLICATE:
        packets.stuck[i] = REPEATED_ACK


@numba.njit(cache=True)
def _early_ns(sides, side, wanted, now_ns):
    """Return how long before `wanted` segments have arrived a packet comes; 0 or less if not."""
    if wanted == 0:
        return np.int64(0)
    last_ns = sides.seen_ns[1 - side, wanted - 1]
    for k in range(sides.arrived[side], wanted - 1):
        last_ns = max(last_ns, sides.seen_ns[1 - side, k])
    return last_ns + (sides.trip_ns[side] + 1) // 2 - now_ns


@numba.njit(cache=True)
def _lengthen(packets, i, drawing, late_ns, times, levels):
    """Raise the level of the time before packet `i` until it is `late_ns` longer, at least.

    Args:
        drawing: seed of the flow, and the packet's position in it.
    """
    seed, position = drawing
    side = np.int64(packets.direction[i])
    packet = (seed, position, side, packets.rows["ts_ns"][i - 1])
    repeats = STANDS if packets.state[i].same_gap == STANDS else NO_REPEAT
    least_ns = packets.interarrival_ns[i] + late_ns
    interarrival_ns = packets.interarrival_ns[i]
    level = np.int64(packets.level[i])
    while level < MOST_LEVEL and interarrival_ns < least_ns:
        level += 1
        if levels.starts[level + 1] > least_ns:
            interarrival_ns, _ = next_interarrival(packet, level, repeats, times, levels)
    _set_time(packets, i, interarrival_ns, level)


@numba.njit(cache=True)
def _arrive(sides, side, plain, wanted, now_ns):
    """Note what has arrived at a side, and what its packet leaves for the next to acknowledge."""
    arrived = max(_arrived_by(sides, side, now_ns), wanted)
    if arrived > sides.arrived[side]:
        sides.fresh[side] = arrived - sides.arrived[side]
        sides.arrived[side] = arrived
    if plain and sides.fresh[side] > 0:
        sides.fresh[side] -= 1
