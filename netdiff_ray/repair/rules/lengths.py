"""Rules of length: each packet's payload length, and the length fields that follow from it.

Shape letters: N flows, P packets, K kinds.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.dialogue import KINDS, OPAQUE_KINDS
from netdiff_ray.flow_state import AFTER_HOLE
from netdiff_ray.header_bytes import (
    ICMP_TYPE,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_HEADER_BYTES,
    IPV4_TL,
    IPV6_HEADER_BYTES,
    IPV6_LEN,
    RST,
    SYN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    UDP_HEADER_BYTES,
    UDP_LEN,
    cleared_from_top,
    distance,
    get16,
    put16,
)
from netdiff_ray.labels.profile import ENDING_PACKETS, OPENING_PACKETS, SUPPRESSED, Profile
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.fillers import FILLERS
from netdiff_ray.repair.rules.icmp import message_length
from netdiff_ray.repair.rules.tcp_options import HAS_WSCALE, parse, values
from netdiff_ray.repair.rules.tcp_segments import settle_loss, settle_segments
from netdiff_ray.repair.splitmix import FOR_PAYLOAD_LENGTH, draw_below

MOST_WINDOW = 65_534
"""Largest window that a receiver may need to advertise, before scaling; the value above it
stays free so that two windows in a row can differ."""
DEFAULT_MSS_IPV4, DEFAULT_MSS_IPV6 = 536, 1220
"""For a SYN without an MSS option (RFC 9293 section 3.7.1)."""
_USUAL_SEGMENT = 1460
"""Bytes that may be missing in a hole before a side has sent larger segments."""
UNKNOWN_SCALE = 14
"""Scale of a flow captured after its handshake: the largest valid (RFC 7323 section 2.3)."""


class _Limits(NamedTuple):
    """What bounds lengths, for the kernels."""

    most_packet_bytes: int
    """The longest IP packet."""
    keeps_mss: bool
    """Whether segments keep to the receiver's MSS."""
    has_meaning: bool
    """Whether payloads are messages, which have shortest lengths."""
    datagrams: np.ndarray
    """(D, 2) int64: side and bytes of the label's UDP payloads, in place of empty ones; D is 0 if
    the label has empty ones or none is known."""
    least_datagram: int
    """Fewest bytes of a UDP payload: 1, or 0 if the label has empty ones or none at all."""
    has_state: bool
    """Whether it is drawn which lengths repeat, and which segments are sent again."""
    knows_payloads: bool
    """Whether the label's profile has payloads, with which openings and endings agree."""


class _Least(NamedTuple):
    """Fewest bytes of payloads that are messages; each int64 unless said."""

    tcp: np.ndarray
    """(K,) of a connection's first segment with payload, by kind."""
    udp: np.ndarray
    """(K,) of a datagram."""
    udp_opening: np.ndarray
    """(K,) of the client's first datagram, where the kind is planned."""
    tcp_filler: np.ndarray
    """(65536,) of a segment, by port."""
    udp_filler: np.ndarray
    """(65536,) of a datagram of an opaque flow."""
    is_opaque: np.ndarray
    """(K,) bool: whether a kind has no dialogue."""


_LEAST = _Least(
    np.array([kind.tcp_least for kind in KINDS]), np.array([kind.udp_least for kind in KINDS]),
    np.array([kind.udp_opening for kind in KINDS]), FILLERS.tcp_shortest, FILLERS.udp_shortest,
    np.array([kind.name in OPAQUE_KINDS for kind in KINDS]),
)  # fmt: skip


