"""Valid packets and flows, byte by byte, for tests that then break one thing."""

import struct
from dataclasses import dataclass

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
MSS, SCALE, SACK_OK, SACK, STAMP = 2, 3, 4, 5, 8
START_NS = 1_700_000_000 * 10**9
STEP_NS = 20_000_000
MACS = {"c": bytes.fromhex("020000000001"), "s": bytes.fromhex("020000000002")}
HOSTS = {
    4: {"c": bytes([10, 0, 0, 1]), "s": bytes([192, 0, 2, 7])},
    6: {"c": bytes.fromhex("fd" + "00" * 14 + "01"), "s": bytes.fromhex("20010db8" + "00" * 12)},
}
OTHER = {"c": "s", "s": "c"}


def ones_sum(data):
    """Return the one's complement sum of 16-bit words (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data):
    """Return the internet checksum."""
    return ones_sum(data) ^ 0xFFFF


def with_checksum(segment, at, pseudo=b""):
    """Return a segment with its checksum at `at` set right."""
    segment = segment[:at] + b"\0\0" + segment[at + 2 :]
    return segment[:at] + struct.pack(">H", checksum(pseudo + segment)) + segment[at + 2 :]


def pseudo(side, protocol, length, version=4):
    """Return the pseudo header of a side's segment."""
    a, b = HOSTS[version][side], HOSTS[version][OTHER[side]]
    tail = struct.pack(">BBH", 0, protocol, length) if version == 4 else struct.pack(
        ">II", length, protocol
    )  # fmt: skip
    return a + b + tail


def ip4(side, protocol, body, *, ttl=64, ident=1, flags=0x4000, options=b"", total=None):
    """Return an IPv4 packet."""
    words = 5 + len(options) // 4
    total = words * 4 + len(body) if total is None else total
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, total, ident & 0xFFFF, flags, ttl, protocol, 0)
    head += HOSTS[4][side] + HOSTS[4][OTHER[side]] + options
    return with_checksum(head, 10) + body


def ip6(side, protocol, body, *, ttl=64, extensions=b"", first=None):
    """Return an IPv6 packet; `first` is the type of the first of `extensions`."""
    head = struct.pack(">IHBB", 6 << 28, len(extensions + body), first or protocol, ttl)
    return head + HOSTS[6][side] + HOSTS[6][OTHER[side]] + extensions + body


def ether(side, packet, ether_type=None):
    """Return an Ethernet frame."""
    kind = ether_type or (0x0800 if packet[0] >> 4 == 4 else 0x86DD)
    return MACS[OTHER[side]] + MACS[side] + struct.pack(">H", kind) + packet


def ip(version, side, protocol, body, **more):
    """Return an Ethernet frame of an IP packet of either version."""
    if version == 6:
        return ether(side, ip6(side, protocol, body, ttl=more.get("ttl", 64)))
    return ether(side, ip4(side, protocol, body, **more))


@dataclass
class Segment:
    """A TCP segment to be; its fields may be broken before `frame` makes it."""

    side: str
    seq: int
    ack: int
    flags: int
    options: list
    ts_ns: int
    payload: bytes = b""
    window: int = 65000
    urgent: int = 0
    reserved: int = 0
    ttl: int = 64
    ident: int = 1
    ip_flags: int = 0x4000
    ports: tuple = (40000, 443)
    version: int = 4
    raw_options: bytes | None = None

    def frame(self):
        """Return the Ethernet frame with right lengths and checksums."""
        area = self.raw_options
        if area is None:
            area = b"".join(bytes([k, len(v) + 2]) + v for k, v in self.options)
            area = b"\x01" * (-len(area) % 4) + area
        sport, dport = self.ports if self.side == "c" else self.ports[::-1]
        words = 5 + len(area) // 4
        body = struct.pack(
            ">HHIIBBHHH", sport, dport, self.seq % 2**32, self.ack % 2**32,
            words << 4 | self.reserved << 1, self.flags, self.window, 0, self.urgent,
        ) + area + self.payload  # fmt: skip
        body = with_checksum(body, 16, pseudo(self.side, 6, len(body), self.version))
        return ip(self.version, self.side, 6, body, ttl=self.ttl, ident=self.ident,
                  flags=self.ip_flags)  # fmt: skip

    def record(self):
        """Return (time in ns, frame)."""
        return self.ts_ns, self.frame()


