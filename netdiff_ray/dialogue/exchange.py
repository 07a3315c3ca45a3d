"""What a dialogue has to fill."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple


class Named(NamedTuple):
    """The host that a flow asks for or speaks to."""

    host: bytes
    """Its name, as in `www.example.com`."""
    addresses: tuple[bytes, ...] = ()
    """Its addresses, 4 or 16 bytes each."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Senders and lengths of a flow's messages, and what else is known of the flow.

    Over TCP a message is all new bytes that one side sends before the other side sends new bytes;
    over UDP it is a datagram.
    """

    sides: tuple[int, ...]
    """0 client, 1 server; of each message, in the order in which they were sent."""
    lengths: tuple[int, ...]
    """Bytes of each message, at least 1."""
    ts_ns: tuple[int, ...]
    """When the first packet of each message was sent, in nanoseconds since 1970-01-01 UTC."""
    seed: int
    """uint64, of the flow; everything random comes from it."""
    client: bytes
    """Address, 4 or 16 bytes."""
    server: bytes
    """Address, 4 or 16 bytes."""
    client_port: int
    server_port: int
    is_tcp: bool
    """Whether the flow is a TCP connection; else its messages are UDP datagrams."""
    segments: tuple[int, ...] = ()
    """New bytes of each segment, message after message; () where each message is a segment."""
    head_bytes: int = 0
    """Bytes at the beginning of a frame that no segment's end may divide."""
    named: Named | None = None
    """The host that it names, if that is planned."""

    def random(self) -> Random:
        """Return a generator that draws the same for the same flow."""
        return Random(self.seed)

    def host(self, random: Random, hosts: Sequence[bytes]) -> bytes:
        """Return the name of the server: as planned, or one of `hosts`."""
        drawn = random.choice(hosts)
        return drawn if self.named is None else self.named.host
