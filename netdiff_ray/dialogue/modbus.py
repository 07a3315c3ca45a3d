"""Modbus/TCP (Modbus Messaging on TCP/IP 1.0b): polls and writes of registers and coils."""

import struct
from collections import deque
from functools import lru_cache
from random import Random

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import answer_bytes, fill_streams, next_of_sender

_HEAD = struct.Struct(">HHHBB")
"""Transaction, protocol, bytes after this field, unit, function."""
_HEAD_BYTES, _LARGEST = 8, 260
_MOST_POLLS = 64
"""That are sent before the first is answered."""
_POLL, _WRITTEN = 12, 12
"""Bytes of a request that reads, and of an answer to one that writes."""
READ_COILS, READ_INPUTS, READ_HOLDING, READ_REGISTERS = range(1, 5)
WRITE_REGISTER, STATUS = 6, 7
EVENTS, WRITE_COILS, WRITE_REGISTERS, SERVER_ID = 11, 15, 16, 17
MASK_WRITE, READ_WRITE, READ_FIFO, DEVICE_ID, USER_DEFINED = 22, 23, 24, 43, 65
_EXCEPTION = 0x80
_BITS, _WORDS = (READ_COILS, READ_INPUTS), (READ_HOLDING, READ_REGISTERS)


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a flow; those before the first request answer earlier ones."""
    if exchange.lengths[0] < _HEAD_BYTES:
        return None
    random = exchange.random()
    unit, transaction, choice = random.choice((0, 1, 1, 255)), random.randrange(1 << 16), {}
    answer, ahead = answer_bytes(exchange), next_of_sender(exchange)
    asked: deque[tuple[int, int, int, bytes]] = deque()
    plans: list[tuple[int, int, int]] = []

    def frame(k: int, side: int, rest: int) -> bytes:
        nonlocal transaction, plans
        if side == 0:
            if not plans:
                room = rest if rest >= _HEAD_BYTES else max(rest + ahead[k], _HEAD_BYTES)
                plans = list(_plan(room, answer[k]))
            function, size, back = plans.pop(0)
            transaction = transaction + 1 & 0xFFFF
            data = _request(random, choice, function, size, back)
            asked.append((transaction, function, back, data))
            return _HEAD.pack(transaction, 0, size + 2, unit, function & ~_EXCEPTION) + data
        if asked:
            number, function, size, data = asked.popleft()
            if asked or size == rest - _HEAD_BYTES:
                body = _response(random, function, size, data)
                return _HEAD.pack(number, 0, len(body) + 2, unit, function) + body
        else:
            number, data = transaction, b"\0\0\0\1"
        size = _last_size(rest if rest >= _HEAD_BYTES + 2 else rest + ahead[k])
        function = READ_HOLDING if size % 2 else READ_COILS
        body = _response(random, function, size, data)
        return _HEAD.pack(number, 0, len(body) + 2, unit, function) + body

    return fill_streams(exchange, frame)


def _last_size(rest: int) -> int:
    """Return the bytes after the header of an answer that fills `rest`, or leaves room for more."""
    if rest <= _LARGEST - 1:
        return max(rest, _HEAD_BYTES + 2) - _HEAD_BYTES
    return min(_LARGEST - 1, rest // 2) - _HEAD_BYTES


@lru_cache(1 << 12)
def _plan(length: int, answer: int) -> tuple[tuple[int, int, int], ...]:
    """Return the functions of a message of requests that is answered by a message.

    Args:
        length: of the requests together.
        answer: of the answers together, 0 if none is captured.

    Returns:
        Function, bytes after the request's header, bytes after the answer's header, of each.
    """
    plans: list[tuple[int, int, int]] = []
    while not (last := _last_plans(length, answer)):
        size = min(_LARGEST - 1, length // 2)
        plans += _last_plans(size, 0)
        length, answer = length - size, max(answer - _WRITTEN, 0)
    return (*plans, *last)


def _last_plans(length: int, answer: int) -> tuple[tuple[int, int, int], ...]:
    """Return the functions of requests that are one, two or as many polls, or a function of the
    user's; none if they are longer. Arguments and result as of `_plan`."""
    if single := _pair(length, answer):
        return (single,)
    for first in (_POLL, 8, 14):
        for back in (_WRITTEN, answer - _WRITTEN, 11, answer - 11, 10, answer - 10, answer // 2):
            pairs = _pair(first, back), _pair(length - first, answer - back)
            if answer and pairs[0] and pairs[1]:
                return pairs
    polls, excess = divmod(length, _POLL)
    if 1 < polls <= _MOST_POLLS and not excess and 10 * polls <= answer <= (_LARGEST - 1) * polls:
        sizes = [answer // polls] * polls
        sizes[-1] += answer - sum(sizes)
        polled = [_pair(_POLL, size) for size in sizes]
        if all(polled):
            return tuple(polled)
    if length <= _LARGEST:
        is_possible = _HEAD_BYTES <= answer <= _LARGEST
        custom = USER_DEFINED, length - _HEAD_BYTES, answer - _HEAD_BYTES if is_possible else 0
        return (_pair(length, 0) or custom,)
    return ()


def _pair(request: int, answer: int) -> tuple[int, int, int] | None:
    """Return the function whose request and answer have given lengths, None if none has.

    Any answer will do if its length is 0.
    """
    size, back = request - _HEAD_BYTES, answer - _HEAD_BYTES
    if not 0 <= size <= _LARGEST - _HEAD_BYTES or back > _LARGEST - _HEAD_BYTES - 1:
        return None
    is_open = answer == 0
    is_words, is_bits = back % 2 == 1 and back >= 3, back >= 2
    wanted = {
        0: ((STATUS, back == 1 or is_open), (EVENTS, back == 4), (SERVER_ID, back >= 3)),
        2: ((READ_FIFO, back >= 4 and back % 2 == 0 and back <= 66),),
        3: ((DEVICE_ID, back >= 9),),
        4: ((WRITE_REGISTER, back == 4), (READ_HOLDING, is_words), (READ_COILS, is_bits)),
        6: ((MASK_WRITE, back == 6), (WRITE_COILS, back == 4 or is_open)),
    }.get(
        size,
        (
            (WRITE_REGISTERS, size % 2 == 1 and size >= 7 and (back == 4 or is_open)),
            (WRITE_COILS, 6 <= size <= 251 and (back == 4 or is_open)),
            (READ_WRITE, size >= 11 and size % 2 == 1 and is_words),
        ),
    )
    for function, does_fit in wanted:
        if does_fit:
            return function, size, _DEFAULT_ANSWERS.get(function, 4) if is_open else back
    defaults = {2: (READ_FIFO, 2, 6), 3: (DEVICE_ID, 3, 20), 4: (READ_HOLDING, 4, 5)}
    if is_open:
        return defaults.get(size)
    if back == 1 and (function := _pair(request, 0)):
        return function[0] | _EXCEPTION, size, back
    return None


_DEFAULT_ANSWERS = {STATUS: 1}


def _request(random: Random, choice: dict, function: int, size: int, back: int) -> bytes:
    """Return the `size` bytes after the header of a request; polls repeat theirs."""
    function &= ~_EXCEPTION
    if function in (STATUS, EVENTS, SERVER_ID):
        return b""
    key = function, size, back
    if key not in choice:
        choice[key] = 100 * int(random.random() * 40) + int(random.random() * 9)
    address = choice[key]
    if function == READ_FIFO:
        return struct.pack(">H", address)
    if function == DEVICE_ID:
        return b"\x0e\x01\x00"
    if function in _WORDS:
        return struct.pack(">HH", address, (back - 1) // 2 or 1)
    if function in _BITS:
        return struct.pack(">HH", address, max(8 * (back - 1) - address % 8, 1))
    if function == WRITE_REGISTER:
        return struct.pack(">HH", address, random.getrandbits(10))
    if function == WRITE_REGISTERS:
        count = (size - 5) // 2
        return struct.pack(">HHB", address, count, 2 * count) + random.randbytes(2 * count)
    if function == WRITE_COILS:
        count = size - 5
        return struct.pack(">HHB", address, 8 * count, count) + random.randbytes(count)
    if function == READ_WRITE:
        count = (size - 9) // 2
        head = struct.pack(">HHHHB", address, (back - 1) // 2, address, count, 2 * count)
        return head + random.randbytes(2 * count)
    if function == MASK_WRITE:
        return struct.pack(">HHH", address, *random.choices((0xF2, 0x25, 0xFF00, 0x0F), k=2))
    return random.randbytes(size)


def _response(random: Random, function: int, size: int, data: bytes) -> bytes:
    """Return the `size` bytes after the header of the answer to a request.

    Args:
        data: bytes after the request's header.
    """
    if function & _EXCEPTION:
        return random.choice((b"\1", b"\2", b"\3"))
    if function in (WRITE_REGISTER, MASK_WRITE):
        return data
    if function in (WRITE_REGISTERS, WRITE_COILS):
        return data[:4]
    if function == EVENTS:
        return struct.pack(">HH", 0, random.getrandbits(9))
    if function == READ_FIFO:
        count = (size - 4) // 2
        return struct.pack(">HH", size - 2, count) + random.randbytes(2 * count)
    if function == DEVICE_ID:
        vendor = b"Example"[: size - 8]
        rest = size - 8 - len(vendor)
        objects = b"\0" + bytes((len(vendor),)) + vendor
        if rest >= 2:
            objects += b"\1" + bytes((rest - 2,)) + (b"PLC-100 " * 40)[: rest - 2]
        elif rest:
            objects = b"\0" + bytes((len(vendor) + 1,)) + vendor + b"s"
        return b"\x0e\x01\x01\0\0" + bytes((1 + (rest >= 2),)) + objects
    if function in (USER_DEFINED, STATUS):
        return random.randbytes(size)
    if function == SERVER_ID:
        return bytes((size - 1,)) + random.randbytes(size - 2) + b"\xff"
    return bytes((size - 1,)) + random.randbytes(size - 1)
