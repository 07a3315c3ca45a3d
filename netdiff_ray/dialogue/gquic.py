"""QUIC as Google had it before RFC 9000 (version Q043): hellos in the clear, then sealed packets.

What gives way to the lengths: padding of the client's hello, a certificate, and what is sealed.
"""

import struct
from random import Random

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, noise
from netdiff_ray.dialogue.tls import HOSTS

_VERSION = b"Q043"
_HAS_VERSION, _HAS_CONNECTION, _LONG_NUMBER = 0x01, 0x08, 0x10
"""Flags of a packet: its version, its connection, a number of two bytes."""
_CONNECTION_BYTES, _HASH_BYTES = 8, 12
_STREAM = struct.Struct(">BBH")
"""Kind of frame, number of the stream, bytes of data."""
_WITH_LENGTH, _CRYPTO = 0xA0, 1
_TAG_BYTES = 8
_LEAST_HELLO, LEAST = 700, 22
_LEAST_REJECTION = 250
_NUMBERS = 1 << 16
_EXPIRY = struct.pack("<Q", 2_000_000_000)


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a connection; None unless its client begins with a hello."""
    lengths = exchange.lengths
    is_hello = exchange.sides[0] == 0 and lengths[0] >= _LEAST_HELLO
    if exchange.is_tcp or not is_hello or min(lengths) < LEAST or max(lengths) > LARGEST_DATAGRAM:
        return None
    random = exchange.random()
    connection = random.randbytes(_CONNECTION_BYTES)
    numbers, is_rejected, written = [0, 0], False, []
    host = exchange.host(random, HOSTS)
    for side, length in zip(exchange.sides, lengths, strict=True):
        numbers[side] = numbers[side] % (_NUMBERS - 1) + 1
        head = _head(connection, numbers[side], is_known=side == 1 or numbers[1] > 0)
        room = length - len(head) - _HASH_BYTES
        if side == 0 and not is_rejected and length >= _LEAST_HELLO:
            body = _hello(random, host, room)
        elif side == 1 and not is_rejected and length >= _LEAST_REJECTION:
            body, is_rejected = _rejection(random, room), True
        else:
            written.append(head + noise(random, length - len(head)))
            continue
        written.append(head + random.randbytes(_HASH_BYTES) + body)
    return written


def _head(connection: bytes, number: int, *, is_known: bool) -> bytes:
    """Return a packet's header, with the version until the server is known to have it."""
    flags = _HAS_CONNECTION | (0 if is_known else _HAS_VERSION)
    version = b"" if is_known else _VERSION
    if number >> 8:
        return bytes((flags | _LONG_NUMBER,)) + connection + version + struct.pack(">H", number)
    return bytes((flags,)) + connection + version + bytes((number,))


def _hello(random: Random, host: bytes, room: int) -> bytes:
    """Return the frame of a client's hello of `room` bytes."""
    values = {
        b"PAD\0": b"", b"SNI\0": host, b"VER\0": _VERSION, b"CCS\0": random.randbytes(16),
        b"UAID": b"example/1.2", b"TCID": bytes(4), b"PDMD": b"X509",
        b"ICSL": struct.pack("<I", 30), b"CFCW": struct.pack("<I", 1 << 20),
        b"SFCW": struct.pack("<I", 1 << 19),
    }  # fmt: skip
    return _message(b"CHLO", values, b"PAD\0", b"-", room)


def _rejection(random: Random, room: int) -> bytes:
    """Return the frame of a server's answer to the first hello, of `room` bytes."""
    values = {
        b"STK\0": random.randbytes(56), b"SNO\0": random.randbytes(56),
        b"SCFG": _tagged(b"SCFG", {b"SCID": random.randbytes(16), b"EXPY": _EXPIRY}),
        b"CRT\xff": b"",
    }  # fmt: skip
    return _message(b"REJ\0", values, b"CRT\xff", noise(random, room), room)


def _message(
    name: bytes, values: dict[bytes, bytes], open_tag: bytes, filler: bytes, room: int
) -> bytes:
    """Return a frame of `room` bytes with a message of tagged values, one of which is filled."""
    head_bytes = len(name) + 4 + _TAG_BYTES * len(values)
    rest = room - _STREAM.size - head_bytes - sum(map(len, values.values()))
    values = values | {open_tag: (filler * (rest // len(filler) + 1))[:rest]}
    message = _tagged(name, values)
    return _STREAM.pack(_WITH_LENGTH, _CRYPTO, len(message)) + message


def _tagged(name: bytes, values: dict[bytes, bytes]) -> bytes:
    """Return a message: where the value of each tag ends, then the values."""
    table, end = b"", 0
    for tag, value in values.items():
        end += len(value)
        table += tag + struct.pack("<I", end)
    return name + struct.pack("<HH", len(values), 0) + table + b"".join(values.values())
