"""Conversations packet by packet, for tests that then break one thing.

A packet is (side, time in ms, transport header and payload); sides are "c" and "s".
"""

import struct
from dataclasses import dataclass, replace

from packet_builders import ETHERNET_IPV4, ipv4, pcap

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
SCALE_7 = bytes([3, 3, 7, 1])
HALF_MS = 40
"""Time from the capture to the server and back; the client is half as far."""


@dataclass(frozen=True)
class Segment:
    """A TCP segment; numbers count from 0 for each side's SYN."""

    side: str
    at_ms: float
    flags: int
    seq: int
    ack: int
    data: bytes = b""
    window: int = 512
    options: bytes = b""


def exchange(requests=(b"question",), answers=((b"reply",),)):
    """Return a connection: a handshake, then each request with its answers, then its end.

    Each side acknowledges what it receives, in time for the path and to the end of a segment.
    """
    sent = [
        Segment("c", 0, SYN, 0, 0, window=65535, options=SCALE_7),
        Segment("s", HALF_MS, SYN | ACK, 0, 1, window=65535, options=SCALE_7),
        Segment("c", HALF_MS * 1.5, ACK, 1, 1),
    ]
    at_ms, seq, ack = HALF_MS * 1.5, 1, 1
    for request, replies in zip(requests, answers, strict=True):
        at_ms += 3
        sent.append(Segment("c", at_ms, PSH | ACK, seq, ack, request))
        seq += len(request)
        at_ms += HALF_MS
        sent.append(Segment("s", at_ms, ACK, ack, seq))
        for reply in replies:
            at_ms += 2
            sent.append(Segment("s", at_ms, PSH | ACK, ack, seq, reply))
            at_ms += HALF_MS / 2
            ack += len(reply)
            sent.append(Segment("c", at_ms, ACK, seq, ack))
    sent.append(Segment("c", at_ms + 5, FIN | ACK, seq, ack))
    sent.append(Segment("s", at_ms + 5 + HALF_MS, FIN | ACK, ack, seq + 1))
    sent.append(Segment("c", at_ms + 5 + HALF_MS * 1.5, ACK, seq + 1, ack + 1))
    return sent


def changed(segments, number, **values):
    """Return the segments, of which one has other values."""
    return [*segments[:number], replace(segments[number], **values), *segments[number + 1 :]]


def frames_of(segments, *, flow=1, server_port=80):
    """Return (time in ms, frame) of each segment of a connection; `flow` decides its addresses."""
    client_port, starts = 40000 + flow, {"c": 0xFFFFFF00, "s": 77}  # which wraps
    frames = []
    for segment in segments:
        is_client = segment.side == "c"
        ports = (client_port, server_port) if is_client else (server_port, client_port)
        seq = starts[segment.side] + segment.seq
        ack = starts["s" if is_client else "c"] + segment.ack if segment.flags & ACK else 0
        words = 5 + len(segment.options) // 4
        head = struct.pack(
            "!HHIIBBHHH", *ports, seq % 2**32, ack % 2**32, words << 4, segment.flags,
            segment.window, 0, 0,
        )  # fmt: skip
        body = head + segment.options + segment.data
        frames.append((segment.at_ms, framed(segment.side, body, 6, flow)))
    return frames


def datagrams(sent, *, flow=1, server_port=53):
    """Return (time in ms, frame) of UDP datagrams (side, time in ms, payload)."""
    frames = []
    for side, at_ms, payload in sent:
        ports = (40000 + flow, server_port) if side == "c" else (server_port, 40000 + flow)
        body = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
        frames.append((at_ms, framed(side, body, 17, flow)))
    return frames


def framed(side, body, protocol, flow):
    """Return an Ethernet frame between the two hosts of a flow."""
    client, server = f"10.0.{flow // 250}.{flow % 250 + 1}", "192.0.2.7"
    ends = (client, server) if side == "c" else (server, client)
    return ETHERNET_IPV4 + ipv4(body, protocol, *ends)


def capture(*flows):
    """Return the bytes of a capture of flows, each of (time in ms, frame)."""
    frames = sorted((pair for flow in flows for pair in flow), key=lambda pair: pair[0])
    return pcap([(int(ms // 1000) + 1, round(ms % 1000 * 1000), frame) for ms, frame in frames])


def dns(identifier, name, *, answers=None):
    """Return a DNS query for a name, or with `answers` its answer of so many records."""
    flags = 0x0100 if answers is None else 0x8180
    labels = b"".join(bytes([len(part)]) + part for part in name.split(b"."))
    head = struct.pack("!6H", identifier, flags, 1, answers or 0, 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes([192, 0, 2, 1])
    return head + labels + b"\0" + struct.pack("!HH", 1, 1) + record * (answers or 0)
