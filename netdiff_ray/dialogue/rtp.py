"""RTP and RTCP (RFC 3550, 3551): a stream of media each way, with reports of it."""

import struct
from collections import Counter
from dataclasses import dataclass
from random import Random

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, noise

_HEAD = struct.Struct(">BBHII")
"""Version and flags, marker and payload type, sequence, timestamp, source."""
HEAD_BYTES = _HEAD.size
_VERSION, _MARKER = 0x80, 0x80
PCMU, PCMA, G729, COMFORT_NOISE, OPUS, EVENT, VIDEO = 0, 8, 18, 13, 111, 101, 96
_AUDIO_HZ, _OPUS_HZ, _VIDEO_HZ = 8_000, 48_000, 90_000
_EVENT_BYTES, _COMFORT_NOISE_BYTES = 16, 13
_SILENCE_FRAMES = 4
"""Frames' time without a packet that makes a new talkspurt."""
_SENDER_REPORT, _RECEIVER_REPORT, _DESCRIPTION = 200, 201, 202
_LOST_PACKETS, _PICTURE_LOSS = 205, 206
_NAME = b"host@media.example.net"
_NTP_EPOCH_S = 2_208_988_800
_VIDEO_BYTES = 600
_G729_FRAME, _G729_LARGEST = 10, 60