def stamp(value, echo):
    """Return a timestamp option."""
    return STAMP, struct.pack(">II", value, echo)


def conversation(version=4, isn=(0xFFFFFF00, 0xFFFFFE00), ports=(40000, 443), start_ns=START_NS,
                 script=None):  # fmt: skip
    """Return a valid TCP flow from handshake to close; numbers pass 2^32 on the way."""
    script = script or [
        ("c", SYN, 0), ("s", SYN | ACK, 0), ("c", ACK, 0), ("c", PSH | ACK, 400), ("s", ACK, 0),
        ("s", ACK, 1000), ("s", PSH | ACK, 500), ("c", ACK, 0), ("c", PSH | ACK, 50),
        ("s", ACK, 0), ("c", FIN | ACK, 0), ("s", FIN | ACK, 0), ("c", ACK, 0),
    ]  # fmt: skip
    following = {"c": isn[0], "s": isn[1]}
    stamps, idents = {"c": 0, "s": 0}, {"c": 100, "s": 7000}
    segments = []
    for number, (side, flags, length) in enumerate(script):
        idents[side] += 1
        value = (5000 if side == "c" else 90000) + 20 * number
        options = [stamp(value, stamps[OTHER[side]])]
        if flags & SYN:
            options += [(MSS, struct.pack(">H", 1460)), (SCALE, b"\x07"), (SACK_OK, b"")]
        ack = following[OTHER[side]] if flags & ACK else 0
        segments.append(
            Segment(side, following[side], ack, flags, options, start_ns + number * STEP_NS,
                    payload=bytes(k % 251 for k in range(length)), version=version, ports=ports,
                    ident=idents[side], ttl=64 if side == "c" else 52)
        )  # fmt: skip
        following[side] += length + bool(flags & SYN) + bool(flags & FIN)
        stamps[side] = value
    return segments


def records(segments):
    """Return (time, frame) of segments."""
    return [segment.record() for segment in segments]


def udp(side, payload=b"x" * 30, *, version=4, ports=(40000, 53), length=None, **more):
    """Return a frame of a UDP datagram."""
    sport, dport = ports if side == "c" else ports[::-1]
    length = 8 + len(payload) if length is None else length
    body = struct.pack(">HHHH", sport, dport, length, 0) + payload
    body = with_checksum(body, 6, pseudo(side, 17, len(body), version))
    return ip(version, side, 17, body, **more)


def icmp(side, kind, code=0, identifier=9, sequence=1, payload=b"p" * 32, *, version=4, **more):
    """Return a frame of an ICMP or ICMPv6 message."""
    body = struct.pack(">BBHHH", kind, code, 0, identifier, sequence) + payload
    protocol = 1 if version == 4 else 58
    head = b"" if version == 4 else pseudo(side, 58, len(body), 6)
    return ip(version, side, protocol, with_checksum(body, 2, head), **more)


def timed(frames, step_ns=STEP_NS):
    """Return (time, frame) of frames, a step apart."""
    return [(START_NS + k * step_ns, frame) for k, frame in enumerate(frames)]


def write(path, records, link_type=1):
    """Write (time in ns, frame) or (time, frame, length on the wire) as a nanosecond pcap."""
    parts = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, link_type)]
    for ts_ns, frame, *wire in records:
        lengths = (len(frame), wire[0] if wire else len(frame))
        parts.append(struct.pack("<IIII", ts_ns // 10**9, ts_ns % 10**9, *lengths) + frame)
    path.write_bytes(b"".join(parts))
    return path
