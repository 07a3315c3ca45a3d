"""CoAP (RFC 7252): small devices' resources that are asked for and answered."""

import struct
from collections import deque
from random import Random

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, noise

_VERSION, _CONFIRMABLE, _ACKNOWLEDGEMENT = 0x40, 0x00, 0x20
_GET, _PUT, _CONTENT, _CHANGED = 0x01, 0x03, 0x45, 0x44
_HEAD_BYTES, _LONGEST_TOKEN = 4, 4
_URI_PATH, _CONTENT_FORMAT, _OCTETS = 11, 12, 42
_PATHS = (b"temp", b"light", b"sensors", b"status", b"battery")
_MARKER = b"\xff"
_LONGEST_PATH = 12


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow; None where one is too short for a header."""
    if min(exchange.lengths) < _HEAD_BYTES or max(exchange.lengths) > LARGEST_DATAGRAM:
        return None
    random = exchange.random()
    number = random.getrandbits(16)
    path = random.choice(_PATHS)
    asked: deque[tuple[int, bytes, int]] = deque()
    written = []
    for side, length in zip(exchange.sides, exchange.lengths, strict=True):
        if side == 1 and asked:
            known, token, code = asked.popleft()
            written.append(_answer(random, length, known, token, code))
            continue
        number = number + 1 & 0xFFFF
        room = length - _HEAD_BYTES
        token = random.randbytes(min(_LONGEST_TOKEN, max(room - 2, 0)))
        code = _GET if room <= _LONGEST_TOKEN + _LONGEST_PATH + 1 else _PUT
        if room < 1:
            code, token = 0, b""  # a ping
        if side == 0:
            asked.append((number, token, code))
        head = struct.pack(">BBH", _VERSION | _CONFIRMABLE | len(token), code, number)
        written.append(head + token + _path_and_body(random, path, room - len(token)))
    return written


def _path_and_body(random: Random, path: bytes, room: int) -> bytes:
    """Return the name of a resource, and what is put there if that leaves room."""
    if room <= 0:
        return b""
    if room <= _LONGEST_PATH + 1:
        name = (path + b"-0123456789")[: room - 1]
        return bytes((_URI_PATH << 4 | len(name),)) + name
    option = bytes((_URI_PATH << 4 | len(path),)) + path
    rest = room - len(option)
    return option + _body(random, rest)


def _body(random: Random, room: int) -> bytes:
    if room < 2:
        return bytes((_CONTENT_FORMAT << 4,))[:room] if room else b""
    return _MARKER + noise(random, room - 1)


def _answer(random: Random, length: int, number: int, token: bytes, code: int) -> bytes:
    """Return the acknowledgement that carries the answer (RFC 7252 section 5.2.1)."""
    room = length - _HEAD_BYTES
    if room < len(token) or code == 0:
        head = struct.pack(">BBH", _VERSION | _ACKNOWLEDGEMENT, 0, number)
        return (
            head + bytes(room)
            if room == 0
            else struct.pack(">BBH", _VERSION | _ACKNOWLEDGEMENT | min(room, 8), _CONTENT, number)
            + (token + random.randbytes(8))[: min(room, 8)]
            + _body(random, max(room - 8, 0))
        )
    answer = _CONTENT if code == _GET else _CHANGED
    head = struct.pack(">BBH", _VERSION | _ACKNOWLEDGEMENT | len(token), answer, number)
    room -= len(token)
    if room >= 4:
        form = bytes((_CONTENT_FORMAT << 4 | 1, _OCTETS))
        return head + token + form + _body(random, room - len(form))
    return head + token + _body(random, room)
