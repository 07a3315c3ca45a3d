"""Filters on flows in the words of pcap-filter(7), the language of BPF as tcpdump takes it.

What holds for every packet of one direction of a flow can be asked: hosts, networks, ports,
transport and IP version, joined by and, or, not and parentheses. What concerns single packets,
frames or names cannot. Source of the language: the manual page pcap-filter(7) of libpcap.

Shape letters: F flows.
"""

import re
import socket
from collections.abc import Callable
from ipaddress import ip_network
from typing import NamedTuple

import numpy as np

from netdiff_ray.errors import DataError
from netdiff_ray.header_bytes import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

_WORD_64 = (1 << 64) - 1
_TOKEN = re.compile(r"\s*([()!]|&&|\|\||[\w.:/-]+|\S)")
_JOINTS = {"and": "and", "&&": "and", "or": "or", "||": "or"}
_NEGATIONS = ("not", "!")
_SIDES = ("src", "dst")
_KINDS = ("host", "net", "port", "portrange")
_PROTOCOLS = {
    "ip": (4, None), "ip6": (6, None), "tcp": (None, IPPROTO_TCP), "udp": (None, IPPROTO_UDP),
    "icmp": (4, IPPROTO_ICMP), "icmp6": (6, IPPROTO_ICMPV6),
}  # fmt: skip
"""(IP version, protocol) by name, None for any."""
_WHAT_THERE_IS = (
    "filters on flows have host, net, port and portrange with src and dst, ip, ip6, tcp, udp, "
    "icmp, icmp6 and proto, and, or, not and parentheses"
)


class Direction(NamedTuple):
    """F flows as the packets of one of their directions have them."""

    version: np.ndarray
    """(F,) uint64: 4 or 6."""
    protocol: np.ndarray
    """(F,) uint64: IP protocol number."""
    src: tuple[np.ndarray, np.ndarray]
    """(F,) uint64 words of the address, the higher first; an IPv4 address stands in the lower."""
    dst: tuple[np.ndarray, np.ndarray]
    sport: np.ndarray
    """(F,) uint64."""
    dport: np.ndarray


FlowFilter = Callable[[Direction], np.ndarray]
"""Returns (F,) bool: whether packets of the direction pass."""


class _Qualifiers(NamedTuple):
    """What stands before an address or a port."""

    protocol: str | None = None
    sides: str = "or"
    """`src`, `dst`, `or` or `and`."""
    kind: str = "host"


def parse_filter(text: str) -> FlowFilter:
    """Return the filter that a text says; an empty text lets everything pass.

    Raises:
        DataError: it is no such filter, or asks for what flows do not have.
    """
    tokens = _TOKEN.findall(text)
    if not tokens:
        return lambda flows: np.ones(len(flows.version), np.bool_)
    return _Parser(text, tokens).parsed()


class _Parser:
    """A filter on the way from tokens to functions.

    Alternation and concatenation have equal precedence and associate left to right; an address or
    a port without qualifiers has those of the one before it.
    """

    def __init__(self, text: str, tokens: list[str]):
        self._text = text
        self._tokens = tokens
        self._at = 0
        self._last: _Qualifiers | None = None

    def parsed(self) -> FlowFilter:
        """Return the filter of all tokens."""
        whole = self._expression()
        if self._next():
            raise self._error(f"{self._next()!r} is not expected there")
        return whole

    def _next(self, ahead: int = 0) -> str:
        """Return a token that is not taken yet, "" behind the last."""
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        if not token:
            raise self._error("it ends too early")
        self._at += 1
        return token

    def _error(self, what: str) -> DataError:
        return DataError(f"the filter {self._text.strip()[:120]!r}: {what}; {_WHAT_THERE_IS}")

    def _expression(self) -> FlowFilter:
        left = self._term()
        while self._next() in _JOINTS:
            joint, first, second = _JOINTS[self._take()], left, self._term()
            left = _joined(joint, first, second)
        return left

    def _term(self) -> FlowFilter:
        if self._next() in _NEGATIONS:
            self._take()
            negated = self._term()
            return lambda flows: ~negated(flows)
        if self._next() == "(":
            self._take()
            inner = self._expression()
            if self._take() != ")":
                raise self._error("a parenthesis is not closed")
            return inner
        return self._primitive()

    def _primitive(self) -> FlowFilter:
        begin = self._at
        if not self._next():
            raise self._error("it ends too early")
        protocol = self._take() if self._next() in _PROTOCOLS else None
        if self._next() == "proto":
            self._take()
            return _both(_of_protocol(protocol), _of_number(self._protocol_number()))
        sides = self._sides()
        kind = self._take() if self._next() in _KINDS else None
        if self._at == begin:
            qualifiers = self._last or _Qualifiers()
        elif (sides, kind) == (None, None):
            self._last = _Qualifiers(protocol)
            return _of_protocol(protocol)
        else:
            qualifiers = _Qualifiers(protocol, sides or "or", kind or "host")
        self._check(qualifiers)
        self._last = qualifiers
        if self._next() == "(":  # as in port (80 or 443)
            return self._term()
        return self._identified(qualifiers)

    def _sides(self) -> str | None:
        """Take the words for a direction."""
        if self._next() not in _SIDES:
            return None
        side = self._take()
        if self._next() in _JOINTS and self._next(1) in _SIDES and self._next(1) != side:
            joint = _JOINTS[self._take()]
            self._take()
            return joint
        return side

    def _check(self, qualifiers: _Qualifiers) -> None:
        """Raise DataError if a protocol does not go with what follows, as for libpcap."""
        name, is_port = qualifiers.protocol, qualifiers.kind.startswith("port")
        fits = (None, "tcp", "udp") if is_port else (None, "ip", "ip6")
        if name not in fits:
            raise self._error(f"{name!r} does not go with {qualifiers.kind!r}")

    def _protocol_number(self) -> int:
        token = self._take()
        token = self._take() if token == "\\" else token  # as in proto \\tcp, for shells
        named = _PROTOCOLS.get(token, (None, None))[1]
        if named is None and not (token.isdecimal() and int(token) < 256):
            raise self._error(f"{token!r} is no protocol")
        return int(token) if named is None else named

    def _identified(self, qualifiers: _Qualifiers) -> FlowFilter:
        """Take the address or the port of a primitive."""
        token = self._take()
        if qualifiers.kind == "net":
            side = _in_network(*self._network(token))
        elif qualifiers.kind == "host":
            side = _in_network(*self._host(token))
        else:
            low, high = self._ports(token, is_range=qualifiers.kind == "portrange")
            side = _in_ports(low, high)
        return _both(_of_protocol(qualifiers.protocol), _on_sides(qualifiers.sides, side))

    def _host(self, token: str) -> tuple[int, int, int]:
        family = socket.AF_INET6 if ":" in token else socket.AF_INET
        try:
            address = socket.inet_pton(family, token)
        except OSError:
            raise self._error(f"{token!r} is no address") from None
        return (6 if ":" in token else 4), int.from_bytes(address), 8 * len(address)

    def _network(self, token: str) -> tuple[int, int, int]:
        """Return IP version, address and prefix of a network: 10, 10/8, 10.0.0.0 mask 255.0.0.0."""
        address, slash, prefix = token.partition("/")
        octets = address.split(".")
        if ":" not in address:
            prefix = prefix if slash else str(8 * len(octets))
            address = ".".join(octets + ["0"] * (4 - len(octets)))
        if self._next() == "mask" and not slash:
            self._take()
            prefix = self._take()
        try:
            network = ip_network(f"{address}/{prefix or 128}")
        except ValueError:
            raise self._error(f"{token!r} is no network, or has bits behind its prefix") from None
        return network.version, int(network.network_address), network.prefixlen

    def _ports(self, token: str, *, is_range: bool) -> tuple[int, int]:
        low, dash, high = token.partition("-")
        high = high if dash else low
        if not (low.isdecimal() and high.isdecimal() and max(int(low), int(high)) < 1 << 16) or (
            dash and not is_range
        ):
            raise self._error(f"{token!r} is no {'range of ports' if is_range else 'port'}")
        return min(int(low), int(high)), max(int(low), int(high))