@dataclass(slots=True)
class Stream:
    """What a side sends."""

    payload_type: int
    clock_hz: int
    frame_ns: int
    """Time between its packets."""
    usual: int
    """Bytes of most of its datagrams."""
    source: int
    sequence: int
    timestamp: int
    last_ns: int | None = None
    packets: int = 0
    octets: int = 0


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow: RTCP where both ports are odd, else RTP."""
    if max(exchange.lengths) > LARGEST_DATAGRAM:
        return None
    random = exchange.random()
    streams = open_streams(exchange, random)
    if exchange.server_port % 2 and exchange.client_port % 2:
        return [
            write_report(random, streams[side], streams[1 - side], length, ts_ns)
            for side, length, ts_ns in _datagrams(exchange)
        ]
    return [
        write_media(random, streams[side], length, ts_ns)
        for side, length, ts_ns in _datagrams(exchange)
    ]


def _datagrams(exchange: Exchange):
    return zip(exchange.sides, exchange.lengths, exchange.ts_ns, strict=True)


def open_streams(exchange: Exchange, random: Random) -> tuple[Stream, Stream]:
    """Return the streams of both sides, of the codec that their usual length has."""
    streams = []
    for side in (0, 1):
        lengths = [n for s, n in zip(exchange.sides, exchange.lengths, strict=True) if s == side]
        usual = Counter(lengths or exchange.lengths).most_common(1)[0][0]
        payload_type, clock_hz, frame_ns = _codec(usual, lengths)
        streams.append(
            Stream(payload_type, clock_hz, frame_ns, usual, random.getrandbits(32) | 1,
                   random.getrandbits(15), random.getrandbits(32))
        )  # fmt: skip
    return streams[0], streams[1]


def _codec(usual: int, lengths: list[int]) -> tuple[int, int, int]:
    """Return payload type, clock and nanoseconds of a packet for the lengths of a side."""
    body = usual - HEAD_BYTES
    is_steady = 2 * lengths.count(usual) >= len(lengths)
    if is_steady and 0 < body <= _G729_LARGEST and body % _G729_FRAME == 0:
        return G729, _AUDIO_HZ, body // _G729_FRAME * 10_000_000
    if is_steady and body > 0 and body % 80 == 0:
        return PCMU if usual % 3 else PCMA, _AUDIO_HZ, body * 125_000
    if usual >= _VIDEO_BYTES:
        return VIDEO, _VIDEO_HZ, 0
    return OPUS, _OPUS_HZ, 20_000_000


def write_media(random: Random, stream: Stream, length: int, ts_ns: int) -> bytes:
    """Return an RTP packet of a length; random bytes where it is shorter than a header."""
    body = length - HEAD_BYTES
    if body < 0:
        return random.randbytes(length)
    is_first = stream.last_ns is None
    gap = 0 if is_first else ts_ns - stream.last_ns
    marker = 0
    if stream.payload_type == VIDEO:
        if gap > 5_000_000:
            stream.timestamp += gap * _VIDEO_HZ // 10**9
        marker = length < stream.usual
    else:
        samples = stream.frame_ns * stream.clock_hz // 10**9
        frames = 0 if is_first else 1
        if gap > _SILENCE_FRAMES * stream.frame_ns:
            frames = gap // stream.frame_ns
        marker = is_first or frames > 1
        stream.timestamp += frames * samples
    payload_type = stream.payload_type
    if length != stream.usual and payload_type not in (VIDEO, OPUS):
        payload_type = {_EVENT_BYTES: EVENT, _COMFORT_NOISE_BYTES: COMFORT_NOISE}.get(
            length, payload_type
        )
    stream.sequence = stream.sequence + 1 & 0xFFFF
    stream.last_ns = ts_ns
    stream.packets += 1
    stream.octets += body
    header = _HEAD.pack(
        _VERSION, payload_type | (_MARKER if marker else 0), stream.sequence,
        stream.timestamp & 0xFFFFFFFF, stream.source,
    )  # fmt: skip
    if payload_type == EVENT:
        return header + struct.pack(">BBH", random.randrange(12), 10, 160 * random.randrange(1, 9))
    return header + noise(random, body)


def write_report(random: Random, stream: Stream, other: Stream, length: int, ts_ns: int) -> bytes:
    """Return RTCP of a length, which tells of the media sent so far; of the bytes that no packet
    of 32-bit words has, random ones."""
    size = length - length % 4
    if size < 8:
        return random.randbytes(length)
    if size < 28:
        packets = _feedback(stream, other, size)
    elif size in (32, 56):
        packets = _receiver_report(stream, other, 1)
    else:
        packets = _sender_report(stream, other, size, ts_ns)
    rest = size - len(packets)
    if rest == 8:
        packets += _receiver_report(stream, other, 0)
    elif rest:
        packets += _description(stream, rest)
    return packets + random.randbytes(length - size)


def _receiver_report(stream: Stream, other: Stream, blocks: int) -> bytes:
    report = struct.pack(
        ">BBHI", _VERSION | blocks, _RECEIVER_REPORT, 1 + 6 * blocks, stream.source
    )
    return report + _block(other) * blocks


def _block(other: Stream) -> bytes:
    """Return what a receiver says of a stream: nothing lost, jitter of 40 units."""
    return struct.pack(">IIIIII", other.source, 0, other.sequence, 40, 0, 0)


def _feedback(stream: Stream, other: Stream, size: int) -> bytes:
    """Return an RTCP packet of 8 to 24 bytes (RFC 4585): a loss of pictures or of packets."""
    if size == 8:
        return _receiver_report(stream, other, 0)
    kind = _PICTURE_LOSS if size == 12 else _LOST_PACKETS
    head = struct.pack(">BBHII", _VERSION | 1, kind, size // 4 - 1, stream.source, other.source)
    lost = [struct.pack(">HH", other.sequence + 20 * k & 0xFFFF, 0) for k in range(size // 4 - 3)]
    return head + b"".join(lost)


def _sender_report(stream: Stream, other: Stream, size: int, ts_ns: int) -> bytes:
    """Return a report of 28 bytes, or of 52 if `size` has room for what is received."""
    seconds, ns = divmod(ts_ns, 10**9)
    is_whole = size == 52 or size >= 64
    report = struct.pack(
        ">BBHIIIIII", _VERSION | is_whole, _SENDER_REPORT, 12 if is_whole else 6, stream.source,
        seconds + _NTP_EPOCH_S & 0xFFFFFFFF, (ns << 32) // 10**9, stream.timestamp & 0xFFFFFFFF,
        stream.packets, stream.octets & 0xFFFFFFFF,
    )  # fmt: skip
    return report + _block(other) if is_whole else report


def _description(stream: Stream, size: int) -> bytes:
    """Return the canonical name of a source in `size` bytes, 12 or more, and notes in the rest."""
    rest = size - 9  # of which a zero ends the items
    items = b""
    kind = 1
    while rest > 1:
        text = _NAME[: rest - 2] if kind == 1 else b"x" * min(rest - 2, 250)
        items += struct.pack(">BB", kind, len(text)) + text
        rest, kind = size - 9 - len(items), 7
    head = struct.pack(">BBHI", _VERSION | 1, _DESCRIPTION, size // 4 - 1, stream.source)
    return head + items + bytes(rest + 1)
