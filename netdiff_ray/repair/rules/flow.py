"""Rules of the whole flow: who sends each packet, whether a handshake opens it, and when.

Shape letters: N flows, P packets.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.flow_state import is_same_gap
from netdiff_ray.header_bytes import (
    ACK,
    DPORT,
    ICMP_ECHO,
    ICMP_ECHO_REPLY,
    ICMP_TIMESTAMP,
    ICMP_TIMESTAMP_REPLY,
    ICMP_TYPE,
    ICMPV6_ECHO,
    ICMPV6_ECHO_REPLY,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    RST,
    SPORT,
    SYN,
    TCP_FLAGS,
    TCP_OPT,
    TCP_OPTION_MSS,
    distance,
    get16,
)
from netdiff_ray.labels.stack import UNKNOWN
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import MOST_LEVEL, level_of, nanoseconds_of
from netdiff_ray.repair.batch import HALF, UNANSWERED, Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.splitmix import FOR_TIME, draw, draw_below

_MSS_OPTION = TCP_OPTION_MSS << 8 | 4
"""Kind and length of an MSS option."""


def _level_starts() -> np.ndarray:
    """Return (257,) int64: the shortest time of each level, and the end of the last."""
    starts = nanoseconds_of(np.arange(257), 0.0)
    for level in range(1, 256):
        while level_of(starts[level]) < level:
            starts[level] += 1
        while level_of(starts[level] - 1) == level:
            starts[level] -= 1
    starts[0] = 1  # times grow strictly, so no time is 0
    return starts


LEVEL_STARTS = _level_starts()

_MIDDLE, _SPREAD = 96.0, 28.0
DEFAULT_INTERARRIVAL = tuple(np.exp(-0.5 * ((np.arange(256) - _MIDDLE) / _SPREAD) ** 2))
"""Weights of levels where a label has none: log-normal, with a median of about 4 ms."""


def direction(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle who sends each packet: as drawn, else from the ports or ICMP types.

    A layout without direction draws both ports of every packet, and they say who sent it.
    (Sampled directions would swap the ports of half the packets that the model drew right, and
    count these as its errors.) Where the ports are the same the client sends everything; a flow
    without ports has replies where its types are replies.

    Who sends first is as planned, in a layout with direction. In a flow that is planned one-way all
    packets are the client's, also behind its SYN. In another that a handshake opens, as planned or
    as drawn, the first three are the client's, the server's, the client's (RFC 9293 section 3.5).
    """
    if not layout.needs_flow:
        server_ports = np.array(context.server_ports, np.int64)
        _direction_from_headers(batch.flows, batch.packets, server_ports)
    _opening(batch.flows, batch.packets, batch.plans, layout.needs_flow)


@numba.njit(cache=True)
def _direction_from_headers(flows, packets, server_ports):
    transport = packets.rows["transport"]
    for f in range(len(flows.seed)):
        begin, end = flows.starts[f], flows.starts[f + 1]
        if flows.protocol[f] in (IPPROTO_TCP, IPPROTO_UDP):
            _direction_from_ports(begin, end, transport, server_ports, packets.direction)
        else:
            is_icmpv6 = flows.protocol[f] == IPPROTO_ICMPV6
            _direction_from_types(begin, end, is_icmpv6, transport, packets.direction)


@numba.njit(cache=True)
def _direction_from_ports(begin, end, transport, server_ports, direction):
    client = get16(transport, begin, SPORT)
    server = get16(transport, begin, DPORT)
    apart, is_exact = 0, client != server
    for i in range(begin, end):
        source, target = get16(transport, i, SPORT), get16(transport, i, DPORT)
        apart += distance(source, target)
        is_exact &= min(source, target) == min(client, server)
        is_exact &= max(source, target) == max(client, server)
    if apart <= end - begin and not is_exact:
        direction[begin:end] = 0  # the ports do not tell sides apart
        return
    to_server, to_client = 17, 17
    for port in server_ports:
        to_server = min(to_server, distance(server, port))
        to_client = min(to_client, distance(client, port))
    if to_client < to_server:
        client, server = server, client
    for i in range(begin, end):
        sport = get16(transport, i, SPORT)
        dport = get16(transport, i, DPORT)
        from_client = distance(sport, client) + distance(dport, server)
        from_server = distance(sport, server) + distance(dport, client)
        direction[i] = from_server < from_client


