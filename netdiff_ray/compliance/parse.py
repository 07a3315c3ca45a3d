"""Packets with the packet rules judged, parsed by dpkt alone.

`judge_record` peels the link layer, has dpkt parse what IP carries, and names each packet rule
that is broken. What cannot be judged is said too: a checksum is `cut` where the snap length took
part of what it covers, `offloaded` where the capturing host left it to its network card,
`fragment` in a fragment, `absent` in a UDP header without one.
"""

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dpkt

from netdiff_ray.compliance.protocol_numbers import (
    AF_INET,
    AF_INET6,
    ETHERTYPE_BYTES,
    ETHERTYPE_IP,
    ETHERTYPE_IPV6,
    ETHERTYPE_PPPOE_SESSION,
    ETHERTYPES_MPLS,
    ETHERTYPES_VLAN,
    HDLC_HEADER_BYTES,
    IPPROTO_FRAGMENT,
    IPPROTO_NONE,
    IPV4_HEADER_BYTES,
    IPV4_OPTION_END,
    IPV4_OPTION_NOP,
    IPV4_TOTAL_LENGTH,
    IPV6_HEADER_BYTES,
    IPV6_NEXT_HEADER,
    IPV6_PAYLOAD_LENGTH,
    LINKTYPE_C_HDLC,
    LINKTYPE_ETHERNET,
    LINKTYPE_LINUX_SLL,
    LINKTYPE_LINUX_SLL2,
    LINKTYPE_LOOP,
    LINKTYPE_NULL,
    LINKTYPE_PPP,
    LINKTYPES_RAW,
    LOOPBACK_HEADER_BYTES,
    MAC_BYTES,
    MAC_GROUP_BIT,
    MIN_FRAME_BYTES,
    MPLS_LABEL_BYTES,
    PPP_ADDRESS_CONTROL,
    PPP_IP,
    PPP_IPV6,
    PPPOE_HEADER_BYTES,
    SLL2_HEADER_BYTES,
    SLL_ADDRESS_BYTES,
    TRANSPORTS,
    VLAN_TAG_BYTES,
)
from netdiff_ray.compliance.read import Record
from netdiff_ray.compliance.transport import judge_icmp, judge_tcp_segment, judge_udp

if TYPE_CHECKING:
    from netdiff_ray.compliance.flows import Flow

ANY_ETHERTYPE = 0
IP_ETHERTYPES = (ETHERTYPE_IP, ETHERTYPE_IPV6)
VERSION_ETHERTYPES = {4: ETHERTYPE_IP, 6: ETHERTYPE_IPV6}
PPP_ETHERTYPES = {PPP_IP: ETHERTYPE_IP, PPP_IPV6: ETHERTYPE_IPV6}
TRANSPORT_CHECKSUMS = ("tcp_checksum", "udp_checksum")
TIME_RULES = ("time_backwards", "time_order", "time_plausible")
PLAUSIBLE_NS = (631_152_000 * 10**9, 4_102_444_800 * 10**9)
"""1990 and 2100."""
DPKT_FAULTS = (dpkt.Error, IndexError, struct.error, ValueError, KeyError)

Peeled = tuple[int, int] | None
"""(EtherType, or ANY_ETHERTYPE where the version decides, offset) of an IP header, or None."""


@dataclass(slots=True)
class Packet:
    """An IP packet: what flow rules read, and the faults in it as (rule name, detail)."""

    number: int
    ts_ns: int | None
    version: int = 0
    protocol: int = 0
    source: bytes = b""
    target: bytes = b""
    ttl: int = 0
    identification: int | None = None
    atomic: bool = True
    kind: str = ""
    sport: int = 0
    dport: int = 0
    payload_bytes: int = 0
    seq: int = 0
    ack: int = 0
    flags: int = 0
    window: int = 0
    options: dict[int, bytes] = field(default_factory=dict)
    whole: bool = False
    unjudged: list[tuple[str, str]] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)

    flow: "Flow | None" = None
    """The flow that it belongs to, once it is judged there; `position` in its run begins at 1."""
    position: int = 0
    counted: bool = False

    def fault(self, rule: str, detail: str = "") -> None:
        """Record that a rule is broken; count it at once if the packet has been counted."""
        if any(name == rule for name, _ in self.faults):
            return
        self.faults.append((rule, detail))
        if self.counted:
            self.flow.count_late(self.flow, self, rule, detail)


