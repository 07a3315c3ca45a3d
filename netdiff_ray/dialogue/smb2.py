"""SMB 2 (MS-SMB2) over TCP: a dialect is agreed on, a user logs in, files are opened and read."""

import struct
from collections import deque
from functools import lru_cache
from random import Random

from netdiff_ray.dialogue.ber import OCTETS, SEQUENCE, fit, oid, tlv
from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import answer_bytes, fill_streams, label, next_of_sender, noise

_HEAD = struct.Struct("<4sHHIHHIIQIIQ16s")
"""Magic, size, credit charge, status, command, credits, flags, next, message, process, tree,
session, signature."""
_HEAD_BYTES = 4 + _HEAD.size
"""With the length before it."""
(_NEGOTIATE, _SETUP, _LOGOFF, _CONNECT, _DISCONNECT, _CREATE, _CLOSE, _FLUSH, _READ, _WRITE, _LOCK,
 _IOCTL, _CANCEL, _ECHO, _DIRECTORY, _NOTIFY, _QUERY) = range(17)  # fmt: skip
_OF_SERVER = 1
_SUCCESS, _MORE_PROCESSING, _DENIED, _NOT_FOUND = 0, 0xC0000016, 0xC0000022, 0xC0000034
_CREDITS, _PROCESS = 31, 0xFEFF
_KEEP_ALIVE = b"\x85\0\0\0"
_ERROR_BYTES = _HEAD_BYTES + 9
_EMPTY_BYTES = _HEAD_BYTES + 4
_DIALECTS = (0x0202, 0x0210, 0x0300, 0x0302, 0x0311)
_OLD_HEAD = b"\xffSMB\x72" + bytes(4) + b"\x18\x53\xc8" + bytes(14) + b"\xff\xfe\0\0\0\0"
_OLD_DIALECTS = (b"\2NT LM 0.12\0", b"\2SMB 2.002\0", b"\2SMB 2.???\0")
_OLD_LEAST = 4 + 32 + 3 + sum(map(len, _OLD_DIALECTS))
_LARGEST_OLD = 230
_BLOB_LEAST = 80
_MOST_LOGIN = 60_000
"""Bytes of a request with names, whose lengths have two bytes each."""
_QUERY_VOLUME = 0x0009013C
_NTLM = b"NTLMSSP\0"
_SPNEGO, _NTLMSSP_OID = "1.3.6.1.5.5.2", "1.3.6.1.4.1.311.2.2.10"
_NAMES = tuple(name.encode("utf-16-le") for name in ("EXAMPLE", "alice", "WS-1234"))
_NTLM_PROOF_HEAD, _NTLM_PROOF = 72, 24
_NTLM_2_MORE = 56 - _NTLM_PROOF
_TIME = 133_800_000_000_000_000
"""In tenths of a microsecond since 1601."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a connection, or of the rest of one."""
    if exchange.lengths[0] < _EMPTY_BYTES - 21:
        return None
    return _Session(exchange).messages()


