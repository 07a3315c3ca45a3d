"""SNMP 2c (RFC 3416) and 3 (RFC 3412): objects that are asked for, and answered under their names.

Datagrams of a length are made once; identifiers, indices and values are put into them.
"""

import struct
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import NamedTuple

from netdiff_ray.dialogue.ber import INTEGER, NULL, OBJECT, OCTETS, SEQUENCE, fit, integer, tlv
from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, noise, words

_GET, _NEXT, _ANSWER, _BULK, _REPORT = 0xA0, 0xA1, 0xA2, 0xA5, 0xA8
_V2C, _V3 = 1, 3
_COUNTER, _TICKS = 0x41, 0x43
_LEAST, _LEAST_V3 = 32, 64
_LARGEST_DISCOVERY, _LEAST_SECURED = 70, 100
_MARK, _INDEX, _VALUE = b"\x5e\xa1\x5e\xa1", b"\x55", b"\0"
"""Bytes of a template in place of identifiers, indices and values."""
_ENGINE = b"\x80\0\x1f\x88\x80" + bytes(range(17, 29))
_COLUMNS = bytes((10, 16, 14, 20, 8, 5, 2))
"""Of the table of interfaces (RFC 2863)."""
_TABLE = bytes.fromhex("2b060102010202")
_OBJECT_BYTES, _MOST_OBJECTS, _MOST_ARCS = 15, 8, 60
_BULK_BYTES, _BULK_OBJECT_BYTES = 260, 20
_VALUES = (tlv(_COUNTER, b"\0\1\2\3"), tlv(INTEGER, b"\1"), tlv(_TICKS, b"\0\x21\x43"))
_UNKNOWN_ENGINES = tlv(
    SEQUENCE, tlv(OBJECT, bytes.fromhex("2b060106030f01010400")), tlv(_COUNTER, b"\7")
)
_NOAUTH, _PRIVATE = b"\4", b"\7"
"""Flags: of who asks for the engine, and of encrypted messages that are to be answered."""


class _Template(NamedTuple):
    """A datagram of which some bytes are yet to be put in."""

    data: bytes
    identifier: tuple[int, int]
    """Where the identifier begins and ends."""
    indices: tuple[int, ...]
    """Where the indices of objects stand."""
    value_bytes: int
    """Bytes of the last value, which ends the datagram."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow: of version 3 where its first has the length of the question
    for the engine and the others have room for encryption."""
    lengths = exchange.lengths
    if min(lengths) < _LEAST or max(lengths) > LARGEST_DATAGRAM:
        return None
    is_discovery = _LEAST_V3 <= lengths[0] <= _LARGEST_DISCOVERY and not exchange.sides[0]
    if is_discovery and min(lengths[1:], default=0) >= _LEAST_SECURED:
        return _write_secured(exchange)
    return _write_plain(exchange)


def _write_plain(exchange: Exchange) -> list[bytes]:
    random = exchange.random()
    number, index = random.getrandbits(30), random.randrange(1, 20)
    waiting: deque[tuple[int, int, int]] = deque()
    written = []
    sides, lengths = exchange.sides, exchange.lengths
    for k, (side, length) in enumerate(zip(sides, lengths, strict=True)):
        if side == 0:
            number, index = number + 1 & 0x3FFFFFFF, index % 126 + 1
            answer = lengths[k + 1] if k + 1 < len(sides) and sides[k + 1] else 0
            tag = _BULK if answer >= _BULK_BYTES and length < _LEAST_SECURED else _NEXT
            waiting.append((number, index, length))
            written.append(_put(_request(length, tag), number, index, random))
        else:
            known, place, asked = waiting.popleft() if waiting else (number, index, _LEAST)
            written.append(_put(_answer(length, asked), known, place % 126 + 1, random))
    return written


def _put(template: _Template, number: int, index: int, random: Random) -> bytes:
    """Return the datagram with an identifier, an index and a value."""
    begin, end = template.identifier
    data = bytearray(template.data)
    data[begin:end] = struct.pack(">I", number)[4 - end + begin :]
    for place in template.indices:
        data[place] = index
    if template.value_bytes:
        data[-template.value_bytes :] = words(random, template.value_bytes)
    return bytes(data)


def _message(
    tag: int, objects: list[bytes], less: int, outermost: Callable = tlv, more: int = 0
) -> bytes:
    """Return a message of version 2c, whose identifier is `less` bytes shorter than 4 and whose
    community `more` bytes longer."""
    numbers = integer(0) + integer(10 if tag == _BULK else 0)
    body = tlv(tag, tlv(INTEGER, _MARK[less:]), numbers, tlv(SEQUENCE, *objects))
    return outermost(SEQUENCE, integer(_V2C), tlv(OCTETS, b"public" + b"-" * more), body)


def _name(k: int, arcs: int = 0) -> bytes:
    """Return the name of the k-th object, with further arcs before its index."""
    column = _COLUMNS[k % len(_COLUMNS)]
    return tlv(OBJECT, _TABLE, bytes((1, column)), b"\1" * arcs, _INDEX)


