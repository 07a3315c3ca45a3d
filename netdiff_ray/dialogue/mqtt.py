"""MQTT 3.1.1 and 5 (OASIS): connections, subscriptions, and publications that are acknowledged."""

import struct
from random import Random

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import (
    answer_bytes,
    fill_streams,
    label,
    next_of_sender,
    words,
)  # fmt: skip

_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK, _UNSUBSCRIBE, _UNSUBACK = (
    0x10, 0x20, 0x30, 0x40, 0x82, 0x90, 0xA2, 0xB0,
)  # fmt: skip
_PUBREC, _PUBREL, _PUBCOMP = 0x50, 0x62, 0x70
_PING, _PONG, _DISCONNECT = b"\xc0\0", b"\xd0\0", b"\xe0\0"
_AT_LEAST_ONCE, _EXACTLY_ONCE = 2, 4
_LEAST_CONNECT, _LEAST_PUBLISH = 14, 6
_LONGEST_CLIENT = 23
_LARGEST_FRAME = 1 << 16
_SITES = (b"home", b"plant", b"office", b"barn")
_SENSORS = (b"temperature", b"humidity", b"pressure", b"power", b"door", b"status")


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a connection, or of the rest of one where none is opened."""
    return _Session(exchange).messages()


class _Session:
    """A client and a broker."""

    def __init__(self, exchange: Exchange):
        """Draw who speaks of what."""
        self.exchange = exchange
        self.random = exchange.random()
        self.answer = answer_bytes(exchange)
        self.ahead = next_of_sender(exchange)
        self.number = int(self.random.random() * 900)
        self.topic = b"/".join(
            (self.random.choice(_SITES), b"%d" % self.random.randrange(1, 30),
             self.random.choice(_SENSORS))
        )  # fmt: skip
        self.is_connected = False
        self.has_properties = False
        self.due: tuple[list[bytes], list[bytes]] = [], []
        """What each side has to say to what the other said."""

    def messages(self) -> list[bytes]:
        return fill_streams(self.exchange, self._frame)

    def _frame(self, k: int, side: int, rest: int) -> bytes:
        if self.due[side]:
            return self.due[side].pop(0)
        if side == 0 and not self.is_connected:
            self.is_connected = True
            if k == 0 and rest >= _LEAST_CONNECT:
                return self._connect(rest, self.answer[k])
        if rest < _LEAST_PUBLISH:
            return self._small(side, rest + self.ahead[k] if rest == 1 else rest)
        if side == 0:
            return self._ask(rest, self.answer[k], self.ahead[k])
        return self._publish(rest, self._service_of(self.answer[k]), side)

    def _small(self, side: int, rest: int) -> bytes:
        """Return a frame of 2 to 5 bytes, or a longer one that the next message goes on with."""
        if rest == 4:
            kind = _PUBACK
            return struct.pack(">BBH", kind, 2, self._next())
        if rest == 3 and self.has_properties:
            return b"\xe0\1\0"
        if rest in (3, 5) or rest < 2:
            return self._publish(max(rest, 8), 0, side)
        return _PONG if side else _PING

    def _ask(self, rest: int, answer: int, ahead: int) -> bytes:
        """Return a frame of a client that has room for `rest` bytes, and is answered."""
        number = self._next()
        id_bytes = struct.pack(">H", number)
        properties = b"\0" if self.has_properties else b""
        if answer == 0:  # its last message
            if rest >= _LEAST_PUBLISH + 2:
                self.due[0].append(_DISCONNECT)
                return self._publish(rest - 2, 0, 0)
            return self._publish(rest, 0, 0)
        if answer == 2:
            self.due[1].append(_PONG)
            if rest >= _LEAST_PUBLISH + 2:
                self.due[0].append(_PING)
                return self._publish(rest - 2, 0, 0)
            return self._publish(rest, 0, 0)
        if answer == ahead == 4 and rest >= _LEAST_PUBLISH + 2:
            self.due[1].extend(struct.pack(">BBH", kind, 2, number) for kind in (_PUBREC, _PUBCOMP))
            self.due[0].append(struct.pack(">BBH", _PUBREL, 2, number))
            return self._publish(rest, _EXACTLY_ONCE, 0, number)
        if answer == 4 and rest >= _LEAST_PUBLISH + 2:
            if self.has_properties or rest > 100 or self.random.random() < 0.8:
                self.due[1].append(struct.pack(">BBH", _PUBACK, 2, number))
                return self._publish(rest, _AT_LEAST_ONCE, 0, number)
            self.due[1].append(struct.pack(">BBH", _UNSUBACK, 2, number))
            return _packet(_UNSUBSCRIBE, id_bytes + _text(self._topic(rest - 6)))
        codes = answer - 4 - len(properties)
        topics = 1
        if 1 < codes <= 8 and rest >= 4 + len(properties) + 5 * codes:
            topics = codes
        if codes >= 1 and rest >= 9 + len(properties) and rest <= 120:
            body = id_bytes + properties
            room = rest - 2 - len(body) - 3 * topics
            parts = [room // topics] * topics
            parts[-1] += room - sum(parts)
            body += b"".join(_text(self._topic(part)) + b"\1" for part in parts)
            granted = id_bytes + properties + b"\1" * topics
            self.due[1].append(_packet(_SUBACK, granted))
            return _packet(_SUBSCRIBE, body)
        return self._publish(rest, 0, 0)

    def _service_of(self, answer: int) -> int:
        """Return the quality of a broker's publication, by what the client says to it."""
        return _AT_LEAST_ONCE if answer == 4 else 0

    def _connect(self, rest: int, answer: int) -> bytes:
        """Return a frame that opens a session, and have it acknowledged."""
        random = self.random
        codes = answer in (5, 8) or answer > 9
        self.has_properties = bool(codes and answer != 4 and rest >= _LEAST_CONNECT + 1)
        if answer:
            self.due[1].append(self._accept(answer) if self.has_properties else b"\x20\2\0\0")
        size = rest
        if answer == 0 and rest > 60 and not self.has_properties:
            size = 21 + int(random.random() * 20)
        while len(head := _packet_head(_CONNECT, size)) + _LEAST_CONNECT - 2 > size:
            size += 1
        level = 5 if self.has_properties else 4
        room = size - len(head) - 12 - self.has_properties
        flags, extra = 2, b""
        client = min(room, _LONGEST_CLIENT)
        room -= client
        if 0 < room < 4:
            client, room = client - 4 + room, 4
        if room:
            flags |= 0x80
            name = min(room - 2, 16)
            room -= 2 + name
            if 0 < room < 2:
                name, room = name - 1, 2
            extra = _text(label(random, name))
            if room:
                flags |= 0x40
                extra += _text(label(random, min(room - 2, _LARGEST_FRAME - 1)))
        name = (b"device-" + label(random, client))[:client]
        body = b"".join((
            b"\0\4MQTT", struct.pack(">BBH", level, flags, random.choice((30, 60, 60, 300))),
            b"\0" * self.has_properties, _text(name), extra,
        ))  # fmt: skip
        return _packet(_CONNECT, body)

    def _accept(self, answer: int) -> bytes:
        """Return the acknowledgement of a session of MQTT 5 in at most `answer` bytes."""
        room = answer - 5
        if room < 3 or answer > 127:
            return b"\x20\3\0\0\0"
        properties = b"\x22\0\x0a"  # aliases of topics
        rest = room - 3
        if rest >= 3:
            properties += b"\x21\0\x14"  # messages in flight
            rest -= 3
        if rest >= 4:
            properties += b"\x12" + _text(label(self.random, rest - 3))  # the client's name
        elif rest == 2:
            properties += b"\x24\1"  # highest quality
        elif rest == 3:
            properties += b"\x13\0\x3c"  # keeps alive
        return _packet(_CONNACK, b"\0\0" + bytes((len(properties),)) + properties)

    def _publish(self, rest: int, service: int, side: int, number: int = 0) -> bytes:
        """Return a publication of `rest` bytes, or of fewer that leave room for more."""
        size = min(rest, _LARGEST_FRAME)
        if 0 < rest - size < _LEAST_PUBLISH:
            size -= _LEAST_PUBLISH
        head = _packet_head(_PUBLISH | service, size)
        if not head:  # a byte of the length more makes it too long
            size -= 8
            head = _packet_head(_PUBLISH | service, size)
        id_bytes = b""
        room = size - len(head) - 2 - self.has_properties
        if service and room >= 3:
            number = number or self._next()
            id_bytes = struct.pack(">H", number)
            room -= 2
            if side == 1:
                self.due[0].append(struct.pack(">BBH", _PUBACK, 2, number))
        else:
            head = bytes((_PUBLISH,)) + head[1:]
        topic = self._topic(min(max(room // 2, 1), len(self.topic) + 4))[: max(room, 1)]
        body = _reading(self.random, max(room - len(topic), 0))
        return b"".join((head, _text(topic), id_bytes, b"\0" * self.has_properties, body))

    def _topic(self, size: int) -> bytes:
        """Return a topic of `size` bytes."""
        name = self.topic[:size]
        return (
            name.rstrip(b"/").ljust(size, b"x")
            if len(name) == size
            else name + b"/" + label(self.random, size - len(name) - 1)
        )

    def _next(self) -> int:
        self.number = self.number % 65_535 + 1
        return self.number


def _packet_head(kind: int, size: int) -> bytes:
    """Return the head of a packet of `size` bytes in all; none if no packet has so many."""
    for octets in range(1, 5):
        rest = size - 1 - octets
        low = 0 if octets == 1 else 1 << 7 * (octets - 1)
        if low <= rest < 1 << 7 * octets:
            length = bytes(
                (rest >> 7 * k & 127) | (128 if k < octets - 1 else 0) for k in range(octets)
            )
            return bytes((kind,)) + length
    return b""


def _packet(kind: int, body: bytes) -> bytes:
    size = len(body) + 2
    while not (head := _packet_head(kind, size)) or len(head) + len(body) != size:
        size += 1
    return head + body


def _text(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def _reading(random: Random, size: int) -> bytes:
    """Return what a sensor says, in `size` bytes."""
    value = b"%.2f" % (random.random() * 40)
    text = b'{"value": ' + value + b', "unit": "C"}'
    if size < len(text):
        return (value + b"0" * size)[:size]
    more = size - len(text) - len(b', "note": ""')
    if more < 0:
        return text[:-1] + b" " * (size - len(text)) + b"}"
    return text[:-1] + b', "note": "' + words(random, more) + b'"}'
