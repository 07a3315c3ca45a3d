"""The closed list of what flows speak, the module that writes each, and the ports they mean."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import NamedTuple

import numpy as np

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.segments import write_whole_heads
from netdiff_ray.header_bytes import IPPROTO_TCP


class Kind(NamedTuple):
    """What flows speak. `netdiff_ray.dialogue.<name>` writes it."""

    name: str
    tcp_ports: tuple[int, ...] = ()
    """Server ports that mean the kind unless more is known of the flow."""
    udp_ports: tuple[int, ...] = ()
    """Likewise."""
    tcp_least: int = 0
    """Fewest bytes of a connection's first segment with payload."""
    udp_least: int = 0
    """Fewest bytes of a datagram."""
    udp_opening: int = 0
    """Fewest bytes of the client's first datagram in a flow that is known to begin with it."""
    head_bytes: int = 0
    """Bytes at the beginning of a frame over TCP that readers want in one segment."""


OPAQUE, TEXT, BINARY = OPAQUE_KINDS = "opaque", "text", "binary"
"""Kinds of flows whose protocol is not known, which no module writes: bytes of the highest entropy,
printable ones, and others that are not as even."""

KINDS: tuple[Kind, ...] = (
    Kind(OPAQUE),
    Kind(TEXT),
    Kind(BINARY),
    Kind("dns", tcp_ports=(53,), udp_ports=(53, 5353, 5355), tcp_least=19, udp_least=17),
    Kind("http", tcp_ports=(80, 3128, 8000, 8008, 8080, 8081, 8888), tcp_least=18),
    Kind(
        "tls",
        tcp_ports=(
            443, 465, 563, 585, 636, 853, 989, 990, 992, 993, 994, 995, 4443, 5061, 5223, 5228,
            5671, 8443, 8883, 9443,
        ),
        tcp_least=6,
    ),
    Kind("coap", udp_ports=(5683,), udp_least=4),
    Kind("dtls", udp_least=14),
    Kind("http2"),
    Kind("dhcp", udp_ports=(67, 68), udp_least=300),
    Kind("ftp", tcp_ports=(21,)),
    Kind("gquic", udp_least=22, udp_opening=1200),
    Kind("imap", tcp_ports=(143,)),
    Kind("ldap", tcp_ports=(389,), head_bytes=4),
    Kind("mgcp", udp_ports=(2427, 2727), udp_least=9),
    Kind("modbus", tcp_ports=(502,), tcp_least=8),
    Kind("mqtt", tcp_ports=(1883,), tcp_least=8, head_bytes=3),
    Kind("nbdgm", udp_ports=(138,), udp_least=172),
    Kind("nbns", udp_ports=(137,), udp_least=50),
    Kind("ntp", udp_ports=(123,), udp_least=48),
    Kind("pop3", tcp_ports=(110,)),
    Kind("postgresql", tcp_ports=(5432,)),
    Kind("quic", udp_ports=(443, 784, 853, 4433, 8443), udp_least=21, udp_opening=1200),
    Kind("rdp", tcp_ports=(3389,), head_bytes=8),
    Kind("redis", tcp_ports=(6379,)),
    Kind("rtp", udp_ports=(5004,), udp_least=12),
    Kind("sip", tcp_ports=(5060,), udp_ports=(5060,)),
    Kind("smtp", tcp_ports=(25, 587)),
    Kind("smb2", tcp_ports=(445,)),
    Kind("snmp", udp_ports=(161,), udp_least=32),
    Kind("ssdp", udp_ports=(1900,), udp_least=70),
    Kind("ssh", tcp_ports=(22, 2222)),
    Kind("stun", udp_ports=(3478, 3479, 3480, 3481, *range(19302, 19310)), udp_least=20),
    Kind("syslog", udp_ports=(514,), udp_least=8),
    Kind("telnet", tcp_ports=(23,)),
    Kind("websocket"),
)  # fmt: skip
"""The first is OPAQUE. A protocol is a line, and a module of its name with `write`."""


@cache
def port_kinds(transport: int) -> np.ndarray:
    """Return (65536,) int64: the kind that each server port means over a transport (an IP protocol
    number), an index into KINDS."""
    kinds = np.zeros(65_536, np.int64)
    for number, kind in enumerate(KINDS):
        kinds[list(kind.tcp_ports if transport == IPPROTO_TCP else kind.udp_ports)] = number
    return kinds


@cache
def _kind(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


@cache
def _writer(kind: str) -> Callable[[Exchange], list[bytes] | None]:
    return import_module(f"netdiff_ray.dialogue.{kind}").write


def write_messages(kind: str, exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a dialogue, each of the length that the exchange has for it.

    None if the order or the lengths are no dialogue of the kind, or if the kind is opaque.
    """
    if kind in OPAQUE_KINDS:
        return None
    head_bytes = _kind(kind).head_bytes if exchange.is_tcp else 0
    if head_bytes and exchange.segments:
        return write_whole_heads(_writer(kind), exchange, head_bytes)
    return _writer(kind)(exchange)
