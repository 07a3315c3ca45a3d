"""Packets with the packet rules judged, parsed by dpkt alone.

`judge_record` peels the link layer, has dpkt parse what IP carries, and names each packet rule
that is broken. What cannot be judged is said too: a checksum is `cut` where the snap length took
part of what it covers, `offloaded` where the capturing host left it to its network card,
`fragment` in a fragment, `absent` in a UDP header without one.
"""

import struct
from dataclasses import dataclass, field

import dpkt

from netdiff_ray.compliance.read import Record
from netdiff_ray.compliance.transport import judge_icmp, judge_tcp_segment, judge_udp

IP4, IP6 = 0x0800, 0x86DD
VLAN_TYPES = (0x8100, 0x88A8, 0x9100, 0x9200)
MPLS_TYPES = (0x8847, 0x8848)
PPPOE_SESSION = 0x8864
PPP_TYPES = {0x21: IP4, 0x57: IP6}
NO_NEXT_HEADER = 59
CHECKSUMS = ("tcp_checksum", "udp_checksum")
LINK_RAW = (12, 14, 101, 228, 229)
LOOPBACK_IP6 = (10, 24, 28, 30)
PLAUSIBLE_NS = (631_152_000 * 10**9, 4_102_444_800 * 10**9)
"""1990 and 2100."""
DPKT_FAULTS = (dpkt.Error, IndexError, struct.error, ValueError, KeyError)
KINDS = {4: {6: "TCP", 17: "UDP", 1: "ICMP"}, 6: {6: "TCP", 17: "UDP", 58: "ICMPv6"}}


@dataclass(slots=True)
class Packet:
    """One IP packet: what flow rules read, and what is wrong with it (rule name, detail)."""

    number: int
    ts_ns: int
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

    def fault(self, rule: str, detail: str = "") -> None:
        """Note that a rule is broken."""
        self.faults.append((rule, detail))


def judge_record(record: Record) -> Packet | None:
    """The packet of a record with its broken packet rules, None where it holds no IP."""
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
    if not PLAUSIBLE_NS[0] <= record.ts_ns < PLAUSIBLE_NS[1]:
        packet.fault("time_plausible", f"{record.ts_ns / 1e9:.0f} s since 1970")
    if record.link_type == 1 and record.data[6] & 1:
        packet.fault("ether_source", record.data[6:12].hex(":"))
    body = record.data[offset:]
    wire_bytes = max(record.wire_bytes, len(record.data)) - offset
    if not body:
        return None
    version = body[0] >> 4
    if version not in (4, 6) or ether_type not in (0, IP4 if version == 4 else IP6):
        packet.fault("ip_version", f"{version} under EtherType {ether_type:#06x}")
        return packet
    packet.version = version
    judge = _judge_ip4 if version == 4 else _judge_ip6
    total = judge(packet, body, wire_bytes)
    if total is not None and record.link_type == 1:
        spare = wire_bytes - total
        if spare > max(0, 64 - offset - total):
            packet.fault("ether_trailer", f"{spare} bytes")
    return packet


def _peel(link_type: int, data: bytes) -> tuple[int, int] | None:
    """(EtherType or 0 for whatever the version says, offset) of the IP header, or None."""
    if link_type == 1:
        return _ethernet(data, 12)
    if link_type in LINK_RAW:
        return 0, 0
    if link_type == 113:
        return _ethernet(data, 14)
    if link_type == 276:
        ether_type = dpkt.sll2.SLL2(data).ethtype
        return (ether_type, 20) if ether_type in (IP4, IP6) else None
    if link_type in (0, 108):
        (family,) = struct.unpack("<I" if link_type == 0 and data[0] else ">I", data[:4])
        ether_type = {2: IP4}.get(family, IP6 if family in LOOPBACK_IP6 else None)
        return None if ether_type is None else (ether_type, 4)
    if link_type == 9:
        skip = 2 if data[:2] == b"\xff\x03" else 0
        return _ppp(data, skip)
    if link_type == 104:
        (ether_type,) = struct.unpack(">H", data[2:4])
        return (ether_type, 4) if ether_type in (IP4, IP6) else None
    return None


def _ppp(data: bytes, offset: int) -> tuple[int, int] | None:
    wide = not data[offset] & 1
    protocol = int.from_bytes(data[offset : offset + 1 + wide], "big")
    ether_type = PPP_TYPES.get(protocol)
    return None if ether_type is None else (ether_type, offset + 1 + wide)


def _ethernet(data: bytes, at: int) -> tuple[int, int] | None:
    (ether_type,) = struct.unpack_from(">H", data, at)
    at += 2
    while ether_type in VLAN_TYPES:
        ether_type = dpkt.ethernet.VLANtag8021Q(data[at:]).type
        at += 4
    if ether_type in MPLS_TYPES:
        while not dpkt.ethernet.MPLSlabel(data[at:]).s:
            at += 4
        at += 4
        return {4: (IP4, at), 6: (IP6, at)}.get(data[at] >> 4)
    if ether_type == PPPOE_SESSION:
        return _ppp(data, at + 6)
    return (ether_type, at) if ether_type in (IP4, IP6) else None


