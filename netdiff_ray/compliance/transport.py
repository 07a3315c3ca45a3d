"""Rules of single TCP segments, UDP datagrams and ICMP messages.

Each function judges one packet: it writes what flow rules need into the packet and records
faults with `packet.fault`.
"""

import struct

import dpkt

from netdiff_ray.compliance.protocol_numbers import (
    ACK,
    EXPERIMENTAL_OPTIONS,
    FAST_OPEN,
    FAST_OPEN_MAGIC,
    FIN,
    ICMP_CHECKSUM,
    ICMP_CODES,
    ICMP_ERRORS,
    ICMP_HEADER_BYTES,
    ICMP_QUOTED_BYTES,
    ICMPV6_CODES,
    ICMPV6_ERRORS,
    IPPROTO_ICMPV6,
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    MAX_IP_BYTES,
    MAX_WINDOW_SCALE,
    MSS,
    NEIGHBOUR_DISCOVERY,
    NEIGHBOUR_HOP_LIMIT,
    OPTION_BYTES,
    OPTION_END,
    OPTION_NOP,
    RST,
    SACK,
    SACK_PERMITTED,
    SYN,
    TCP_CHECKSUM,
    TCP_DATA_OFFSET,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TIMESTAMPS,
    UDP_CHECKSUM,
    UDP_HEADER_BYTES,
    URG,
    WINDOW_SCALE,
)

HALF = 1 << 31


def _pseudo(packet, length: int) -> int:
    """Return the sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1), unfolded."""
    addresses = int.from_bytes(packet.source, "big") + int.from_bytes(packet.target, "big")
    return addresses % 0xFFFF + packet.protocol + length


def _checksum(packet, rule: str, segment: bytes, at: int, length: int, pseudo: bool) -> None:
    """Judge the checksum at `at` of a whole segment."""
    checksum = int.from_bytes(segment[at : at + 2], "big")
    total = int.from_bytes(segment + b"\0" * (len(segment) & 1), "big")
    head = _pseudo(packet, length) if pseudo else 0
    if (total + head) % 0xFFFF == 0:
        return
    # A host that leaves the sum to its network card writes the pseudo header's, with the
    # length of the segment or, for cards that cut segments themselves, without.
    if pseudo and checksum % 0xFFFF in (head % 0xFFFF, (head - length) % 0xFFFF):
        packet.unjudged.append((rule, "offloaded"))
    else:
        packet.fault(rule, f"{checksum:#06x}")


def _judge_checksum(packet, rule, segment, at, length, fragment, pseudo=True) -> None:
    if fragment:
        packet.unjudged.append((rule, "fragment"))
    elif len(segment) < length:
        packet.unjudged.append((rule, "cut"))
    else:
        _checksum(packet, rule, segment, at, length, pseudo)


def judge_udp(packet, segment: bytes, segment_bytes: int, fragment: bool) -> None:
    """Judge a UDP datagram (RFC 768)."""
    if len(segment) < UDP_HEADER_BYTES:
        if segment_bytes < UDP_HEADER_BYTES:
            packet.fault("udp_length", f"{segment_bytes} bytes are left for the header")
        return
    packet.sport, packet.dport, length, checksum = struct.unpack(
        ">HHHH", segment[:UDP_HEADER_BYTES]
    )
    packet.payload_bytes = max(0, length - UDP_HEADER_BYTES)
    packet.whole = True
    if not packet.dport:
        packet.fault("port_zero")
    if not length and segment_bytes > MAX_IP_BYTES:  # RFC 2675; segments left to the network card
        packet.unjudged.append(("udp_length", "offloaded"))
        return
    if length != segment_bytes and not (fragment and length > segment_bytes):
        packet.fault("udp_length", f"{length} where IP leaves {segment_bytes}")
        return
    if checksum:
        _judge_checksum(packet, "udp_checksum", segment, UDP_CHECKSUM, length, fragment)
    elif packet.version == 4:
        packet.unjudged.append(("udp_checksum", "absent"))
    else:
        packet.fault("udp_checksum", "0 under IPv6")


def judge_icmp(packet, segment: bytes, segment_bytes: int, fragment: bool) -> None:
    """Judge an ICMP (RFC 792) or ICMPv6 (RFC 4443) message."""
    six = packet.protocol == IPPROTO_ICMPV6
    name = "icmpv6" if six else "icmp"
    if len(segment) < ICMP_HEADER_BYTES:
        if segment_bytes < ICMP_HEADER_BYTES:
            packet.fault(f"{name}_length", f"{segment_bytes} bytes are left for the header")
        return
    kind, code, _, identifier, sequence = struct.unpack(">BBHHH", segment[:ICMP_HEADER_BYTES])
    highest = (ICMPV6_CODES if six else ICMP_CODES).get(kind)
    if highest is None or code > highest:
        packet.fault(f"{name}_type", f"type {kind} code {code}")
    is_error = kind in (ICMPV6_ERRORS if six else ICMP_ERRORS)
    quoted = IPV6_HEADER_BYTES if six else IPV4_HEADER_BYTES + ICMP_QUOTED_BYTES
    if is_error and segment_bytes < ICMP_HEADER_BYTES + quoted:
        packet.fault(f"{name}_length", f"an error of {segment_bytes} bytes")
    if six and kind in NEIGHBOUR_DISCOVERY and packet.ttl != NEIGHBOUR_HOP_LIMIT:
        packet.fault("icmpv6_hop_limit", f"{packet.ttl}")
    packet.flags, packet.payload_bytes = kind, segment_bytes - ICMP_HEADER_BYTES
    packet.seq, packet.ack = sequence, identifier
    packet.whole = True
    _judge_checksum(
        packet, f"{name}_checksum", segment, ICMP_CHECKSUM, segment_bytes, fragment, six
    )


