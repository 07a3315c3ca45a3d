"""RDP (MS-RDPBCGR): a client asks for TLS in its connection request, and all else is sealed."""

import struct

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import label
from netdiff_ray.dialogue.upgrade import secured

_TPKT, _REQUEST, _CONFIRM = struct.Struct(">BBHBBHHB"), 0xE0, 0xD0
"""Version, reserved, bytes; bytes after this, kind, references, class (RFC 1006, X.224)."""
_COOKIE, _COOKIE_END = b"Cookie: mstshash=", b"\r\n"
_NEGOTIATION_BYTES = 8
_WITH_TLS = _TPKT.size + _NEGOTIATION_BYTES
_LEAST_COOKIE = len(_COOKIE) + len(_COOKIE_END) + 1
_LARGEST_REQUEST = 255
_TLS_OR_CREDSSP = 3


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a connection; None unless it is confirmed that TLS follows."""
    sides, lengths = exchange.sides, exchange.lengths
    room = lengths[0] - _WITH_TLS
    is_request = sides[0] == 0 and lengths[0] <= _LARGEST_REQUEST
    is_request &= room == 0 or room >= _LEAST_COOKIE
    if not is_request or lengths[1:2] not in ((), (_WITH_TLS,)):
        return None
    random = exchange.random()
    cookie = b""
    if room:
        cookie = _COOKIE + label(random, room - _LEAST_COOKIE + 1) + _COOKIE_END
    request = _packet(_REQUEST, cookie + struct.pack("<BBHI", 1, 0, 8, _TLS_OR_CREDSSP))
    confirm = _packet(_CONFIRM, struct.pack("<BBHI", 2, 0x1F, 8, 1 + (random.random() < 0.7)))
    return [request, confirm][: len(sides)] + secured(exchange, 2, random)


def _packet(kind: int, data: bytes) -> bytes:
    size = _TPKT.size + len(data)
    return _TPKT.pack(3, 0, size, size - 5, kind, 0, 0x1234 if kind == _CONFIRM else 0, 0) + data