@numba.njit(cache=True)
def _direction_from_types(begin, end, is_icmpv6, transport, direction):
    """Give the server the replies that answer an earlier request, and the client all else."""
    requests = (ICMP_ECHO, ICMP_TIMESTAMP, ICMPV6_ECHO)
    replies = (ICMP_ECHO_REPLY, ICMP_TIMESTAMP_REPLY, ICMPV6_ECHO_REPLY)
    waiting = np.zeros(3, np.int64)
    for i in range(begin, end):
        kind = np.int64(transport[i, ICMP_TYPE])
        direction[i] = 0
        for k in range(3):
            if (requests[k] == ICMPV6_ECHO) == is_icmpv6:
                if kind == replies[k] and waiting[k]:
                    direction[i] = 1
                    waiting[k] -= 1
                waiting[k] += kind == requests[k]


@numba.njit(cache=True)
def _opening(flows, packets, plans, has_direction):
    """Settle whether each flow opens: as planned, or by the votes of the first two rows' SYN bits,
    of the first's missing ACK bit and of the MSS options that only a SYN carries."""
    transport, option_bytes = packets.rows["transport"], packets.option_bytes
    opens = flows.opens
    for f in range(len(flows.seed)):
        opens[f] = False
        flows.half[f] = 0
        if plans.one_way[f] == 1:
            packets.direction[flows.starts[f] : flows.starts[f + 1]] = 0
        elif has_direction and plans.first_side[f] != UNKNOWN:
            packets.direction[flows.starts[f]] = plans.first_side[f]
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin = flows.starts[f]
        num_packets = flows.starts[f + 1] - begin
        flags = transport[begin, TCP_FLAGS]
        first = 2 * ((flags & SYN) != 0) + ((flags & ACK) == 0)
        first += 2 * _has_mss(transport, begin, option_bytes)
        if num_packets == 1:
            opens[f] = first >= 3
        else:
            flags = transport[begin + 1, TCP_FLAGS]
            second = 2 * ((flags & (SYN | RST)) != 0)
            second += 2 * _has_mss(transport, begin + 1, option_bytes)
            opens[f] = (first >= 3 and (second >= 2 or first == 5)) or (first >= 2 and second == 4)
        if plans.opens[f] != UNKNOWN:
            opens[f] = plans.opens[f] == 1
        if opens[f] and plans.one_way[f] == 1 and num_packets > 1:
            opens[f] = False
            flows.half[f] = _half(begin, flows.starts[f + 1], transport)
        if opens[f]:
            for k in range(min(num_packets, 3)):
                packets.direction[begin + k] = k == 1


@numba.njit(cache=True)
def _half(begin, end, transport):
    """Return UNANSWERED if most packets of a flow but the first were drawn as SYNs, else HALF."""
    syns = 0
    for i in range(begin + 1, end):
        syns += transport[i, TCP_FLAGS] & SYN != 0
    return UNANSWERED if 2 * syns > end - begin - 1 else HALF


@numba.njit(cache=True)
def _has_mss(transport, i, option_bytes):
    return option_bytes[i] >= 4 and distance(get16(transport, i, TCP_OPT), _MSS_OPTION) <= 3


class Levels(NamedTuple):
    """Levels of inter-arrival times, for the kernels."""

    starts: np.ndarray
    """(257,) int64 nanoseconds, as LEVEL_STARTS."""
    ends: np.ndarray
    """(256,) int64: cumulative weights, of 2**53."""
    longest: int
    """The longest level that has weight."""


class SideTimes(NamedTuple):
    """When each side sent; each (2,) int64."""

    last_ns: np.ndarray
    """The side's last packet; negative before the first."""
    gap_ns: np.ndarray
    """Before that, the time since the side's packet before; 0 before the second."""


NO_REPEAT, REPEATS, STANDS = 0, 1, 2
"""Whether a packet comes as long after its side's packet before as that after the one before it.
The time of a packet that STANDS is drawn from its level's span, whatever the others are."""


