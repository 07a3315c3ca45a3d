"""Rules of length: one payload length a packet, and every length field says it.

Shape letters: N flows, P packets.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ICMP_TYPE,
    IPV4_TL,
    IPV6_LEN,
    RST,
    SYN,
    TCP_FLAGS,
    UDP_LEN,
    cleared_from_top,
    distance,
    get16,
    put16,
)
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.frames import (
    MQTT,
    TCP_KIND,
    TCP_SHORTEST,
    TLS,
    UDP_KIND,
    UDP_SHORTEST,
    framed_length,
    message_length,
)
from netdiff_ray.repair.rules.tcp_options import HAS_WSCALE, parse, values

MOST_WINDOW = 65_534
"""What a receiver may need to advertise, before scaling; the one above it stays free so
that two windows in a row can differ."""
DEFAULT_MSS_IPV4, DEFAULT_MSS_IPV6 = 536, 1220
"""Where a SYN has none (RFC 9293 section 3.7.1)."""
UNKNOWN_SCALE = 14
"""Scale of a flow whose handshake is not seen: the largest there is (RFC 7323 section 2.3)."""


def lengths(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """The payload of each packet, and the lengths in the IP and UDP headers.

    As the label's profile has it, else as drawn. TCP: what the IP length leaves after the
    headers, none with SYN or RST (RFC 9293 section 3.5), never more in flight than the
    receiver's largest window (section 3.8.6), and no segment larger than the receiver's MSS
    less the options (section 3.7.1), where the label's are not. UDP (RFC 768): of the IP and the
    UDP length, the one that costs fewer bits. A packet too long has the highest bits of its
    length cleared. Framed payloads are as long as their frames need.
    """
    keeps_mss = bool(context.profile.mss) and not context.profile.oversized
    _lengths(
        batch.flow_starts, batch.version, batch.protocol, batch.opens, batch.server_port,
        batch.direction, batch.option_bytes, batch.known_payload, batch.rows["network"],
        batch.rows["transport"], batch.rows["transport_len"], batch.rows["wirelen"],
        batch.payload_bytes, context.most_packet_bytes, keeps_mss, context.payload == "framed",
        TCP_KIND, TCP_SHORTEST, UDP_KIND, UDP_SHORTEST,
    )  # fmt: skip


@numba.njit(cache=True)
def scales(begin, end, opens, transport, transport_len, scale):
    """Fill `scale` (2,): what each side's windows are shifted by after the handshake."""
    scale[:] = UNKNOWN_SCALE
    if not opens:
        return
    scale[:] = 0
    if end < begin + 2 or not transport[begin + 1, TCP_FLAGS] & SYN:
        return
    asked, asked_at, _ = parse(transport, begin, np.int64(transport_len[begin]) - 20)
    got, got_at, _ = parse(transport, begin + 1, np.int64(transport_len[begin + 1]) - 20)
    if asked & got & HAS_WSCALE:
        scale[0] = transport[begin, asked_at + 2]
        scale[1] = transport[begin + 1, got_at + 2]


@numba.njit(cache=True)
def _segments(begin, end, version, transport, transport_len, segment):
    """Fill `segment` (2,): the MSS that each side's segments may have, which the other names."""
    for k in range(min(2, end - begin)):
        mss = 0
        if transport[begin + k, TCP_FLAGS] & SYN:
            mss, _ = values(transport, begin + k, np.int64(transport_len[begin + k]) - 20)
        segment[1 - k] = mss if mss else DEFAULT_MSS_IPV4 if version == 4 else DEFAULT_MSS_IPV6


@numba.njit(cache=True)
def _lengths(
    flow_starts, version, protocol, opens, server_port, direction, option_bytes, known_payload,
    network, transport, transport_len, wirelen, payload_bytes, most, keeps_mss, framed, tcp_kind,
    tcp_shortest, udp_kind, udp_shortest,
):  # fmt: skip
    scale = np.empty(2, np.int64)
    room = np.empty(2, np.int64)
    segment = np.empty(2, np.int64)
    least = 0
    for f in range(len(version)):
        begin, end = flow_starts[f], flow_starts[f + 1]
        ip_bytes = 20 if version[f] == 4 else 40
        port = server_port[f]
        if protocol[f] == 6:
            scales(begin, end, opens[f], transport, transport_len, scale)
            room[:] = 1 << 30
            segment[:] = most
            if keeps_mss and opens[f]:
                _segments(begin, end, version[f], transport, transport_len, segment)
            least = tcp_shortest[port] if framed else 0
        for i in range(begin, end):
            if version[f] == 4:
                whole = cleared_from_top(get16(network, i, IPV4_TL), most)
            else:
                whole = cleared_from_top(get16(network, i, IPV6_LEN), most - 40) + 40
            header = np.int64(transport_len[i])
            payload = max(whole - ip_bytes - header, 0)
            if protocol[f] == 6:
                payload = max(whole - ip_bytes - 20 - np.int64(option_bytes[i]), 0)
                if known_payload[i] >= 0:
                    payload = known_payload[i]
                payload = min(
                    payload, most - ip_bytes - header, segment[direction[i]] + 20 - header
                )
                flags = transport[i, TCP_FLAGS]
                if flags & (SYN | RST):
                    payload = 0
                side = direction[i]
                if payload:
                    payload = max(payload, least)
                if payload > room[side]:
                    payload = room[side] if room[side] > least else 0
                if payload and tcp_kind[port] in (TLS, MQTT):
                    least = 0
                room[side] -= payload
                room[1 - side] = (MOST_WINDOW << (0 if flags & SYN else scale[side])) - 3
            elif protocol[f] == 17:
                claimed = max(get16(transport, i, UDP_LEN), 8)
                claimed = cleared_from_top(claimed, most - ip_bytes)
                said = max(whole - ip_bytes, 8)
                extra = ip_bytes if version[f] == 4 else 0
                apart = distance(get16(network, i, IPV4_TL if version[f] == 4 else IPV6_LEN),
                                 claimed + extra)  # fmt: skip
                other = distance(get16(transport, i, UDP_LEN), said)
                payload = (claimed if apart < other else said) - 8
                if known_payload[i] >= 0:
                    payload = min(known_payload[i], most - ip_bytes - 8)
                if framed:
                    payload = framed_length(udp_kind[port], udp_shortest[port], payload)
            elif known_payload[i] >= 0:
                payload = min(known_payload[i], most - ip_bytes - header)
            if framed and protocol[f] in (1, 58):
                payload = message_length(version[f], transport[i, ICMP_TYPE], payload)
            payload_bytes[i] = payload
            whole = ip_bytes + header + payload
            wirelen[i] = whole
            if version[f] == 4:
                put16(network, i, IPV4_TL, whole)
            else:
                put16(network, i, IPV6_LEN, whole - 40)
            if protocol[f] == 17:
                put16(transport, i, UDP_LEN, payload + 8)
