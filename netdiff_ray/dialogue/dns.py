"""DNS (RFC 1035): questions, and answers that repeat them and hold fitting records.

Multicast DNS (RFC 6762) and LLMNR (RFC 4795) on their ports.
"""

import struct
from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import NamedTuple

from netdiff_ray.dialogue.exchange import Exchange, Named
from netdiff_ray.dialogue.filling import label as letters
from netdiff_ray.dialogue.turns import Turn, fill_turns, turns

_HEADER_BYTES = 12
_LEAST_QUESTION = 5
_MOST_QUESTION = 4 + 255
_OPT_BYTES, _OPTION_BYTES = 11, 4
"""Of an OPT record without options (RFC 6891), and of the head of an option."""
_RECORD_BYTES = 12
"""Of a record before its data, its owner a pointer."""
_LEAST_RECORD = _RECORD_BYTES + 1
_LENGTH_BYTES = 2
"""Before each message of a connection (section 4.2.2)."""
_LEAST_FRAMED = _LENGTH_BYTES + 17
_MOST_FRAMED = 16_384
"""Bytes of the longest message of a connection; an answer that is longer comes in several."""
_MDNS_PORT, _LLMNR_PORT = 5353, 5355
_A, _NS, _CNAME, _SOA, _PTR, _MX, _TXT, _AAAA, _OPT = 1, 2, 5, 6, 12, 15, 16, 28, 41
_IN, _FLUSH = 1, 0x8001
_QUERY, _ANSWER = 0x0100, 0x8180
_NO_ERROR, _SERVER_FAILURE, _NO_SUCH_NAME = 0, 2, 3
_COOKIE, _PADDING = 10, 12
"""EDNS options (RFC 7873, RFC 7830)."""
_TO_QUESTION = b"\xc0\x0c"
"""A pointer to the first question's name."""
_SUFFIXES = (b"\7example\3com\0", b"\7example\3net\0", b"\7example\3org\0")
_SHORT_SUFFIX = b"\7example\0"
_HOSTS = (b"www", b"api", b"cdn", b"mail", b"img", b"login", b"static", b"time", b"news", b"shop")
_HOSTS_OF = {
    size: [host for host in _HOSTS if len(host) == size] for size in {len(host) for host in _HOSTS}
}
"""Some of them by their bytes."""
_REVERSE = b"\7in-addr\4arpa\0"
_REVERSE_NAME_BYTES = (22, 30)
"""Shortest and longest name of an IPv4 address."""
_MOST_ALIAS = 90
"""Bytes of the longest record of an alias."""
_MANY = 512
_SILENT = ((40, 0.0), (60, 0.2), (85, 0.6), (1 << 30, 0.03))
"""Share of answers that say that there is nothing, by bytes behind the question up to which it
holds."""


class _Question(NamedTuple):
    """A question that was asked."""

    number: int
    """Identifier."""
    section: bytes
    """Name, type and class."""
    has_edns: bool
    addresses: tuple[bytes, ...] = ()
    """Of the host that is asked for, if it is planned."""

    @property
    def type(self) -> int:
        """The type of record that is asked for."""
        return int.from_bytes(self.section[-4:-2])


def write(exchange: Exchange) -> list[bytes]:
    """Return the messages: each answer is that of the oldest question without."""
    if exchange.is_tcp:
        return _stream(exchange)
    if exchange.server_port == _MDNS_PORT:
        return _multicast(exchange)
    return _datagrams(exchange)


def _datagrams(exchange: Exchange) -> list[bytes]:
    """Return questions and answers."""
    random = exchange.random()
    answered_by, questions = _pairs(exchange.sides), {}
    lengths_of_answers: dict[int, list[int]] = {}
    for k, asker in enumerate(answered_by):
        if exchange.sides[k] == 1:
            lengths_of_answers.setdefault(asker, []).append(exchange.lengths[k])
    is_local = exchange.server_port == _LLMNR_PORT
    messages = []
    last: _Question | None = None
    named = None if is_local else exchange.named
    for k, (side, length) in enumerate(zip(exchange.sides, exchange.lengths, strict=True)):
        asker = answered_by[k]
        if asker not in questions:
            asked = exchange.lengths[asker] if exchange.sides[asker] == 0 else 0
            answers = tuple(lengths_of_answers.get(asker, ()))
            planned = _planned_question(random, asked, answers, named) if named else None
            questions[asker] = planned or _draw_question(random, asked, answers, last, is_local)
        last = question = questions[asker]
        messages.append(
            _query(random, question, length, is_local)
            if side == 0
            else answer(random, question, length, 0x8000 if is_local else _ANSWER)
        )
    return messages