def _judge_ip4(packet: Packet, body: bytes, wire_bytes: int) -> int | None:
    """The total length of an IPv4 packet after judging it; None if its header cannot be read."""
    header_bytes = (body[0] & 15) * 4
    if len(body) < 20:
        if wire_bytes < 20:
            packet.fault("ipv4_header_length", f"{wire_bytes} bytes are left for the header")
        return None
    total = int.from_bytes(body[2:4], "big")
    if header_bytes < 20 or header_bytes > wire_bytes:
        packet.fault("ipv4_header_length", f"{header_bytes} bytes of {wire_bytes}")
        return None
    offloaded = total == 0
    if offloaded:  # Segmentation left to the network card: the frame tells the length.
        total = wire_bytes
        packet.unjudged.append(("ipv4_total_length", "offloaded"))
    if total < header_bytes or total > wire_bytes:
        packet.fault("ipv4_total_length", f"{total} bytes of {wire_bytes} on the wire")
        if total < header_bytes:
            return None
    try:
        ip = dpkt.ip.IP(body)
    except DPKT_FAULTS as error:
        packet.fault("ipv4_header_length", str(error))
        return None
    packet.source, packet.target = ip.src, ip.dst
    packet.ttl, packet.protocol, packet.identification = ip.ttl, ip.p, ip.id
    if ip.rf:
        packet.fault("ipv4_reserved_flag")
    if ip.df and (ip.mf or ip.offset):
        packet.fault("ipv4_df_fragment")
    if not ip.ttl:
        packet.fault("ip_ttl_zero")
    if header_bytes > len(body):
        packet.unjudged.append(("ipv4_checksum", "cut"))
        return total
    if header_bytes > 20:
        _judge_ip4_options(packet, body[20:header_bytes])
    fragment = bool(ip.mf or ip.offset)
    packet.atomic = bool(ip.df) or fragment
    if total <= wire_bytes:  # Else where the segment ends is not known.
        _judge_transport(
            packet,
            ip.data,
            body[header_bytes:total],
            total - header_bytes,
            ip.offset,
            fragment,
        )
    if int.from_bytes(body[:header_bytes], "big") % 0xFFFF:
        # A host that leaves the header to its network card leaves the transport to it too.
        left = {"offloaded", "cut"}.intersection(s for r, s in packet.unjudged if r in CHECKSUMS)
        if ip.sum == 0 and left:
            packet.unjudged.append(("ipv4_checksum", "offloaded"))
        else:
            packet.fault("ipv4_checksum", f"{ip.sum:#06x}")
    return total


def _judge_ip4_options(packet: Packet, options: bytes) -> None:
    at = 0
    while at < len(options) and options[at]:
        if options[at] == 1:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            packet.fault("ipv4_options", f"kind {options[at]} with length {length}")
            return
        at += length


def _judge_ip6(packet: Packet, body: bytes, wire_bytes: int) -> int | None:
    """The length of an IPv6 packet after judging it; None if its headers cannot be read."""
    if len(body) < 40:
        if wire_bytes < 40:
            packet.fault("ipv6_payload_length", f"{wire_bytes} bytes are left for the header")
        return None
    total = 40 + int.from_bytes(body[4:6], "big")
    if total == 40 and body[6] != NO_NEXT_HEADER:
        total = wire_bytes
        packet.unjudged.append(("ipv6_payload_length", "offloaded"))
    if total > wire_bytes:
        packet.fault("ipv6_payload_length", f"{total - 40} bytes of {wire_bytes - 40} on the wire")
    try:
        ip = dpkt.ip6.IP6(body)
    except DPKT_FAULTS as error:
        if len(body) >= total:
            packet.fault("ipv6_extension", str(error))
        return None
    packet.source, packet.target = ip.src, ip.dst
    packet.ttl, packet.protocol = ip.hlim, getattr(ip, "p", NO_NEXT_HEADER)
    if not ip.hlim:
        packet.fault("ip_ttl_zero")
    used = 40 + sum(extension.length for extension in ip.all_extension_headers)
    if used > total:
        packet.fault("ipv6_extension", f"{used} bytes of headers in {total}")
        return total
    if total > wire_bytes:  # Where the segment ends is not known.
        return total
    piece = ip.extension_hdrs.get(44)
    offset = piece.frag_off if piece else 0
    fragment = bool(piece and (offset or piece.m_flag))
    _judge_transport(packet, ip.data, body[used:total], total - used, offset, fragment)
    return total


def _judge_transport(packet: Packet, parsed, segment: bytes, segment_bytes: int,
                     offset: int, fragment: bool) -> None:  # fmt: skip
    """Judge what IP carries: `segment` as captured, of `segment_bytes` on the wire."""
    if offset or packet.protocol not in KINDS[packet.version]:
        return
    packet.kind = KINDS[packet.version][packet.protocol]
    if packet.kind == "TCP":
        judge_tcp_segment(packet, parsed, segment, segment_bytes, fragment)
    elif packet.kind == "UDP":
        judge_udp(packet, segment, segment_bytes, fragment)
    else:
        judge_icmp(packet, segment, segment_bytes, fragment)
