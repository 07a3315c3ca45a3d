"""DTLS 1.2 (RFC 6347): a handshake with certificates, whose records fill datagrams of any length.

What gives way to the lengths: padding of the hello, the cookie, comments of certificates, and what
is sealed.
"""

import struct
from random import Random

from netdiff_ray.dialogue.certificates import SMALLEST_CERTIFICATE, certificate
from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, noise

_RECORD = struct.Struct(">BHHHIH")
"""Type, version, epoch, number (in two parts), bytes after this header."""
_MESSAGE = struct.Struct(">BBHHBHBH")
"""Type, bytes of the message, number, where the fragment begins, its bytes: of 24 bits each, but
the number."""
RECORD_BYTES, _MESSAGE_BYTES = _RECORD.size, _MESSAGE.size
_HEADS = RECORD_BYTES + _MESSAGE_BYTES
_CHANGE_CIPHER, _HANDSHAKE, _DATA = 20, 22, 23
_CLIENT_HELLO, _SERVER_HELLO, _VERIFY_REQUEST, _CERTIFICATE = 1, 2, 3, 11
_SERVER_KEYS, _CERTIFICATE_REQUEST, _HELLO_DONE, _CERTIFICATE_VERIFY, _CLIENT_KEYS = (
    12, 13, 14, 15, 16,
)  # fmt: skip
_DTLS_10, _DTLS_12 = 0xFEFF, 0xFEFD
_VERSION = struct.pack(">H", _DTLS_12)
_SUITES = struct.pack(">9H", 0xC02B, 0xCCA9, 0xC02F, 0xCCA8, 0xC009, 0xC013, 0xC00A, 0xC014, 0x009C)
_SUITE = _SUITES[:2]
_GROUPS = bytes.fromhex("000a00080006001d00170018")
_POINTS = bytes.fromhex("000b00020100")
_SIGNATURES = bytes.fromhex("000d00140012040308040401050308050501080606010201")
_SRTP = bytes.fromhex("000e0009000600010008000700")
_MASTER_SECRET = bytes.fromhex("00170000")
_RENEGOTIATION = bytes.fromhex("ff01000100")
_CLIENT_EXTENSIONS = (_MASTER_SECRET, _RENEGOTIATION, _GROUPS, _POINTS, _SIGNATURES, _SRTP)
_SERVER_EXTENSIONS = _MASTER_SECRET + _RENEGOTIATION + _POINTS + bytes.fromhex("000e00050002000100")
_ASK = b"\1\x40" + _SIGNATURES[4:] + b"\0\0"
"""A certificate of ECDSA by anyone is asked for."""
_PADDING = 21
_SEALED_BYTES = 24
"""Nonce and tag of a sealed record (RFC 5288)."""
_CHANGE_BYTES = RECORD_BYTES + 1
_FINISHED_BYTES = _HEADS + _SEALED_BYTES + 12
LAST_FLIGHT_BYTES = _CHANGE_BYTES + _FINISHED_BYTES
SMALLEST_HELLO = _HEADS + 35 + 1 + 2 + 2 + 2
"""Bytes of a hello without extensions, session and cookie."""
_LARGEST_VERIFY_REQUEST = _HEADS + 3 + 32
"""With the longest cookie of DTLS 1.0, whose version it has."""
_IDLE, _ASKED, _ANSWERED, _AGREED, _OPEN = range(5)
"""Before the client's hello, the server's flight, the client's flight, the last flight; after."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow: a handshake, then sealed records."""
    if exchange.lengths[0] < SMALLEST_HELLO or max(exchange.lengths) > LARGEST_DATAGRAM:
        return None
    handshake = Handshake(exchange.random())
    sides, lengths = exchange.sides, exchange.lengths
    return [
        handshake.datagram(sides[k], lengths[k], run_after(exchange, k)) for k in range(len(sides))
    ]


def run_after(exchange: Exchange, k: int) -> list[int]:
    """Return the bytes of datagrams that the sender of a datagram sends after it before the other
    side sends any."""
    sides, end = exchange.sides, k + 1
    while end < len(sides) and sides[end] == sides[k]:
        end += 1
    return list(exchange.lengths[k + 1 : end])


