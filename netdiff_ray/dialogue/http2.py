"""HTTP/2 (RFC 9113) in the clear: by prior knowledge, or offered in HTTP/1.1 (RFC 7540, 3.2).

What gives way to the lengths: settings, paths, cookies, padding, and data.
"""

import base64
import struct
from collections import deque
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from hpack import Encoder
from hpack.hpack import encode_integer

from netdiff_ray.dialogue import http
from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import fill_streams, hex_digits
from netdiff_ray.dialogue.segments import segments_by_message

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 4, 6, 7, 8
_HEAD = 9
"""Bytes of a frame's header."""
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_LARGEST_FRAME = 16_384
_MOST_PADDING = 256
_MOST_HEADERS = 900
"""Bytes of a frame of a request's fields; a longer request has data."""
_LEAST_ANSWER = _HEAD + 1
_ACK_BYTES, _UPDATE_BYTES, _PING_BYTES = _HEAD, _HEAD + 4, _HEAD + 8
_SETTING_BYTES = 6
_VALUES = ((4, 2**30), (3, 100), (5, _LARGEST_FRAME), (6, 1 << 16), (1, 4_096))
"""Settings: window of a stream, streams, largest frame, largest fields, table of fields."""
_USUAL_VALUES = (3, 2, 4, 1, 5, 0)
"""How many of them a side sends, the likeliest first."""
_FIRST_WINDOW, _WINDOW_STEP = 65_535, 2**30
"""Bytes of data that a side may send before the other allows more, and how many that allows."""
_SETTINGS_FIELD = base64.urlsafe_b64encode(struct.pack(">HIHI", 3, 100, 4, 2**30)).rstrip(b"=")
_OFFER = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "
    + _SETTINGS_FIELD + b"\r\n"
)  # fmt: skip
_CHANGE = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
_LEAST_OFFER, _LEAST_CHANGE = 190, len(_CHANGE) + 2 * _HEAD + _LEAST_ANSWER
_OFFERED_SHARE = 0.3
"""Of connections whose lengths allow both, those that begin with HTTP/1.1."""
_GET, _POST, _PLAIN, _ROOT, _FOUND = b"\x82", b"\x83", b"\x86", b"\x84", b"\x88"
"""Fields of the static table (RFC 7541, appendix A): two methods, http, / and 200."""
_PATH, _COOKIE, _TAG = b"\x04", b"\x0f\x11", b"\x0f\x13"
"""Names of it, before values that are not held: :path, cookie, etag."""
_LONG_PATH = 42
_CROWDED = 180
"""Bytes of the client's first message of HTTP/2 up to which requests have few fields."""
_TYPES = (b"text/html", b"application/json", b"application/octet-stream")


class _Fields(NamedTuple):
    """A sender's fields of a connection, encoded."""

    first: bytes
    """In its first message."""
    again: bytes
    """In later ones, which name them by number."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages: requests on streams, answered on these by the server's next message.

    None unless the client begins and has room for the preface, if a segment divides the header of a
    frame behind it, or if a side sends more data than the other can have allowed.
    """
    if not exchange.is_tcp or exchange.sides[0] == 1:
        return None
    session = _Session(exchange)
    if not session.is_offered and exchange.lengths[0] < len(PREFACE) + _HEAD:
        return None
    written = fill_streams(exchange, session.frame)
    return written if session.is_sound and min(session.windows) >= 0 else None