def _pairs(sides: tuple[int, ...]) -> list[int]:
    """Return the number of the question of each message; that of an answer to none, which was not
    captured, is its own."""
    waiting: list[int] = []
    asker = []
    for k, side in enumerate(sides):
        if side == 0:
            waiting.append(k)
        asker.append(waiting.pop(0) if side == 1 and waiting else k)
    return asker


def _planned_question(
    random: Random, asked: int, answers: tuple[int, ...], named: Named
) -> _Question | None:
    """Return a question for a planned host; None if the message is too short or too long for it."""
    name = wire_name(named.host)
    extra = asked - _HEADER_BYTES - len(name) - 4
    if extra < 0 or not _fits_query(extra):
        return None
    behind = answers[0] - _HEADER_BYTES - len(name) - 4 if answers else 0
    if extra and _fits(behind - _OPT_BYTES):
        behind -= _OPT_BYTES
    is_6 = behind > 0 and behind % 28 == 0
    section = name + struct.pack("!HH", _AAAA if is_6 else _A, _IN)
    return _Question(random.getrandbits(16), section, extra > 0, named.addresses)


def wire_name(host: bytes) -> bytes:
    """Return a host's name as messages have it (RFC 1035 section 3.1)."""
    return b"".join(bytes([len(part)]) + part for part in host.split(b".")) + b"\0"


def text_name(name: bytes) -> bytes:
    """Return the text of a name of a message."""
    parts = []
    at = 0
    while name[at]:
        parts.append(name[at + 1 : at + 1 + name[at]])
        at += 1 + name[at]
    return b".".join(parts)


def _draw_question(
    random: Random, asked: int, answers: tuple[int, ...], last: _Question | None, is_local: bool
) -> _Question:
    """Draw a question that fits its message and those of its answers.

    Args:
        asked: bytes of the message, 0 if it is missing.
        answers: bytes of those that answer.
        last: the question before; a client asks for more of the same name.
    """
    number = random.getrandbits(16)
    num_bytes, extra = _question_bytes(asked, answers)
    type = _type_for(random, num_bytes, answers)
    if last and len(last.section) == num_bytes and type in (_A, _AAAA):
        name = last.section[:-4]
        if name[:1] and not name.endswith(_REVERSE):
            return _Question(number, name + struct.pack("!HH", type, _IN), extra > 0)
    least, most = _REVERSE_NAME_BYTES
    if type == _PTR and least <= num_bytes - 4 <= most:
        name = _reverse_name(random, num_bytes - 4)
    else:
        name = host_name(random, num_bytes - 4, b"" if is_local else None)
    return _Question(number, name + struct.pack("!HH", type, _IN), extra > 0)


@lru_cache(1 << 14)
def _question_bytes(asked: int, answers: tuple[int, ...]) -> tuple[int, int]:
    """Return how long a question is, and what its message holds behind it."""
    if not asked:
        asked = min(answers)
    most = min([asked, *answers]) - _HEADER_BYTES
    spare = max(asked - _HEADER_BYTES - min(most, _MOST_QUESTION), 0)
    for extra in range(spare, asked - _HEADER_BYTES - _LEAST_QUESTION + 1):
        num_bytes = asked - _HEADER_BYTES - extra
        behind = [length - _HEADER_BYTES - num_bytes for length in answers]
        if _fits_query(extra) and num_bytes != _LEAST_QUESTION + 1 and all(map(_fits, behind)):
            return num_bytes, extra
    if most < _LEAST_QUESTION or most == _LEAST_QUESTION + 1:
        return _LEAST_QUESTION, max(asked - _HEADER_BYTES - _LEAST_QUESTION, 0)
    num_bytes = min(most, _MOST_QUESTION)
    return num_bytes, asked - _HEADER_BYTES - num_bytes


def _fits_query(num_bytes: int) -> bool:
    """Return whether a query can have so many bytes behind its question."""
    return num_bytes in (0, _OPT_BYTES) or num_bytes >= _OPT_BYTES + _OPTION_BYTES


def _fits(num_bytes: int) -> bool:
    """Return whether an answer can have so many bytes behind its question."""
    return num_bytes in (0, _OPT_BYTES) or num_bytes >= _LEAST_RECORD


