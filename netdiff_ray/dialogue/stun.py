"""STUN, TURN and ICE (RFC 8489, 8656, 8445), and the DTLS and RTP that follow them in a flow."""

import struct
import zlib
from collections import deque

from netdiff_ray.dialogue.dtls import SMALLEST_HELLO, Handshake, run_after
from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, label, noise
from netdiff_ray.dialogue.rtp import open_streams, write_media

_HEAD = struct.Struct(">HHI")
HEAD_BYTES, _ATTRIBUTE_BYTES = 20, 4
_COOKIE = 0x2112A442
_REQUEST, _SUCCESS, _DATA_INDICATION = 0x0001, 0x0101, 0x0017
_USERNAME, _INTEGRITY, _ERROR, _PEER, _DATA, _MAPPED = 0x06, 0x08, 0x09, 0x12, 0x13, 0x20
_PRIORITY, _NOMINATED, _PADDING, _SOFTWARE, _FINGERPRINT = 0x24, 0x25, 0x26, 0x8022, 0x8028
_CONTROLLED, _CONTROLLING = 0x8029, 0x802A
_FINGERPRINT_XOR = 0x5354554E
_INTEGRITY_BYTES, _FINGERPRINT_BYTES = 24, 8
_PROOF_BYTES = _INTEGRITY_BYTES + _FINGERPRINT_BYTES
_SERVERS = (3478, 3479, 3480, 3481, 5349, *range(19302, 19310))
"""Ports of STUN servers, which only answer."""
_RELAYS = (3478, 5349)
"""Of them, ports of TURN servers, which relay data."""
_FIRST_CHANNEL, _CHANNELS = 0x4000, 0x1000
_LARGEST_CHECK, _BARE_REQUEST = 400, 44
_LARGEST_SOFTWARE = 128
_UNPADDED = range(28, 401)
"""Bytes of a first message that may have bytes behind it, as of applications of their own."""
_FLIGHT_BYTES = 450
"""A flight with a certificate has at least so many bytes."""
_MEDIA_BYTES = 150
_MESSAGES, _SECURITY, _MEDIA = range(3)


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow: checks and their answers, then DTLS, media, or both."""
    if (
        exchange.lengths[0] < HEAD_BYTES
        or (exchange.lengths[0] % 4 and exchange.lengths[0] not in _UNPADDED)
        or max(exchange.lengths) > LARGEST_DATAGRAM
    ):
        return None
    return _Session(exchange).datagrams()


class _Session:
    """A flow that begins with STUN."""

    def __init__(self, exchange: Exchange):
        """Draw names, tie-breaker and channel of a flow."""
        self.exchange = exchange
        self.random = exchange.random()
        self.open: tuple[deque, deque] = deque(), deque()
        """Transactions and bytes of the requests of each side that are not answered."""
        self.lengths: set[tuple[int, int]] = set()
        """Sides and bytes of messages."""
        fragment = label(self.random, 8)
        self.names = fragment[:4] + b":" + fragment[4:], fragment[4:] + b":" + fragment[:4]
        self.tie = self.random.randbytes(8)
        self.has_server = exchange.server_port in _SERVERS
        self.channel = _FIRST_CHANNEL + int(self.random.random() * 16)

    def datagrams(self) -> list[bytes]:
        exchange, written = self.exchange, []
        phase = _MESSAGES
        handshake = Handshake(self.random)
        streams = None
        for k, (side, length) in enumerate(zip(exchange.sides, exchange.lengths, strict=True)):
            if self._is_message(side, length, phase):
                written.append(self._message(side, length))
                continue
            if phase == _MESSAGES:
                phase = _SECURITY if self._begins_security(k) else _MEDIA
            elif phase == _SECURITY and handshake.is_open and self._is_media(k):
                phase = _MEDIA
            if phase == _SECURITY:
                written.append(handshake.datagram(side, length, run_after(exchange, k)))
            elif exchange.server_port in _RELAYS and length >= _ATTRIBUTE_BYTES:
                body = noise(self.random, length - _ATTRIBUTE_BYTES)
                written.append(struct.pack(">HH", self.channel, len(body)) + body)
            else:
                streams = streams or open_streams(exchange, self.random)
                written.append(write_media(self.random, streams[side], length, exchange.ts_ns[k]))
        return written

    def _is_message(self, side: int, length: int, phase: int) -> bool:
        """Return whether a datagram is STUN: of a length that it can have, in the opening or of a
        length that it had in the opening."""
        if length % 4 or length < HEAD_BYTES:
            return length == self.exchange.lengths[0] and phase == _MESSAGES
        if phase == _MESSAGES:
            return length <= _LARGEST_CHECK
        return (side, length) in self.lengths

    def _begins_security(self, k: int) -> bool:
        """Return whether a datagram can be the hello of a handshake: soon after it, a datagram has
        room for a certificate, from the other side."""
        sides, lengths = self.exchange.sides, self.exchange.lengths
        if not SMALLEST_HELLO <= lengths[k] <= _LARGEST_CHECK:
            return False
        return any(
            sides[j] != sides[k] and lengths[j] >= _FLIGHT_BYTES
            for j in range(k + 1, min(k + 6, len(sides)))
        )

    def _is_media(self, k: int) -> bool:
        """Return whether datagrams after a handshake are media, which data channels send less
        than."""
        return sum(n >= _MEDIA_BYTES for n in self.exchange.lengths[k:]) >= 2

    def _message(self, side: int, length: int) -> bytes:
        self.lengths.add((side, length))
        room = length - HEAD_BYTES
        waiting = self.open[1 - side]
        mapped = 8 + len(self.exchange.client)
        if waiting and room >= mapped and self._is_answer(side, length, waiting[0][1]):
            transaction, _ = waiting.popleft()
            return self._build(_SUCCESS, transaction, self._answer(side, room, transaction))
        transaction = self.random.randbytes(12)
        if side == 1 and self.has_server and room >= mapped + _ATTRIBUTE_BYTES:
            peer = self._address(_PEER, 0, transaction)
            data = _attribute(_DATA, noise(self.random, room - len(peer) - _ATTRIBUTE_BYTES))
            return self._build(_DATA_INDICATION, transaction, peer + data)
        self.open[side].append((transaction, length))
        excess = length % 4
        request = self._build(_REQUEST, transaction, self._request(side, room - excess))
        return request + self.random.randbytes(excess)

    def _is_answer(self, side: int, length: int, request: int) -> bool:
        if self.has_server:
            return side == 1
        return length < request or request < _BARE_REQUEST

    def _request(self, side: int, room: int) -> tuple[bytes, int]:
        """Return attributes of a check, and how many bytes of proofs follow them."""
        role = _attribute(_CONTROLLED if side else _CONTROLLING, self.tie)
        priority = _attribute(_PRIORITY, struct.pack(">I", 0x6E7F1EFF if side else 0x6E001EFF))
        rest = room - _PROOF_BYTES - len(role) - len(priority)
        name = self.names[side]
        least = _ATTRIBUTE_BYTES + 12
        if rest < least:
            return self._described(room)
        parts = b""
        if rest >= least + _ATTRIBUTE_BYTES and side == 0:
            parts = _attribute(_NOMINATED, b"")
            rest -= len(parts)
        size = min(rest - _ATTRIBUTE_BYTES, 72)
        name += label(self.random, max(size - len(name), 0))
        rest -= _ATTRIBUTE_BYTES + size
        parts = _attribute(_USERNAME, name[:size]) + parts + role + priority
        return parts + _padding(rest), _PROOF_BYTES

    def _described(self, room: int) -> tuple[bytes, int]:
        """Return the name of the software in `room` bytes, proofs with it if they have room."""
        proofs = next((size for size in (_PROOF_BYTES, _FINGERPRINT_BYTES) if room >= size + 12), 0)
        if room == _FINGERPRINT_BYTES:
            proofs = room
        rest = room - proofs
        if rest < _ATTRIBUTE_BYTES:
            return b"", proofs
        size = min(rest - _ATTRIBUTE_BYTES, _LARGEST_SOFTWARE)
        software = _attribute(_SOFTWARE, b"libexample 1.2 " * 9, size)
        return software + _padding(rest - len(software)), proofs

    def _answer(self, side: int, room: int, transaction: bytes) -> tuple[bytes, int]:
        address = self._address(_MAPPED, 1 - side, transaction)
        rest = room - len(address)
        if rest in (_PROOF_BYTES, _FINGERPRINT_BYTES):
            return address, rest
        more, proofs = self._described(rest)
        return address + more, proofs

    def _address(self, kind: int, side: int, transaction: bytes) -> bytes:
        """Return an attribute with the address and port of a side, disguised."""
        exchange = self.exchange
        host, port = (
            (exchange.server, exchange.server_port) if side
            else (exchange.client, exchange.client_port)
        )  # fmt: skip
        key = struct.pack(">I", _COOKIE) + transaction
        hidden = int.from_bytes(host, "big") ^ int.from_bytes(key[: len(host)], "big")
        family = 1 if len(host) == 4 else 2
        head = struct.pack(">BBH", 0, family, port ^ _COOKIE >> 16)
        return _attribute(kind, head + hidden.to_bytes(len(host), "big"))

    def _build(self, kind: int, transaction: bytes, attributes: tuple[bytes, int] | bytes) -> bytes:
        """Return a message with its proofs: integrity, whose password nobody knows, and a
        fingerprint."""
        body, proofs = attributes if isinstance(attributes, tuple) else (attributes, 0)
        if proofs == _PROOF_BYTES:
            body += _attribute(_INTEGRITY, self.random.randbytes(20))
        size = len(body) + (_FINGERPRINT_BYTES if proofs else 0)
        message = _HEAD.pack(kind, size, _COOKIE) + transaction + body
        if proofs:
            check = struct.pack(">I", zlib.crc32(message) ^ _FINGERPRINT_XOR)
            message += _attribute(_FINGERPRINT, check)
        return message


def _attribute(kind: int, value: bytes, size: int | None = None) -> bytes:
    """Return an attribute, its value cut to `size` and padded to 32 bits."""
    value = value[:size]
    return struct.pack(">HH", kind, len(value)) + value + bytes(-len(value) % 4)


def _padding(room: int) -> bytes:
    """Return an attribute that fills a multiple of 4 bytes."""
    return _attribute(_PADDING, bytes(room - _ATTRIBUTE_BYTES)) if room else b""
