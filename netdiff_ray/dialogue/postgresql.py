"""PostgreSQL's protocol, version 3: a session is authenticated, queries return rows."""

import struct
from functools import lru_cache

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import (
    answer_bytes,
    fill_streams,
    hex_digits,
    label,
    next_of_sender,
    words,
)  # fmt: skip
from netdiff_ray.dialogue.upgrade import secured

_VERSION_3, _SECURE_PLEASE = 196_608, 80_877_103
_SECURE_BYTES, _LEAST_STARTUP = 8, 33
_LEAST_HELLO = 180
"""Bytes of a hello of TLS, which a startup has less of."""
_READY = b"Z\0\0\0\5I"
_TERMINATE = b"X\0\0\0\4"
_AUTHENTICATED = b"R\0\0\0\x08\0\0\0\0"
_SALT_BYTES, _SCRAM_BYTES = 13, 24
_LEAST_RESULT = 15
_LEAST_ROWS, _LARGEST_ROW = 70, 300
_SCRAM = b"SCRAM-SHA-256\0"
_COLUMNS = (b"id", b"name", b"created", b"amount", b"note")
_INTEGER_TYPE, _TEXT_TYPE = 23, 25
_SETTINGS = (
    (b"server_version", b"15.4"), (b"server_encoding", b"UTF8"), (b"client_encoding", b"UTF8"),
    (b"DateStyle", b"ISO, MDY"), (b"TimeZone", b"Etc/UTC"), (b"integer_datetimes", b"on"),
    (b"IntervalStyle", b"postgres"), (b"is_superuser", b"off"),
    (b"standard_conforming_strings", b"on"), (b"default_transaction_read_only", b"off"),
    (b"in_hot_standby", b"off"),
)  # fmt: skip
_TABLES = (b"orders", b"users", b"items", b"events")
_START, _SALTED, _CHALLENGED, _PROVING, _OPEN = range(5)


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a session, or of the rest of one that did not open in the capture."""
    session = _Session(exchange)
    asked = exchange.sides[:3] == (0, 1, 0) and exchange.lengths[:2] == (_SECURE_BYTES, 1)
    if asked and exchange.lengths[2] >= _LEAST_HELLO:
        question = struct.pack(">II", _SECURE_BYTES, _SECURE_PLEASE)
        return [question, b"S", *secured(exchange, 2, session.random)]
    return session.messages()


class _Session:
    """A client and a server."""

    def __init__(self, exchange: Exchange):
        """Begin before anybody is known."""
        self.exchange = exchange
        self.random = exchange.random()
        self.answer, self.ahead = answer_bytes(exchange), next_of_sender(exchange)
        self.user, self.table = label(self.random, 5), self.random.choice(_TABLES)
        self.state = _START if self._begins() else _OPEN
        self.was_refused = False
        self.has_result = [False, False]

    def _begins(self) -> bool:
        sides, lengths = self.exchange.sides, self.exchange.lengths
        return sides[0] == 0 and (lengths[0] == _SECURE_BYTES or lengths[0] >= _LEAST_STARTUP)

    def messages(self) -> list[bytes]:
        """Return all messages."""
        return fill_streams(self.exchange, self._frame)

    def _frame(self, k: int, side: int, rest: int) -> bytes:
        if self.state != _OPEN:
            return self._ask_in(rest) if side == 0 else self._let_in(rest)
        if side == 1:
            return self._result(rest, self.ahead[k])
        if rest == len(_TERMINATE) or (rest < 8 and not self.ahead[k]):
            return _TERMINATE
        return self._query(rest if rest >= 8 else max(rest + self.ahead[k], 8))

    def _ask_in(self, rest: int) -> bytes:
        """Return what a client sends before it is authenticated."""
        if self.state == _SALTED:
            return _message(b"p", _fill(b"md5" + hex_digits(self.random, 32), rest - 6) + b"\0")
        if self.state == _CHALLENGED:
            nonce = b"n,,n=,r=" + hex_digits(self.random, 24)
            text = _fill(nonce, rest - 9 - len(_SCRAM))
            return _message(b"p", _SCRAM + struct.pack(">I", len(text)) + text)
        if self.state == _PROVING:
            proof = (
                b"c=biws,r=" + hex_digits(self.random, 48) + b",p=" + hex_digits(self.random, 44)
            )
            return _message(b"p", _fill(proof, rest - 5))
        if rest == _SECURE_BYTES and not self.was_refused:
            return struct.pack(">II", _SECURE_BYTES, _SECURE_PLEASE)
        body = b"user\0" + self.user + b"\0"
        room = rest - 9 - len(body)
        for name, value in ((b"database", b"shop"), (b"client_encoding", b"UTF8")):
            if room >= len(name) + len(value) + 2:
                body += name + b"\0" + value + b"\0"
                room -= len(name) + len(value) + 2
        if room >= 12:
            value = label(self.random, room - 9 - 1)
            body += b"app.name\0"[:9] + value + b"\0"
        elif room > 0:
            body = b"user\0" + self.user + b"x" * room + body[5 + len(self.user) :]
        return struct.pack(">II", len(body) + 9, _VERSION_3) + body + b"\0"

    def _let_in(self, rest: int) -> bytes:
        """Return what a server sends until it is ready."""
        if self.state == _START:
            if rest == 1:
                self.was_refused = True
                return b"N"
            if rest == _SALT_BYTES:
                self.state = _SALTED
                return b"R\0\0\0\x0c\0\0\0\5" + self.random.randbytes(4)
            if rest == _SCRAM_BYTES:
                self.state = _CHALLENGED
                return _message(b"R", b"\0\0\0\x0a" + _SCRAM + b"\0")
        elif self.state == _CHALLENGED:
            self.state = _PROVING
            begin = b"r=" + hex_digits(self.random, 48) + b",s=" + hex_digits(self.random, 16)
            text = _fill(begin, rest - 9 - 7) + b",i=4096"
            return _message(b"R", b"\0\0\0\x0b" + text)
        was_proved = self.state == _PROVING
        self.state = _OPEN
        final = b""
        if was_proved:
            final = _message(b"R", b"\0\0\0\x0cv=" + hex_digits(self.random, 44))
        head = final + _AUTHENTICATED
        key = _message(b"K", self.random.randbytes(8))
        room = rest - len(head) - len(key) - len(_READY)
        settings = []
        for name, value in _SETTINGS:
            setting = _setting(name, value)
            if len(setting) + 9 <= room:
                settings.append(setting)
                room -= len(setting)
        if room >= 9:
            settings.append(_setting(b"x", label(self.random, room - 8)))
        return b"".join((head, *settings, key, _READY))

    def _query(self, rest: int) -> bytes:
        """Return a query of a length: SQL, with a comment if it is to be long."""
        texts = (
            b"SELECT * FROM " + self.table + b" WHERE id = %d" % self.random.randrange(10_000),
            b"SELECT * FROM " + self.table, b"COMMIT", b"BEGIN", b"",
        )  # fmt: skip
        room = rest - 6
        text = next(t for t in texts if len(t) <= room)
        gap = room - len(text)
        if gap >= 6:
            text += b" /* " + words(self.random, gap - 7) + b"*/;" if gap >= 7 else b" " * gap
        else:
            text += b";"[:gap] + b" " * (gap - 1)
        return _message(b"Q", text + b"\0")

    def _result(self, rest: int, ahead: int) -> bytes:
        """Return the result of a query in `rest` bytes, or its begin in a larger one."""
        if rest == len(_READY):
            return _READY
        if rest < _LEAST_RESULT:
            return _setting(b"x", label(self.random, rest - 8)) if rest >= 9 else _done(9) + _READY
        if rest < _LEAST_ROWS:
            return _done(rest - len(_READY)) + _READY
        parts = []
        done = _done(15)
        room = rest - len(done) - len(_READY)
        count = max(min((room - 40) // 60, len(_COLUMNS)), 1)
        parts.append(_description(count))
        room -= len(parts[0])
        while room > 0:
            size = room
            if room > _LARGEST_ROW:
                size = min(80 + int(self.random.random() * 160), room - 60)
            parts.append(self._row(count, size))
            room -= len(parts[-1])
        return b"".join((*parts, done, _READY))

    def _row(self, count: int, size: int) -> bytes:
        head = 7 + 4 * count
        text = words(self.random, max(size - head, 0))
        share = len(text) // count
        values = [text[k * share : (k + 1) * share] for k in range(count - 1)]
        values.append(text[(count - 1) * share :])
        body = b"".join(struct.pack(">I", len(value)) + value for value in values)
        return _message(b"D", struct.pack(">H", count) + body)


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def _setting(name: bytes, value: bytes) -> bytes:
    return _message(b"S", name + b"\0" + value + b"\0")


def _fill(text: bytes, size: int) -> bytes:
    """Return a text cut or lengthened to `size` bytes."""
    return (text + b"0" * max(size - len(text), 0))[: max(size, 0)]


def _done(size: int) -> bytes:
    """Return the end of a command in `size` bytes: the name of a command, or a name and a number
    of rows."""
    room = size - 6
    names = {3: b"SET", 4: b"LOCK", 5: b"BEGIN", 6: b"COMMIT", 7: b"ANALYZE"}
    tag = names.get(room) or b"SELECT " + b"1".rjust(max(room - 7, 1), b"1")[:18]
    more = room - len(tag)
    if more >= 9:
        return _message(b"C", tag + b"\0") + _setting(b"x", b"1" * (more - 8))
    return _message(b"C", tag + b"1" * max(more, 0) + b"\0")


@lru_cache
def _description(count: int) -> bytes:
    """Return the description of columns, the first of which is a number."""
    columns = [
        name
        + b"\0"
        + struct.pack(
            ">IHIhiH", 16_384, k + 1, _TEXT_TYPE if k else _INTEGER_TYPE, -1 if k else 4, -1, 0
        )
        for k, name in enumerate(_COLUMNS[:count])
    ]
    return _message(b"T", struct.pack(">H", count) + b"".join(columns))
