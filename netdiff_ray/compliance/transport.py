"""Rules of single TCP segments, UDP datagrams and ICMP messages.

Each function judges one packet: it writes what flow rules need into the packet and names what
is broken with `packet.fault`.
"""

import struct

import dpkt

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
EOL, NOP, MSS, SCALE, SACK_OK, SACK, STAMP, FAST_OPEN = 0, 1, 2, 3, 4, 5, 8, 34
OPTION_BYTES = {MSS: 4, SCALE: 3, SACK_OK: 2, STAMP: 10}
FAST_OPEN_MAGIC = b"\xf9\x89"  # RFC 7413, 4.1.1, under the experimental kinds
HALF = 1 << 31

ICMP_CODES = {
    0: 0, 3: 15, 4: 0, 5: 3, 8: 0, 9: 16, 10: 0, 11: 1, 12: 2, 13: 0, 14: 0,
    15: 0, 16: 0, 17: 0, 18: 0, 30: 1, 40: 5, 42: 0, 43: 4,
}  # fmt: skip
"""Highest code of each ICMP type in use (IANA; RFC 792, 950, 1122, 1256, 1393, 8335)."""
ICMP_ERRORS = (3, 4, 5, 11, 12)
ICMPV6_CODES = {
    1: 8, 2: 0, 3: 1, 4: 10, 128: 0, 129: 0, 130: 0, 131: 0, 132: 0, 133: 0, 134: 0, 135: 0,
    136: 0, 137: 0, 138: 255, 139: 2, 140: 2, 141: 0, 142: 0, 143: 0, 144: 0, 145: 0, 146: 0,
    147: 0, 148: 0, 149: 0, 151: 0, 152: 0, 153: 0, 154: 255, 155: 255, 157: 255, 158: 255,
    159: 0, 160: 0, 161: 4,
}  # fmt: skip
"""Highest code of each ICMPv6 type in use (IANA; RFC 4443 and those that add types)."""


def _pseudo(packet, length: int) -> int:
    """The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1), unfolded."""
    addresses = int.from_bytes(packet.source, "big") + int.from_bytes(packet.target, "big")
    return addresses % 0xFFFF + packet.protocol + length


def _checksum(packet, rule: str, segment: bytes, at: int, length: int, pseudo: bool) -> None:
    """Judge the checksum at `at` of a whole segment."""
    found = int.from_bytes(segment[at : at + 2], "big")
    total = int.from_bytes(segment + b"\0" * (len(segment) & 1), "big")
    head = _pseudo(packet, length) if pseudo else 0
    if (total + head) % 0xFFFF == 0:
        return
    # A host that leaves the sum to its network card writes the pseudo header's, with the
    # length of the segment or, for cards that cut segments themselves, without.
    if pseudo and found % 0xFFFF in (head % 0xFFFF, (head - length) % 0xFFFF):
        packet.unjudged.append((rule, "offloaded"))
    else:
        packet.fault(rule, f"{found:#06x}")


def _judge_checksum(packet, rule, segment, at, length, fragment, pseudo=True) -> None:
    if fragment:
        packet.unjudged.append((rule, "fragment"))
    elif len(segment) < length:
        packet.unjudged.append((rule, "cut"))
    else:
        _checksum(packet, rule, segment, at, length, pseudo)


def judge_udp(packet, segment: bytes, segment_bytes: int, fragment: bool) -> None:
    """Judge a UDP datagram (RFC 768)."""
    if len(segment) < 8:
        if segment_bytes < 8:
            packet.fault("udp_length", f"{segment_bytes} bytes are left for the header")
        return
    packet.sport, packet.dport, length, checksum = struct.unpack(">HHHH", segment[:8])
    packet.payload_bytes = max(0, length - 8)
    packet.whole = True
    if not packet.dport:
        packet.fault("port_zero")
    if not length and segment_bytes > 0xFFFF:  # RFC 2675; segments left to the network card
        packet.unjudged.append(("udp_length", "offloaded"))
        return
    if length != segment_bytes and not (fragment and length > segment_bytes):
        packet.fault("udp_length", f"{length} where IP leaves {segment_bytes}")
        return
    if checksum:
        _judge_checksum(packet, "udp_checksum", segment, 6, length, fragment)
    elif packet.version == 4:
        packet.unjudged.append(("udp_checksum", "absent"))
    else:
        packet.fault("udp_checksum", "0 under IPv6")