def _type_for(random: Random, num_bytes: int, answers: tuple[int, ...]) -> int:
    """Draw the type of a question whose answer can be of the length of the first of its answers."""
    behind = answers[0] - _HEADER_BYTES - num_bytes if answers else 0
    least, most = _REVERSE_NAME_BYTES
    is_reverse = least + 4 <= num_bytes <= most + 4
    if behind and behind % 28 == 0 and (behind % 16 or random.random() < 0.3):
        return _AAAA
    if behind >= _RECORD_BYTES + 4 and behind < 60 and is_reverse and behind % 16:
        return _PTR
    if behind in (13, 14, 15) or behind > _MANY:
        return _TXT
    if 16 < behind < 32:
        return _MX if behind >= _RECORD_BYTES + 6 else _CNAME
    return _A if random.random() < 0.85 else _AAAA


def host_name(random: Random, num_bytes: int, suffix: bytes | None = None) -> bytes:
    """Return a name of `num_bytes` on the wire, its root too; 2 is none.

    Args:
        suffix: its end if it has room; one of example.* unless given.
    """
    if suffix is None:
        suffix = random.choice(_SUFFIXES)
        if num_bytes - len(suffix) < 2 and num_bytes != len(suffix):
            suffix = _SHORT_SUFFIX
    if num_bytes == len(suffix):
        return suffix
    if num_bytes - len(suffix) < 2:
        suffix = b""
    if not suffix.endswith(b"\0"):
        suffix += b"\0"
    return labels(random, num_bytes - len(suffix)) + suffix


def labels(random: Random, num_bytes: int) -> bytes:
    """Return labels of `num_bytes`, not 1; their lengths count."""
    parts = []
    while num_bytes > 0:
        size = min(num_bytes - 1, 63)
        if num_bytes > 12 and random.random() < 0.7:
            size = random.randrange(3, min(num_bytes - 3, 24))
        if num_bytes - 1 - size == 1:
            size -= 1
        known = _HOSTS_OF.get(size)
        parts.append(bytes([size]) + (random.choice(known) if known else letters(random, size)))
        num_bytes -= 1 + size
    return b"".join(parts)


def _reverse_name(random: Random, num_bytes: int) -> bytes:
    """Return the name of an IPv4 address; see _REVERSE_NAME_BYTES."""
    digits = num_bytes - len(_REVERSE) - 4
    sizes = [1, 1, 1, 1]
    while sum(sizes) < digits:
        k = random.randrange(4)
        sizes[k] = min(sizes[k] + 1, 3)
    lows, highs = (0, 1, 10, 100), (0, 9, 99, 255)
    texts = [str(random.randint(lows[size], highs[size])).encode() for size in sizes]
    return b"".join(bytes([len(text)]) + text for text in texts) + _REVERSE


def _query(random: Random, question: _Question, length: int, is_local: bool) -> bytes:
    """Return a query of `length` bytes, behind its question an OPT record with what is left."""
    extra = length - _HEADER_BYTES - len(question.section)
    has_edns = extra >= _OPT_BYTES
    flags = 0 if is_local else _QUERY | 0x20 * has_edns
    header = struct.pack("!6H", question.number, flags, 1, 0, 0, has_edns)
    data = header + question.section + (_edns(random, extra, 1232) if has_edns else b"")
    return (data + bytes(max(length - len(data), 0)))[:length]


def _edns(random: Random, num_bytes: int, size: int) -> bytes:
    """Return an OPT record of `num_bytes`, with a cookie or padding if it has room."""
    rest = min(num_bytes - _OPT_BYTES, 65_535)
    options = b""
    if rest >= _OPTION_BYTES:
        code = _COOKIE if rest == _OPTION_BYTES + 8 else _PADDING
        content = random.randbytes(8) if code == _COOKIE else bytes(rest - _OPTION_BYTES)
        options = struct.pack("!HH", code, rest - _OPTION_BYTES) + content
    return struct.pack("!BHHIH", 0, _OPT, size, 0, len(options)) + options


