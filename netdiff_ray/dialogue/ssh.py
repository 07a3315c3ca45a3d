"""SSH 2 (RFC 4253): versions, the choice of algorithms, a key exchange, and encrypted packets."""

import struct
from functools import lru_cache

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import fill_uncut, label, noise
from netdiff_ray.dialogue.segments import first_segments

_INIT, _NEW_KEYS, _KEX_ASK, _KEX_ANSWER = 20, 21, 30, 31
_GROUP_ASK, _GROUP, _GROUP_INIT, _GROUP_ANSWER = 34, 31, 32, 33
_ASK_BYTES = 48
"""Bytes of the first message of the key exchange with curve25519."""
_IGNORE = 2
_IGNORE_BYTES, _LARGEST_IGNORED = 14, 16_000
_KEYED = 5
"""Step after which packets are encrypted."""
_LENGTH_BYTES = 4
"""Bytes that each segment has at least: readers look for a packet's length in them."""
_LONGEST_VERSION = 255
_LEAST_VERSION = 11
_LEAST_INIT = 176
_GROUP_ASK_BYTES, _NEW_KEYS_BYTES = 24, 16
_VERSIONS = (b"OpenSSH_8.9p1 Ubuntu-3ubuntu0.10", b"OpenSSH_9.2p1 Debian-2+deb12u3")
_EXCHANGES = (
    (b"diffie-hellman-group18-sha512", 1_025), (b"diffie-hellman-group16-sha512", 513),
    (b"diffie-hellman-group14-sha256", 257), (b"ecdh-sha2-nistp521", 133),
    (b"ecdh-sha2-nistp384", 97), (b"ecdh-sha2-nistp256", 65), (b"curve25519-sha256", 32),
)  # fmt: skip
"""Names of key exchanges and bytes of a public value, the largest first."""
_BY_GROUP = b"diffie-hellman-group-exchange-sha256"
_GROUPS = (513, 385, 257, 129)
"""Bytes of a prime, and of public values."""
_LISTS = (
    (b"curve25519-sha256@libssh.org", b"ecdh-sha2-nistp256", b"ecdh-sha2-nistp384",
     b"ecdh-sha2-nistp521", b"diffie-hellman-group16-sha512", b"diffie-hellman-group18-sha512",
     b"diffie-hellman-group14-sha256", b"ext-info-c", b"kex-strict-c-v00@openssh.com"),
    (b"ssh-ed25519", b"rsa-sha2-512", b"rsa-sha2-256", b"ecdsa-sha2-nistp256",
     b"ssh-ed25519-cert-v01@openssh.com", b"ecdsa-sha2-nistp256-cert-v01@openssh.com",
     b"rsa-sha2-512-cert-v01@openssh.com", b"ecdsa-sha2-nistp384", b"ecdsa-sha2-nistp521",
     b"ecdsa-sha2-nistp384-cert-v01@openssh.com", b"sk-ssh-ed25519@openssh.com",
     b"sk-ecdsa-sha2-nistp256@openssh.com"),
    (b"chacha20-poly1305@openssh.com", b"aes128-ctr", b"aes192-ctr", b"aes256-ctr",
     b"aes128-gcm@openssh.com", b"aes256-gcm@openssh.com"),
    (b"hmac-sha2-256", b"hmac-sha2-512", b"umac-128@openssh.com", b"umac-64@openssh.com",
     b"hmac-sha1", b"hmac-sha2-256-etm@openssh.com", b"hmac-sha2-512-etm@openssh.com",
     b"umac-128-etm@openssh.com", b"hmac-sha1-etm@openssh.com"),
    (b"none", b"zlib@openssh.com"),
)  # fmt: skip
"""Names of key exchanges (but the chosen one), host keys, ciphers, integrity and compression, as
OpenSSH has them."""
_USED_TWICE = 2
"""Lists before it stand once in a message, later ones for each direction."""
_KEYS = (
    (b"ssh-ed25519", 51, 83), (b"rsa-sha2-512", 279, 276), (b"rsa-sha2-512", 535, 532),
)  # fmt: skip
"""Host keys: name of the algorithm, bytes of the key and of a signature."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a connection; of one that is captured late, encrypted packets."""
    versions = _first_segments(exchange)
    if exchange.lengths[0] < _LEAST_VERSION or min(versions) < _LEAST_VERSION:
        return None
    if min(exchange.segments, default=_LENGTH_BYTES) < _LENGTH_BYTES:
        return None
    return _Session(exchange, versions).messages()


def _first_segments(exchange: Exchange) -> list[int]:
    """Return the bytes of the first segment of each side, which has its version whole."""
    sizes = dict(zip(reversed(exchange.sides), reversed(first_segments(exchange)), strict=True))
    return [sizes.get(side, _LONGEST_VERSION) for side in (0, 1)]