def judge_record(record: Record) -> Packet | None:
    """Return the packet of a record with its broken packet rules, None if it holds no IP."""
    try:
        peeled = _peel(record.link_type, record.data)
    except DPKT_FAULTS:
        return None
    if peeled is None:
        return None
    ether_type, offset = peeled
    packet = Packet(record.number, record.ts_ns)
    if len(record.data) > record.wire_bytes:
        packet.fault("frame_length", f"{len(record.data)} captured of {record.wire_bytes}")
    if record.ts_ns is None:
        packet.unjudged += [(rule, "untimed") for rule in TIME_RULES]
    elif not PLAUSIBLE_NS[0] <= record.ts_ns < PLAUSIBLE_NS[1]:
        packet.fault("time_plausible", f"{record.ts_ns / 1e9:.0f} s since 1970")
    source_mac = record.data[MAC_BYTES : 2 * MAC_BYTES]
    if record.link_type == LINKTYPE_ETHERNET and source_mac[0] & MAC_GROUP_BIT:
        packet.fault("ether_source", source_mac.hex(":"))
    body = record.data[offset:]
    wire_bytes = max(record.wire_bytes, len(record.data)) - offset
    if not body:
        return None
    version = body[0] >> 4
    if ether_type not in (ANY_ETHERTYPE, VERSION_ETHERTYPES.get(version)) or version not in (4, 6):
        packet.fault("ip_version", f"{version} under EtherType {ether_type:#06x}")
        return packet
    packet.version = version
    judge = _judge_ip4 if version == 4 else _judge_ip6
    total = judge(packet, body, wire_bytes)
    if total is not None and record.link_type == LINKTYPE_ETHERNET:
        spare = wire_bytes - total
        if spare > max(0, MIN_FRAME_BYTES - offset - total):
            packet.fault("ether_trailer", f"{spare} bytes")
    return packet


def _peel(link_type: int, data: bytes) -> Peeled:
    """Return where the IP header of a frame begins, and the EtherType it stands under."""
    if link_type in LINKTYPES_RAW:
        return ANY_ETHERTYPE, 0
    peel = LINK_LAYERS.get(link_type)
    return peel(data) if peel else None


def _peel_ethernet(data: bytes) -> Peeled:
    return _peel_ether_type(data, 2 * MAC_BYTES)


def _peel_sll(data: bytes) -> Peeled:
    return _peel_ether_type(data, SLL_ADDRESS_BYTES)


def _peel_sll2(data: bytes) -> Peeled:
    ether_type = dpkt.sll2.SLL2(data).ethtype
    return (ether_type, SLL2_HEADER_BYTES) if ether_type in IP_ETHERTYPES else None


def _peel_null(data: bytes) -> Peeled:
    """Peel a loopback header in the byte order of the capturing host."""
    return _peel_family(data, "<I" if data[0] else ">I")


def _peel_loop(data: bytes) -> Peeled:
    return _peel_family(data, ">I")


def _peel_family(data: bytes, form: str) -> Peeled:
    (family,) = struct.unpack(form, data[:LOOPBACK_HEADER_BYTES])
    if family == AF_INET:
        return ETHERTYPE_IP, LOOPBACK_HEADER_BYTES
    return (ETHERTYPE_IPV6, LOOPBACK_HEADER_BYTES) if family in AF_INET6 else None


def _peel_ppp(data: bytes) -> Peeled:
    has_address = data.startswith(PPP_ADDRESS_CONTROL)
    return _peel_ppp_protocol(data, len(PPP_ADDRESS_CONTROL) if has_address else 0)


def _peel_hdlc(data: bytes) -> Peeled:
    (ether_type,) = struct.unpack(
        ">H", data[HDLC_HEADER_BYTES - ETHERTYPE_BYTES : HDLC_HEADER_BYTES]
    )
    return (ether_type, HDLC_HEADER_BYTES) if ether_type in IP_ETHERTYPES else None


