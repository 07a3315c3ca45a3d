"""LDAP (RFC 4511): directories that are bound to, searched and left."""

from collections import deque

from netdiff_ray.dialogue.ber import (
    BOOLEAN,
    ENUMERATED,
    OCTETS,
    SEQUENCE,
    SET,
    fit,
    integer,
    tlv,
)  # fmt: skip
from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import (
    answer_bytes,
    fill_uncut,
    label,
    next_of_sender,
    words,
)  # fmt: skip
from netdiff_ray.dialogue.segments import rests_of_segments

_BIND, _BOUND, _UNBIND, _SEARCH, _ENTRY, _DONE, _MODIFY, _MODIFIED = (
    0x60, 0x61, 0x42, 0x63, 0x64, 0x65, 0x66, 0x67,
)  # fmt: skip
_PASSWORD, _PRESENT, _EQUAL = 0x80, 0x87, 0xA3
_RESULT_BYTES, _UNBIND_BYTES = 14, 7
_LEAST_SEARCH, _LEAST_ENTRY, _LEAST_MODIFY = 50, 50, 60
_LARGEST_ENTRY = 5_000
_LONGEST_DIAGNOSIS = 60
_FOUND = b"Success."
"""What is said at the end of a search. Segments rarely end within the first bytes of a result with
it, which tshark does not take for the begin of one."""
_BASE = b"dc=example,dc=net"
_PEOPLE = b"ou=people,"
_ATTRIBUTES = (b"cn", b"mail", b"uid", b"memberOf", b"sn", b"title")
_RESULT = tlv(ENUMERATED, b"\0") + tlv(OCTETS) * 2


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a connection; what the server sends first ends an earlier search."""
    if exchange.lengths[0] < _UNBIND_BYTES:
        return None
    return _Session(exchange).messages()


class _Session:
    """A client and a directory."""

    def __init__(self, exchange: Exchange):
        """Begin before anybody is bound."""
        self.exchange = exchange
        self.random = exchange.random()
        self.answer, self.ahead = answer_bytes(exchange), next_of_sender(exchange)
        self.behind = rests_of_segments(exchange)
        self.number = 0
        self.is_bound = False
        self.asked: deque[tuple[int, int]] = deque()
        """Requests without an answer: operation that answers them, and number."""

    def messages(self) -> list[bytes] | None:
        """Return all messages, None if one has no length that its message has."""
        return fill_uncut(self.exchange, self._frame)

    def _frame(self, k: int, side: int, rest: int) -> bytes:
        if side == 1:
            return self._reply(k, rest)
        self.number = self.number % 127 + 1
        answer = self.answer[k]
        if rest < _RESULT_BYTES:
            room = rest if rest >= _UNBIND_BYTES else rest + self.ahead[k]
            if rest == _UNBIND_BYTES or room < _RESULT_BYTES:
                return self._envelope(_UNBIND, b"")
            rest = room
        is_answered_shortly = _RESULT_BYTES <= answer <= _RESULT_BYTES + _LONGEST_DIAGNOSIS
        if (not self.is_bound and is_answered_shortly) or rest < _LEAST_SEARCH:
            self.is_bound = True
            self.asked.append((_BOUND, self.number))
            return self._bind(rest)
        if not answer and rest >= _LEAST_SEARCH + _UNBIND_BYTES:
            rest -= _UNBIND_BYTES
        if answer == _RESULT_BYTES and rest >= _LEAST_MODIFY and self.random.random() < 0.5:
            self.asked.append((_MODIFIED, self.number))
            return self._modify(rest)
        self.asked.append((_DONE, self.number))
        return self._search(rest)

    def _envelope(self, operation: int, body: bytes, number: int = 0, outermost=tlv) -> bytes:
        return outermost(SEQUENCE, integer(number or self.number), tlv(operation, body))

    def _bind(self, rest: int) -> bytes:
        def build(filler: int, less: int, outermost) -> bytes:
            name = (b"cn=" + who + b"," + _BASE)[: max(filler - 1, 0)] if filler > 10 else b""
            password = (secret * (filler // 4 + 1))[: filler - len(name)]
            body = integer(3) + tlv(OCTETS, name) + tlv(_PASSWORD, password)
            return self._envelope(_BIND, body, 0, outermost)

        who, secret = label(self.random, 8), label(self.random, 12)
        return fit(rest, build) or self._envelope(_UNBIND, b"")

    def _search(self, rest: int) -> bytes:
        who = label(self.random, 40)

        def build(filler: int, less: int, outermost) -> bytes:
            names: list[bytes] = []
            asked = filler
            for name in _ATTRIBUTES:
                if len(name) + 2 <= asked - 20:
                    names.append(name)
                    asked -= len(name) + 2
            matched = tlv(_PRESENT, b"objectClass"[: 11 - less])
            if asked > 8:
                value = (who * (asked // len(who) + 1))[:asked]
                matched = tlv(_EQUAL, tlv(OCTETS, b"uid"), tlv(OCTETS, value))
            elif asked:
                matched = tlv(_PRESENT, b"objectClass" + b"x" * asked)
            body = b"".join((
                tlv(OCTETS, _BASE), tlv(ENUMERATED, b"\2"), tlv(ENUMERATED, b"\0"), integer(0),
                integer(0), tlv(BOOLEAN, b"\0"), matched,
                tlv(SEQUENCE, *(tlv(OCTETS, name) for name in names)),
            ))  # fmt: skip
            return self._envelope(_SEARCH, body, 0, outermost)

        return fit(rest, build) or self._bind(rest)

    def _modify(self, rest: int) -> bytes:
        text = words(self.random, rest)

        def build(filler: int, less: int, outermost) -> bytes:
            change = tlv(SEQUENCE, tlv(OCTETS, b"title"), tlv(SET, tlv(OCTETS, text[:filler])))
            changes = tlv(SEQUENCE, tlv(SEQUENCE, tlv(ENUMERATED, b"\2"), change))
            body = tlv(OCTETS, b"uid=eve," + _BASE) + changes
            return self._envelope(_MODIFY, body, 0, outermost)

        return fit(rest, build) or self._search(rest)

    def _reply(self, k: int, rest: int) -> bytes:
        """Return a message of the directory, an entry unless there is room for the result alone; it
        ends with a segment where it can."""
        ahead = self.ahead[k]
        operation, number = self.asked[0] if self.asked else (_DONE, self.number or 1)
        after = rest - _RESULT_BYTES - len(_FOUND)
        if operation == _DONE and after >= _LEAST_ENTRY:
            size = after
            ends = (rest - behind for behind in self.behind[k] if _RESULT_BYTES <= behind < rest)
            size = next((n for n in ends if _LEAST_ENTRY <= n <= min(after, _LARGEST_ENTRY)), size)
            if size > _LARGEST_ENTRY:
                size = min(2_000 + int(self.random.random() * 2_500), size - _LEAST_ENTRY)
            return self._entry(size, number)
        if self.asked:
            self.asked.popleft()
        if rest < _RESULT_BYTES:
            rest = max(rest + ahead, _RESULT_BYTES) if rest + ahead < 120 else _RESULT_BYTES
        if len(self.asked) and rest < 2 * _RESULT_BYTES + 10:
            rest = _RESULT_BYTES
        text = _FOUND + words(self.random, after) if after > 0 else _FOUND

        def build(filler: int, less: int, outermost) -> bytes:
            body = tlv(ENUMERATED, b"\0") + tlv(OCTETS) + tlv(OCTETS, text[:filler])
            return self._envelope(operation, body, number, outermost)

        return fit(rest, build) or self._envelope(operation, _RESULT, number)

    def _entry(self, size: int, number: int) -> bytes:
        uid, text = label(self.random, 6), words(self.random, size)

        def build(filler: int, less: int, outermost) -> bytes:
            attributes, at = [], 0
            for name in _ATTRIBUTES:
                cost = len(name) + 30
                if filler - at > cost + 40:
                    attributes.append(_attribute(name, text[at : at + 24]))
                    at += cost
            attributes.append(_attribute(b"description", text[at:filler]))
            dn = b"uid=" + uid + b"," + _BASE[: len(_BASE) - less]
            body = tlv(OCTETS, dn) + tlv(SEQUENCE, *attributes)
            return self._envelope(_ENTRY, body, number, outermost)

        return fit(size, build) or self._envelope(_DONE, _RESULT, number)


def _attribute(name: bytes, value: bytes) -> bytes:
    return tlv(SEQUENCE, tlv(OCTETS, name), tlv(SET, tlv(OCTETS, value)))