def _joined(joint: str, first: FlowFilter, second: FlowFilter) -> FlowFilter:
    if joint == "and":
        return lambda flows: first(flows) & second(flows)
    return lambda flows: first(flows) | second(flows)


def _both(first: FlowFilter | None, second: FlowFilter) -> FlowFilter:
    return second if first is None else _joined("and", first, second)


def _of_number(number: int) -> FlowFilter:
    return lambda flows: flows.protocol == number


def _of_protocol(name: str | None) -> FlowFilter | None:
    """Return the filter of a protocol's name, None without a name."""
    if name is None:
        return None
    version, number = _PROTOCOLS[name]
    if number is None:
        return lambda flows: flows.version == version
    by_number = _of_number(number)
    return by_number if version is None else lambda f: by_number(f) & (f.version == version)


def _on_sides(sides: str, side: Callable[[Direction, str], np.ndarray]) -> FlowFilter:
    """Return the filter of a test of source, destination, either or both."""
    if sides in _SIDES:
        return lambda flows: side(flows, sides)
    return _joined(sides, lambda flows: side(flows, "src"), lambda flows: side(flows, "dst"))


def _in_network(version: int, address: int, prefix: int) -> Callable:
    """Return the test whether a side's address is in a network."""
    bits = 32 if version == 4 else 128
    mask = (1 << bits) - (1 << (bits - prefix))
    high, low = (np.uint64(mask >> 64), np.uint64(mask & _WORD_64))
    wanted = (np.uint64(address >> 64), np.uint64(address & _WORD_64))

    def test(flows: Direction, side: str) -> np.ndarray:
        words = flows.src if side == "src" else flows.dst
        equal = ((words[0] & high) == wanted[0]) & ((words[1] & low) == wanted[1])
        return equal & (flows.version == version)

    return test


def _in_ports(low: int, high: int) -> Callable:
    """Return the test whether a side's port is in a range."""

    def test(flows: Direction, side: str) -> np.ndarray:
        port = flows.sport if side == "src" else flows.dport
        has_ports = (flows.protocol == IPPROTO_TCP) | (flows.protocol == IPPROTO_UDP)
        return has_ports & (port >= low) & (port <= high)

    return test


def both_directions(words: np.ndarray) -> tuple[Direction, Direction]:
    """Return flows as the packets of either direction have them.

    Args:
        words: (F, KEY_WORDS) uint64, see `flow_keys`.
    """
    last = words[:, 4]
    byte, port = np.uint64(0xFF), np.uint64(0xFFFF)
    version, protocol = last & byte, (last >> np.uint64(8)) & byte
    ports = (last >> np.uint64(32)) & port, (last >> np.uint64(16)) & port
    ends = (words[:, 0], words[:, 1]), (words[:, 2], words[:, 3])
    return (
        Direction(version, protocol, *ends, *ports),
        Direction(version, protocol, *ends[::-1], *ports[::-1]),
    )
