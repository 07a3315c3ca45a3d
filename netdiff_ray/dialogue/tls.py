"""TLS 1.2 and 1.3 (RFC 5246, RFC 8446): a handshake, in the clear where it is, then sealed records.

What gives way to the lengths: padding of the client's hello, certificates' comments, and what is
sealed.
"""

import struct
from itertools import combinations
from random import Random

from netdiff_ray.dialogue.certificates import SMALLEST_CERTIFICATE, certificate
from netdiff_ray.dialogue.exchange import Exchange, Named
from netdiff_ray.dialogue.filling import noise

_CHANGE_CIPHER, _ALERT, _HANDSHAKE, _DATA = 20, 21, 22, 23
_CLIENT_HELLO, _SERVER_HELLO, _TICKET, _CERTIFICATE = 1, 2, 4, 11
_SERVER_KEYS, _HELLO_DONE, _CLIENT_KEYS = 12, 14, 16
_RECORD, _MESSAGE = 5, 4
"""Bytes of the headers of records and handshake messages."""
_TLS_10, _TLS_12 = b"\3\1", b"\3\3"
_LARGEST_RECORD = 16_384
_CHANGE = b"\x14\3\3\0\1\1"
_ALERT_BYTES = _RECORD + 2
_HANDSHAKE_FAILURE, _FATAL = 40, 2

HOSTS = (
    b"example.com", b"www.example.com", b"api.example.net", b"cdn.example.net",
    b"login.example.org", b"static.example.org", b"device-01.example",
)  # fmt: skip
"""Names that nobody has (RFC 2606)."""
_SUITES = bytes.fromhex("130113031302c02bc02fcca9cca8c02cc030c00ac009c013c014009c009d002f0035")
_SUITE_12, _SUITE_13 = b"\xc0\x2b", b"\x13\1"
_ROOMY = 160
"""Bytes beyond the shortest hello from which it offers many suites and a session."""
_NAME = 9
"""Bytes of the extension with the server's name, without that."""
_LEAST_TICKET = _RECORD + _MESSAGE + 7
_LEAST_HELLO = _RECORD + _MESSAGE + 2 + 32 + 1 + 2 + len(_SUITE_12) + 2
_MASTER_SECRET = bytes.fromhex("00170000")
_RENEGOTIATION = bytes.fromhex("ff01000100")
_GROUPS = bytes.fromhex("000a000a0008001d001700180019")
_POINTS = bytes.fromhex("000b00020100")
_TICKETS = bytes.fromhex("00230000")
_PROTOCOLS = bytes.fromhex("0010000e000c02683208687474702f312e31")
_STATUS = bytes.fromhex("000500050100000000")
_SIGNATURES = bytes.fromhex("000d00140012040308040401050308050501080606010201")
_VERSIONS = bytes.fromhex("002b00050403040303")
_PSK_MODES = bytes.fromhex("002d00020101")
_COMPRESSION = bytes.fromhex("001b0003020002")
_CHOSEN_VERSION = bytes.fromhex("002b00020304")
_CHOSEN_PSK = bytes.fromhex("002900020000")
_CHOSEN_PROTOCOL = bytes.fromhex("00100005000302") + b"h2"
_KEY_SHARE, _PADDING = 51, 21
_X25519 = b"\0\x1d"
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""Random of a server's hello that asks for another key share (RFC 8446 section 4.1.3)."""
_RETRY_BYTES = (93, 93 + len(_CHANGE))
_SEALED_12 = 24
"""Nonce and tag of a sealed record of TLS 1.2 (RFC 5288)."""
_SEALED_13 = 17
"""Type and tag of a sealed record of TLS 1.3."""
_FINISHED_12 = _RECORD + _SEALED_12 + 16
_FINISHED_13 = _RECORD + _SEALED_13 + 36
_ALERT_12 = _RECORD + _SEALED_12 + 2
_ANSWERS_12 = (_MASTER_SECRET, _RENEGOTIATION, _POINTS, _CHOSEN_PROTOCOL)
"""Extensions of a server's hello of TLS 1.2."""
_SUMS = {
    sum(map(len, some)): b"".join(some)
    for number in range(len(_ANSWERS_12) + 1)
    for some in combinations(_ANSWERS_12, number)
}
"""Some of these, by their bytes."""
_LEAST_HELLO_12 = _RECORD + _MESSAGE + 2 + 32 + 1 + 2 + 1
_HELLO_13_BYTES = _LEAST_HELLO_12 + 32 + 2 + len(_CHOSEN_VERSION) + 40
_RESUMED_12 = _LEAST_HELLO_12 + len(_CHANGE) + _FINISHED_12
_LEAST_13 = _HELLO_13_BYTES + len(_CHANGE) + _FINISHED_13
_SHORT_13 = 600
"""Bytes below which an answer of TLS 1.3 has no certificate, so that it resumes a session."""
_MOST_CHAIN = 6_500
_LONG_CERTIFICATE = 1_700
_ISSUERS = (1_186, 947)
"""Bytes of the certificates of issuers."""
_IDLE, _ASKED, _ANSWERED, _FINISHING, _OPEN = range(5)
"""Before the client's hello, the server's flight, the client's, the server's end; after."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a connection: a handshake, then sealed records.

    Without a client's hello, as in flows that were captured from the middle, all records are
    sealed. None for datagrams.
    """
    if not exchange.is_tcp:
        return None
    connection = Connection(exchange.random(), exchange.named)
    if exchange.sides[0] == 1 or exchange.lengths[0] < _LEAST_HELLO:
        connection.state = _OPEN
    last = {side: k for k, side in enumerate(exchange.sides)}
    return [
        connection.message(side, length, k == last[side])
        for k, (side, length) in enumerate(zip(exchange.sides, exchange.lengths, strict=True))
    ]


