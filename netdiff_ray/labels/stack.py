"""Stacks: what the headers of a flow say of its two hosts, for the whole flow at once.

A host's system decides its lifetime (TTL or hop limit), DF bit, traffic class, the options of its
SYN and its windows together, so that they are counted and drawn together, with the ports.
"""

from typing import NamedTuple

from netdiff_ray.header_bytes import (
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    MAX_HEADER_BYTES,
    TCP_HEADER_BYTES,
    TCP_OPTION_END,
    TCP_OPTION_MSS,
    TCP_OPTION_NOP,
    TCP_OPTION_SACK_PERMITTED,
    TCP_OPTION_TIMESTAMPS,
    TCP_OPTION_WINDOW_SCALE,
)

PROTOCOLS = {
    "ipv4 tcp": (4, IPPROTO_TCP), "ipv4 udp": (4, IPPROTO_UDP), "ipv4 icmp": (4, IPPROTO_ICMP),
    "ipv6 tcp": (6, IPPROTO_TCP), "ipv6 udp": (6, IPPROTO_UDP), "ipv6 icmp": (6, IPPROTO_ICMPV6),
}  # fmt: skip
"""IP version and protocol number by headers; nPrint has ICMPv6 in the columns of ICMP."""
TIMESTAMPED = " tcp_opt"
"""End of the headers of flows whose packets have options after the handshake."""

UNKNOWN = -1
"""Stands for a number that is not planned: what is drawn stands."""
UNKNOWN_OPTIONS = "?"
"""Stands for options that are not planned."""
NO_SYN = "-"
"""Stands for the options of a host that sends no SYN: the flow was captured later, or the host is
silent or refuses, or does not speak TCP."""

OPTION_BYTES = {
    TCP_OPTION_MSS: 4, TCP_OPTION_WINDOW_SCALE: 3, TCP_OPTION_SACK_PERMITTED: 2,
    TCP_OPTION_TIMESTAMPS: 10,
}  # fmt: skip
"""Lengths of the options that a SYN may have (RFC 9293 section 3.2, RFC 7323, RFC 2018)."""
MAX_OPTION_BYTES = MAX_HEADER_BYTES - TCP_HEADER_BYTES
_MOST_WORD = 65_535
LEAST_MSS = 48
"""The least that Linux sends into (TCP_MIN_SND_MSS)."""
MAX_SCALE = 14
"""The largest window scale (RFC 7323 section 2.3)."""
_OPTION_VALUES = {TCP_OPTION_MSS: (LEAST_MSS, _MOST_WORD), TCP_OPTION_WINDOW_SCALE: (0, MAX_SCALE)}
"""Least and greatest value of options; those of others are 0."""
_MOST_NOPS = 3