class _Session:
    """A client and a server."""

    def __init__(self, exchange: Exchange):
        """Draw the identifiers of session, tree and file."""
        self.exchange = exchange
        self.random = exchange.random()
        self.answer, self.ahead = answer_bytes(exchange), next_of_sender(exchange)
        self.number = -1
        self.session = 0
        self.has_offered = False
        """Whether the server has said how to log in."""
        self.tree = 0
        self.file = self.random.randbytes(16)
        self.stage = _NEGOTIATE if exchange.sides[0] == 0 else _ECHO
        """Which command comes next; any after the login."""
        self.asked: deque[tuple[int, int]] = deque()

    def messages(self) -> list[bytes]:
        """Return all messages."""
        return fill_streams(self.exchange, self._frame)

    def _frame(self, k: int, side: int, rest: int) -> bytes:
        if rest == len(_KEEP_ALIVE):
            return _KEEP_ALIVE
        if side == 0:
            return self._ask(rest, self.answer[k], self.ahead[k])
        command, number = self.asked.popleft() if self.asked else (_ECHO, max(self.number, 0))
        return self._answer(command, number, rest, self.ahead[k])

    def _packet(
        self, command: int, number: int, body: bytes, flags: int = 0, status: int = _SUCCESS
    ) -> bytes:
        has_tree = command not in (_NEGOTIATE, _SETUP, _CONNECT, _ECHO) or (
            command == _CONNECT and flags
        )
        head = _HEAD.pack(
            b"\xfeSMB", _HEAD.size, command != _NEGOTIATE, status, command, _CREDITS, flags, 0,
            number, _PROCESS, self.tree if has_tree else 0,
            0 if command == _NEGOTIATE else self.session, bytes(16),
        )  # fmt: skip
        return struct.pack(">I", len(head) + len(body)) + head + body

    def _ask(self, rest: int, answer: int, ahead: int) -> bytes:
        """Return a request that has room for `rest` bytes."""
        if self.stage == _NEGOTIATE:
            return self._negotiate(rest, answer)
        self.number += 1
        command, body = self._request(max(rest, _EMPTY_BYTES), answer, ahead)
        self.asked.append((command, self.number))
        return self._packet(command, self.number, body)

    def _negotiate(self, rest: int, answer: int) -> bytes:
        dialects = (rest - _HEAD_BYTES - 36) // 2
        if rest >= _HEAD_BYTES + 38 and rest % 2 == 0 and dialects <= len(_DIALECTS) - 1:
            self.number += 1
            self.stage = _SETUP
            names = struct.pack(f"<{dialects}H", *_DIALECTS[:dialects])
            body = struct.pack("<HHHHI", 36, dialects, 1, 0, 0x7F) + self.random.randbytes(16)
            self.asked.append((_NEGOTIATE, self.number))
            return self._packet(_NEGOTIATE, self.number, body + bytes(8) + names)
        if rest > _LARGEST_OLD or rest < _OLD_LEAST or self.number == 0:
            self.stage = _SETUP
            return self._ask(rest, answer, 0)
        names, room = b"".join(_OLD_DIALECTS), rest - _OLD_LEAST
        more = b""
        if room >= 3:
            more = b"\2" + label(self.random, room - 2).upper() + b"\0"
        elif room:
            names = names.replace(b"0.12", b"0.12" + b"0" * room)
        self.number = 0
        self.asked.append((_NEGOTIATE, 0))
        data = more + names
        packet = _OLD_HEAD + struct.pack("<BH", 0, len(data)) + data
        return struct.pack(">I", len(packet)) + packet

    def _request(self, rest: int, answer: int, ahead: int) -> tuple[int, bytes]:
        """Return a command and its body, of `rest` bytes with the head where it has such."""
        room = rest - _HEAD_BYTES
        if self.stage == _SETUP:
            if 24 + 40 <= room <= _MOST_LOGIN:
                return _SETUP, self._login(room - 24, answer)
            self.stage = _ECHO
        if room < 8 or (room == 8 and not answer):
            is_end = not ahead
            return (_LOGOFF if is_end else _ECHO), struct.pack("<HH", 4, 0)
        is_connection = answer == _HEAD_BYTES + 16
        if is_connection and room % 2 == 0 and 20 <= room <= 200 and (not self.tree or room < 48):
            path = self._name(room - 8, b"\\\\srv\\share")
            return _CONNECT, struct.pack("<HHHH", 9, 0, _HEAD.size + 8, len(path)) + path
        if room == 24 and answer in (_HEAD_BYTES + 60, _ERROR_BYTES, 0):
            return _CLOSE, struct.pack("<HHI", 24, 1, 0) + self.file
        if room == 49 and answer > _HEAD_BYTES + 16:
            size = answer - _HEAD_BYTES - 16
            head = struct.pack("<HBBIQ", 49, 0x50, 0, size, 4_096 * self.number)
            return _READ, head + self.file + struct.pack("<IIIHHB", 0, 0, 0, 0, 0, 0)
        if room >= 58 and room % 2 == 0 and answer >= _HEAD_BYTES + 88:
            return _CREATE, self._create(room)
        if room >= 49 and is_connection:
            data = noise(self.random, room - 48)
            head = struct.pack("<HHIQ", 49, _HEAD.size + 48, len(data), 4_096 * self.number)
            return _WRITE, head + self.file + struct.pack("<IIHHI", 0, 0, 0, 0, 0) + data
        if room >= 57 and answer >= _HEAD_BYTES + 49:
            return _IOCTL, self._control(room - 56)
        if room in (40, 41):
            kind = self.random.choice((4, 5, 18))
            head = struct.pack("<HBBIHHIII", 41, 1, kind, 4_096, 0, 0, 0, 0, 0)
            return _QUERY, head + self.file + bytes(room - 40)
        if room >= 34 and room % 2 == 0 and room < 300:
            pattern = self._name(room - 32, b"*")
            head = struct.pack("<HBBI", 33, 37, 0, 0) + self.file
            place = struct.pack("<HHI", _HEAD.size + 32, len(pattern), 65_536)
            return _DIRECTORY, head + place + pattern
        if room >= 49:
            data = noise(self.random, room - 48)
            head = struct.pack("<HHIQ", 49, _HEAD.size + 48, len(data), 0)
            return _WRITE, head + self.file + struct.pack("<IIHHI", 0, 0, 0, 0, 0) + data
        return _ECHO, struct.pack("<HH", 4, 0)

    def _name(self, size: int, begin: bytes) -> bytes:
        """Return a name of `size` bytes in UTF-16."""
        count = size // 2
        text = (begin + label(self.random, max(count - len(begin), 0)))[:count]
        return text.decode("ascii").encode("utf-16-le")

    def _login(self, size: int, answer: int) -> bytes:
        """Return a request that begins or ends a login with NTLM (MS-NLMP), bare of SPNEGO."""
        blob = _ntlm_hello(size) if not self.session else _ntlm_proof(self.random, size)
        if self.session:
            self.stage = _ECHO
        return struct.pack("<HBBIIHHQ", 25, 0, 1, 1, 0, _HEAD.size + 24, len(blob), 0) + blob

    def _create(self, room: int) -> bytes:
        name = self._name(room - 56, b"docs\\")
        head = struct.pack("<HBBIQQIIIII", 57, 0, 0, 2, 0, 0, 0x120089, 0, 7, 1, 0)
        return head + struct.pack("<HHII", _HEAD.size + 56, len(name), 0, 0) + name

    def _control(self, size: int) -> bytes:
        data = noise(self.random, size)
        head = struct.pack("<HHI", 57, 0, _QUERY_VOLUME) + self.file
        place = _HEAD.size + 56
        more = struct.pack("<IIIIIIII", place, len(data), 0, place, 0, 65_536, 1, 0)
        return head + more + data

    def _answer(self, command: int, number: int, rest: int, ahead: int) -> bytes:
        """Return the answer to a command in `rest` bytes, or an error where it has no such."""
        if rest < _EMPTY_BYTES:
            rest = rest + ahead if _EMPTY_BYTES <= rest + ahead <= 300 else _EMPTY_BYTES
        if self.asked:
            rest = min(rest, _ERROR_BYTES)
        room = rest - _HEAD_BYTES
        body, status = self._reply(command, room), _SUCCESS
        if command == _SETUP and not self.session:
            self.session = self.random.getrandbits(46) | 1
            status = _MORE_PROCESSING
        if command == _CONNECT:
            self.tree = self.random.randrange(1, 9)
        if body is None or len(body) > room or room == 9:
            status = _DENIED if command in (_SETUP, _NEGOTIATE) else _NOT_FOUND
            body = struct.pack("<HBBI", 9, 0, 0, max(room - 8, 0))
            body += noise(self.random, max(room - 8, 1))
            if room < 9:
                status, body, command = _SUCCESS, struct.pack("<HH", 4, 0), _ECHO
        return self._packet(command, number, body, _OF_SERVER, status)

    def _reply(self, command: int, room: int) -> bytes | None:
        if command == _NEGOTIATE:
            blob = _offer(room - 64) if room >= 64 + _BLOB_LEAST else b""
            if blob is None or (room != 64 and not blob):
                return None
            self.has_offered = bool(blob)
            return struct.pack("<HHHH", 65, 1, 0x0210, 0) + self.random.randbytes(16) + struct.pack(
                "<IIIIQQHHI", 7, 1 << 20, 1 << 20, 1 << 20, _TIME, 0,
                _HEAD.size + 64, len(blob), 0,
            ) + blob  # fmt: skip
        if command == _SETUP:
            if room < 8:
                return None
            blob = b""
            if room >= 17:
                if not self.session:
                    blob = _ntlm_challenge(self.random, room - 8)
                elif self.has_offered:
                    blob = _accepted(room - 8)
            if blob is None:
                return None
            return (
                struct.pack("<HHHH", 9, 0, _HEAD.size + 8, len(blob))
                + blob
                + bytes(room - 8 - len(blob))
            )
        if command == _CONNECT and room == 16:
            return struct.pack("<HBBIII", 16, 1, 0, 0x30, 0, 0x1F01FF)
        if command == _WRITE and room == 16:
            return struct.pack("<HHIIHH", 17, 0, 4_096, 0, 0, 0)
        if command == _READ and room > 16:
            head = struct.pack("<HBBIII", 17, _HEAD.size + 16, 0, room - 16, 0, 0)
            return head + noise(self.random, room - 16)
        if command == _CREATE and room >= 88:
            return self._opened(room)
        if command == _CLOSE and room == 60:
            return struct.pack("<HHI", 60, 1, 0) + bytes(52)
        if command in (_QUERY, _DIRECTORY) and room > 8:
            data = noise(self.random, room - 8)
            if command == _QUERY:
                return struct.pack("<HHI", 9, _HEAD.size + 8, len(data)) + data
            return None
        if command == _IOCTL and room >= 48:
            data = noise(self.random, room - 48)
            place = _HEAD.size + 48
            head = struct.pack("<HHI", 49, 0, _QUERY_VOLUME) + self.file
            return head + struct.pack("<IIIIII", place, 0, place, len(data), 0, 0) + data
        is_plain = command in (_LOGOFF, _ECHO, _DISCONNECT, _FLUSH) and room == 4
        return struct.pack("<HH", 4, 0) if is_plain else None

    def _opened(self, room: int) -> bytes | None:
        gap = room - 88
        context = b""
        if gap >= 24:
            size = gap - 24
            context = struct.pack("<IHHHHI", 0, 16, 4, 0, 24, size) + b"ExmP" + bytes(4)
            context += noise(self.random, size)
        elif gap:
            return None
        times = struct.pack("<QQQQ", *(_TIME + k for k in range(4)))
        place = _HEAD.size + 88 if context else 0
        return (
            struct.pack("<HBBI", 89, 0, 0, 1) + times
            + struct.pack("<QQII", 4_096, 1_200, 0x20, 0) + self.file
            + struct.pack("<II", place, len(context)) + context
        )  # fmt: skip


