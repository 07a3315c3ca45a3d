"""rsync's daemon (rsyncd 3): greetings, a module, arguments, and multiplexed data."""

import struct
from random import Random

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import label, noise
from netdiff_ray.dialogue.segments import first_segments

_GREETING = b"@RSYNCD: 31.0"
_DIGESTS = b" sha512 sha256 sha1 md5 md4"
_ACCEPTED = b"@RSYNCD: OK\n"
_LEAST_GREETING, _LONGEST_GREETING = len(_GREETING) + 1, 80
_ARGUMENTS = b"--server\0--sender\0-logDtpre.iLsfxCIvu\0.\0"
_DATA_TAG, _MOST_DATA = 7, 0xFFF
"""Tag of a block of data, and most bytes of one."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a session; None where a side's first segment is too short for its
    greeting."""
    random = exchange.random()
    firsts = dict(zip(reversed(exchange.sides), reversed(first_segments(exchange)), strict=True))
    if min(firsts.values()) < _LEAST_GREETING:
        return None
    later = [n for s, n in zip(exchange.sides, exchange.lengths, strict=True) if s == 0][1:3]
    module = label(random, max(min((later or [6])[0], 40) - 1, 1)) + b"\n"
    room = max((later[1] if len(later) > 1 else 0) - len(_ARGUMENTS) - 2, len(module))
    path = module[:-1] + b"/" + label(random, room)
    asked = module + _ARGUMENTS + path[:room] + b"\0\0"
    streams = [
        _greeting(firsts[side]) + opening
        for side, opening in ((0, asked), (1, _ACCEPTED))
        if side in firsts
    ]
    pending = dict(zip(sorted(firsts), streams, strict=True))
    messages = []
    for side, length in zip(exchange.sides, exchange.lengths, strict=True):
        while len(pending[side]) < length:
            pending[side] += _data(random, length - len(pending[side]))
        messages.append(pending[side][:length])
        pending[side] = pending[side][length:]
    return messages


def _greeting(length: int) -> bytes:
    """Return the line that begins a side's stream: the first message, unless more is in that."""
    if length > _LONGEST_GREETING:
        return _GREETING + _DIGESTS + b"\n"
    more = (_DIGESTS * 3)[: length - _LEAST_GREETING]
    return _GREETING + more.rstrip(b" ").ljust(len(more), b"4") + b"\n"


def _data(random: Random, room: int) -> bytes:
    """Return a block of data that fills the room, or as much of it as a block can have."""
    size = min(max(room - 4, 0), _MOST_DATA)
    return struct.pack("<I", size | _DATA_TAG << 24) + noise(random, size)
