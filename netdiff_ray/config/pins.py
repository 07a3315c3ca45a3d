"""What users fix of the flows' plans."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import require
from netdiff_ray.config.nets import overlap, parse_nets
from netdiff_ray.errors import ConfigError

DEFAULT_START_NS = 1_700_000_000_000_000_000
"""2023-11-14 22:13:20 UTC: when captures begin unless another time is given."""
_LATEST_START_S = 4_102_444_800
"""2100-01-01: timestamps of pcap end in 2106."""
_MOST_MS = 1e7
_Nets = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NETWORK ...")]


@dataclass(frozen=True, kw_only=True)
class PlanPins:
    """What all drawn flows have in common; the rest is drawn as the label's flows have it."""

    service: str | None = None
    """Service of the flows, as `netdiff info ADAPTER` lists them: tcp-443, udp-53, icmp, ..."""
    ip_version: Literal[4, 6] | None = None
    """IP version of the flows."""
    min_packets: int | None = None
    """Fewest packets of a flow."""
    max_packets: int | None = None
    """Most packets of a flow."""
    rtt_ms: Annotated[str | None, tyro.conf.arg(metavar="LOW:HIGH")] = None
    """Milliseconds that handshakes take, from SYN to ACK, as in 20:80; one number stands for those
    within a fifth of it. Only flows that a handshake opens are drawn then."""
    loss: Annotated[str | None, tyro.conf.arg(metavar="LOW:HIGH")] = None
    """Share of a flow's segments that are sent again, as in 0.01:0.1, in twofold steps; one number
    stands for the step that it is in, 0 for flows without loss. Only TCP flows with data are drawn
    then, by an adapter of the layout `stateful`."""
    client_net: _Nets = ()
    """Networks of the clients, as in 192.0.2.0/24 2001:db8::/64; private ones unless given."""
    server_net: _Nets = ()
    """Networks of the servers."""
    start: str | None = None
    """When the first flow of each capture begins: a time as in 2026-01-31T08:00:00Z, UTC unless it
    says otherwise, or seconds since 1970."""

    def __post_init__(self):
        least = 1 if self.min_packets is None else self.min_packets
        require(least >= 1, "min_packets", least, "at least 1")
        if self.max_packets is not None:
            require(
                self.max_packets >= least, "max_packets", self.max_packets, f"at least {least:,}"
            )
        for name in ("client_net", "server_net"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for client in parse_nets("client_net", self.client_net):
            for server in parse_nets("server_net", self.server_net):
                if overlap(client, server):
                    raise ConfigError(
                        f"client_net has {client} and server_net has {server}, which overlap: a "
                        "host would be client and server"
                    )
        parse_nets("server_net", self.server_net)
        self.start_ns()
        self.rtt_ns()
        self.loss_shares()

    def rtt_ns(self) -> tuple[int, int] | None:
        """Return the least and the most nanoseconds that handshakes take; None if any do."""
        if self.rtt_ms is None:
            return None
        low, colon, high = self.rtt_ms.partition(":")
        try:
            bounds = (float(low), float(high)) if colon else (0.8 * float(low), 1.2 * float(low))
        except ValueError:
            bounds = (0.0, 0.0)
        right = "milliseconds LOW:HIGH as in 20:80, or one number, above 0"
        holds = 0 <= bounds[0] <= bounds[1] <= _MOST_MS and bounds[1] > 0
        require(holds, "rtt_ms", self.rtt_ms, right)
        return int(bounds[0] * 1e6), int(bounds[1] * 1e6)

    def loss_shares(self) -> tuple[float, float] | None:
        """Return the least and the most share of segments that are sent again; None if any is."""
        if self.loss is None:
            return None
        low, colon, high = self.loss.partition(":")
        try:
            bounds = float(low), float(high if colon else low)
        except ValueError:
            bounds = (1.0, 0.0)
        right = "shares LOW:HIGH as in 0.01:0.1, or one share, from 0 to 1"
        require(0 <= bounds[0] <= bounds[1] <= 1, "loss", self.loss, right)
        return bounds

    def start_ns(self) -> int:
        """Return when captures begin, in nanoseconds since 1970-01-01 UTC."""
        if self.start is None:
            return DEFAULT_START_NS
        try:
            start_ns = round(float(self.start) * 1e6) * 1000
        except (ValueError, OverflowError):
            start_ns = _time_ns(self.start)
        right = "a time as in 2026-01-31T08:00:00Z, or seconds since 1970, before 2100"
        require(0 <= start_ns <= _LATEST_START_S * 10**9, "start", self.start, right)
        return start_ns


def _time_ns(text: str) -> int:
    """Return an ISO 8601 time in nanoseconds since 1970-01-01 UTC; -1 if it is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return -1
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
