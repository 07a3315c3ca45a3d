"""Redis' protocol (RESP 2): keys that are set and got."""

from collections import deque

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import answer_bytes, fill_streams, hex_digits, label, words

_OK, _PONG, _NONE = b"+OK\r\n", b"+PONG\r\n", b"$-1\r\n"
_PING = b"*1\r\n$4\r\nPING\r\n"
_LEAST_GET, _LEAST_SET = 22, 29
_LARGEST_VALUE = 4_000
_STATUS, _VALUE = range(2)


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a connection."""
    random = exchange.random()
    answer = answer_bytes(exchange)
    waiting: deque[int] = deque()

    def frame(k: int, side: int, rest: int) -> bytes:
        if side == 0:
            does_read = answer[k] > len(_PONG) or answer[k] == 0
            waiting.append(_VALUE if does_read else _STATUS)
            if (answer[k] == len(_PONG) and rest == len(_PING)) or rest < _LEAST_GET:
                return _PING
            verb = b"GET" if does_read else b"SET"
            if verb == b"SET" and rest < _LEAST_SET:
                verb = b"DEL"
            return _command(random, verb, min(rest, _LARGEST_VALUE * 8))
        kind = waiting.popleft() if waiting else _VALUE
        return _reply(random, rest if not waiting else len(_OK), kind)

    return fill_streams(exchange, frame)


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n" % len(value) + value + b"\r\n"


def _bulk_of(random, size: int, text) -> bytes:
    """Return a string of `size` bytes with its head, or of one less where none has so many."""
    for digits in range(1, 9):
        length = size - digits - 5
        if length < 0:
            break
        if len(b"%d" % length) == digits:
            return _bulk(text(random, length))
    return _bulk(text(random, max(size - 7, 0)))


def _command(random, verb: bytes, size: int) -> bytes:
    """Return a command of `size` bytes, a longer key in it where its value cannot have the rest."""
    key = b"user:" + hex_digits(random, 4)
    count = 3 if verb == b"SET" else 2
    head = b"*%d\r\n" % count + _bulk(verb)
    if count == 2:
        data = head + _bulk_of(random, size - len(head), lambda r, n: (key + hex_digits(r, n))[:n])
        return data if len(data) == size else head + _bulk(key[:4])
    room = size - len(head)
    for cut in range(4):
        name = _bulk(key[: min(len(key), max(room - 14, 1)) - cut] or b"k")
        data = head + name + _bulk_of(random, room - len(name), words)
        if len(data) == size:
            return data
    return data


def _reply(random, rest: int, kind: int) -> bytes:
    """Return a reply of `rest` bytes, of several values if that is much."""
    if rest == len(_OK):
        return _OK if kind == _STATUS else _NONE
    if rest == len(_PONG):
        return _PONG
    if rest < 10:
        return b":" + b"1" * max(rest - 3, 1) + b"\r\n"
    if rest <= _LARGEST_VALUE:
        data = _bulk_of(random, rest, words)
        return data if len(data) == rest else b"+" + label(random, rest - 3) + b"\r\n"
    count = min(rest // 1_000, 500)
    head = b"*%d\r\n" % count
    share = (rest - len(head)) // count
    values = [_bulk_of(random, share, words) for _ in range(count - 1)]
    gap = rest - len(head) - sum(map(len, values))
    last = _bulk_of(random, gap, words)
    data = b"".join((head, *values, last))
    return (
        data
        if len(data) == rest
        else b"".join((head, *values, b"+", label(random, gap - 3), b"\r\n"))
    )