def judge_tcp_segment(packet, parsed, segment: bytes, segment_bytes: int, fragment: bool) -> None:
    """Judge a TCP segment by itself (RFC 9293); `parsed` is dpkt's, if dpkt could parse it."""
    if len(segment) < TCP_HEADER_BYTES:
        if segment_bytes < TCP_HEADER_BYTES:
            packet.fault("tcp_header_length", f"{segment_bytes} bytes are left for the header")
        return
    header_bytes = (segment[TCP_DATA_OFFSET] >> 4) * 4
    if header_bytes > segment_bytes or not isinstance(parsed, dpkt.tcp.TCP):
        packet.sport, packet.dport = struct.unpack(">HH", segment[:4])
        packet.fault("tcp_header_length", f"{header_bytes} bytes of {segment_bytes}")
        return
    packet.sport, packet.dport, packet.seq, packet.ack = (
        parsed.sport, parsed.dport, parsed.seq, parsed.ack
    )  # fmt: skip
    packet.flags, packet.window = parsed.flags, parsed.win
    packet.payload_bytes = segment_bytes - header_bytes
    packet.whole = not fragment
    if not (packet.sport and packet.dport):
        packet.fault("port_zero")
    reserved = segment[TCP_DATA_OFFSET] >> 1 & 7
    if reserved:
        packet.fault("tcp_reserved", f"{reserved:03b}")
    if header_bytes > TCP_HEADER_BYTES and len(segment) >= header_bytes:
        _judge_options(packet, segment[TCP_HEADER_BYTES:header_bytes])
    _judge_flags(packet, parsed.urp)
    _judge_checksum(packet, "tcp_checksum", segment, TCP_CHECKSUM, segment_bytes, fragment)


def _judge_flags(packet, urgent_pointer: int) -> None:
    flags = packet.flags
    if not flags & TCP_FLAGS:
        packet.fault("tcp_flags_none")
    elif not flags & (SYN | RST | ACK):
        packet.fault("tcp_ack_flag", f"flags {flags & TCP_FLAGS:#04x}")
    if flags & SYN:
        if flags & FIN:
            packet.fault("tcp_syn_fin")
        if flags & RST:
            packet.fault("tcp_syn_rst")
        if packet.payload_bytes and not fast_open(packet.options):
            packet.fault("tcp_syn_data", f"{packet.payload_bytes} bytes")
    if flags & FIN and flags & RST:
        packet.fault("tcp_fin_rst")
    if urgent_pointer and not flags & URG:
        packet.fault("tcp_urgent", f"{urgent_pointer}")
    if packet.ack and not flags & ACK:
        packet.fault("tcp_ack_field", f"{packet.ack}")


def fast_open(options: dict[int, bytes]) -> bool:
    """Return whether the options hold Fast Open, under its kind or an experimental one."""
    return FAST_OPEN in options or any(
        options.get(kind, b"")[:2] == FAST_OPEN_MAGIC for kind in EXPERIMENTAL_OPTIONS
    )


def _judge_options(packet, area: bytes) -> None:
    """Judge the option area of a segment and write its options into the packet."""
    at = 0
    twice = None
    while at < len(area):
        kind = area[at]
        if kind == OPTION_END:
            if area[at:].strip(b"\0"):
                packet.fault("tcp_padding", area[at:].hex())
            break
        if kind == OPTION_NOP:
            at += 1
            continue
        length = area[at + 1] if at + 1 < len(area) else 0
        wrong = length != OPTION_BYTES.get(kind, length) or (
            kind == SACK and (length < 10 or length % 8 != 2)
        )
        if length < 2 or at + length > len(area) or wrong:
            space = len(area) - at
            packet.fault("tcp_options", f"kind {kind} says {length} bytes in a slot of {space}")
            return
        if kind in packet.options and kind in (MSS, WINDOW_SCALE, SACK_PERMITTED, SACK, TIMESTAMPS):
            twice = kind
        packet.options[kind] = area[at + 2 : at + length]
        at += length
    if twice is not None:
        packet.fault("tcp_option_twice", f"kind {twice}")
    if packet.options:
        _judge_option_values(packet)


def _judge_option_values(packet) -> None:
    options, syn = packet.options, packet.flags & SYN
    misplaced = [
        k for k in ((SACK,) if syn else (MSS, WINDOW_SCALE, SACK_PERMITTED)) if k in options
    ]
    if misplaced:
        packet.fault("tcp_option_on_syn", f"kind {misplaced[0]}")
    if options.get(MSS) == b"\0\0" or options.get(WINDOW_SCALE, b"\0")[0] > MAX_WINDOW_SCALE:
        packet.fault("tcp_option_values", "MSS 0" if options.get(MSS) == b"\0\0" else "scale > 14")
    if syn and not packet.flags & ACK and options.get(TIMESTAMPS, bytes(8))[4:] != bytes(4):
        packet.fault("tcp_syn_echo", options[TIMESTAMPS][4:].hex())
    if SACK in options:
        edges = struct.unpack(f">{len(options[SACK]) // 4}I", options[SACK])
        for block, (left, right) in enumerate(zip(edges[::2], edges[1::2], strict=True)):
            empty = not 0 < (right - left) % (1 << 32) < HALF
            below = block and (left - packet.ack) % (1 << 32) >= HALF
            if empty or below:
                packet.fault("tcp_sack_blocks", f"{left} to {right}")
                break
