"""How the flows of a service share hosts: flows a client, flows a pair of hosts, clients a server.

Nothing here is a single host's, unless a service has a single one: its numbers are those of all
flows then.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from netdiff_ray.labels.profile import MIN_FLOWS_DISCLOSED

MIN_HOSTS_DISCLOSED = MIN_FLOWS_DISCLOSED
"""Hosts of a bin at least, unless there are fewer."""
_EXACT_SIZES = 8


class HostBin(NamedTuple):
    """How many hosts (or pairs of them) have a size within bounds: a number of flows or clients."""

    fewest: int
    most: int
    """Inclusive."""
    hosts: int
    total: int
    """Sum of their sizes."""


@dataclass(frozen=True, kw_only=True)
class HostSharing:
    """How the flows of a service share hosts; without bins where hosts are not known."""

    client_flows: list[HostBin] = field(default_factory=list)
    """Clients by their flows."""
    pair_flows: list[HostBin] = field(default_factory=list)
    """Pairs of a client and a server by the flows between them."""
    server_clients: list[HostBin] = field(default_factory=list)
    """Servers by their clients."""

    def __post_init__(self) -> None:
        """Raise ValueError unless each bin is possible, and of several hosts if there are more
        bins."""
        for name, bins in vars(self).items():
            last = 0
            for row in bins:
                if not (
                    last < row.fewest <= row.most
                    and row.hosts > 0
                    and row.fewest * row.hosts <= row.total <= row.most * row.hosts
                ):
                    raise ValueError(f"{name} cannot have {row}")
                if row.hosts < MIN_HOSTS_DISCLOSED and len(bins) > 1:
                    raise ValueError(
                        f"{name} has {row}; a bin is of at least {MIN_HOSTS_DISCLOSED} hosts"
                    )
                last = row.most


def describe_hosts(pairs: Iterable[tuple[int, int]]) -> HostSharing:
    """Return how flows share hosts, given the client and the server of each."""
    flows = Counter(pairs)
    clients: Counter[int] = Counter()
    servers: Counter[int] = Counter()
    for (client, server), number in flows.items():
        clients[client] += number
        servers[server] += 1
    return HostSharing(
        client_flows=_bins(clients.values()),
        pair_flows=_bins(flows.values()),
        server_clients=_bins(servers.values()),
    )


def _bins(sizes: Iterable[int]) -> list[HostBin]:
    """Return the bins of sizes: exact up to 8, then octaves; rare ones are joined to the next that
    is smaller, or else larger."""
    hosts, total = Counter[int](), Counter[int]()
    for size in sizes:
        fewest = size if size <= _EXACT_SIZES else 1 + (1 << (size - 1).bit_length() - 1)
        hosts[fewest] += 1
        total[fewest] += size
    bins: list[HostBin] = []
    rare: HostBin | None = None
    for fewest in sorted(hosts, reverse=True):
        most = fewest if fewest <= _EXACT_SIZES else 2 * (fewest - 1)
        row = HostBin(fewest, most, hosts[fewest], total[fewest])
        row = _joined(row, rare) if rare else row
        rare = row if row.hosts < MIN_HOSTS_DISCLOSED else None
        if not rare:
            bins.append(row)
    if rare:
        bins.append(_joined(rare, bins.pop()) if bins else rare)
    return bins[::-1]


def _joined(low: HostBin, high: HostBin) -> HostBin:
    return HostBin(low.fewest, high.most, low.hosts + high.hosts, low.total + high.total)


def size_at(bins: list[HostBin], choice: int, place: float) -> int:
    """Return a size as `bins` have it.

    Args:
        choice: draws the bin, in proportion to its hosts; at least 0.
        place: draws the size within its bounds, with its mean; 0 to 1.
    """
    choice %= sum(row.hosts for row in bins)
    for row in bins:
        if choice < row.hosts:
            break
        choice -= row.hosts
    span, above = row.most - row.fewest, row.total / row.hosts - row.fewest
    if not above:
        return row.fewest
    # The mean of place ** p is 1 / (1 + p).
    return row.fewest + round(span * place ** (span / above - 1))