class _Session:
    """A client and a server."""

    def __init__(self, exchange: Exchange):
        """Choose how the connection begins."""
        self.exchange = exchange
        self.random = exchange.random()
        self.peers = http.peers_of(exchange)
        lengths = exchange.lengths
        self.is_offered = (
            lengths[0] >= _LEAST_OFFER
            and lengths[1:2] >= (_LEAST_CHANGE,)
            and (len(lengths) < 3 or lengths[2] >= len(PREFACE) + _HEAD)
            and self.random.random() < _OFFERED_SHARE
        )
        """Whether it begins with an offer in HTTP/1.1."""
        self.is_open = [False, False]
        """Whether each side has sent its settings."""
        self.due: tuple[deque[bytes], deque[bytes]] = deque(), deque()
        """Frames that answer the other side's."""
        self.asked: deque[int] = deque()
        """Streams without an answer."""
        self.stream = -1
        """The last that the client opened."""
        self.going_on = 0
        """The stream whose answer has not ended, 0 if all have."""
        self.windows = [_FIRST_WINDOW, _FIRST_WINDOW]
        """Bytes of data that each side may still send."""
        self.kind = self.random.choice(_TYPES)
        first = sum(lengths[2:3]) if self.is_offered else lengths[0]
        self.fields = (
            _request_fields(self.peers.host, self.peers.agent if first > _CROWDED else b""),
            _answer_fields(self.peers.server, self.kind),
        )
        self.has_fields = [False, False]
        opening = segments_by_message(exchange)[2 * self.is_offered :]
        self.ends = list(accumulate(opening[0])) if opening else []
        """Where segments end in the client's first message of HTTP/2."""
        self.is_sound = True

    def frame(self, k: int, side: int, rest: int) -> bytes:
        """Return frames that fill the room for them, or some of it, or that go on behind it."""
        if self.is_offered and k == 0:
            self.asked.append(1)
            self.stream = 1
            return http.plain_request(self.peers, b"/", rest, _OFFER)
        if self.is_offered and k == 1 and not self.is_open[1]:
            self.is_open[1] = True
            return _CHANGE + _settings(0)
        if not self.is_open[side]:
            self.is_open[side] = True
            return self._opening(side, rest)
        if self.due[side]:
            left = rest - len(self.due[side][0])
            if left == 0 or left >= self._least(side):
                return self.due[side].popleft()
        return self._ask(k, rest) if side == 0 else self._answer(k, rest)

    def _least(self, side: int) -> int:
        """Return the fewest bytes in which a side goes on."""
        if side == 1:
            return _LEAST_ANSWER if self.asked or self.going_on else 2 * _PING_BYTES
        return _HEAD + 3 + len(self._fields_of(0))

    def _fields_of(self, side: int) -> bytes:
        return self.fields[side].again if self.has_fields[side] else self.fields[side].first

    def _opening(self, side: int, rest: int) -> bytes:
        """Return what a side begins with, after which there is room for nothing or enough."""
        begin = b"" if side else PREFACE
        end = _frame(_SETTINGS, _ACK, 0) if side and self.is_open[0] else b""
        if side == 0 and self.is_open[1]:
            self.due[1].append(_frame(_SETTINGS, _ACK, 0))
        if side == 1 and self.is_open[0]:
            self.due[0].append(_frame(_SETTINGS, _ACK, 0))
        fixed = len(begin) + _HEAD + len(end)
        for with_update in (True, False):
            for values in _USUAL_VALUES:
                size = fixed + values * _SETTING_BYTES + with_update * _UPDATE_BYTES
                left = rest - size
                heads = (size - with_update * _UPDATE_BYTES, size)
                if side == 0 and any(0 < end - at < _HEAD for at in heads for end in self.ends):
                    continue
                if left == 0 or left >= self._least(side):
                    if with_update and values:
                        self.windows[1 - side] += _WINDOW_STEP
                    return begin + _settings(values) + end + _update(with_update)
        self.is_sound = side == 1 or len(self.ends) < 2
        return begin + _settings(0) + end

    def _ask(self, k: int, rest: int) -> bytes:
        """Return frames of a client: small ones that only keep the connection, or a request."""
        if rest == _PING_BYTES and k + 1 == len(self.exchange.lengths):
            return _frame(_GOAWAY, 0, 0, bytes(8))
        if rest in _KEEPING or rest < self._least(0):
            return self._keep(0, rest)
        self.stream += 2
        self.asked.append(self.stream)
        fields = self._fields_of(0)
        self.has_fields[0] = True
        size = rest
        if rest > _MOST_HEADERS:
            size = min(_HEAD + 3 + len(fields) + 100, rest - 4 * _HEAD)
        method = _GET if size == rest else _POST
        room = size - _HEAD - 2 - len(fields)
        path, cookie = _ROOT, b""
        if room > 2 * _LONG_PATH:
            cookie = self._literal(_COOKIE, room - _LONG_PATH, b"session=")
        if room > len(_ROOT) + 2:
            path = self._literal(_PATH, room - len(cookie), b"/api/")
        block = method + _PLAIN + path + fields + cookie
        if size == rest:
            return _headers(self.stream, block, size, _END_STREAM)
        head = _headers(self.stream, block, size, 0)
        return head + self._data(0, self.stream, rest - size, is_end=True)

    def _answer(self, k: int, rest: int) -> bytes:
        """Return frames of a server: answers to all that is asked, or more of the last."""
        is_end = not self._goes_on(k)
        if not self.asked:
            if not self.going_on or rest < _HEAD:
                return self._keep(1, rest)
            stream = self.going_on
            self.going_on = 0 if is_end else stream
            return self._data(1, stream, rest, is_end=is_end)
        if rest < _LEAST_ANSWER:
            return self._keep(1, rest)
        stream = self.asked.popleft()
        if self.asked:  # its answer and the others' share the room
            rest = max(rest // (len(self.asked) + 1), _LEAST_ANSWER)
            is_end = True
        self.going_on = 0 if is_end else stream
        fields = self._fields_of(1)
        size = _HEAD + len(_FOUND) + len(fields)
        if rest < size + 2 * _HEAD:
            if rest >= size:
                self.has_fields[1] = True
            block = _FOUND + (fields if rest >= size else b"")
            room = rest - _HEAD - len(block)
            block += self._literal(_TAG, room, b"") if room > 8 else b""
            return _headers(stream, block, rest, _END_STREAM if is_end else 0)
        self.has_fields[1] = True
        if rest > 300:
            fields += self._literal(_TAG, 38, b"")
            size += 38
        head = _headers(stream, _FOUND + fields, size, 0)
        return head + self._data(1, stream, rest - size, is_end=is_end)

    def _goes_on(self, k: int) -> bool:
        """Return whether the server sends more before the client asks for more."""
        lengths = self.exchange.lengths
        if k + 2 >= len(lengths):
            return False
        return lengths[k + 1] in _KEEPING or lengths[k + 1] < self._least(0)

    def _keep(self, side: int, rest: int) -> bytes:
        """Return frames that ask for nothing."""
        if rest == _PING_BYTES:
            data = self.random.randbytes(8)
            self.due[1 - side].append(_frame(_PING, _ACK, 0, data))
            return _frame(_PING, 0, 0, data)
        for more in _FRAMES_BEFORE_SETTINGS:
            values, excess = divmod(rest - _HEAD - sum(map(len, more)), _SETTING_BYTES)
            if values >= 0 and not excess:
                values = min(values, _LARGEST_FRAME // _SETTING_BYTES)
                return b"".join(more) + (
                    _settings(values) if values else _frame(_SETTINGS, _ACK, 0)
                )
        return _update(True, 1)

    def _literal(self, name: bytes, size: int, begin: bytes) -> bytes:
        """Return a field of `size` bytes, or a byte less where no length is such."""
        length = size - len(name) - 1
        while len(encode_integer(length, 7)) + length > size - len(name):
            length -= 1
        value = (begin + hex_digits(self.random, length))[:length]
        return name + bytes(encode_integer(length, 7)) + value

    def _data(self, side: int, stream: int, size: int, *, is_end: bool) -> bytes:
        """Return frames of data, `size` bytes, at least those of a frame's header."""
        frames = []
        while size:
            part = min(size, _HEAD + _LARGEST_FRAME)
            if 0 < size - part < _HEAD:
                part -= _HEAD
            size -= part
            self.windows[side] -= part - _HEAD
            data = http.body(self.random, self.kind, part - _HEAD)
            frames.append(_frame(_DATA, _END_STREAM if is_end and not size else 0, stream, data))
        return b"".join(frames)


def _frame(kind: int, flags: int, stream: int, data: bytes = b"") -> bytes:
    return struct.pack(">HBBBI", len(data) >> 8, len(data) & 255, kind, flags, stream) + data


def _settings(values: int) -> bytes:
    """Return a frame of so many settings."""
    chosen = (_VALUES * (values // len(_VALUES) + 1))[:values]
    return _frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *value) for value in chosen))


def _update(is_sent: bool, step: int = _WINDOW_STEP) -> bytes:
    """Return a frame that lets the other side send more, on all streams."""
    return _frame(_WINDOW, 0, 0, struct.pack(">I", step)) if is_sent else b""


_ONE_UPDATE, _ONE_ACK = _update(True, 1 << 16), _frame(_SETTINGS, _ACK, 0)
_FRAMES_BEFORE_SETTINGS = (
    (), (_ONE_UPDATE,), (_ONE_UPDATE, _ONE_UPDATE), (_ONE_ACK,), (_ONE_UPDATE, _ONE_ACK),
    (_ONE_UPDATE, _ONE_UPDATE, _ONE_UPDATE, _ONE_ACK), (_ONE_UPDATE,) * 5,
)  # fmt: skip
"""Of which the bytes leave each of the remainders that settings do not fill."""
_KEEPING = (_ACK_BYTES, _UPDATE_BYTES, _PING_BYTES, _ACK_BYTES + _UPDATE_BYTES, 2 * _UPDATE_BYTES)
"""Bytes of a client's messages that are no requests."""


def _headers(stream: int, block: bytes, size: int, flags: int) -> bytes:
    """Return a frame of `size` bytes with a block of fields, padded where that is shorter."""
    gap = min(size - _HEAD - len(block), _MOST_PADDING)
    if gap > 0:
        block = bytes((gap - 1,)) + block + bytes(gap - 1)
        flags |= _PADDED
    return _frame(_HEADERS, flags | _END_HEADERS, stream, block)


@lru_cache(1 << 8)
def _request_fields(host: bytes, agent: bytes) -> _Fields:
    """Return the fields of requests to a host; that alone if no agent is given."""
    more = {"user-agent": agent, "accept": b"*/*"} if agent else {}
    return _encoded({":authority": host} | more)


@lru_cache(1 << 8)
def _answer_fields(server: bytes, kind: bytes) -> _Fields:
    return _encoded({"server": server, "content-type": kind, "cache-control": b"no-store"})


def _encoded(fields: dict[str, bytes]) -> _Fields:
    """Return fields as a connection's encoder has them the first time and later."""
    encoder = Encoder()
    pairs = list(fields.items())
    return _Fields(encoder.encode(pairs), encoder.encode(pairs))