def answer(random: Random, question: _Question, length: int, flags: int = _ANSWER) -> bytes:
    """Return an answer of `length` bytes that repeats the question."""
    extra = length - _HEADER_BYTES - len(question.section)
    if extra < 0:
        header = struct.pack("!6H", question.number, flags | 1, 0, 0, 0, 0)
        return (header + bytes(max(length - _HEADER_BYTES, 0)))[:length]
    edns = b""
    if extra == _OPT_BYTES or (question.has_edns and _fits(extra - _OPT_BYTES)):
        edns = _edns(random, _OPT_BYTES, 1232)
        extra -= _OPT_BYTES
    code, answers, authority = _NO_ERROR, [], b""
    if extra < _LEAST_RECORD:
        code = random.choice((_NO_ERROR, _SERVER_FAILURE, _NO_SUCH_NAME))
    elif not question.addresses and _says_nothing(random, extra, len(question.section)):
        code = _NO_SUCH_NAME if random.random() < 0.8 else _NO_ERROR
        authority = _start_of_authority(random, extra)
    else:
        answers = _records(random, question, extra)
    counts = (1, len(answers), bool(authority), bool(edns))
    header = struct.pack("!6H", question.number, flags | code, *counts)
    data = header + question.section + b"".join(answers) + authority + edns
    return data + bytes(length - len(data))


def _says_nothing(random: Random, extra: int, section: int) -> bool:
    """Draw whether an answer says that there is nothing, by the bytes behind its question."""
    return extra + section < 255 and random.random() < next(
        share for most, share in _SILENT if extra < most
    )


def _record(owner: bytes, type: int, data: bytes, ttl: int, record_class: int = _IN) -> bytes:
    return owner + struct.pack("!HHIH", type, record_class, ttl, len(data)) + data


