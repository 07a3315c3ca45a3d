"""WebSocket (RFC 6455): a request to change to it, its answer, then frames."""

import base64
import struct
from random import Random

from netdiff_ray.dialogue import http
from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import fill_streams, hex_digits, words

_END = b"\r\n\r\n"
_LEAST_REQUEST = 160
_LEAST_ANSWER = 100
_FINAL, _TEXT, _PONG = 0x80, 1, 10
_MASKED = 0x80
_SHORT, _MEDIUM = 126, 127
"""Lengths that say that 2 or 8 bytes of length follow."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages: the change of protocols, then text in frames, which go on in their
    sender's next message where they do not fit.

    Where the first messages have no room for the change, the connection stays with HTTP. None if
    the server speaks first.
    """
    lengths = exchange.lengths
    if not exchange.is_tcp or exchange.sides[0] == 1:
        return None
    if lengths[0] < _LEAST_REQUEST or (len(lengths) > 1 and lengths[1] < _LEAST_ANSWER):
        return http.write(exchange)
    peers = http.peers_of(exchange)
    random = peers.random

    def frame(k: int, side: int, room: int) -> bytes:
        if k == 0:
            key = base64.b64encode(random.randbytes(16))
            fields = (
                b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: " + key + b"\r\n"
            )
            return http.plain_request(peers, b"/", room, fields)
        if k == 1:
            return _change(random, room)
        return _frame(random, side, room)

    return fill_streams(exchange, frame)


def _change(random: Random, room: int) -> bytes:
    """Return the answer that changes to WebSocket, of `room` bytes, and frames behind it."""
    accept = base64.b64encode(random.randbytes(20))
    head = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: "
    ) + accept
    rest = room - len(head) - len(_END)
    if rest < 0:
        head = b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-A: "
        return head + hex_digits(random, max(room - len(head) - len(_END), 1)) + _END
    if rest >= 8 and rest < 120:
        head += b"\r\nX-Id: " + hex_digits(random, rest - 8)
        rest = 0
    answer = head + _END
    while rest > 0:
        answer += _frame(random, 1, rest)
        rest = room - len(answer)
    return answer


def _frame(random: Random, side: int, room: int) -> bytes:
    """Return a frame of `room` bytes, or one that is the shortest or longest possible."""
    mask = b"" if side else random.randbytes(4)
    size = max(room - 2 - len(mask), 0)
    if size < _SHORT:
        length = bytes(((0 if side else _MASKED) | size,))
    elif size < 0x10000 + 2:
        size = max(size - 2, _SHORT)
        length = struct.pack(">BH", (0 if side else _MASKED) | _SHORT, size)
    else:
        size -= 8
        length = struct.pack(">BQ", (0 if side else _MASKED) | _MEDIUM, size)
    kind = _TEXT if size else _PONG
    return bytes((_FINAL | kind,)) + length + mask + _masked(words(random, size), mask)


def _masked(text: bytes, mask: bytes) -> bytes:
    """Return text under a mask of 4 bytes; as it is without."""
    if not mask:
        return text
    whole = (mask * (len(text) // 4 + 1))[: len(text)]
    value = int.from_bytes(text) ^ int.from_bytes(whole)
    return value.to_bytes(len(text))
