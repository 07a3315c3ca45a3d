"""NTP (RFC 5905): clients that ask for the time, and servers that say it."""

import struct

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, words

_HEAD = struct.Struct(">BBbbII4s")
"""Flags, stratum, poll, precision, delay and dispersion from the root, reference."""
_PACKET_BYTES, _CONTROL_BYTES = 48, 12
_VERSION_4, _CLIENT, _SERVER, _CONTROL, _UNSYNCHRONIZED = 4 << 3, 3, 4, 6, 3 << 6
_EPOCH_S = 2_208_988_800
_KEY_BYTES, _DIGEST_BYTES = 4, (16, 20)
_EXTENSION, _LEAST_EXTENSION = 0x0104, 28
_READ_VARIABLES, _RESPONSE = 2, 0x80


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow; those shorter than a packet are queries for variables."""
    if min(exchange.lengths) < _CONTROL_BYTES or max(exchange.lengths) > LARGEST_DATAGRAM:
        return None
    random = exchange.random()
    stratum = random.randrange(1, 4)
    reference = random.choice((b"GPS\0", b"PPS\0")) if stratum == 1 else random.randbytes(4)
    poll, precision = random.randrange(6, 11), -random.randrange(18, 26)
    asked, heard = bytes(8), bytes(8)
    sequence = 0
    written = []
    for side, length, ts_ns in zip(exchange.sides, exchange.lengths, exchange.ts_ns, strict=True):
        if length < _PACKET_BYTES:
            sequence += 1 - side
            written.append(_control(random, side, length, sequence))
            continue
        now = _timestamp(ts_ns)
        if side == 0:
            head = _HEAD.pack(
                _UNSYNCHRONIZED | _VERSION_4 | _CLIENT, 0, poll, precision, 0, 0, bytes(4)
            )
            stamps = bytes(8) + heard + bytes(8) + now
            asked = now
        else:
            head = _HEAD.pack(
                _VERSION_4 | _SERVER, stratum, poll, precision, random.getrandbits(11),
                random.getrandbits(12), reference,
            )  # fmt: skip
            stamps = _timestamp(ts_ns - 40 * 10**9) + asked + _timestamp(ts_ns - 30_000) + now
            heard = now
        written.append(head + stamps + _more(random, length - _PACKET_BYTES))
    return written


def _timestamp(ts_ns: int) -> bytes:
    seconds, ns = divmod(ts_ns, 10**9)
    return struct.pack(">II", seconds + _EPOCH_S & 0xFFFFFFFF, (ns << 32) // 10**9)


def _more(random, room: int) -> bytes:
    """Return extensions and a digest in `room` bytes."""
    if room - _KEY_BYTES in _DIGEST_BYTES:
        return struct.pack(">I", random.randrange(1, 20)) + random.randbytes(room - _KEY_BYTES)
    size = room - room % 4
    if size < _LEAST_EXTENSION:
        return random.randbytes(room)
    head = struct.pack(">HH", _EXTENSION, size)
    return head + random.randbytes(size - len(head)) + random.randbytes(room - size)


def _control(random, side: int, length: int, sequence: int) -> bytes:
    """Return a message that asks for variables of a server, or tells them."""
    size = length - _CONTROL_BYTES
    head = struct.pack(
        ">BBHHHHH", _VERSION_4 | _CONTROL, _READ_VARIABLES | (_RESPONSE if side else 0), sequence,
        0x0615 if side else 0, 0, 0, size,
    )  # fmt: skip
    return head + (b"version=4," + words(random, 40))[:size]
