"""The name service of NetBIOS over UDP (RFC 1002): names are asked for, claimed and listed.

What gives way to the lengths: scopes, behind the names.
"""

import struct
from random import Random
from typing import NamedTuple

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import answer_bytes, label

_HEAD = struct.Struct(">6H")
"""Transaction, flags, questions, answers, authorities, additional records."""
_ASK, _CLAIM, _LIST, _FOUND, _CLAIMED, _LISTED, _MISSING = (
    0x0110, 0x2910, 0x0000, 0x8500, 0xAD80, 0x8400, 0x8583,
)  # fmt: skip
"""Flags of requests, and of what answers them."""
_NAME, _STATUS, _IN = 0x20, 0x21, 1
_QUESTION_BYTES = _HEAD.size + 34 + 4
_CLAIM_BYTES = _QUESTION_BYTES + 18
_RECORD_BYTES = 10
"""Bytes of a record without its name and what it holds."""
_ADDRESS_BYTES, _LISTED_BYTES, _STATISTICS_BYTES = 6, 18, 46
_LEAST_LIST = _HEAD.size + 34 + _RECORD_BYTES + 1 + _LISTED_BYTES + _STATISTICS_BYTES
_MOST_SCOPE, _MOST_LABEL = 190, 63
_MOST_RECORD_BYTES = (1 << 16) - 1
_TTL = 300_000
_ANY = b"*" + bytes(15)
_SUFFIXES = (0x00, 0x20, 0x1B, 0x1C, 0x1D)
"""Last bytes of names: workstation, file server, and what rules a domain."""
_HOSTS = (b"EXAMPLE", b"DESKTOP", b"PRINTER", b"SERVER")


class _Question(NamedTuple):
    """What was asked last."""

    number: int
    flags: int
    name: bytes
    """Encoded, with the scope."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow: what the server sends answers the client's last question,
    which is asked again as long as it is not answered. None if one is too short or too long."""
    if exchange.is_tcp:
        return None
    random = exchange.random()
    asked = _Question(random.getrandbits(16), _ASK, encoded(host_name(random, 0)))
    sent, written = b"", []
    answers = answer_bytes(exchange)
    for side, length, answer in zip(exchange.sides, exchange.lengths, answers, strict=True):
        data: bytes | None = sent
        if side == 1:
            data, sent = _answer(random, length, asked), b""
        elif len(sent) != length:
            question = _ask(random, length, answer)
            if question is None:
                return None
            asked, data = question
            sent = data
        if data is None:
            return None
        written.append(data)
    return written


def _ask(random: Random, length: int, answer: int) -> tuple[_Question, bytes] | None:
    """Return a request of `length` bytes, answered in `answer` if that is not 0; None if there is
    none."""
    flags, least, kind, name = _ASK, _QUESTION_BYTES, _NAME, host_name(random, 0)
    if length >= _CLAIM_BYTES and (length == _CLAIM_BYTES or random.random() < 0.5):
        flags, least = _CLAIM, _CLAIM_BYTES
    elif answer >= _LEAST_LIST:
        flags, kind, name = _LIST, _STATUS, _ANY
    scope = _scope(random, length - least)
    if scope is None:
        return None
    question = _Question(random.getrandbits(16), flags, encoded(name, scope))
    data = _HEAD.pack(question.number, flags, 1, 0, 0, int(flags == _CLAIM))
    data += question.name + struct.pack(">HH", kind, _IN)
    if flags == _CLAIM:
        to_question = 0xC000 | _HEAD.size
        record = struct.pack(">HHHIH", to_question, _NAME, _IN, _TTL, _ADDRESS_BYTES)
        data += record + bytes(2) + _address(random)
    return question, data


def _answer(random: Random, length: int, asked: _Question) -> bytes | None:
    """Return an answer of `length` bytes with the name that was asked for; None if there is none.

    Bytes that no record can have stand behind the last.
    """
    room = length - _HEAD.size - len(asked.name) - _RECORD_BYTES
    kind, flags = (_STATUS, _LISTED) if asked.flags == _LIST else (_NAME, _FOUND)
    if asked.flags == _LIST:
        count = min((room - 1 - _STATISTICS_BYTES) // _LISTED_BYTES, 255)
        if count < 1:
            return None
        names = (host_name(random, _SUFFIXES[k % len(_SUFFIXES)]) + b"\x04\0" for k in range(count))
        record = bytes((count,)) + b"".join(names) + bytes(_STATISTICS_BYTES)
    elif room < _ADDRESS_BYTES:
        flags, record = _MISSING, b""
    elif asked.flags == _CLAIM:
        flags, record = _CLAIMED, bytes(2) + _address(random)
    else:
        record = b"".join(bytes(2) + _address(random) for _ in range(room // _ADDRESS_BYTES))
    if room < len(record) or len(record) > _MOST_RECORD_BYTES:
        return None
    data = _HEAD.pack(asked.number, flags, 0, 1, 0, 0) + asked.name
    data += struct.pack(">HHIH", kind, _IN, _TTL, len(record)) + record
    return data + bytes(length - len(data))


def encoded(name: bytes, scope: bytes = b"") -> bytes:
    """Return a name of 16 bytes as RFC 1001 section 14.1 has it, with a scope of labels."""
    halves = bytes(65 + half for byte in name for half in (byte >> 4, byte & 15))
    return bytes((len(halves),)) + halves + scope + b"\0"


def host_name(random: Random, suffix: int) -> bytes:
    """Return the name of a host, of 16 bytes."""
    return (b"%s-%d" % (random.choice(_HOSTS), random.randrange(1, 99))).ljust(15) + bytes(
        (suffix,)
    )


def _address(random: Random) -> bytes:
    """Return an address for documentation (RFC 5737)."""
    return b"\xc0\0\2" + bytes((random.randrange(1, 255),))


def _scope(random: Random, num_bytes: int) -> bytes | None:
    """Return labels of `num_bytes` in all; None if no labels have so many."""
    if num_bytes == 0:
        return b""
    if not 2 <= num_bytes <= _MOST_SCOPE:
        return None
    labels = b""
    while num_bytes:
        size = min(num_bytes - 1, _MOST_LABEL)
        if num_bytes - 1 - size == 1:
            size -= 1
        labels += bytes((size,)) + label(random, size)
        num_bytes -= 1 + size
    return labels
