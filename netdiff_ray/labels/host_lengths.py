"""How long flows between hosts of a kind are: a robot's fetches are not a browser's, and what was
captured from its middle on is shorter than what was captured whole.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from netdiff_ray.labels.length_bins import LengthBin, bin_lengths
from netdiff_ray.labels.stack import PROTOCOLS, TIMESTAMPED, FlowStack

MIN_HOST_FLOWS = 6
"""Fewest flows between hosts of a kind whose lengths are told apart from those of others."""


class HostKind(NamedTuple):
    """What tells kinds of hosts of a service apart; see `FlowStack`."""

    headers: str
    one_way: int
    opens: int
    client_lifetime: int
    server_lifetime: int


class HostLength(NamedTuple):
    """How many flows between hosts of a kind have a length within bounds, in packets."""

    headers: str
    """Of `HostKind`, and so the next four."""
    one_way: int
    opens: int
    client_lifetime: int
    server_lifetime: int
    fewest: int
    most: int
    """Inclusive."""
    flows: int

    @property
    def kind(self) -> HostKind:
        """Of the hosts."""
        return HostKind(*self[: len(HostKind._fields)])

    @property
    def length(self) -> LengthBin:
        """The bounds, and how many flows."""
        return LengthBin(self.fewest, self.most, self.flows)


def check_host_length(row: HostLength) -> None:
    """Raise ValueError unless a row is possible."""
    if row.headers.removesuffix(TIMESTAMPED) not in ("", *PROTOCOLS):
        raise ValueError(f"lengths of flows of headers {row.headers!r}, which no flow has")
    if not 1 <= row.fewest <= row.most or row.flows < 1:
        raise ValueError(
            f"{row.flows} flows have {row.fewest} to {row.most} packets; at least one has 1 or more"
        )


def host_kind(stack: FlowStack) -> HostKind:
    """Return the kind of a flow's hosts."""
    return HostKind(*(getattr(stack, name) for name in HostKind._fields))


def count_host_lengths(flows: Iterable[tuple[FlowStack, int]]) -> list[HostLength]:
    """Return the lengths of flows by their hosts, sorted; kinds of fewer than MIN_HOST_FLOWS flows
    are left out."""
    lengths: dict[HostKind, list[int]] = {}
    for stack, num_packets in flows:
        lengths.setdefault(host_kind(stack), []).append(num_packets)
    return [
        HostLength(*kind, *length)
        for kind, of_kind in sorted(lengths.items())
        if len(of_kind) >= MIN_HOST_FLOWS
        for length in bin_lengths(of_kind)
    ]


def draw_host_length(rows: Sequence[HostLength], stack: FlowStack, seed: int) -> int | None:
    """Draw the packets of a flow between such hosts, in proportion to flows; None if their lengths
    are not told apart."""
    kind = host_kind(stack)
    alike = [row for row in rows if row.kind == kind]
    if not alike:
        return None
    rng = np.random.default_rng(seed)
    weights = np.array([row.flows for row in alike])
    row = alike[int(rng.choice(len(alike), p=weights / weights.sum()))]
    return int(rng.integers(row.fewest, row.most + 1))
