"""The datagram service of NetBIOS (RFC 1002) with what it carries most: hosts that announce
themselves to the browsers of a network (MS-BRWS), in mailslots of SMB (MS-MAIL).

What gives way to the lengths: hosts' comments.
"""

import struct
from random import Random

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, words
from netdiff_ray.dialogue.nbns import encoded, host_name

_HEAD = struct.Struct(">BBH4sHHH")
"""Kind, flags, number, source, its port, bytes behind this, offset of a fragment."""
_TO_ONE, _TO_GROUP, _FIRST = 0x10, 0x11, 0x0A
_SMB = b"\xffSMB\x25" + bytes(27)
_TRANSACTION = struct.Struct("<BHHHHBBHIHHHHHBBHHH")
"""Words; bytes of parameters and data, most of each and of set-up; flags, time-out; parameters,
their place, data, their place; set-up words: write, priority, class."""
_SLOT = b"\\MAILSLOT\\BROWSE\0"
_CONTENT_AT = len(_SMB) + _TRANSACTION.size + 2 + len(_SLOT)
_ANNOUNCE, _ASK, _MASTER = 0x01, 0x02, 0x0F
_HOST = struct.Struct("<BBI16sBBIBBH")
"""Command, updates, milliseconds to the next, name, version, what it serves, version of the
browsers, signature."""
_WORKSTATION, _BROWSER = 0x1003, 0x51003
_SIGNATURE = 0xAA55
_GROUP = b"WORKGROUP".ljust(15)
_ENVELOPE = _HEAD.size + 2 * 34 + _CONTENT_AT
LEAST = _ENVELOPE + 4
"""Bytes of the shortest request for announcements."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow; None where they have no room for one."""
    lengths = exchange.lengths
    if exchange.is_tcp or min(lengths) < LEAST or max(lengths) > LARGEST_DATAGRAM:
        return None
    random = exchange.random()
    hosts = [host_name(random, 0) for _ in (0, 1)]
    first = random.getrandbits(15)
    return [
        _datagram(random, exchange, first + k, hosts[side], side, length)
        for k, (side, length) in enumerate(zip(exchange.sides, lengths, strict=True))
    ]


def _datagram(
    random: Random, exchange: Exchange, number: int, host: bytes, side: int, length: int
) -> bytes:
    """Return a datagram of `length` bytes from a host to its group."""
    source = (exchange.client, exchange.server)[side]
    source = source if len(source) == 4 else b"\xc0\0\2\1"
    content = _content(random, host, length - _ENVELOPE)
    size = len(content)
    body = _TRANSACTION.pack(
        17, 0, size, 0, 0, 0, 0, 0, 1_000, 0, 0, 0, size, _CONTENT_AT, 3, 0, 1, 1, 2
    )
    slot = struct.pack("<H", len(_SLOT) + size) + _SLOT
    data = encoded(host) + encoded(_GROUP + b"\x1d") + _SMB + body + slot + content
    head = _HEAD.pack(_TO_GROUP, _FIRST, number, source, exchange.server_port, len(data), 0)
    return head + data


def _content(random: Random, host: bytes, size: int) -> bytes:
    """Return what a browser is told in `size` bytes: an announcement, else a request for such."""
    room = size - _HOST.size
    if room < 1:
        return (bytes((_ASK, 0)) + host.rstrip(b" \0"))[: size - 1].ljust(size - 1, b"X") + b"\0"
    command, serves = random.choice(((_ANNOUNCE, _WORKSTATION), (_MASTER, _BROWSER)))
    name = host[:15].rstrip() + b"\0"
    head = _HOST.pack(command, 0, 720_000, name, 10, 0, serves, 15, 1, _SIGNATURE)
    return head + (words(random, room - 1) if room > 1 else b"") + b"\0"