@lru_cache(1 << 10)
def _offer(size: int) -> bytes | None:
    """Return a token of SPNEGO (RFC 4178) that offers NTLM, with a hint of a length."""

    def build(filler: int, less: int, outermost) -> bytes:
        hint = tlv(0xA3, tlv(SEQUENCE, tlv(0xA0, tlv(27, b"x" * filler))))
        inner = tlv(0xA0, tlv(SEQUENCE, tlv(0xA0, tlv(SEQUENCE, oid(_NTLMSSP_OID))), hint))
        return outermost(0x60, oid(_SPNEGO), inner)

    return fit(size, build)


def _accepted(size: int) -> bytes:
    """Return a token of SPNEGO that ends a login, with a proof if `size` is that of both."""
    state = tlv(0xA0, tlv(10, b"\0"))
    proof = tlv(0xA3, tlv(OCTETS, b"\1\0\0\0" + bytes(range(9, 21))))
    proved = tlv(0xA1, tlv(SEQUENCE, state, proof))
    return proved if len(proved) == size else tlv(0xA1, tlv(SEQUENCE, state))


def _ntlm_hello(size: int) -> bytes:
    """Return the first message of NTLM, with the names of a domain and a host."""
    flags = 0xE2088297 if size < 40 else 0xE208B297
    rest = size - 40
    domain = min(rest // 2, 60)
    return _NTLM + struct.pack("<IIHHIHHI", 1, flags, domain, domain, 40, rest - domain,
                               rest - domain, 40 + domain) + bytes(8) + b"X" * rest  # fmt: skip


def _ntlm_challenge(random: Random, size: int) -> bytes | None:
    """Return the second message of NTLM: a challenge, and names of the server."""
    rest = size - 56
    if rest < 8:
        return None
    name = min(rest - rest % 2, 16)
    left = rest - name
    if left < 8:
        return None
    value = left - 8
    target = struct.pack("<HH", 3, value) + b"x\0" * (value // 2) + b"x" * (value % 2) + bytes(4)
    head = _NTLM + struct.pack("<IHHII", 2, name, name, 56, 0xE2898215) + random.randbytes(8)
    head += bytes(8) + struct.pack("<HHI", left, left, 56 + name) + b"\x0a\0\x63\x45\0\0\0\x0f"
    return head + b"S\0" * (name // 2) + target


def _ntlm_proof(random: Random, size: int) -> bytes:
    """Return the third message of NTLM: names, and the proof."""
    rest = size - _NTLM_PROOF_HEAD - sum(map(len, _NAMES)) - _NTLM_PROOF
    if rest < 0:
        return _ntlm_hello(size)
    answer = random.randbytes(_NTLM_PROOF)
    names = [*_NAMES[:2], _NAMES[2] + b"x" * rest]
    if rest >= _NTLM_2_MORE:  # of version 2: proof, time, challenge and a name
        value = rest - _NTLM_2_MORE
        answer = b"".join((
            random.randbytes(16), b"\1\1\0\0\0\0\0\0", struct.pack("<Q", _TIME),
            random.randbytes(8), bytes(4), struct.pack("<HH", 9, value), b"x" * value, bytes(8),
        ))  # fmt: skip
        names = list(_NAMES)
    at, heads = _NTLM_PROOF_HEAD, []
    for part in (*names, b"", answer, b""):  # names at even places
        heads.append(struct.pack("<HHI", len(part), len(part), at))
        at += len(part)
    domain, user, host, lm, nt, key = heads
    head = b"".join((_NTLM, struct.pack("<I", 3), lm, nt, domain, user, host, key))
    head += struct.pack("<I", 0xE2888215)
    return b"".join((head.ljust(_NTLM_PROOF_HEAD, b"\0"), *names, answer))
