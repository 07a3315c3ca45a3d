"""QUIC version 1 (RFC 9000, 9001): a handshake whose Initials anybody can decrypt, then packets
that only the endpoints could."""

import hmac
import struct
from functools import cache

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, answer_bytes, label, noise

_VERSION = b"\0\0\0\1"
_INITIAL, _ZERO_RTT, _HANDSHAKE, _RETRY = 0xC0, 0xD0, 0xE0, 0xF0
"""First byte of packets of a long header, without the bits that are protected."""
_SHORT = 0x40
_SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
_RETRY_KEY = bytes.fromhex("be0c690b9f66575a1d766b54e368c84e")
_RETRY_NONCE = bytes.fromhex("461599d35d632bf2239825bb")
_TAG = 16
LEAST_INITIAL = 1_200
"""Fewest bytes of a datagram with a client's Initial (RFC 9000 section 14.1)."""
_LARGEST_LONG = 1 << 14
"""Bytes of a datagram beyond which a packet's length has more than two bytes."""
_LEAST_ANSWER = 260
"""Bytes of a datagram that has room for a server's hello and what follows."""
_LEAST_FINISHED = 75
_LEAST_HANDSHAKE = 48
_MOST_CERTIFICATE_DATAGRAMS = 4
_LARGEST_RETRY = 400
_CID = 8
_CRYPTO, _ACK_OF_FIRST = 6, b"\2\0\x20\0\0"
_HOSTS = (b"www.example.com", b"example.org", b"media.example.net", b"api.example.com")
_HELLO_EXTENSIONS = bytes.fromhex(
    "000a00080006001d00170018"  # groups
    "000d0014001204030804040105030805050108060601" "0201"  # signatures
    "002d00020101"  # resumption with a new key
    "002b0003020304"  # TLS 1.3
    "001000050003026833"  # HTTP/3
)  # fmt: skip
_PARAMETERS = bytes.fromhex(
    "010480007530" "030245c0" "0404800c0000" "050480060000" "060480060000" "070480060000"
    "08024064" "09024064" "0e0108"
)  # fmt: skip
"""Transport parameters: idle 30 s, datagrams of 1,472 bytes, and credit for streams."""
_SERVER_HELLO_EXTENSIONS = bytes.fromhex("002b00020304" "00330024001d0020")  # fmt: skip


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow; those of one that begins within a connection, or that has
    longer ones than paths carry, have short headers."""
    if max(exchange.lengths) > LARGEST_DATAGRAM:
        return None
    connection = _Connection(exchange)
    is_begun = exchange.sides[0] == 1 or exchange.lengths[0] < LEAST_INITIAL
    if is_begun or max(exchange.lengths) > _LARGEST_LONG:
        return [
            connection.sealed(side, length)
            for side, length in zip(exchange.sides, exchange.lengths, strict=True)
        ]
    answer = answer_bytes(exchange)
    return [
        connection.client(length) if side == 0 else connection.server(length, answer[k])
        for k, (side, length) in enumerate(zip(exchange.sides, exchange.lengths, strict=True))
    ]


class _Connection:
    """The connection identifiers, keys and state of both endpoints."""

    def __init__(self, exchange: Exchange):
        """Draw the identifiers; short ones where datagrams have no room for others."""
        self.exchange, self.random = exchange, exchange.random()
        drawn = self.random.randbytes(4 * _CID)
        least = [LARGEST_DATAGRAM, LARGEST_DATAGRAM]
        for side, length in zip(exchange.sides, exchange.lengths, strict=True):
            least[side] = min(least[side], length)
        self.first_id = drawn[:_CID]
        """What the client calls the server before it has answered."""
        has_id = least[1] >= 30 and drawn[-1] & 1
        self.client_id = drawn[_CID : 2 * _CID] if has_id else b""
        self.server_id = drawn[2 * _CID : 3 * _CID][: max(least[0] - 18, 0)]
        self.token = b""
        self.hello = b""
        self.keys: tuple | None = None
        self.numbers = [0, 0]
        self.is_answered = self.is_finished = False
        self.certificate_datagrams = self.finishing = 0

    def sealed(self, side: int, length: int) -> bytes:
        """Return a datagram of an endpoint that only the other can read."""
        return self._short(self.client_id if side else self.server_id, length)

    def client(self, length: int) -> bytes:
        """Return a datagram from the client."""
        if self.is_finished:
            return self._short(self.server_id, length)
        if not self.is_answered:
            if length >= LEAST_INITIAL:
                return self._client_initial(length)
            if length >= _LEAST_HANDSHAKE:
                return self._long(_ZERO_RTT, self.first_id, self.client_id, length)
            return self._short(self.first_id, length)
        self.finishing += 1
        if length >= LEAST_INITIAL and self.finishing == 1:
            ack = self._initial(0, self.server_id, self.client_id, _ACK_OF_FIRST)
            return ack + self._long(_HANDSHAKE, self.server_id, self.client_id, length - len(ack))
        self.is_finished = length >= _LEAST_FINISHED or self.finishing > 1
        if length < _LEAST_HANDSHAKE:
            return self._short(self.server_id, length)
        return self._long(_HANDSHAKE, self.server_id, self.client_id, length)

    def server(self, length: int, answer: int) -> bytes:
        """Return a datagram from the server."""
        if self.is_finished or not self.hello:
            return self._short(self.client_id, length)
        if not self.is_answered:
            overhead = 7 + len(self.client_id) + len(self.server_id) + _TAG
            if overhead + 20 <= length < _LARGEST_RETRY and answer >= LEAST_INITIAL:
                if not self.token:
                    return self._retry(length, length - overhead)
            elif length >= _LEAST_ANSWER:
                return self._answer(length)
            room = length - overhead - 3
            if room >= len(_ACK_OF_FIRST):
                is_wide = room + 1 + _TAG > 63
                frames = _ACK_OF_FIRST + bytes(room - is_wide - len(_ACK_OF_FIRST))
                return self._initial(1, self.client_id, self.server_id, frames, is_wide)
            return self._short(self.client_id, length)
        self.certificate_datagrams += 1
        if length < _LEAST_HANDSHAKE or self.certificate_datagrams > _MOST_CERTIFICATE_DATAGRAMS:
            return self._short(self.client_id, length)
        return self._long(_HANDSHAKE, self.client_id, self.server_id, length)

    def _client_initial(self, length: int) -> bytes:
        if not self.hello:
            self.hello = self._client_hello()
            self.keys = _keys(self.first_id)
        head = struct.pack(">BBH", _CRYPTO, 0, 0x4000 | len(self.hello))
        frames = head + self.hello
        token = len(self.token)
        prefix = bytes((token,)) if token < 64 else struct.pack(">H", 0x4000 | token)
        prefix += self.token
        overhead = 7 + len(self.first_id) + len(self.client_id) + len(prefix) + 3 + _TAG
        frames += bytes(max(length - overhead - len(frames), 0))
        return self._protected(0, self.first_id, self.client_id, prefix, frames, True)

    def _answer(self, length: int) -> bytes:
        """Return the server's hello and the begin of what it sends encrypted."""
        self.is_answered = True
        drawn = self.random.randbytes(64)
        extensions = _SERVER_HELLO_EXTENSIONS + drawn[32:]
        hello = b"\3\3" + drawn[:32] + b"\0\x13\1\0" + struct.pack(">H", len(extensions))
        hello += extensions
        hello = struct.pack(">BBH", 2, 0, len(hello)) + hello
        frames = _ACK_OF_FIRST + struct.pack(">BBH", _CRYPTO, 0, 0x4000 | len(hello)) + hello
        initial = self._initial(1, self.client_id, self.server_id, frames)
        return initial + self._long(
            _HANDSHAKE, self.client_id, self.server_id, length - len(initial)
        )

    def _retry(self, length: int, token_bytes: int) -> bytes:
        """Return a Retry of a length; the client goes on with its token."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.token = self.random.randbytes(token_bytes)
        head = self._head(_RETRY | 0xF, self.client_id, self.server_id) + self.token
        pseudo = bytes((len(self.first_id),)) + self.first_id + head
        tag = AESGCM(_RETRY_KEY).encrypt(_RETRY_NONCE, b"", pseudo)
        self.first_id = self.server_id
        self.keys = _keys(self.first_id)
        return head + tag

    def _initial(
        self, side: int, to: bytes, sender: bytes, frames: bytes, is_wide: bool = True
    ) -> bytes:
        return self._protected(side, to, sender, b"\0", frames, is_wide)

    def _protected(
        self, side: int, to: bytes, sender: bytes, token: bytes, frames: bytes, is_wide: bool
    ) -> bytes:
        """Return an Initial with frames (RFC 9001 section 5).

        Args:
            token: behind its length.
            is_wide: whether the packet's length has two bytes.
        """
        aead, hidden, iv = self.keys[side]
        number = self.numbers[side]
        self.numbers[side] += 1
        size = 1 + len(frames) + _TAG
        sized = struct.pack(">H", 0x4000 | size) if is_wide else bytes((size,))
        head = self._head(_INITIAL, to, sender) + token + sized
        at = len(head)
        head += bytes((number & 255,))
        nonce = iv[:-1] + bytes((iv[-1] ^ number & 255,))
        sealed = aead.encrypt(nonce, frames, head)
        mask = hidden(sealed[3:19])
        return b"".join((
            bytes((head[0] ^ mask[0] & 0x0F,)), head[1:at], bytes((head[at] ^ mask[1],)), sealed,
        ))  # fmt: skip

    def _head(self, first: int, to: bytes, sender: bytes) -> bytes:
        return b"".join((
            bytes((first,)), _VERSION, bytes((len(to),)), to, bytes((len(sender),)), sender,
        ))  # fmt: skip

    def _long(self, kind: int, to: bytes, sender: bytes, length: int) -> bytes:
        """Return a packet of a length whose keys are secret."""
        head = self._head(kind | self.random.getrandbits(4), to, sender)
        rest = length - len(head) - 2
        if rest < 20:  # room for no packet: a short header, of what was sent again
            return self._short(to, length)
        return head + struct.pack(">H", 0x4000 | rest) + noise(self.random, rest)

    def _short(self, to: bytes, length: int) -> bytes:
        head = bytes((_SHORT | self.random.getrandbits(5),)) + to
        return (head + noise(self.random, max(length - len(head), 0)))[:length]

    def _client_hello(self) -> bytes:
        random = self.random
        host = self.exchange.host(random, _HOSTS)
        if random.random() < 0.5 and self.exchange.named is None:
            host = label(random, random.randrange(3, 12)) + b"." + host
        name = struct.pack(">HHHBH", 0, len(host) + 5, len(host) + 3, 0, len(host)) + host
        share = b"\0\x33\0\x26\0\x24\0\x1d\0\x20" + random.randbytes(32)
        parameters = _PARAMETERS + bytes((0x0F, len(self.client_id))) + self.client_id
        transport = struct.pack(">HH", 57, len(parameters)) + parameters
        extensions = name + _HELLO_EXTENSIONS + share + transport
        body = b"".join((
            b"\3\3", random.randbytes(32), b"\0\0\6\x13\1\x13\2\x13\3\1\0",
            struct.pack(">H", len(extensions)), extensions,
        ))  # fmt: skip
        return struct.pack(">BBH", 1, 0, len(body)) + body


@cache
def _info(name: str, size: int) -> bytes:
    """Return what a key of a name is derived with (RFC 8446 section 7.1), of one hash at most."""
    text = b"tls13 " + name.encode()
    return struct.pack(">HB", size, len(text)) + text + b"\0\1"


def _derive(secret: bytes, name: str, size: int) -> bytes:
    return hmac.digest(secret, _info(name, size), "sha256")[:size]


def _keys(first_id: bytes) -> tuple:
    """Return the cipher, what hides headers, and the nonce of client and server."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    initial = hmac.digest(_SALT, first_id, "sha256")
    keys = []
    for name in ("client in", "server in"):
        secret = _derive(initial, name, 32)
        block = Cipher(algorithms.AES(_derive(secret, "quic hp", 16)), modes.ECB()).encryptor()
        keys.append(
            (AESGCM(_derive(secret, "quic key", 16)), block.update, _derive(secret, "quic iv", 12))
        )
    return tuple(keys)