def _start_of_authority(random: Random, num_bytes: int) -> bytes:
    """Return the record of the zone that has no such name, of at least 40 bytes."""
    names = num_bytes - _RECORD_BYTES - 20
    first = min(max(names // 2, 4), names - 4, 60)
    rest = names - first
    server = _short_name(random, first)
    mailbox = _short_name(random, rest)
    numbers = (2_026_000_000 + random.randrange(99), 7200, 3600, 1_209_600, 300)
    return _record(_TO_QUESTION, _SOA, server + mailbox + struct.pack("!5I", *numbers), 300)


def _short_name(random: Random, num_bytes: int) -> bytes:
    """Return a name of at least 4 bytes that ends in a pointer to the question's."""
    return labels(random, num_bytes - 2) + _TO_QUESTION


def _records(random: Random, question: _Question, num_bytes: int) -> list[bytes]:
    """Return records that answer a question, of at least _LEAST_RECORD bytes in all."""
    ttl = random.choice((60, 300, 300, 3600, 86_400))
    name_bytes = num_bytes - _RECORD_BYTES + len(question.section)
    is_named = question.type in (_PTR, _MX)
    is_long = num_bytes > _MANY or len(question.section) > 200
    if question.type == _TXT or is_long or (is_named and name_bytes > 255):
        return _texts(random, num_bytes, ttl)
    is_6 = question.type == _AAAA
    size = _RECORD_BYTES + (16 if is_6 else 4)
    if question.type == _PTR and num_bytes >= _RECORD_BYTES + 4:
        name = _own_name(random, num_bytes - _RECORD_BYTES)
        return [_record(_TO_QUESTION, _PTR, name, ttl)]
    if question.type == _MX and num_bytes >= _RECORD_BYTES + 6:
        name = _short_name(random, num_bytes - _RECORD_BYTES - 2)
        return [_record(_TO_QUESTION, _MX, b"\0\x0a" + name, ttl)]
    if num_bytes % size == 0 and question.type in (_A, _AAAA):
        return _addresses(random, question, _TO_QUESTION, ttl, num_bytes // size)
    alias = num_bytes % size
    while alias < _RECORD_BYTES + 4:
        alias += size
    if alias > num_bytes:
        return _texts(random, num_bytes, ttl)
    while alias + size <= min(num_bytes - size, _MOST_ALIAS) and random.random() < 0.4:
        alias += size
    target = _own_name(random, alias - _RECORD_BYTES)
    to_target = struct.pack("!H", 0xC000 + _HEADER_BYTES + len(question.section) + _RECORD_BYTES)
    count = (num_bytes - alias) // size
    return [
        _record(_TO_QUESTION, _CNAME, target, ttl),
        *_addresses(random, question, to_target, ttl, count),
    ]


def _own_name(random: Random, num_bytes: int) -> bytes:
    """Return a name of at least 4 bytes, under example.* where that has room."""
    if num_bytes >= 11:
        return host_name(random, num_bytes)
    return _short_name(random, num_bytes)


def _addresses(
    random: Random, question: _Question, owner: bytes, ttl: int, number: int
) -> list[bytes]:
    """Return records of addresses, the planned one first."""
    is_6 = question.type == _AAAA
    known = [packed for packed in question.addresses if len(packed) == (16 if is_6 else 4)]
    kind = _AAAA if is_6 else _A
    return [
        _record(owner, kind, known[0], ttl)
        if k == 0 and known
        else _address(random, owner, is_6, ttl)
        for k in range(number)
    ]


def _address(random: Random, owner: bytes, is_6: bool, ttl: int) -> bytes:
    """Return an address for documentation (RFC 5737, RFC 3849)."""
    if is_6:
        return _record(owner, _AAAA, b"\x20\x01\x0d\xb8" + random.randbytes(12), ttl)
    network = random.choice((b"\xc0\0\2", b"\xc6\x33\x64", b"\xcb\0\x71"))
    return _record(owner, _A, network + bytes([random.randrange(1, 255)]), ttl)


def _texts(random: Random, num_bytes: int, ttl: int) -> list[bytes]:
    """Return TXT records of `num_bytes` in all."""
    most = _LEAST_RECORD + 255
    records = []
    while num_bytes:
        size = min(num_bytes, most)
        if 0 < num_bytes - size < _LEAST_RECORD:
            size -= _LEAST_RECORD
        text = letters(random, size - _LEAST_RECORD)
        records.append(_record(_TO_QUESTION, _TXT, bytes([len(text)]) + text, ttl))
        num_bytes -= size
    return records


def _multicast(exchange: Exchange) -> list[bytes]:
    """Return messages of multicast DNS: the client asks for services and offers some, the server
    answers."""
    random = exchange.random()
    return [
        _service_query(random, length)
        if side == 0 and length < 100 and random.random() < 0.8
        else _service_answer(random, length)
        for side, length in zip(exchange.sides, exchange.lengths, strict=True)
    ]


def _service_name(random: Random, num_bytes: int) -> bytes:
    """Return a name of `num_bytes` under .local, which is shorter if that has no room."""
    for suffix in (b"\5_http\4_tcp\5local\0", b"\5local\0", b"\0"):
        rest = num_bytes - len(suffix)
        if rest == 0 or rest >= 2:
            return labels(random, rest) + suffix
    return b"\0"


def _service_query(random: Random, length: int) -> bytes:
    """Return a question without an identifier (RFC 6762 section 18), of `length` bytes."""
    name = _service_name(random, min(length - _HEADER_BYTES - 4, 255))
    data = struct.pack("!6H", 0, 0, 1, 0, 0, 0) + name + struct.pack("!HH", _PTR, _IN)
    return (data + bytes(max(length - len(data), 0)))[:length]


def _service_answer(random: Random, length: int) -> bytes:
    """Return an answer of `length` bytes: records of a service."""
    rest = length - _HEADER_BYTES
    records: list[bytes] = []
    owner = _service_name(random, min(max(rest - _LEAST_RECORD + 2 - 24, 3), 30))
    while rest >= len(owner) + 10 + 1:
        size = min(rest, len(owner) + 10 + 256)
        if 0 < rest - size < _LEAST_RECORD:
            size -= _LEAST_RECORD
        text = letters(random, size - len(owner) - 11)
        records.append(_record(owner, _TXT, bytes([len(text)]) + text, 4500, _FLUSH))
        rest -= size
        owner = _TO_QUESTION
    data = struct.pack("!6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)
    return (data + bytes(max(length - len(data), 0)))[:length]


def _stream(exchange: Exchange) -> list[bytes]:
    """Return the messages of a connection: a question in each of the client's, answered by the
    server's next; one that is too short goes on with its sender's last."""
    parts = turns(exchange, (_LEAST_FRAMED, _LEAST_FRAMED))
    pieces = [piece for turn in parts for piece in _pieces(turn)]
    written = _datagrams(
        replace(
            exchange, sides=tuple(side for side, _ in pieces),
            lengths=tuple(length for _, length in pieces),
        )
    )  # fmt: skip
    framed = iter([len(data).to_bytes(_LENGTH_BYTES) + data for data in written])

    def fill(number: int, turn: Turn) -> bytes:
        return b"".join(next(framed) for _ in _pieces(turn))[: turn.total]

    return fill_turns(exchange, parts, fill)


def _pieces(turn: Turn) -> list[tuple[int, int]]:
    """Return the side and the bytes of each message of a turn."""
    pieces = []
    rest = turn.total
    while rest > 0:
        size = min(rest, _MOST_FRAMED)
        if 0 < rest - size < _LEAST_FRAMED:
            size -= _LEAST_FRAMED
        pieces.append((turn.side, max(size - _LENGTH_BYTES, 1)))
        rest -= size
    return pieces
