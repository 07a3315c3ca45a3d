"""DHCP (RFC 2131): offers and leases of addresses."""

import struct

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, label

SERVER_PORT, CLIENT_PORT = 67, 68
_HEAD = struct.Struct(">BBBBIHH4s4s4s4s16s64s128s4s")
"""Kind, hardware type and bytes of its address, hops, transaction, seconds, flags, addresses of
client, yours, server and relay, hardware address, names of server and file, cookie."""
_REQUEST, _REPLY, _ETHERNET = 1, 2, 1
_COOKIE = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _ASK, _ACKNOWLEDGE = 1, 2, 3, 5
_END, _PAD = b"\xff", b"\0"
_LEAST = _HEAD.size + 4
_VENDOR_BLOCKS = (b"\x00\x1c\x42", b"\xb8\x27\xeb", b"\x00\x16\x3e")
_HOUR = 3_600


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow; who sends from the port of servers answers."""
    if min(exchange.lengths) < _LEAST or max(exchange.lengths) > LARGEST_DATAGRAM:
        return None
    random = exchange.random()
    hardware = random.choice(_VENDOR_BLOCKS) + random.randbytes(3)
    name = label(random, 8)
    transaction = random.getrandbits(32)
    ports = exchange.client_port, exchange.server_port
    hosts = exchange.client[-4:], exchange.server[-4:]
    server_side = 0 if ports[0] == SERVER_PORT and ports[1] != SERVER_PORT else 1
    server, host = hosts[server_side], hosts[1 - server_side]
    if host in (bytes(4), b"\xff" * 4):
        host = bytes((192, 168, 1, random.randrange(20, 250)))
    if server in (bytes(4), b"\xff" * 4):
        server = bytes((192, 168, 1, 1))
    kinds = exchange.sides.count(1 - server_side), exchange.sides.count(server_side)
    number = [0, 0]
    written = []
    for side, length in zip(exchange.sides, exchange.lengths, strict=True):
        is_reply = side == server_side
        step = number[is_reply]
        number[is_reply] += 1
        if is_reply:
            kind = _OFFER if step % 2 == 0 and kinds[1] > 1 else _ACKNOWLEDGE
        else:
            kind = _DISCOVER if step % 2 == 0 and kinds[0] > 1 else _ASK
        written.append(_message(kind, is_reply, length, transaction, hardware, name, host, server))
        if kind in (_ASK, _ACKNOWLEDGE) and step % 2:
            transaction = transaction + 0x10001 & 0xFFFFFFFF
    return written


def _message(
    kind: int, is_reply: bool, length: int, transaction: int, hardware: bytes, name: bytes,
    host: bytes, server: bytes,
) -> bytes:  # fmt: skip
    """Return a message of a length, padded behind its options."""
    options = [bytes((53, 1, kind))]
    if is_reply:
        options += [
            b"\x36\4" + server, b"\x33\4" + struct.pack(">I", 24 * _HOUR),
            b"\1\4\xff\xff\xff\0", b"\3\4" + server, b"\6\4" + server,
            b"\x0f\x0bexample.net", b"\x3a\4" + struct.pack(">I", 12 * _HOUR),
            b"\x3b\4" + struct.pack(">I", 21 * _HOUR),
        ]  # fmt: skip
    else:
        options += [b"\x3d\7\1" + hardware]
        if kind == _ASK:
            options += [b"\x32\4" + host, b"\x36\4" + server]
        options += [
            b"\x0c" + bytes((len(name),)) + name, b"\x37\7\1\3\6\x0f\x1c\x33\x3a",
            b"\x39\2\x05\xdc", b"\x3c\x08exmp 1.0",
        ]  # fmt: skip
    head = _HEAD.pack(
        _REPLY if is_reply else _REQUEST, _ETHERNET, len(hardware), 0, transaction, 0, 0, bytes(4),
        host if is_reply else bytes(4), server if is_reply else bytes(4), bytes(4), hardware, b"",
        b"", _COOKIE,
    )  # fmt: skip
    room = length - len(head) - len(_END)
    chosen = b""
    for option in options:
        if len(chosen) + len(option) <= room:
            chosen += option
    return (head + chosen + _END).ljust(length, _PAD)