class Connection:
    """A connection, as far as it is written."""

    def __init__(self, random: Random, named: Named | None = None):
        """Begin a connection before its client's hello, to a planned server or any."""
        self.random = random
        self.state = _IDLE
        self._host = random.choice(HOSTS)
        self._is_named = named is not None
        if named is not None:
            self._host = named.host
        self._session = random.randbytes(32)
        self._is_13 = random.random() < 0.6
        self._is_resumed = False
        self._pending = [b"", b""]

    def message(self, side: int, length: int, is_last: bool) -> bytes:
        """Return what a side says next; records that do not fit go on in its next message."""
        data = self._pending[side]
        room = length - len(data)
        if room > 0:
            data += self._next(side, room, is_last)
        self._pending[side] = data[length:]
        return data[:length]

    def _next(self, side: int, room: int, is_last: bool) -> bytes:
        """Return at least `room` bytes of records."""
        if self.state == _IDLE and side == 0:
            self.state = _ASKED
            return self._hello(room)
        if self.state == _ASKED and side == 1:
            return self._answer(room)
        if self.state == _ANSWERED and side == 0:
            self.state = _OPEN if self._is_13 or self._is_resumed else _FINISHING
            flight = b"" if self._is_13 or self._is_resumed else self._client_keys(room)
            return flight + self._finish(room - len(flight))
        if self.state == _FINISHING and side == 1:
            self.state = _OPEN
            flight = self._ticket(room) if 260 < room < 420 else b""
            return flight + self._finish(room - len(flight))
        if is_last and not self._is_13 and room == _ALERT_12:
            return self._sealed(_ALERT, room)
        return self._data(room)

    def _hello(self, room: int) -> bytes:
        """Return the client's hello, and early data behind it if it has more than a record."""
        length = room if room <= _LARGEST_RECORD else 512
        rest = length - _LEAST_HELLO
        suites, session, extensions = _SUITE_12, b"", b""
        if rest >= _ROOMY:
            suites, session = _SUITES, self._session
            rest -= len(suites) - len(_SUITE_12) + len(session)
        if rest >= 2 + _NAME + len(self._host):
            extensions = self._extensions(rest - 2)
        else:
            session = self._session[:rest]
        body = b"".join((
            _TLS_12, self.random.randbytes(32), bytes((len(session),)), session,
            struct.pack(">H", len(suites)), suites, b"\1\0", extensions,
        ))  # fmt: skip
        early = self._data(room - length) if room > length else b""
        return _handshake(_CLIENT_HELLO, body, _TLS_10) + early

    def _extensions(self, rest: int) -> bytes:
        """Return a hello's extensions of `rest` bytes, behind their length."""
        key = struct.pack(">HHH2sH", _KEY_SHARE, 38, 36, _X25519, 32) + self.random.randbytes(32)
        chosen = []
        rest -= _NAME + len(self._host)
        for extension in (
            _MASTER_SECRET, _RENEGOTIATION, _GROUPS, _POINTS, _SIGNATURES, _VERSIONS, key,
            _PROTOCOLS, _PSK_MODES, _TICKETS, _STATUS, _COMPRESSION,
        ):  # fmt: skip
            if len(extension) <= rest:
                chosen.append(extension)
                rest -= len(extension)
        host = self._host
        while self._is_named and 0 < rest < _MESSAGE and chosen:
            rest += len(chosen.pop())
        if rest >= 4:
            chosen.append(struct.pack(">HH", _PADDING, rest - 4) + bytes(rest - 4))
        else:
            host = b"w" * rest + host
        name = struct.pack(">HHHBH", 0, len(host) + 5, len(host) + 3, 0, len(host)) + host
        data = name + b"".join(chosen)
        return struct.pack(">H", len(data)) + data

    def _answer(self, room: int) -> bytes:
        """Return the server's flight."""
        if room in _RETRY_BYTES:
            share = struct.pack(">HH", _KEY_SHARE, 2) + b"\0\x17"
            hello = self._server_hello(_RETRY, _SUITE_13, share + _CHOSEN_VERSION)
            return hello + _CHANGE[: room - len(hello)]
        self.state = _ANSWERED
        if room < _LEAST_HELLO_12:
            self.state = _OPEN
            if room == _ALERT_BYTES:
                return _record(_ALERT, bytes((_FATAL, _HANDSHAKE_FAILURE)))
            return self._data(room)
        if room < _RESUMED_12:
            self._is_13, self._is_resumed = False, True
            return self._short_hello(room)
        if room < _LEAST_13:
            self._is_13, self._is_resumed = False, True
            hello = self._short_hello(room - len(_CHANGE) - _FINISHED_12)
            return hello + self._finish(room - len(hello))
        if not self._is_13 and room <= _MOST_CHAIN:
            flight = self._flight_12(room)
            if flight:
                return flight
        self._is_13 = True
        self._is_resumed = room < _SHORT_13
        share = struct.pack(">HH2sH", _KEY_SHARE, 36, _X25519, 32) + self.random.randbytes(32)
        psk = _CHOSEN_PSK if self._is_resumed and room >= _LEAST_13 + len(_CHOSEN_PSK) else b""
        hello = self._server_hello(
            self.random.randbytes(32), _SUITE_13, share + _CHOSEN_VERSION + psk
        )
        rest = room - len(hello) - len(_CHANGE)
        return hello + _CHANGE + self._sealed_flight(rest)

    def _sealed_flight(self, rest: int) -> bytes:
        """Return the sealed part of a server's flight of TLS 1.3, of at least _FINISHED_13."""
        records = []
        if rest >= 5 * _FINISHED_13 and self.random.random() < 0.5:
            first = 27 + self.random.randrange(16)
            records = [self._sealed(_DATA, first)]
            rest -= first
        if rest >= 8 * _FINISHED_13 and rest < _LARGEST_RECORD:
            return b"".join(
                (*records, self._sealed(_DATA, rest - _FINISHED_13),
                 self._sealed(_DATA, _FINISHED_13))
            )  # fmt: skip
        return b"".join((*records, self._data(rest)))

    def _server_hello(self, nonce: bytes, suite: bytes, extensions: bytes) -> bytes:
        body = b"".join((
            _TLS_12, nonce, b"\x20", self._session, suite, b"\0",
            struct.pack(">H", len(extensions)), extensions,
        ))  # fmt: skip
        return _handshake(_SERVER_HELLO, body)

    def _short_hello(self, length: int) -> bytes:
        """Return a server's hello of TLS 1.2 that resumes a session, of `length` bytes, at least
        _LEAST_HELLO_12; a ticket behind it takes what it cannot have."""
        rest = length - _LEAST_HELLO_12
        ticket = b""
        most = 32 + 2 + max(_SUMS)
        if rest > most:
            ticket = self._ticket_of(max(rest - most, _LEAST_TICKET))
            rest -= len(ticket)
        extensions = b""
        if rest > 32:
            size = next(size for size in _SUMS if 0 <= rest - 2 - size <= 32)
            extensions = struct.pack(">H", size) + _SUMS[size]
        session = self._session[: rest - len(extensions)]
        body = b"".join((
            _TLS_12, self.random.randbytes(32), bytes((len(session),)), session, _SUITE_12, b"\0",
            extensions,
        ))  # fmt: skip
        return _handshake(_SERVER_HELLO, body) + ticket

    def _flight_12(self, room: int) -> bytes:
        """Return a server's flight with certificates; nothing if there is no room for one."""
        hello = self._server_hello(self.random.randbytes(32), _SUITE_12, b"".join(_ANSWERS_12))
        drawn = self.random.randbytes(32 + 62)
        signature = b"\x30\x42\2\x1f" + drawn[32:63] + b"\2\x1f" + drawn[63:]
        keys = _handshake(
            _SERVER_KEYS,
            b"\3" + _X25519 + b"\x20" + drawn[:32] + b"\4\3"
            + struct.pack(">H", len(signature)) + signature,
        )  # fmt: skip
        done = _handshake(_HELLO_DONE, b"")
        rest = room - len(hello) - len(keys) - len(done) - _RECORD - _MESSAGE - 3
        sizes: list[int] = []
        for issuer in _ISSUERS:
            if rest - issuer - 3 - 3 >= SMALLEST_CERTIFICATE and (
                rest > _LONG_CERTIFICATE or self.random.random() < 0.5
            ):
                sizes.append(issuer)
                rest -= issuer + 3
        if rest - 3 < SMALLEST_CERTIFICATE:
            return b""
        chain = b"".join(
            struct.pack(">BH", size >> 16, size & 0xFFFF) + certificate(self.random, size, host)
            for size, host in [
                (rest - 3, self._host), *((size, b"ca.example") for size in sizes)
            ]
        )  # fmt: skip
        body = struct.pack(">BH", len(chain) >> 16, len(chain) & 0xFFFF) + chain
        return hello + _handshake(_CERTIFICATE, body) + keys + done

    def _client_keys(self, room: int) -> bytes:
        """Return the client's key of TLS 1.2: of P-256 if what it sends has just room for that."""
        end = len(_CHANGE) + _FINISHED_12
        size = 65 if room == _RECORD + _MESSAGE + 1 + 65 + end else 32
        point = (b"\4" if size == 65 else b"") + self.random.randbytes(size - (size == 65))
        return _handshake(_CLIENT_KEYS, bytes((size,)) + point)

    def _ticket(self, room: int) -> bytes:
        """Return a ticket that leaves room for the end of the handshake alone."""
        return self._ticket_of(room - len(_CHANGE) - _FINISHED_12)

    def _ticket_of(self, length: int) -> bytes:
        """Return a ticket (RFC 5077) of `length` bytes, at least _LEAST_TICKET."""
        size = length - _RECORD - _MESSAGE - 6
        body = struct.pack(">IH", 7200, size) + self.random.randbytes(size)
        return _handshake(_TICKET, body)

    def _finish(self, room: int) -> bytes:
        """Return the end of a side's handshake and data behind it."""
        size, kind, least = _FINISHED_12, _HANDSHAKE, _RECORD + _SEALED_12
        if self._is_13:
            size, kind, least = _FINISHED_13, _DATA, _RECORD + _SEALED_13
        rest = room - len(_CHANGE) - size
        if 0 < rest <= least:
            size, rest = size + rest, 0
        end = _CHANGE + self._sealed(kind, size)
        return end + self._data(rest) if rest > 0 else end

    def _data(self, room: int) -> bytes:
        """Return sealed records of `room` bytes, or one that is the shortest possible."""
        largest = self.random.choice((_LARGEST_RECORD, _LARGEST_RECORD, 4_096, 1_369))
        records = []
        while room > 0:
            size = min(room, _RECORD + largest)
            if 0 < room - size <= _RECORD + _SEALED_12:
                size -= _RECORD + _SEALED_12
            records.append(self._sealed(_DATA, size if size > _RECORD else _RECORD + _SEALED_12))
            room -= size
        return b"".join(records)

    def _sealed(self, kind: int, size: int) -> bytes:
        """Return a record of `size` bytes."""
        return _record(kind, noise(self.random, size - _RECORD))


def _record(kind: int, body: bytes, version: bytes = _TLS_12) -> bytes:
    return bytes((kind,)) + version + struct.pack(">H", len(body)) + body


def _handshake(kind: int, body: bytes, version: bytes = _TLS_12) -> bytes:
    """Return a record with a handshake message."""
    head = struct.pack(">BBH", kind, len(body) >> 16, len(body) & 0xFFFF)
    return _record(_HANDSHAKE, head + body, version)