def time(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle times that grow strictly, each inside the span of its drawn level, or of the label's
    longest: a silence of another order would end the flow.

    A packet that repeats its side's gap takes the time in that span that is nearest to it, or if
    the span has none that is the same, the gap itself.

    A layout without times draws the levels from the label's weights; the first packet's
    is then 0. Those of a handshake stand if they are planned.
    """
    is_sampled = not layout.needs_flow
    _time(
        batch.flows, batch.packets, batch.plans, levels_of(context),
        (is_sampled, layout.has_state), context.start_ts_ns,
    )  # fmt: skip


def levels_of(context: RepairContext) -> Levels:
    """Return the levels of the label's times."""
    weights = np.asarray(context.interarrival_weights or DEFAULT_INTERARRIVAL, np.float64)
    cumulative = np.cumsum(weights)
    ends = (cumulative / cumulative[-1] * 2.0**53).astype(np.int64)
    return Levels(LEVEL_STARTS, ends, int(np.flatnonzero(weights)[-1]))


@numba.njit(cache=True)
def _time(flows, packets, plans, levels, layout, start):
    sampled, has_state = layout
    level, interarrival_ns = packets.level, packets.interarrival_ns
    ts_ns = packets.rows["ts_ns"]
    times = SideTimes(np.empty(2, np.int64), np.empty(2, np.int64))
    for f in range(len(flows.seed)):
        begin, seed = flows.starts[f], flows.seed[f]
        now = start
        begin_times(times)
        for i in range(begin, flows.starts[f + 1]):
            k = i - begin
            planned = flows.opens[f] and 1 <= k <= 2 and plans.path[f, 2 - k] != UNKNOWN
            if sampled and not planned:
                level[i] = 0
                if k:
                    at = np.int64(draw(seed, FOR_TIME, 2 * k + 1) >> np.uint64(11))
                    level[i] = min(np.searchsorted(levels.ends, at, "right"), MOST_LEVEL)
            if not planned:
                level[i] = min(np.int64(level[i]), levels.longest)
            if planned or not has_state:
                packets.state[i].same_gap = STANDS
            side = np.int64(packets.direction[i])
            interarrival_ns[i], level[i] = next_interarrival(
                (seed, k, side, now), np.int64(level[i]), packets.state[i].same_gap, times, levels
            )
            now += interarrival_ns[i]
            ts_ns[i] = now
            note_time(times, side, now)


@numba.njit(cache=True)
def interarrival_of(seed, position, level, level_starts):
    """Return the time before a flow's packet of a position, drawn from the span of its level."""
    first = level_starts[level]
    return first + draw_below(seed, FOR_TIME, 2 * position, level_starts[level + 1] - first)


@numba.njit(cache=True)
def begin_times(times):
    """Forget what the sides sent."""
    times.last_ns[:] = -1
    times.gap_ns[:] = 0


@numba.njit(cache=True)
def note_time(times, side, now_ns):
    """Note that a side sends a packet."""
    if times.last_ns[side] >= 0:
        times.gap_ns[side] = now_ns - times.last_ns[side]
    times.last_ns[side] = now_ns


@numba.njit(cache=True)
def next_interarrival(packet, level, repeats, times, levels):
    """Return the time since the flow's packet before, in nanoseconds, and its level.

    A time that happens to repeat the side's gap but shall not is moved to an end of its span; if
    that repeats it too, it is moved like one that shall, so that a second repair gives the same.

    Args:
        packet: seed of its flow, position, side, and when the flow's packet before was sent.
        level: drawn.
        repeats: NO_REPEAT, REPEATS or STANDS.
        times: of the sides.
        levels: of the label.
    """
    seed, position, side, now_ns = packet
    drawn_ns = interarrival_of(seed, position, level, levels.starts)
    gap_ns = times.gap_ns[side]
    if repeats == STANDS or gap_ns == 0:
        return drawn_ns, level
    waited_ns = now_ns - times.last_ns[side]
    wanted_ns = gap_ns - waited_ns
    first_ns, last_ns = levels.starts[level], levels.starts[level + 1] - 1
    if repeats == NO_REPEAT:
        if not is_same_gap(waited_ns + drawn_ns, gap_ns):
            return drawn_ns, level
        for end_ns in (first_ns, last_ns):
            if not is_same_gap(waited_ns + end_ns, gap_ns):
                return end_ns, level
    nearest_ns = max(min(wanted_ns, last_ns), first_ns)
    if is_same_gap(waited_ns + nearest_ns, gap_ns):
        return nearest_ns, level
    if 0 < wanted_ns < levels.starts[levels.longest + 1]:
        return wanted_ns, np.int64(level_of(wanted_ns))
    return drawn_ns, level