class Handshake:
    """A connection; the side that speaks first is its client."""

    def __init__(self, random: Random):
        """Begin a connection before its first datagram."""
        self.random = random
        self.client: int | None = None
        self.state = _IDLE
        self._cookie = b""
        self._nonce = random.randbytes(32)
        self._records, self._epochs, self._numbers = [0, 0], [0, 0], [0, 0]
        self._flight: list[list[tuple[int, bytes | int]]] = []
        """What the datagrams of a flight hold: type of handshake message, record or certificate,
        and its content or bytes."""
        self._due: list[int] = []
        """Bytes of these datagrams."""
        self._certificate, self._sent = b"", 0

    @property
    def is_open(self) -> bool:
        """Whether the handshake is over."""
        return self.state == _OPEN

    def datagram(self, side: int, length: int, run: list[int]) -> bytes:
        """Return the next datagram.

        Args:
            side: that sends it.
            length: bytes of it.
            run: bytes of the datagrams that the side sends after it before it is answered.
        """
        if self.client is None:
            self.client = side
        is_client = side == self.client
        before = bool(self._flight)
        if self.state in (_IDLE, _ASKED) and is_client:
            if length >= SMALLEST_HELLO + len(self._cookie):
                self.state = _ASKED
                return self._client_hello(side, length)
        elif self.state == _ASKED:
            if _HEADS + 3 <= length <= _LARGEST_VERIFY_REQUEST and not self._cookie:
                self._cookie = self.random.randbytes(length - _HEADS - 3)
                body = struct.pack(">HB", _DTLS_10, len(self._cookie)) + self._cookie
                return self._message(side, _VERIFY_REQUEST, body)
            self.state = _ANSWERED
            self._flight = self._server_flight([length, *run])
        elif self.state == _ANSWERED and is_client:
            self.state = _AGREED
            self._flight = self._client_flight([length, *run])
        elif self.state == _AGREED and not is_client and not self._flight:
            self.state = _OPEN
            if length >= LAST_FLIGHT_BYTES:
                self._flight = [_last_flight(length)]
        if not before:
            self._due = [length, *run]
        if self._flight:
            items = self._flight.pop(0)
            if self._due.pop(0) == length:
                return b"".join(self._write(side, *item) for item in items)
            self._flight = []  # another protocol took a datagram of the flight
        return self.data(side, length)

    def data(self, side: int, length: int) -> bytes:
        """Return a sealed record of a length; random bytes where it is shorter than a record's
        header."""
        if length <= RECORD_BYTES:
            return self.random.randbytes(length)
        return self._write(side, _DATA, length)

    def _write(self, side: int, kind: int, content: bytes | int) -> bytes:
        """Return a record: a handshake message of its content, a fragment of the certificate or a
        sealed record of its bytes."""
        if kind == _CERTIFICATE:
            at = self._sent
            self._sent += content
            return self._fragment(side, kind, self._certificate, at, content)
        if kind == _CHANGE_CIPHER:
            return self._record(side, kind, b"\1", 0)
        if isinstance(content, bytes):
            return self._message(side, kind, content)
        number = self._records[side] if self._epochs[side] else 0
        body = struct.pack(">HHI", 1, 0, number) + noise(self.random, max(content - 21, 0))
        return self._record(side, kind, body[: content - RECORD_BYTES], 1)

    def _record(
        self, side: int, kind: int, body: bytes, epoch: int, version: int = _DTLS_12
    ) -> bytes:
        if epoch > self._epochs[side]:
            self._epochs[side], self._records[side] = epoch, 0
        number = self._records[side]
        self._records[side] += 1
        return _RECORD.pack(kind, version, epoch, 0, number, len(body)) + body

    def _fragment(self, side: int, kind: int, message: bytes, at: int, size: int) -> bytes:
        """Return a record with `size` bytes of a message from `at`."""
        whole = len(message)
        head = _MESSAGE.pack(
            kind, whole >> 16, whole & 0xFFFF, self._numbers[side], at >> 16, at & 0xFFFF,
            size >> 16, size & 0xFFFF,
        )  # fmt: skip
        if at + size == whole:
            self._numbers[side] += 1
        version = _DTLS_10 if kind in (_CLIENT_HELLO, _VERIFY_REQUEST) else _DTLS_12
        return self._record(side, _HANDSHAKE, head + message[at : at + size], 0, version)

    def _message(self, side: int, kind: int, message: bytes) -> bytes:
        return self._fragment(side, kind, message, 0, len(message))

    def _client_hello(self, side: int, length: int) -> bytes:
        self._numbers[side] = 1 if self._cookie else 0
        rest = length - SMALLEST_HELLO - len(self._cookie)
        suites = _SUITES if rest >= len(_SUITES) else _SUITE
        rest -= len(suites) - len(_SUITE)
        extensions = b""
        if rest >= 2 + len(_MASTER_SECRET):
            rest -= 2
            for extension in _CLIENT_EXTENSIONS:
                if len(extension) <= rest:
                    extensions += extension
                    rest -= len(extension)
            if rest >= 4:
                extensions += struct.pack(">HH", _PADDING, rest - 4) + bytes(rest - 4)
                rest = 0
            extensions = struct.pack(">H", len(extensions)) + extensions
        session = self._nonce[:rest]  # takes the bytes that no extension can have
        hello = b"".join((
            _VERSION, self._nonce, bytes((len(session),)), session,
            bytes((len(self._cookie),)), self._cookie, struct.pack(">H", len(suites)), suites,
            b"\1\0", extensions,
        ))  # fmt: skip
        return self._message(side, _CLIENT_HELLO, hello)

    def _server_flight(self, run: list[int]) -> list[list[tuple[int, bytes | int]]]:
        drawn = self.random.randbytes(128)
        hello = b"".join((
            _VERSION, drawn[:32], b"\x20", drawn[32:64], _SUITE, b"\0",
            struct.pack(">H", len(_SERVER_EXTENSIONS)), _SERVER_EXTENSIONS,
        ))  # fmt: skip
        keys = b"\3\0\x17\x41\4" + drawn[64:] + b"\4\3" + self._signature()
        flight = self._with_certificate(
            run, [(_SERVER_HELLO, hello)],
            [(_SERVER_KEYS, keys), (_CERTIFICATE_REQUEST, _ASK), (_HELLO_DONE, b"")],
        )  # fmt: skip
        rest = run[0] - _HEADS - len(hello)
        if flight or rest < LAST_FLIGHT_BYTES:
            return flight
        self.state, self.client = _AGREED, 1 - self.client  # the session is resumed
        return [[(_SERVER_HELLO, hello), *_last_flight(rest)]]

    def _client_flight(self, run: list[int]) -> list[list[tuple[int, bytes | int]]]:
        keys = _CLIENT_KEYS, b"\x41\4" + self.random.randbytes(64)
        verify = _CERTIFICATE_VERIFY, b"\4\3" + self._signature()
        finished = _last_flight(LAST_FLIGHT_BYTES)
        if flight := self._with_certificate(run, [], [keys, verify, *finished]):
            return flight
        rest = run[0] - _HEADS - len(keys[1])
        return [[keys, *_last_flight(rest)]] if rest >= LAST_FLIGHT_BYTES else []

    def _signature(self) -> bytes:
        """Return an ECDSA signature, behind its length."""
        drawn = self.random.randbytes(62)
        return b"\0\x44\x30\x42\2\x1f" + drawn[:31] + b"\2\x1f" + drawn[31:]

    def _with_certificate(
        self, run: list[int], first: list, last: list
    ) -> list[list[tuple[int, bytes | int]]]:
        """Return the datagrams of a flight with a certificate that takes what is left of them.

        Args:
            run: bytes of the datagrams.
            first: items before the certificate.
            last: items after it; left out where the last datagram has no room for them.

        Returns:
            The items of each datagram; none if the lengths have no room for a certificate.
        """
        items: list[list] = [list(first), *([] for _ in run[1:])]
        tail = list(last)
        if run[-1] < sum(map(_item_bytes, tail)) + _HEADS + 1 and len(run) > 1:
            tail = []
        items[-1] += tail
        parts = [
            length - _HEADS - sum(map(_item_bytes, contents))
            for length, contents in zip(run, items, strict=True)
        ]
        size = sum(parts) - 6
        if min(parts) < 1 or not SMALLEST_CERTIFICATE <= size < 1 << 16:
            return []
        der = certificate(self.random, size)
        self._certificate = struct.pack(">BHBH", 0, size + 3, 0, size) + der
        self._sent = 0
        for k, part in enumerate(parts):
            place = len(first) if k == 0 else 0
            items[k].insert(place, (_CERTIFICATE, part))
        return items


def _last_flight(length: int) -> list[tuple[int, bytes | int]]:
    """Return the items of the end of a handshake that fill `length` bytes."""
    return [(_CHANGE_CIPHER, b""), (_HANDSHAKE, length - _CHANGE_BYTES)]


def _item_bytes(item: tuple[int, bytes | int]) -> int:
    kind, content = item
    if kind == _CHANGE_CIPHER:
        return _CHANGE_BYTES
    return _HEADS + len(content) if isinstance(content, bytes) else content