@lru_cache(1 << 12)
def _names(size: int) -> tuple[int, int]:
    """Return how many objects a request of a length is for, and the last one's further arcs."""
    count = min(max((size - 28) // _OBJECT_BYTES, 1), _MOST_OBJECTS)
    least = len(_message(_NEXT, [tlv(SEQUENCE, _name(k), tlv(NULL)) for k in range(count)], 0))
    return count, min(max(size - least, 0), _MOST_ARCS)


@lru_cache(1 << 12)
def _request(size: int, tag: int) -> _Template:
    count, most = _names(size)

    def build(filler: int, less: int, outermost: Callable) -> bytes:
        arcs = min(filler, most)
        names = [_name(k, arcs if k == count - 1 else 0) for k in range(count)]
        objects = [tlv(SEQUENCE, name, tlv(NULL)) for name in names]
        return _message(tag, objects, less, outermost, filler - arcs)

    return _template(fit(size, build) or _without_objects(size, tag), 0)


@lru_cache(1 << 12)
def _answer(size: int, asked: int) -> _Template:
    count, arcs = _names(asked)
    if size >= _BULK_BYTES and count == 1:
        count, arcs = min(size // _BULK_OBJECT_BYTES - 2, _MOST_ARCS), 0
    while True:
        objects = [tlv(SEQUENCE, _name(k), _VALUES[k % len(_VALUES)]) for k in range(count - 1)]
        name = _name(count - 1, arcs)

        def build(filler: int, less: int, outermost: Callable, objects=objects, name=name) -> bytes:
            last = tlv(SEQUENCE, name, tlv(OCTETS, _VALUE * filler))
            return _message(_ANSWER, [*objects, last], less, outermost)

        if data := fit(size, build):
            return _template(data, _last_value(data))
        if count == 1 and not arcs:
            return _template(_without_objects(size, _ANSWER), 0)
        count, arcs = max(count - 1, 1), 0


def _without_objects(size: int, tag: int) -> bytes:
    def build(filler: int, less: int, outermost: Callable) -> bytes:
        body = tlv(tag, tlv(INTEGER, _MARK[less:]), integer(0) * 2, tlv(SEQUENCE))
        return outermost(SEQUENCE, integer(_V2C), tlv(OCTETS, b"x" * filler), body)

    return fit(size, build)


def _template(data: bytes, value_bytes: int) -> _Template:
    size = next(n for n in (4, 3, 2, 1) if tlv(INTEGER, _MARK[4 - n :]) in data)
    begin = data.index(tlv(INTEGER, _MARK[4 - size :])) + 2
    indices, at = [], data.find(_TABLE)
    while at >= 0:
        indices.append(at + data[at - 1] - 1)
        at = data.find(_TABLE, at + 1)
    return _Template(data, (begin, begin + size), tuple(indices), value_bytes)


def _last_value(data: bytes) -> int:
    """Return the bytes of the octets that end a datagram, whose length may end with zeros too."""
    size = len(data) - len(data.rstrip(_VALUE))
    return next(n for n in range(size, -1, -1) if data.endswith(tlv(OCTETS, _VALUE * n)))


def _write_secured(exchange: Exchange) -> list[bytes]:
    """Return a flow in which the first question and the report that answers it are readable."""
    random = exchange.random()
    number = random.getrandbits(30)
    waiting: deque[int] = deque()
    was_reported = False
    written = []
    for k, (side, length) in enumerate(zip(exchange.sides, exchange.lengths, strict=True)):
        if side == 0:
            number = number + 1 & 0x3FFFFFFF
            waiting.append(number)
        known = waiting.popleft() if side and waiting else number
        if k == 0 or (side and not was_reported):
            was_reported = side == 1
            template = _open_message(length, side)
        else:
            template = _sealed_message(length, side)
        begin, end = template.identifier
        data = bytearray(template.data)
        data[begin:end] = struct.pack(">I", known)[4 - end + begin :]
        if template.value_bytes:
            data[-template.value_bytes :] = noise(random, template.value_bytes)
        written.append(bytes(data))
    return written


def _of_version_3(
    flags: bytes, less: int, outermost: Callable, security: bytes, body: bytes
) -> bytes:
    head = tlv(
        SEQUENCE, tlv(INTEGER, _MARK[less:]), integer(65_507), tlv(OCTETS, flags), integer(3)
    )
    return outermost(SEQUENCE, integer(_V3), head, tlv(OCTETS, security), body)


def _security(engine: bytes, user: bytes, is_sealed: bool) -> bytes:
    """Return the parameters of the model of users (RFC 3414): boots and time of the engine, the
    user, and what proves and encrypts."""
    clock = integer(3) + integer(70_123) if engine else integer(0) * 2
    proofs = tlv(OCTETS, b"\x3d" * 12) + tlv(OCTETS, b"\x3e" * 8) if is_sealed else tlv(OCTETS) * 2
    return tlv(SEQUENCE, tlv(OCTETS, engine), clock, tlv(OCTETS, user), proofs)


@lru_cache(1 << 10)
def _open_message(size: int, side: int) -> _Template:
    engine = _ENGINE if side else b""
    tag, objects = (_REPORT, _UNKNOWN_ENGINES) if side else (_GET, b"")

    def build(filler: int, less: int, outermost: Callable) -> bytes:
        body = tlv(tag, integer(0) * 3, tlv(SEQUENCE, objects))
        scope = tlv(SEQUENCE, tlv(OCTETS, engine), tlv(OCTETS, b"x" * filler), body)
        flags = b"\0" if side else _NOAUTH
        return _of_version_3(flags, less, outermost, _security(engine, b"", False), scope)

    data = fit(size, build)
    return _template(data, 0) if data else _sealed_message(size, side)


@lru_cache(1 << 12)
def _sealed_message(size: int, side: int) -> _Template:
    flags = b"\3" if side else _PRIVATE
    security = _security(_ENGINE, b"monitor", True)
    data = fit(size, lambda filler, less, outermost: _of_version_3(
        flags, less, outermost, security, tlv(OCTETS, _VALUE * filler)
    ))  # fmt: skip
    if data is None:
        return _template(_without_objects(size, _ANSWER if side else _GET), 0)
    return _template(data, _last_value(data))