def judge_icmp(packet, segment: bytes, segment_bytes: int, fragment: bool) -> None:
    """Judge an ICMP (RFC 792) or ICMPv6 (RFC 4443) message."""
    six = packet.protocol == 58
    name = "icmpv6" if six else "icmp"
    if len(segment) < 8:
        if segment_bytes < 8:
            packet.fault(f"{name}_length", f"{segment_bytes} bytes are left for the header")
        return
    kind, code, _, identifier, sequence = struct.unpack(">BBHHH", segment[:8])
    highest = (ICMPV6_CODES if six else ICMP_CODES).get(kind)
    if highest is None or code > highest:
        packet.fault(f"{name}_type", f"type {kind} code {code}")
    quotes = kind in range(1, 5) if six else kind in ICMP_ERRORS
    if quotes and segment_bytes < 8 + (40 if six else 28):
        packet.fault(f"{name}_length", f"an error of {segment_bytes} bytes")
    if six and kind in range(133, 138) and packet.ttl != 255:
        packet.fault("icmpv6_hop_limit", f"{packet.ttl}")
    packet.flags, packet.payload_bytes = kind, segment_bytes - 8
    packet.seq, packet.ack = sequence, identifier
    packet.whole = True
    _judge_checksum(packet, f"{name}_checksum", segment, 2, segment_bytes, fragment, pseudo=six)


def judge_tcp_segment(packet, parsed, segment: bytes, segment_bytes: int, fragment: bool) -> None:
    """Judge a TCP segment by itself (RFC 9293); `parsed` is dpkt's, where dpkt could."""
    if len(segment) < 20:
        if segment_bytes < 20:
            packet.fault("tcp_header_length", f"{segment_bytes} bytes are left for the header")
        return
    header_bytes = (segment[12] >> 4) * 4
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
    reserved = segment[12] >> 1 & 7
    if reserved:
        packet.fault("tcp_reserved", f"{reserved:03b}")
    if header_bytes > 20 and len(segment) >= header_bytes:
        _judge_options(packet, segment[20:header_bytes])
    _judge_flags(packet, parsed.urp)
    _judge_checksum(packet, "tcp_checksum", segment, 16, segment_bytes, fragment)


def _judge_flags(packet, urgent_pointer: int) -> None:
    flags = packet.flags
    if not flags & 0x3F:
        packet.fault("tcp_flags_none")
    elif not flags & (SYN | RST | ACK):
        packet.fault("tcp_ack_flag", f"flags {flags & 0x3F:#04x}")
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
    """Whether a Fast Open option stands there, under its own or an experimental kind."""
    return FAST_OPEN in options or any(
        options.get(kind, b"")[:2] == FAST_OPEN_MAGIC for kind in (253, 254)
    )


def _judge_options(packet, area: bytes) -> None:
    """Judge the option area of a segment and put its options into the packet."""
    at = 0
    twice = None
    while at < len(area):
        kind = area[at]
        if kind == EOL:
            if area[at:].strip(b"\0"):
                packet.fault("tcp_padding", area[at:].hex())
            break
        if kind == NOP:
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
        if kind in packet.options and kind in (MSS, SCALE, SACK_OK, SACK, STAMP):
            twice = kind
        packet.options[kind] = area[at + 2 : at + length]
        at += length
    if twice is not None:
        packet.fault("tcp_option_twice", f"kind {twice}")
    if packet.options:
        _judge_option_values(packet)


def _judge_option_values(packet) -> None:
    options, syn = packet.options, packet.flags & SYN
    misplaced = [k for k in ((SACK,) if syn else (MSS, SCALE, SACK_OK)) if k in options]
    if misplaced:
        packet.fault("tcp_option_on_syn", f"kind {misplaced[0]}")
    if options.get(MSS) == b"\0\0" or options.get(SCALE, b"\0")[0] > 14:
        packet.fault("tcp_option_values", "MSS 0" if options.get(MSS) == b"\0\0" else "scale > 14")
    if syn and not packet.flags & ACK and options.get(STAMP, bytes(8))[4:] != bytes(4):
        packet.fault("tcp_syn_echo", options[STAMP][4:].hex())
    if SACK in options:
        edges = struct.unpack(f">{len(options[SACK]) // 4}I", options[SACK])
        for block, (left, right) in enumerate(zip(edges[::2], edges[1::2], strict=True)):
            empty = not 0 < (right - left) % (1 << 32) < HALF
            below = block and (left - packet.ack) % (1 << 32) >= HALF
            if empty or below:
                packet.fault("tcp_sack_blocks", f"{left} to {right}")
                break