def lengths(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle the payload of each packet, and the lengths in the IP and UDP headers.

    Payloads are as chosen from the label's profile, else as drawn. TCP: what the IP length leaves
    after the headers, none with SYN or RST (RFC 9293 section 3.5), never more in flight than the
    receiver's largest window (section 3.8.6), and no segment larger than the receiver's MSS
    less the options (section 3.7.1), unless the label has such. UDP (RFC 768): of the IP and the
    UDP length, the one whose choice changes fewer bits, and not empty unless the label has empty
    datagrams. Of a length that is too long the highest bits are cleared. Dialogues begin with at
    least what their kind needs, as all their datagrams have. Where the kind is planned, the
    client's first datagram has what opens it (RFC 9000 section 14.1), as such of the label.
    Segments, and datagrams of opaque flows, have what readers of the port accept.

    A packet that is drawn as long as its side's packet before is; in a flow's opening and ending,
    as the profile has them, its length stands. For segments that are sent again see
    `settle_segments` and `settle_loss`.
    """
    keeps_mss = bool(context.profile.mss) and not context.profile.oversized
    has_meaning = context.payload == "dialogue"
    sizes = [row.payload_bytes for row in context.profile.payloads if row.transport == IPPROTO_UDP]
    limits = _Limits(
        context.most_packet_bytes, keeps_mss, has_meaning, _datagrams(context.profile),
        int(bool(sizes) and 0 not in sizes), layout.has_state, bool(context.profile.payloads),
    )  # fmt: skip
    _lengths(batch.flows, batch.packets, limits, _LEAST, batch.plans)


def _datagrams(profile: Profile) -> np.ndarray:
    """Return (D, 2) int64, as in _Limits."""
    known = sorted(
        {
            (row.side, row.payload_bytes)
            for row in profile.payloads
            if row.transport == IPPROTO_UDP and row.payload_bytes != SUPPRESSED
        }
    )
    if (0, 0) in known or (1, 0) in known:
        known = []
    return np.array(known, np.int64).reshape(-1, 2)


@numba.njit(cache=True)
def scales(begin, end, opens, transport, transport_len, scale):
    """Fill `scale` (2,) with the shift of each side's windows after the handshake."""
    scale[:] = UNKNOWN_SCALE
    if not opens:
        return
    scale[:] = 0
    if end < begin + 2 or not transport[begin + 1, TCP_FLAGS] & SYN:
        return
    offered, at, _ = parse(transport, begin, np.int64(transport_len[begin]) - TCP_HEADER_BYTES)
    length = np.int64(transport_len[begin + 1]) - TCP_HEADER_BYTES
    answered, answered_at, _ = parse(transport, begin + 1, length)
    if offered & answered & HAS_WSCALE:
        scale[0] = transport[begin, at + 2]
        scale[1] = transport[begin + 1, answered_at + 2]


@numba.njit(cache=True)
def _segments(begin, end, version, transport, transport_len, segment):
    """Fill `segment` (2,) with the MSS of each side's segments, which the other side's SYN has."""
    for k in range(min(2, end - begin)):
        mss = 0
        if transport[begin + k, TCP_FLAGS] & SYN:
            length = np.int64(transport_len[begin + k]) - TCP_HEADER_BYTES
            mss, _ = values(transport, begin + k, length)
        segment[1 - k] = mss if mss else DEFAULT_MSS_IPV4 if version == 4 else DEFAULT_MSS_IPV6


@numba.njit(cache=True)
def _lengths(flows, packets, limits, least_bytes, plans):
    network = packets.rows["network"]
    transport_len, wirelen = packets.rows["transport_len"], packets.rows["wirelen"]
    for f in range(len(flows.seed)):
        begin, end = flows.starts[f], flows.starts[f + 1]
        if flows.protocol[f] == IPPROTO_TCP:
            _segment_payloads(flows, f, packets, limits, least_bytes, plans.loss[f])
        elif flows.protocol[f] == IPPROTO_UDP:
            _datagram_payloads(flows, f, packets, limits, least_bytes, plans.kind[f])
        else:
            _message_payloads(flows, f, packets, limits)
        is_udp = flows.protocol[f] == IPPROTO_UDP
        for i in range(begin, end):
            length = np.int64(transport_len[i]) + packets.payload_bytes[i]
            if flows.version[f] == 4:
                wirelen[i] = IPV4_HEADER_BYTES + length
                put16(network, i, IPV4_TL, IPV4_HEADER_BYTES + length)
            else:
                wirelen[i] = IPV6_HEADER_BYTES + length
                put16(network, i, IPV6_LEN, length)
            if is_udp:
                put16(packets.rows["transport"], i, UDP_LEN, length)


@numba.njit(cache=True)
def _repeats(flows, f, i, packets, limits):
    """Return whether packet `i` of flow `f` is as long as its side's packet before, if any."""
    if not limits.has_state or not packets.state[i].same_length:
        return False
    opening = i < flows.starts[f] + OPENING_PACKETS
    ending = flows.protocol[f] == IPPROTO_TCP and i >= flows.starts[f + 1] - ENDING_PACKETS
    return not (limits.knows_payloads and (opening or ending))


@numba.njit(cache=True)
def _drawn_length(network, i, version, most):
    """Return the bytes after the IP header that its length counts; with the header at most
    `most`."""
    if version == 4:
        return cleared_from_top(get16(network, i, IPV4_TL), most) - IPV4_HEADER_BYTES
    return cleared_from_top(get16(network, i, IPV6_LEN), most - IPV6_HEADER_BYTES)


@numba.njit(cache=True)
def _segment_payloads(flows, f, packets, limits, least_bytes, planned_loss):
    """Settle the payloads of a TCP flow."""
    network, transport = packets.rows["network"], packets.rows["transport"]
    transport_len = packets.rows["transport_len"]
    begin, end, version = flows.starts[f], flows.starts[f + 1], flows.version[f]
    most = limits.most_packet_bytes
    most -= IPV4_HEADER_BYTES if version == 4 else IPV6_HEADER_BYTES
    scale = np.empty(2, np.int64)
    room = np.full(2, 1 << 30)
    segment = np.full(2, limits.most_packet_bytes)
    scales(begin, end, flows.opens[f], transport, transport_len, scale)
    if limits.keeps_mss and flows.opens[f]:
        _segments(begin, end, version, transport, transport_len, segment)
    port = flows.server_port[f]
    kind = flows.kind[f]
    filler = least_bytes.tcp_filler[port] if limits.has_meaning else 0
    least = max(filler, least_bytes.tcp[kind]) if limits.has_meaning else 0
    before = np.full(2, -1)
    largest = np.full(2, _USUAL_SEGMENT)
    for i in range(begin, end):
        drawn = _drawn_length(network, i, version, limits.most_packet_bytes)
        options = np.int64(transport_len[i]) - TCP_HEADER_BYTES
        payload = max(drawn - TCP_HEADER_BYTES - np.int64(packets.option_bytes[i]), 0)
        if packets.profile_payload[i] >= 0:
            payload = packets.profile_payload[i]
        side = packets.direction[i]
        if before[side] >= 0 and _repeats(flows, f, i, packets, limits):
            payload = before[side]
        payload = min(payload, most - TCP_HEADER_BYTES - options, segment[side] - options)
        flags = transport[i, TCP_FLAGS]
        if flags & (SYN | RST):
            payload = 0
        if payload:
            payload = max(payload, least)
        if payload > room[side]:
            payload = room[side] if room[side] > least else 0
        if payload:
            least = filler  # what does not become a dialogue is filled too
        room[side] -= payload
        if limits.has_state and packets.state[i].sequence == AFTER_HOLE:
            packets.hole_bytes[i] = min(largest[side], room[side])
            room[side] -= packets.hole_bytes[i]
        room[1 - side] = (MOST_WINDOW << (0 if flags & SYN else scale[side])) - 3
        packets.payload_bytes[i] = payload
        before[side] = payload
        largest[side] = max(largest[side], payload)
    if limits.has_state:
        settle_segments(begin, end, packets)
        settle_loss(begin, end, packets, planned_loss, flows.seed[f])


@numba.njit(cache=True)
def _datagram_payloads(flows, f, packets, limits, least_bytes, planned_kind):
    """Settle the payloads of a UDP flow."""
    network, transport = packets.rows["network"], packets.rows["transport"]
    version, port, kind = flows.version[f], flows.server_port[f], flows.kind[f]
    ip_bytes = IPV4_HEADER_BYTES if version == 4 else IPV6_HEADER_BYTES
    counted = ip_bytes if version == 4 else 0
    most = limits.most_packet_bytes - ip_bytes
    is_planned = limits.has_meaning and planned_kind == kind
    opening = least_bytes.udp_opening[kind] if is_planned else 0
    before = np.full(2, -1)
    for i in range(flows.starts[f], flows.starts[f + 1]):
        by_udp = cleared_from_top(max(get16(transport, i, UDP_LEN), UDP_HEADER_BYTES), most)
        by_ip = _drawn_length(network, i, version, limits.most_packet_bytes)
        by_ip = max(by_ip, UDP_HEADER_BYTES)
        ip_length = get16(network, i, IPV4_TL if version == 4 else IPV6_LEN)
        apart = distance(ip_length, by_udp + counted)
        other = distance(get16(transport, i, UDP_LEN), by_ip)
        payload = (by_udp if apart < other else by_ip) - UDP_HEADER_BYTES
        if packets.profile_payload[i] >= 0:
            payload = min(packets.profile_payload[i], most - UDP_HEADER_BYTES)
        if payload == 0:
            payload = _nearest_datagram(limits.datagrams, packets.direction[i], transport, i)
            payload = min(max(payload, limits.least_datagram), most - UDP_HEADER_BYTES)
        if payload and limits.has_meaning:
            is_opaque = least_bytes.is_opaque[kind]
            least = least_bytes.udp_filler[port] if is_opaque else least_bytes.udp[kind]
            payload = max(payload, least)
        if opening and packets.direction[i] == 0:
            if payload < opening:
                payload = _opening_datagram(limits.datagrams, opening, flows.seed[f])
                payload = min(payload, most - UDP_HEADER_BYTES)
            opening = 0
        side = packets.direction[i]
        if before[side] >= 0 and _repeats(flows, f, i, packets, limits):
            payload = before[side]
        before[side] = payload
        packets.payload_bytes[i] = payload


@numba.njit(cache=True)
def _opening_datagram(datagrams, least, seed):
    """Return the payload of any of the client's datagrams of at least `least` bytes; that if there
    is none."""
    at = np.flatnonzero((datagrams[:, 0] == 0) & (datagrams[:, 1] >= least))
    if not len(at):
        return least
    return datagrams[at[np.int64(draw_below(seed, FOR_PAYLOAD_LENGTH, -1, len(at)))], 1]


@numba.njit(cache=True)
def _nearest_datagram(datagrams, side, transport, i):
    """Return the payload of a side's datagrams whose UDP length is nearest to the drawn one, 0 if
    none is known."""
    nearest, least = np.int64(0), 17
    for k in range(len(datagrams)):
        apart = distance(get16(transport, i, UDP_LEN), datagrams[k, 1] + UDP_HEADER_BYTES)
        if datagrams[k, 0] == side and apart < least:
            nearest, least = datagrams[k, 1], apart
    return nearest


@numba.njit(cache=True)
def _message_payloads(flows, f, packets, limits):
    """Settle the payloads of an ICMP or ICMPv6 flow."""
    network, transport = packets.rows["network"], packets.rows["transport"]
    version = flows.version[f]
    most = limits.most_packet_bytes
    most -= IPV4_HEADER_BYTES if version == 4 else IPV6_HEADER_BYTES
    before = np.full(2, -1)
    for i in range(flows.starts[f], flows.starts[f + 1]):
        header = np.int64(packets.rows["transport_len"][i])
        drawn = _drawn_length(network, i, version, limits.most_packet_bytes)
        payload = max(drawn - header, 0)
        if packets.profile_payload[i] >= 0:
            payload = min(packets.profile_payload[i], most - header)
        side = packets.direction[i]
        if before[side] >= 0 and _repeats(flows, f, i, packets, limits):
            payload = before[side]
        if limits.has_meaning:
            payload = message_length(version, transport[i, ICMP_TYPE], payload)
        before[side] = payload
        packets.payload_bytes[i] = payload