LINK_LAYERS = {
    LINKTYPE_ETHERNET: _peel_ethernet,
    LINKTYPE_LINUX_SLL: _peel_sll,
    LINKTYPE_LINUX_SLL2: _peel_sll2,
    LINKTYPE_NULL: _peel_null,
    LINKTYPE_LOOP: _peel_loop,
    LINKTYPE_PPP: _peel_ppp,
    LINKTYPE_C_HDLC: _peel_hdlc,
}


def _peel_ppp_protocol(data: bytes, offset: int) -> Peeled:
    """Peel a PPP protocol number of one byte, if its lowest bit is set, or two."""
    size = 1 if data[offset] & 1 else 2
    protocol = int.from_bytes(data[offset : offset + size], "big")
    ether_type = PPP_ETHERTYPES.get(protocol)
    return None if ether_type is None else (ether_type, offset + size)


def _peel_ether_type(data: bytes, at: int) -> Peeled:
    """Peel an EtherType with the VLAN tags, MPLS labels or PPPoE header that follow it."""
    (ether_type,) = struct.unpack_from(">H", data, at)
    at += ETHERTYPE_BYTES
    while ether_type in ETHERTYPES_VLAN:
        ether_type = dpkt.ethernet.VLANtag8021Q(data[at:]).type
        at += VLAN_TAG_BYTES
    if ether_type in ETHERTYPES_MPLS:
        while not dpkt.ethernet.MPLSlabel(data[at:]).s:
            at += MPLS_LABEL_BYTES
        at += MPLS_LABEL_BYTES
        version = data[at] >> 4
        return (VERSION_ETHERTYPES[version], at) if version in VERSION_ETHERTYPES else None
    if ether_type == ETHERTYPE_PPPOE_SESSION:
        return _peel_ppp_protocol(data, at + PPPOE_HEADER_BYTES)
    return (ether_type, at) if ether_type in IP_ETHERTYPES else None


def _judge_ip4(packet: Packet, body: bytes, wire_bytes: int) -> int | None:
    """Judge an IPv4 packet and return its length; None if its header cannot be read."""
    lengths = _judge_ip4_lengths(packet, body, wire_bytes)
    if lengths is None:
        return None
    header_bytes, total = lengths
    try:
        ip = dpkt.ip.IP(body)
    except DPKT_FAULTS as error:
        packet.fault("ipv4_header_length", str(error))
        return None
    packet.source, packet.target = ip.src, ip.dst
    packet.ttl, packet.protocol, packet.identification = ip.ttl, ip.p, ip.id
    if ip.rf:
        packet.fault("ipv4_reserved_flag")
    fragment = bool(ip.mf or ip.offset)
    if ip.df and fragment:
        packet.fault("ipv4_df_fragment")
    if not ip.ttl:
        packet.fault("ip_ttl_zero")
    if header_bytes > len(body):
        packet.unjudged.append(("ipv4_checksum", "cut"))
        return total
    if header_bytes > IPV4_HEADER_BYTES:
        _judge_ip4_options(packet, body[IPV4_HEADER_BYTES:header_bytes])
    packet.atomic = bool(ip.df) or fragment
    if total <= wire_bytes:  # Else where the segment ends is not known.
        segment = body[header_bytes:total]
        _judge_transport(packet, ip.data, segment, total - header_bytes, ip.offset, fragment)
    _judge_ip4_checksum(packet, body[:header_bytes], ip.sum)
    return total