class FlowStack(NamedTuple):
    """The stacks of a flow's client and server, and their ports.

    UNKNOWN or UNKNOWN_OPTIONS stands where nothing is planned.
    """

    headers: str
    """Those of most packets, as in `ipv4 tcp tcp_opt` (see `FlowPlan.headers`)."""
    server_port: int
    """0 without ports."""
    one_way: int
    """1 if the server sends nothing, 0 if it does."""
    client_port: int
    """A port that the client does not choose anew for each flow; else UNKNOWN."""
    client_lifetime: int
    """TTL or hop limit of the side's first packet, as captured."""
    client_dont_fragment: int
    """1 or 0 if all the side's packets have that DF bit; UNKNOWN with IPv6."""
    client_traffic_class: int
    """DSCP and ECN if all the side's packets have the same."""
    client_options: str
    """Bytes of the SYN's options in hexadecimal, values of timestamps 0; or NO_SYN."""
    client_window: int
    """The SYN's."""
    server_lifetime: int
    server_dont_fragment: int
    server_traffic_class: int
    server_options: str
    """Like `client_options`, of the answer to the SYN."""
    server_window: int
    first_side: int = UNKNOWN
    """Who sends the first packet: 0 the client, 1 the server."""

    @property
    def protocols(self) -> tuple[int, int]:
        """IP version and protocol number; zeros if the headers do not say."""
        return PROTOCOLS.get(self.headers.removesuffix(TIMESTAMPED), (0, 0))

    @property
    def opens(self) -> int:
        """1 if the flow begins with its client's SYN, 0 if not; else UNKNOWN."""
        if self.client_options == UNKNOWN_OPTIONS:
            return UNKNOWN
        return int(self.client_options != NO_SYN)

    @property
    def sends_one_way(self) -> bool:
        """Whether all packets are the client's, as far as it is planned."""
        return self.one_way == 1 and self.opens != UNKNOWN

    @property
    def has_timestamps(self) -> int:
        """1 if both sides agree on timestamps (RFC 7323 section 3.2), 0 if not; else UNKNOWN."""
        if self.protocols[1] != IPPROTO_TCP or self.opens == UNKNOWN:
            return UNKNOWN
        if not self.opens:
            return int(self.headers.endswith(TIMESTAMPED))
        if TCP_OPTION_TIMESTAMPS not in option_places(self.client_options):
            return 0
        if self.sends_one_way:
            return int(self.headers.endswith(TIMESTAMPED))
        if self.server_options in (UNKNOWN_OPTIONS, NO_SYN):
            return UNKNOWN
        return int(TCP_OPTION_TIMESTAMPS in option_places(self.server_options))


def unknown_stack(headers: str) -> FlowStack:
    """Return a stack of which only the headers are known."""
    host = (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN_OPTIONS, UNKNOWN)
    return FlowStack(headers, UNKNOWN, UNKNOWN, UNKNOWN, *host, *host)


UNPLANNED = unknown_stack("")
"""A stack of which nothing is known."""


class StackCount(NamedTuple):
    """How many flows have a FlowStack."""

    headers: str
    server_port: int
    one_way: int
    client_port: int
    client_lifetime: int
    client_dont_fragment: int
    client_traffic_class: int
    client_options: str
    client_window: int
    server_lifetime: int
    server_dont_fragment: int
    server_traffic_class: int
    server_options: str
    server_window: int
    first_side: int
    flows: int

    @property
    def stack(self) -> FlowStack:
        """What is counted."""
        return FlowStack(*self[:-1])


def options_text(options: bytes) -> str:
    """Return a SYN's options as hexadecimal text with the values of timestamps 0, or
    UNKNOWN_OPTIONS if they are not well formed (see `check_options`)."""
    clean = bytearray(options)
    at = 0
    while at < len(clean) and clean[at] != TCP_OPTION_END:
        size = 1 if clean[at] == TCP_OPTION_NOP else OPTION_BYTES.get(clean[at], len(clean))
        if clean[at] == TCP_OPTION_TIMESTAMPS:
            clean[at + 2 : at + size] = bytes(len(clean[at + 2 : at + size]))
        at += size
    try:
        check_options(clean.hex())
    except ValueError:
        return UNKNOWN_OPTIONS
    return clean.hex()


def option_places(text: str) -> dict[int, int]:
    """Return the first byte of each of well-formed options by kind, in order, without NOPs and the
    end; nothing for NO_SYN and UNKNOWN_OPTIONS."""
    places: dict[int, int] = {}
    if text in (NO_SYN, UNKNOWN_OPTIONS):
        return places
    options = bytes.fromhex(text)
    at = 0
    while at < len(options) and options[at] != TCP_OPTION_END:
        if options[at] != TCP_OPTION_NOP:
            places[options[at]] = at
        at += OPTION_BYTES.get(options[at], 1)
    return places