class _Session:
    """A client and a server: both begin, then the client asks."""

    def __init__(self, exchange: Exchange, versions: list[int]):
        """Choose the key exchange by the lengths that both sides have for it.

        Args:
            exchange: what to fill.
            versions: most bytes of each side's version.
        """
        self.exchange, self.versions = exchange, versions
        self.random = exchange.random()
        self.steps = [0, 0]
        """0 before the version, 1 before the algorithms, 2 before the key exchange, 3 after it or
        before its second part, 4 after that, _KEYED when packets are encrypted."""
        places = [[k for k, s in enumerate(exchange.sides) if s == side] for side in (0, 1)]
        lengths = exchange.lengths
        offers = [  # of each side: which of its messages has its algorithms
            0 if of_side and lengths[of_side[0]] >= _LONGEST_VERSION + _LEAST_INIT else 1
            for of_side in places
        ]
        asks, answers = (
            [lengths[k] for k in of_side[offer + 1 :]]
            for of_side, offer in zip(places, offers, strict=True)
        )
        at = [
            of_side[o] if len(of_side) > o else -1
            for of_side, o in zip(places, offers, strict=True)
        ]
        self.asks_at_once = 0 <= at[1] < at[0] and lengths[at[0]] >= _LEAST_INIT + _ASK_BYTES
        """Whether the client begins the key exchange in the message with its algorithms, as the
        server's are known."""
        ask, answer = next(iter(asks), _ASK_BYTES), next(iter(answers), 208)
        if self.asks_at_once:
            ask = _ASK_BYTES
        self.is_by_group = ask == _GROUP_ASK_BYTES
        self.method, self.public = _BY_GROUP, _GROUPS[-1]
        if not self.is_by_group:
            self.method, self.public = next(
                (e for e in _EXCHANGES if e[1] + 14 <= ask), _EXCHANGES[-1]
            )
        elif len(answers) > 1 and len(asks) > 1:
            room, answer = min(asks[1], answers[0]) - 16, answers[1]
            self.public = next((n for n in _GROUPS if n <= room), _GROUPS[-1])
        room = answer - self.public - _NEW_KEYS_BYTES - 26
        self.key = next((k for k in reversed(_KEYS) if k[1] + k[2] <= room), _KEYS[0])

    def messages(self) -> list[bytes] | None:
        """Return all messages, None if a message has less room than any packet needs that comes
        before encryption."""
        return fill_uncut(self.exchange, self._frame)

    def _frame(self, k: int, side: int, rest: int) -> bytes:
        """Return the next packet of a side, or one that means nothing where that has no room."""
        step = self.steps[side]
        packet = self._next(side, rest)
        if step and len(packet) > rest >= _IGNORE_BYTES:
            self.steps[side] = step
            return self._ignored(rest)
        return packet

    def _next(self, side: int, rest: int) -> bytes:
        """Return what a side says next, in `rest` bytes if it can."""
        step = self.steps[side]
        if step == 0:
            self.steps[side] = 1
            return self._version(rest, self.versions[side])
        if step == 1:
            self.steps[side] = 2
            return self._algorithms(side, max(rest, _LEAST_INIT))
        if step < _KEYED and not self._may_go_on(side, step):
            return self._ignored(rest)
        if step == 2:
            self.steps[side] = 3
            if self.is_by_group:
                return self._ask_for_group(rest) if side == 0 else self._group(rest)
            return self._ask(_KEX_ASK, rest) if side == 0 else self._answer(_KEX_ANSWER, rest)
        if step == 3 and self.is_by_group:
            self.steps[side] = 4
            return self._ask(_GROUP_INIT, rest) if side == 0 else self._answer(_GROUP_ANSWER, rest)
        if step < _KEYED:
            self.steps[side] = _KEYED
            is_alone = _NEW_KEYS_BYTES < rest < 2 * _NEW_KEYS_BYTES
            return _new_keys(rest if is_alone else _NEW_KEYS_BYTES)
        return noise(self.random, rest)

    def _may_go_on(self, side: int, step: int) -> bool:
        """Return whether the other side has said what a side's next message answers."""
        other = self.steps[1 - side]
        if side == 0:
            return other >= step  # algorithms, then the group, then the keys
        return other > step or other == _KEYED or step == 3 + self.is_by_group

    def _ignored(self, rest: int) -> bytes:
        """Return a packet that means nothing, while the other side is waited for."""
        size = max(rest - _IGNORE_BYTES, 0) if rest < _LARGEST_IGNORED else _LARGEST_IGNORED // 2
        return self._fit(
            struct.pack(">BI", _IGNORE, size) + self.random.randbytes(size), size + _IGNORE_BYTES
        )

    def _version(self, rest: int, most: int) -> bytes:
        """Return the line that begins a side's stream, of at most `most` bytes; it may have the
        next message with it."""
        software = self.random.choice(_VERSIONS)
        size = rest
        if rest > _LONGEST_VERSION:
            size = 10 + len(software)
            size += (rest - size) % 8 if rest < 4_000 else 0
        size = min(size, most)
        line = (software + b"-" + label(self.random, 250))[: max(size - 10, 1)]
        if line[-1:] in b" -+":
            line = line[:-1] + b"1"
        return b"SSH-2.0-" + line + b"\r\n"

    def _algorithms(self, side: int, rest: int) -> bytes:
        """Return the packet that offers algorithms, and room for the key exchange after it."""
        size = rest
        if side == 0 and self.asks_at_once and rest >= _LEAST_INIT + _ASK_BYTES:
            size -= _ASK_BYTES
        if side == 0 and rest > 2_200:
            size = 1_400
        elif side == 1 and rest > 1_300:
            size = 1_080
        names = _offers(self.method, self.key[0], size)
        payload = bytes((_INIT,)) + self.random.randbytes(16) + names + bytes(5)
        return self._fit(payload, size)

    def _ask(self, kind: int, rest: int) -> bytes:
        size = min(rest, self.public + 14 + 250)
        payload = struct.pack(">BI", kind, self.public) + self.random.randbytes(self.public)
        return self._fit(payload, size)

    def _answer(self, kind: int, rest: int) -> bytes:
        name, key, signature = self.key
        host_key = struct.pack(">I", len(name)) + name
        host_key += struct.pack(">I", key - len(host_key) - 4)
        host_key += self.random.randbytes(key - len(host_key))
        sealed = struct.pack(">I", len(name)) + name
        sealed += struct.pack(">I", signature - len(sealed) - 4)
        sealed += self.random.randbytes(signature - len(sealed))
        public = self.random.randbytes(self.public)
        payload = bytes((kind,)) + b"".join(
            struct.pack(">I", len(part)) + part for part in (host_key, public, sealed)
        )
        return self._fit(payload, rest - _NEW_KEYS_BYTES if rest > _NEW_KEYS_BYTES else rest)

    def _ask_for_group(self, rest: int) -> bytes:
        return self._fit(struct.pack(">BIII", _GROUP_ASK, 2_048, 2_048, 8_192), rest)

    def _group(self, rest: int) -> bytes:
        prime = b"\0" + self.random.randbytes(self.public - 1)
        payload = struct.pack(">BI", _GROUP, len(prime)) + prime + b"\0\0\0\1\2"
        return self._fit(payload, rest)

    def _fit(self, payload: bytes, size: int) -> bytes:
        """Return the packet of a payload in `size` bytes; in the fewest that it can have where
        that are too few or more than its padding can fill."""
        padding = size - len(payload) - 5
        if not 4 <= padding <= 255:
            padding = 4 + -(len(payload) + 9) % 8
        return _packet(payload, len(payload) + 5 + padding, bytes(padding))