def _judge_ip4_lengths(packet: Packet, body: bytes, wire_bytes: int) -> tuple[int, int] | None:
    """Judge the lengths of an IPv4 header; return header and total length in bytes."""
    header_bytes = (body[0] & 15) * 4
    if len(body) < IPV4_HEADER_BYTES:
        if wire_bytes < IPV4_HEADER_BYTES:
            packet.fault("ipv4_header_length", f"{wire_bytes} bytes are left for the header")
        return None
    total = int.from_bytes(body[IPV4_TOTAL_LENGTH], "big")
    if header_bytes < IPV4_HEADER_BYTES or header_bytes > wire_bytes:
        packet.fault("ipv4_header_length", f"{header_bytes} bytes of {wire_bytes}")
        return None
    if total == 0:  # Segmentation left to the network card: the frame gives the length.
        total = wire_bytes
        packet.unjudged.append(("ipv4_total_length", "offloaded"))
    if total < header_bytes or total > wire_bytes:
        packet.fault("ipv4_total_length", f"{total} bytes of {wire_bytes} on the wire")
    return None if total < header_bytes else (header_bytes, total)


def _judge_ip4_checksum(packet: Packet, header: bytes, checksum: int) -> None:
    if int.from_bytes(header, "big") % 0xFFFF == 0:
        return
    # A host that leaves the header to its network card leaves the transport to it too.
    states = {state for rule, state in packet.unjudged if rule in TRANSPORT_CHECKSUMS}
    if checksum == 0 and states & {"offloaded", "cut"}:
        packet.unjudged.append(("ipv4_checksum", "offloaded"))
    else:
        packet.fault("ipv4_checksum", f"{checksum:#06x}")


def _judge_ip4_options(packet: Packet, options: bytes) -> None:
    at = 0
    while at < len(options) and options[at] != IPV4_OPTION_END:
        if options[at] == IPV4_OPTION_NOP:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            packet.fault("ipv4_options", f"kind {options[at]} with length {length}")
            return
        at += length


def _judge_ip6(packet: Packet, body: bytes, wire_bytes: int) -> int | None:
    """Judge an IPv6 packet and return its length; None if its headers cannot be read."""
    if len(body) < IPV6_HEADER_BYTES:
        if wire_bytes < IPV6_HEADER_BYTES:
            packet.fault("ipv6_payload_length", f"{wire_bytes} bytes are left for the header")
        return None
    total = IPV6_HEADER_BYTES + int.from_bytes(body[IPV6_PAYLOAD_LENGTH], "big")
    if total == IPV6_HEADER_BYTES and body[IPV6_NEXT_HEADER] != IPPROTO_NONE:
        total = wire_bytes
        packet.unjudged.append(("ipv6_payload_length", "offloaded"))
    if total > wire_bytes:
        payload, left = total - IPV6_HEADER_BYTES, wire_bytes - IPV6_HEADER_BYTES
        packet.fault("ipv6_payload_length", f"{payload} bytes of {left} on the wire")
    try:
        ip = dpkt.ip6.IP6(body)
    except DPKT_FAULTS as error:
        if len(body) >= total:
            packet.fault("ipv6_extension", str(error))
        return None
    packet.source, packet.target = ip.src, ip.dst
    packet.ttl, packet.protocol = ip.hlim, getattr(ip, "p", IPPROTO_NONE)
    if not ip.hlim:
        packet.fault("ip_ttl_zero")
    used = IPV6_HEADER_BYTES + sum(extension.length for extension in ip.all_extension_headers)
    if used > total:
        packet.fault("ipv6_extension", f"{used} bytes of headers in {total}")
    elif total <= wire_bytes:  # Else where the segment ends is not known.
        piece = ip.extension_hdrs.get(IPPROTO_FRAGMENT)
        offset = piece.frag_off if piece else 0
        fragment = bool(piece and (offset or piece.m_flag))
        _judge_transport(packet, ip.data, body[used:total], total - used, offset, fragment)
    return total


def _judge_transport(packet: Packet, parsed, segment: bytes, segment_bytes: int,
                     offset: int, fragment: bool) -> None:  # fmt: skip
    """Judge what IP carries: `segment` as captured, of `segment_bytes` on the wire."""
    kind = TRANSPORTS[packet.version].get(packet.protocol)
    if offset or kind is None:
        return
    packet.kind = kind
    if kind == "TCP":
        judge_tcp_segment(packet, parsed, segment, segment_bytes, fragment)
    elif kind == "UDP":
        judge_udp(packet, segment, segment_bytes, fragment)
    else:
        judge_icmp(packet, segment, segment_bytes, fragment)
