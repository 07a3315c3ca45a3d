"""Segments that have nothing to say: what each side of a flow could acknowledge, by what was drawn.

A segment without data, SYN, FIN or RST acknowledges something: of real ones 199 of 200 do.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.flow_state import AGAIN, COUNT_STARTS, DUPLICATE
from netdiff_ray.header_bytes import (
    ACK,
    FIN,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_HEADER_BYTES,
    IPV4_TL,
    IPV6_LEN,
    RST,
    SYN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    UDP_HEADER_BYTES,
    UDP_LEN,
    get16,
)

HANDSHAKE_PACKETS = 3


class FlowSpan(NamedTuple):
    """One flow of a batch."""

    begin: int
    """Its first packet."""
    end: int
    """The packet after its last."""
    seed: int
    version: int
    protocol: int
    opens: bool
    one_way: bool
    """Whether it is planned that only the client sends."""
    first_side_known: bool
    """Whether it is planned who sends first."""
    has_state: bool
    """Whether it is a TCP flow of which it is drawn what packets do, as in PACKET_STATE."""


class DrawnPacket(NamedTuple):
    """What was drawn of a packet."""

    side: int
    length: int
    """Of the IP header's length field."""
    header_bytes: int
    """Bytes that the IP header's length counts before the payload."""
    udp_length: int
    """Of the UDP header, -1 without one."""
    flags: int
    """Of TCP, else 0."""


class Segment(NamedTuple):
    """What a TCP segment is, as far as it is settled."""

    side: int
    flags: int
    payload_bytes: int


class Said(NamedTuple):
    """What the sides of a flow have said so far, each (2,) int64."""

    waiting: np.ndarray
    """Segments of the other side that a side has not acknowledged."""
    last_bytes: np.ndarray
    """Payload of a side's last packet."""
    last_data: np.ndarray
    """That of its last packet with data, 0 before."""


@numba.njit(cache=True)
def begin_said(said):
    """Forget what the sides said."""
    said.waiting[:] = 0
    said.last_bytes[:] = 0
    said.last_data[:] = 0


@numba.njit(cache=True)
def drawn_packet(flow, i, packets):
    """Return what was drawn of packet `i`, a DrawnPacket."""
    transport = packets.rows["transport"]
    length = get16(packets.rows["network"], i, IPV4_TL if flow.version == 4 else IPV6_LEN)
    header_bytes = IPV4_HEADER_BYTES if flow.version == 4 else 0
    udp_length, flags = np.int64(-1), np.int64(0)
    if flow.protocol == IPPROTO_TCP:
        header_bytes += TCP_HEADER_BYTES + np.int64(packets.option_bytes[i])
        flags = np.int64(transport[i, TCP_FLAGS])
    else:
        header_bytes += UDP_HEADER_BYTES  # as many as of ICMP
        if flow.protocol == IPPROTO_UDP:
            udp_length = get16(transport, i, UDP_LEN)
    return DrawnPacket(np.int64(packets.direction[i]), length, header_bytes, udp_length, flags)


@numba.njit(cache=True)
def settled_segment(flow, i, packets):
    """Return the Segment that packet `i` is, with the profile's payload, else as drawn."""
    payload_bytes = np.int64(packets.profile_payload[i])
    if payload_bytes < 0:
        drawn = drawn_packet(flow, i, packets)
        payload_bytes = max(drawn.length - drawn.header_bytes, np.int64(0))
    flags = np.int64(packets.rows["transport"][i, TCP_FLAGS])
    return Segment(np.int64(packets.direction[i]), flags, payload_bytes)


@numba.njit(cache=True)
def is_idle(segment, state, waiting):
    """Return whether a segment without SYN, FIN or RST goes on in order, repeats no
    acknowledgement, and has none of the other side's segments to acknowledge; it has nothing to
    say unless it has data.

    Args:
        state: PACKET_STATE as drawn.
        waiting: of Said.
    """
    goes_on = state.sequence != AGAIN and state.acknowledged != DUPLICATE
    return goes_on and not segment.flags & (SYN | FIN | RST) and waiting[segment.side] == 0


@numba.njit(cache=True)
def note_segment(segment, state, waiting):
    """Follow in `waiting` what a segment sends, also once more, and acknowledges."""
    side = segment.side
    sends = segment.payload_bytes > 0 or segment.flags & (SYN | FIN) != 0
    if segment.flags & ACK:
        level = np.int64(state.acknowledged)
        count = COUNT_STARTS[level - 2] if level > DUPLICATE else np.int64(not sends)
        waiting[side] = max(waiting[side] - count, 0)
    waiting[1 - side] += sends


@numba.njit(cache=True)
def follows_all(flow):
    """Return whether all that a flow's segments acknowledge is in the flow."""
    return flow.has_state and flow.opens and not flow.one_way


@numba.njit(cache=True)
def turn_if_idle(flow, i, packets, waiting):
    """Let the other side send packet `i`, a segment without data that `is_idle`, if it has
    something to acknowledge."""
    segment = settled_segment(flow, i, packets)
    may_turn = follows_all(flow) and i >= flow.begin + HANDSHAKE_PACKETS
    says_nothing = segment.payload_bytes == 0 and is_idle(segment, packets.state[i], waiting)
    if may_turn and says_nothing and waiting[1 - segment.side]:
        packets.direction[i] = 1 - segment.side


@numba.njit(cache=True)
def pass_packet(flow, i, packets, said):
    """Follow packet `i` in `said`; all of it is settled but which side it is sent by if it is
    idle."""
    if flow.has_state:
        turn_if_idle(flow, i, packets, said.waiting)
        segment = settled_segment(flow, i, packets)
        note_segment(segment, packets.state[i], said.waiting)
        said.last_bytes[segment.side] = segment.payload_bytes
        if segment.payload_bytes:
            said.last_data[segment.side] = segment.payload_bytes