def check_options(text: str) -> None:
    """Check the options of a SYN in hexadecimal.

    Raises:
        ValueError: they are not whole words of at most 40 bytes; one of MSS, window scale,
            SACK-permitted and timestamps is repeated, of another length or of an impossible value,
            which for timestamps is any but 0; another option is among them; more than three NOPs
            follow each other, or other bytes than zeros follow the end of options.
    """
    options = bytes.fromhex(text)
    if text != options.hex() or len(options) % 4 or len(options) > MAX_OPTION_BYTES:
        raise ValueError(f"are not whole words of at most {MAX_OPTION_BYTES} bytes in lower case")
    seen: set[int] = set()
    at = nops = 0
    while at < len(options) and options[at] != TCP_OPTION_END:
        kind = options[at]
        nops = nops + 1 if kind == TCP_OPTION_NOP else 0
        if nops > _MOST_NOPS:
            raise ValueError(f"have more than {_MOST_NOPS} NOPs in a row")
        if not nops:
            option = options[at : at + OPTION_BYTES.get(kind, 0)]
            if kind in seen or not option or option[1:2] != bytes([OPTION_BYTES[kind]]):
                raise ValueError(f"have kind {kind}, which is unknown, repeated or too short")
            if len(option) < OPTION_BYTES[kind]:
                raise ValueError(f"end within kind {kind}")
            least, most = _OPTION_VALUES.get(kind, (0, 0))
            if not least <= int.from_bytes(option[2:]) <= most:
                raise ValueError(f"have kind {kind} with a value that is not {least} to {most:,}")
            seen.add(kind)
        at += 1 if nops else OPTION_BYTES[kind]
    if any(options[at:]):
        raise ValueError("go on after their end")


def check_stack(stack: FlowStack) -> None:
    """Check what a stack says.

    Raises:
        ValueError: its headers are none of PROTOCOLS with or without TIMESTAMPED, a value is out of
            range or is one that the protocols do not have, the server sends first in a flow that
            the client opens or in which it alone sends, or the server answers a SYN with options
            that the client does not offer.
    """
    version, protocol = stack.protocols
    if not version or (stack.headers.endswith(TIMESTAMPED) and protocol != IPPROTO_TCP):
        known = ", ".join(PROTOCOLS)
        raise ValueError(f"headers are {stack.headers!r}; they are of {known}, or end with tcp_opt")
    most_port = _MOST_WORD if protocol in (IPPROTO_TCP, IPPROTO_UDP) else 0
    bounds = {
        "port": most_port, "lifetime": 255, "fragment": int(version == 4), "class": 255,
        "window": _MOST_WORD, "way": 1, "side": 1,
    }  # fmt: skip
    for name, value in zip(stack._fields, stack, strict=True):
        most = bounds.get(name.rpartition("_")[2])
        if most is not None and not UNKNOWN <= value <= most:
            raise ValueError(f"{name} is {value}; it is {UNKNOWN} to {most:,}")
    if 0 in (stack.client_lifetime, stack.server_lifetime, stack.client_port):
        raise ValueError("a lifetime or the client's port is 0")
    if stack.first_side == 1 and 1 in (stack.opens, stack.one_way):
        raise ValueError("first_side is 1, the server, where the client opens the flow or is alone")
    for name in ("client_options", "server_options"):
        options = getattr(stack, name)
        if options in (UNKNOWN_OPTIONS, NO_SYN):
            continue
        if protocol != IPPROTO_TCP:
            raise ValueError(f"{name} are {options!r} without TCP")
        try:
            check_options(options)
        except ValueError as error:
            raise ValueError(f"{name} {options!r}: {error}") from None
    _check_answer(stack)


def _check_answer(stack: FlowStack) -> None:
    """Raise ValueError if the server's options are more than an answer to the client's."""
    if stack.server_options in (UNKNOWN_OPTIONS, NO_SYN):
        return
    offered, answered = map(option_places, (stack.client_options, stack.server_options))
    if stack.opens != 1 or set(answered) - set(offered) - {TCP_OPTION_MSS}:
        raise ValueError(
            f"server_options {stack.server_options!r} answer what client_options "
            f"{stack.client_options!r} do not offer"
        )
