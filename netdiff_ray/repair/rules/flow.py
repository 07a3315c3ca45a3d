"""Rules of the whole flow: who sends each packet, whether a handshake opens it, and when.

Shape letters: N flows, P packets.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ACK,
    DPORT,
    ICMP_TYPE,
    RST,
    SPORT,
    SYN,
    TCP_FLAGS,
    TCP_OPT,
    distance,
    get16,
)
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import MOST_LEVEL, level_of, nanoseconds_of
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.splitmix import FOR_TIME, draw, draw_below

_MSS_OPTION = 0x0204


def _level_starts() -> np.ndarray:
    """(257,) int64: the shortest time of each level, and the end of the last."""
    starts = nanoseconds_of(np.arange(257), 0.0)
    for level in range(1, 256):
        while level_of(starts[level]) < level:
            starts[level] += 1
        while level_of(starts[level] - 1) == level:
            starts[level] -= 1
    starts[0] = 1  # times grow strictly, so that no time is 0
    return starts


LEVEL_STARTS = _level_starts()

_MIDDLE, _SPREAD = 96.0, 28.0
DEFAULT_INTERARRIVAL = tuple(np.exp(-0.5 * ((np.arange(256) - _MIDDLE) / _SPREAD) ** 2))
"""Weights of levels where a label gives none: log-normal, its median about 4 ms."""


def direction(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle who sends: as drawn, else from the ports or ICMP types.

    A layout without direction draws both ports of every packet, and they say who sent it.
    Directions sampled beside them would swap the ports of half the packets that the model drew
    right, and charge it for them; so none are. Where the ports are the same the client sends
    everything, and a flow without ports has replies where its types are.

    In a flow that a handshake opens the first three packets are the client's, the server's,
    the client's (RFC 9293 section 3.5).
    """
    if not layout.needs_flow:
        _direction_from_headers(
            batch.flow_starts, batch.protocol, batch.rows["transport"],
            np.array(context.server_ports, np.int64), batch.direction,
        )  # fmt: skip
    _opening(
        batch.flow_starts, batch.protocol, batch.rows["transport"], batch.option_bytes,
        batch.direction, batch.opens,
    )  # fmt: skip


@numba.njit(cache=True)
def _direction_from_headers(flow_starts, protocol, transport, server_ports, direction):
    requests, replies = (8, 13, 128), (0, 14, 129)
    waiting = np.empty(3, np.int64)
    for f in range(len(protocol)):
        begin = flow_starts[f]
        if protocol[f] in (6, 17):
            apart = 0
            for i in range(begin, flow_starts[f + 1]):
                apart += distance(get16(transport, i, SPORT), get16(transport, i, DPORT))
            if apart <= flow_starts[f + 1] - begin:
                direction[begin : flow_starts[f + 1]] = 0  # ports that do not tell sides apart
                continue
            client = get16(transport, begin, SPORT)
            server = get16(transport, begin, DPORT)
            to_server, to_client = 17, 17
            for port in server_ports:
                to_server = min(to_server, distance(server, port))
                to_client = min(to_client, distance(client, port))
            if to_client < to_server:
                client, server = server, client
            for i in range(begin, flow_starts[f + 1]):
                sport = get16(transport, i, SPORT)
                dport = get16(transport, i, DPORT)
                from_client = distance(sport, client) + distance(dport, server)
                from_server = distance(sport, server) + distance(dport, client)
                direction[i] = from_server < from_client
        else:
            waiting[:] = 0
            for i in range(begin, flow_starts[f + 1]):
                kind = np.int64(transport[i, ICMP_TYPE])
                direction[i] = 0
                for k in range(3):
                    if (requests[k] == 128) == (protocol[f] == 58):
                        if kind == replies[k] and waiting[k]:
                            direction[i] = 1
                            waiting[k] -= 1
                        waiting[k] += kind == requests[k]


@numba.njit(cache=True)
def _opening(flow_starts, protocol, transport, option_bytes, direction, opens):
    """Whether each flow opens: by the votes of the first two rows' SYN bits, of the first's
    missing ACK bit and of the MSS options that only a SYN carries."""
    for f in range(len(protocol)):
        opens[f] = False
        if protocol[f] != 6:
            continue
        begin = flow_starts[f]
        num_packets = flow_starts[f + 1] - begin
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
        if opens[f]:
            for k in range(min(num_packets, 3)):
                direction[begin + k] = k == 1


@numba.njit(cache=True)
def _has_mss(transport, i, option_bytes):
    return option_bytes[i] >= 4 and distance(get16(transport, i, TCP_OPT), _MSS_OPTION) <= 3


def time(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Times that grow strictly, each inside the span of its drawn level, or of the longest that the
    label is known to have: a silence of another order would end the flow.

    A layout without times draws the levels from the label's weights; the first packet's
    is then 0.
    """
    weights = np.asarray(context.interarrival_weights or DEFAULT_INTERARRIVAL, np.float64)
    longest = np.flatnonzero(weights)[-1]
    cumulative = np.cumsum(weights)
    ends = (cumulative / cumulative[-1] * 2.0**53).astype(np.int64)
    _time(
        batch.flow_starts, batch.seed, not layout.needs_flow, ends, longest, LEVEL_STARTS,
        batch.level, batch.interarrival_ns, batch.rows["ts_ns"], context.start_ts_ns,
    )  # fmt: skip


@numba.njit(cache=True)
def _time(
    flow_starts, seed, sampled, ends, longest, level_starts, level, interarrival_ns, ts_ns, start
):
    for f in range(len(seed)):
        begin = flow_starts[f]
        now = start
        for i in range(begin, flow_starts[f + 1]):
            k = i - begin
            if sampled:
                level[i] = 0
                if k:
                    at = np.int64(draw(seed[f], FOR_TIME, 2 * k + 1) >> np.uint64(11))
                    level[i] = min(np.searchsorted(ends, at, "right"), MOST_LEVEL)
            level[i] = min(np.int64(level[i]), longest)
            first = level_starts[level[i]]
            span = level_starts[np.int64(level[i]) + 1] - first
            interarrival_ns[i] = first + draw_below(seed[f], FOR_TIME, 2 * k, span)
            now += interarrival_ns[i]
            ts_ns[i] = now
