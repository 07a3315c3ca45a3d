"""What each packet does in its flow, beside what its headers hold.

A TCP segment sends on in order, sends again what was sent, or leaves a hole before it; and it
acknowledges some of the other side's segments, none, or the same bytes once more. Any packet may be
as long as, may advertise the window of, or may come as long after, its side's packet before.

Shape letters: P packets, F flows.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ACK,
    FIN,
    IPPROTO_TCP,
    IPV4_HL,
    IPV4_TL,
    IPV6_LEN,
    IPV6_NH,
    RST,
    SYN,
    TCP_ACKN,
    TCP_DOFF,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_SEQ,
    TCP_WSIZE,
    get16,
    get32,
)

PACKET_STATE = np.dtype(
    [
        ("sequence", "u1"),
        ("acknowledged", "u1"),
        ("same_length", "u1"),
        ("same_window", "u1"),
        ("same_gap", "u1"),
    ]
)
"""What a packet does: `sequence`, one of IN_ORDER, AGAIN and AFTER_HOLE; `acknowledged`, a level of
segments newly acknowledged (see `ack_level`); whether it has as many bytes of payload as its side's
packet before, the same window in its header, and the same time since the packet before that (within
an eighth). Of protocols other than TCP the first two and the window are 0."""

IN_ORDER, AGAIN, AFTER_HOLE = 0, 1, 2
"""A segment that begins where its side's numbers end, or says nothing of them; that begins before
(a retransmission, what fills a hole, a keep-alive); that begins behind."""

NO_NEWS, DUPLICATE = 0, 1
"""Levels of a segment that acknowledges nothing new; DUPLICATE: it has nothing else either, and
its window stands (RFC 5681 section 2)."""
COUNT_STARTS = np.array([1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97], np.int64)
"""The least number of segments of each level from 2 on."""
NUM_ACK_LEVELS = 2 + len(COUNT_STARTS)

_TOLERANCE = 8
"""Times are the same if they differ by at most this part of the longer."""
_RING = 2048
"""Ends of segments that are remembered of a side while they are not acknowledged."""
_HALF_32 = 1 << 31

FLOW_STATE = np.dtype(
    [
        ("now_ns", "i8"),
        ("num_sent", "i8", (2,)),
        ("next_seq", "i8", (2,)),
        ("acked", "i8", (2,)),
        ("length", "i8", (2,)),
        ("window", "i8", (2,)),
        ("last_ns", "i8", (2,)),
        ("gap_ns", "i8", (2,)),
        ("first_end", "i8", (2,)),
        ("num_ends", "i8", (2,)),
        ("ends", "u4", (2 * _RING,)),
        ("has_seq", "u1", (2,)),
        ("has_acked", "u1", (2,)),
    ]
)
"""Where a flow stands after some of its packets, by side: next sequence number and last
acknowledgement (each if known), length, window and time of the last packet and the time before
it, and a ring of the ends of segments that the other side has not acknowledged. All 0 before the
first packet."""


class _Columns(NamedTuple):
    """Columns of P rows, and what is known of them besides."""

    network: np.ndarray
    transport: np.ndarray
    transport_len: np.ndarray
    version: np.ndarray
    protocol: np.ndarray
    direction: np.ndarray
    interarrival_ns: np.ndarray


def packet_states(
    rows: np.ndarray, direction: np.ndarray, interarrival_ns: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """Return what the packets of whole flows do, (P,) PACKET_STATE.

    Args:
        rows: (P,) HEADER_ROW, flow after flow.
        direction: (P,) uint8, 0 from the client and 1 to it.
        interarrival_ns: (P,) int64, time since the flow's packet before.
        first: (F + 1,) int64 first packet of each flow, and P.
    """
    states, slots = np.zeros(1, FLOW_STATE), np.full(len(first) - 1, -1)
    return follow_flows(rows, direction, interarrival_ns, first, slots, states)


def follow_flows(
    rows: np.ndarray,
    direction: np.ndarray,
    interarrival_ns: np.ndarray,
    first: np.ndarray,
    slots: np.ndarray,
    states: np.ndarray,
) -> np.ndarray:
    """Return what packets do, as `packet_states`, of flows that go on.

    Args:
        rows, direction, interarrival_ns, first: as there.
        slots: (F,) int64, which of `states` is the flow's; -1 for flows without earlier and later
            packets.
        states: (S,) FLOW_STATE before the packets; brought up to date.
    """
    columns = _Columns(
        *(rows[n] for n in ("network", "transport", "transport_len", "version", "protocol")),
        direction, interarrival_ns,
    )  # fmt: skip
    done = np.zeros(len(rows), PACKET_STATE)
    _follow(columns, np.asarray(first, np.int64), slots, states, np.zeros(1, FLOW_STATE), done)
    return done


@numba.njit(cache=True)
def ack_level(num_segments):
    """Return the level of a number of segments that are newly acknowledged, 0 for none."""
    if num_segments <= 0:
        return NO_NEWS
    return 1 + np.searchsorted(COUNT_STARTS, num_segments, "right")


@numba.njit(cache=True)
def is_same_gap(gap_ns, before_ns):
    """Return whether two times are the same but for an eighth of the longer."""
    longer = max(gap_ns, before_ns)
    return before_ns > 0 and _TOLERANCE * abs(gap_ns - before_ns) <= longer


@numba.njit(cache=True)
def payload_bytes(network, transport, version, i):
    """Return the bytes of payload of the TCP segment of row `i`, by its headers; of an unknown
    length, as behind IPv6 extension headers, counts as 0."""
    segment_bytes = np.int64(0)
    if version == 4:
        header_bytes = np.int64(network[i, IPV4_HL] & 15) * 4
        segment_bytes = get16(network, i, IPV4_TL) - header_bytes
    elif network[i, IPV6_NH] == IPPROTO_TCP:
        segment_bytes = get16(network, i, IPV6_LEN)
    return max(segment_bytes - np.int64(transport[i, TCP_DOFF] >> 4) * 4, 0)


@numba.njit(cache=True)
def _follow(columns, first, slots, states, scratch, done):
    """Fill `done`; `scratch` is (1,) FLOW_STATE."""
    for f in range(len(first) - 1):
        if slots[f] < 0:
            scratch[0].now_ns = 0
            for side in range(2):
                scratch[0].num_sent[side] = 0
                scratch[0].gap_ns[side] = 0
                scratch[0].num_ends[side] = 0
                scratch[0].has_seq[side] = False
                scratch[0].has_acked[side] = False
            state = scratch[0]
        else:
            state = states[slots[f]]
        for i in range(first[f], first[f + 1]):
            _follow_packet(columns, i, state, done[i])


@numba.njit(cache=True)
def _follow_packet(columns, i, state, done):
    """Note what packet `i` does, in `done`, and where its flow stands after it."""
    network, transport, version = columns.network, columns.transport, columns.version[i]
    side = np.int64(columns.direction[i])
    is_tcp = columns.protocol[i] == IPPROTO_TCP and columns.transport_len[i] >= TCP_HEADER_BYTES
    state.now_ns += columns.interarrival_ns[i]
    goes_on = state.num_sent[side] > 0
    length = get16(network, i, IPV4_TL if version == 4 else IPV6_LEN)
    if is_tcp:
        length = payload_bytes(network, transport, version, i)
        window = get16(transport, i, TCP_WSIZE)
        done.same_window = goes_on and window == state.window[side]
        state.window[side] = window
        done.sequence = _follow_sequence(transport, i, side, length, state)
        done.acknowledged = _follow_ack(transport, i, side, length, state, done)
    done.same_length = goes_on and length == state.length[side]
    state.length[side] = length
    if goes_on:
        gap_ns = state.now_ns - state.last_ns[side]
        done.same_gap = is_same_gap(gap_ns, state.gap_ns[side])
        state.gap_ns[side] = gap_ns
    state.last_ns[side] = state.now_ns
    state.num_sent[side] += 1


@numba.njit(cache=True)
def _ahead(number, other):
    """Return how far a 32-bit number lies ahead of another, negative if behind."""
    return (number - other + _HALF_32) % (1 << 32) - _HALF_32


@numba.njit(cache=True)
def _follow_sequence(transport, i, side, length, state):
    """Return IN_ORDER, AGAIN or AFTER_HOLE for the segment of row `i`, with `length` bytes."""
    flags = transport[i, TCP_FLAGS]
    seq = get32(transport, i, TCP_SEQ)
    if flags & RST:
        return IN_ORDER
    space = length + (flags & SYN != 0) + (flags & FIN != 0)
    if not state.has_seq[side]:
        state.has_seq[side] = True
        state.next_seq[side] = seq
    ahead = _ahead(seq, state.next_seq[side])
    if space == 0:
        return AGAIN if ahead == -1 else IN_ORDER
    if ahead > 0:
        _remember_end(state, side, seq)
    if ahead + space > 0:
        state.next_seq[side] = (seq + space) % (1 << 32)
        _remember_end(state, side, state.next_seq[side])
    if ahead < 0:
        return AGAIN
    return AFTER_HOLE if ahead else IN_ORDER


@numba.njit(cache=True)
def _remember_end(state, side, end):
    """Add the end of a segment to the ring of its side; the oldest gives way."""
    if state.num_ends[side] == _RING:
        state.num_ends[side] -= 1
        state.first_end[side] += 1
    at = (state.first_end[side] + state.num_ends[side]) % _RING
    state.ends[side * _RING + at] = end
    state.num_ends[side] += 1


@numba.njit(cache=True)
def _follow_ack(transport, i, side, length, state, done):
    """Return the level of what the segment of row `i` acknowledges."""
    flags = transport[i, TCP_FLAGS]
    if not flags & ACK:
        return NO_NEWS
    ack = get32(transport, i, TCP_ACKN)
    plain = length == 0 and not flags & (SYN | FIN | RST)
    is_known = state.has_acked[side]
    ahead = _ahead(ack, state.acked[side]) if is_known else np.int64(plain)
    if is_known and ahead < 0:
        return NO_NEWS
    state.has_acked[side] = True
    state.acked[side] = ack
    count = _forget_ends(state, 1 - side, ack)
    if ahead > 0 or count:
        return ack_level(max(count, 1))
    repeats = plain and done.same_window and done.sequence == IN_ORDER
    return DUPLICATE if repeats else NO_NEWS


@numba.njit(cache=True)
def _forget_ends(state, side, ack):
    """Remove the ends of segments of a side up to `ack`; return how many."""
    count = 0
    while state.num_ends[side]:
        at = state.first_end[side] % _RING
        if _ahead(np.int64(state.ends[side * _RING + at]), ack) > 0:
            break
        state.first_end[side] += 1
        state.num_ends[side] -= 1
        count += 1
    return count