def _packet(payload: bytes, size: int, padding: bytes) -> bytes:
    return struct.pack(">IB", size - 4, len(padding)) + payload + padding


def _new_keys(size: int) -> bytes:
    return _packet(bytes((_NEW_KEYS,)), size, bytes(size - 6))


@lru_cache(1 << 10)
def _offers(method: bytes, key: bytes, size: int) -> bytes:
    """Return the ten lists of names that leave 4 to 255 bytes of padding in a packet of `size`
    bytes."""
    firsts = (method, key, *(names[0] for names in _LISTS[2:]))
    lists = [[first] for first in firsts]
    room = size - 5 - 17 - 5 - 40 - 4
    room -= sum(len(name) * (1 + (k >= _USED_TWICE)) for k, name in enumerate(firsts))
    more = [
        (k, name) for names in zip(*(_padded(names) for names in _LISTS), strict=True)
        for k, name in enumerate(names) if name and name not in firsts
    ]  # fmt: skip
    for k, name in more:
        cost = (len(name) + 1) * (1 + (k >= _USED_TWICE))
        if cost <= room:
            lists[k].append(name)
            room -= cost
    number = 0
    while room > 200:
        name = b"kex-%04d-%s@example.com" % (number, b"x" * 40)
        lists[0].append(name)
        room -= len(name) + 1
        number += 1
    texts = [b",".join(names) for names in lists]
    ordered = [*texts[:2], *(t for t in texts[2:] for _ in range(2)), b"", b""]
    return b"".join(struct.pack(">I", len(text)) + text for text in ordered)


def _padded(names: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return names + (b"",) * (max(map(len, _LISTS)) - len(names))
