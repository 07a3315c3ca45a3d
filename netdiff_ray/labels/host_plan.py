"""Plan the hosts of flows: which client and which server each has.

Flows share hosts as the label's training flows did: clients have as many flows, pairs of hosts as
many, and servers as many clients. A host has one stack: lifetime, DF bit and options of its SYN,
and a server one answer to each SYN; its hops are the same for all flows of a client. A host is of
one service and IP version, and of a block of its label's flows, as many as were trained on, so that
the hosts of a flow depend on the adapter's metadata, the seed, the label and the flow's index
alone.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from netdiff_ray.header_bytes import IPPROTO_TCP, IPPROTO_UDP
from netdiff_ray.labels.adapter_metadata import (
    AdapterMetadata,
    label_statistics,
    service_statistics,
)
from netdiff_ray.labels.flow_plan import plan_flow, seed_of
from netdiff_ray.labels.hosts import HostBin, HostSharing, size_at
from netdiff_ray.labels.stack import NO_SYN, UNKNOWN, UNKNOWN_OPTIONS, FlowStack

_MOST_BLOCK_FLOWS = 1024
_UNKNOWN_SHARING = HostSharing(
    client_flows=[HostBin(1, 1, 64, 64)], pair_flows=[HostBin(1, 1, 64, 64)],
    server_clients=[HostBin(32, 32, 2, 64)],
)  # fmt: skip
"""How flows share hosts where that is not known."""
_PLACES = 1 << 31
_UNDISCLOSED = (NO_SYN, UNKNOWN_OPTIONS)
"""Options that say nothing of a host."""


class FlowHosts(NamedTuple):
    """The hosts of a flow, as numbers."""

    version: int
    """IP version; 0 if it is not planned."""
    block: int
    """Number of the flow's block."""
    client: int
    """Number of the client in the block, among those of the IP version, from 0."""
    server: int
    """Likewise, of the server."""


@dataclass
class _Host:
    """A host, as far as the flows so far tell its stack."""

    number: int
    left: int
    """Flows of a client, or clients of a server, that it still gets."""
    lifetime: int = UNKNOWN
    dont_fragment: int = UNKNOWN

    def fits(self, lifetime: int, dont_fragment: int) -> bool:
        """Return whether these are the host's, as far as either is known."""
        pairs = (self.lifetime, lifetime), (self.dont_fragment, dont_fragment)
        return all(UNKNOWN in pair or pair[0] == pair[1] for pair in pairs)

    def note(self, lifetime: int, dont_fragment: int) -> None:
        """Note what a flow tells of the host."""
        self.lifetime = max(self.lifetime, lifetime)
        self.dont_fragment = max(self.dont_fragment, dont_fragment)


@dataclass
class _Server(_Host):
    """A server; its lifetime is the one from which hops count down."""

    answers: dict[str, str] = field(default_factory=dict)
    """Options of its answers by those of the SYN."""

    def may_answer(self, stack: FlowStack) -> bool:
        """Return whether it may answer as the flow's server does."""
        known = self.answers.get(stack.client_options, stack.server_options)
        lifetime = _initial_lifetime(stack.server_lifetime)
        return self.fits(lifetime, stack.server_dont_fragment) and (
            known == stack.server_options or stack.server_options in _UNDISCLOSED
        )


@dataclass
class _Client(_Host):
    """A client; its lifetime is as captured."""

    options: str = UNKNOWN_OPTIONS
    pairs: dict[int, tuple[_Server, int]] = field(default_factory=dict)
    """The last server by lifetime as captured, and flows that are left to the pair."""
    met: dict[int, int] = field(default_factory=dict)
    """Numbers of its servers, and their lifetimes as captured."""

    def may_open(self, stack: FlowStack) -> bool:
        """Return whether it may be the flow's client."""
        return self.fits(stack.client_lifetime, stack.client_dont_fragment) and (
            self.options == stack.client_options
            or self.options in _UNDISCLOSED
            or stack.client_options in _UNDISCLOSED
        )


def planned_hosts(
    metadata: AdapterMetadata, label: str, seed: int, first: int = 0
) -> Iterator[FlowHosts]:
    """Yield the hosts of a label's flows, from index `first` on, without end.

    Args:
        seed: of the run.

    Raises:
        ConfigError: the adapter has no such label.
    """
    num_flows = block_flows(metadata, label)
    for block in itertools.count(first // num_flows):
        hosts = _Block(metadata, label, seed, block).hosts()
        yield from itertools.islice(hosts, max(first - block * num_flows, 0), None)


def block_flows(metadata: AdapterMetadata, label: str) -> int:
    """Return how many flows of a label share hosts."""
    return min(label_statistics(metadata, label).num_flows, _MOST_BLOCK_FLOWS)


class _Block:
    """The hosts of a block so far."""

    def __init__(self, metadata: AdapterMetadata, label: str, seed: int, number: int):
        self._metadata, self._label, self._seed = metadata, label, seed
        self._number = number
        self._clients: dict[tuple[str, int], list[_Client]] = {}
        self._servers: dict[tuple[str, int], list[_Server]] = {}
        self._num_clients: Counter[int] = Counter()
        self._num_servers: Counter[int] = Counter()

    def hosts(self) -> Iterator[FlowHosts]:
        """Yield the hosts of the block's flows, in order."""
        num_flows = block_flows(self._metadata, self._label)
        for index in range(self._number * num_flows, (self._number + 1) * num_flows):
            flow = plan_flow(self._metadata, self._label, self._seed, index)
            statistics = service_statistics(self._metadata, self._label, flow.service)
            sharing = statistics.hosts if statistics.hosts.client_flows else _UNKNOWN_SHARING
            version = flow.stack.protocols[0]
            if not version:
                yield FlowHosts(0, self._number, 0, 0)
                continue
            kind = flow.service, version
            client = self._client(index, kind, flow.stack, sharing)
            server = self._server(index, kind, client, flow.stack, sharing)
            yield FlowHosts(version, self._number, client.number, server.number)

    def _client(
        self, index: int, kind: tuple[str, int], stack: FlowStack, sharing: HostSharing
    ) -> _Client:
        """Return the client of the next flow."""
        known = self._clients.setdefault(kind, [])
        client = next((client for client in known if client.may_open(stack)), None)
        if client is None:
            size = self._size(index, "client", sharing.client_flows)
            client = _Client(self._num_clients[kind[1]], size)
            self._num_clients[kind[1]] += 1
            known.append(client)
        client.note(stack.client_lifetime, stack.client_dont_fragment)
        if client.options in _UNDISCLOSED:
            client.options = stack.client_options
        client.left -= 1
        if not client.left:
            known.remove(client)
        return client

    def _server(
        self,
        index: int,
        kind: tuple[str, int],
        client: _Client,
        stack: FlowStack,
        sharing: HostSharing,
    ) -> _Server:
        """Return the server of a client's next flow."""
        server, left = client.pairs.get(stack.server_lifetime, (None, 0))
        if server is None or not left or not server.may_answer(stack):
            left = self._size(index, "pair", sharing.pair_flows)
            if not _has_free_port(stack):
                left = 1  # only their servers tell such flows of a client apart
            server = self._other_server(index, kind, client, stack, sharing)
        server.note(_initial_lifetime(stack.server_lifetime), stack.server_dont_fragment)
        if stack.server_options not in _UNDISCLOSED:
            server.answers[stack.client_options] = stack.server_options
        client.pairs[stack.server_lifetime] = server, left - 1
        return server

    def _other_server(
        self,
        index: int,
        kind: tuple[str, int],
        client: _Client,
        stack: FlowStack,
        sharing: HostSharing,
    ) -> _Server:
        """Return a server that the client has not met, if possible; note that it has."""
        if kind not in self._servers:
            self._servers[kind] = self._block_servers(kind, sharing)
        known = self._servers[kind]
        fitting = [server for server in known if server.may_answer(stack)]
        new = [server for server in fitting if server.number not in client.met]
        again = [s for s in fitting if client.met.get(s.number) == stack.server_lifetime]
        if again and not new and _has_free_port(stack):
            return again[0]
        if new:
            at = seed_of(self._seed, self._label, index, "server") % sum(s.left for s in new)
            ends = itertools.accumulate(s.left for s in new)
            server = next(s for s, end in zip(new, ends, strict=True) if at < end)
        else:
            server = self._add_server(kind, self._size(index, "server", sharing.server_clients))
            known.append(server)
        client.met[server.number] = stack.server_lifetime
        server.left -= 1
        if not server.left:
            known.remove(server)
        return server

    def _block_servers(self, kind: tuple[str, int], sharing: HostSharing) -> list[_Server]:
        """Return as many servers as flows of a service and IP version have in a block, of sizes
        that lie evenly among those of its servers."""
        statistics = label_statistics(self._metadata, self._label)
        bins = statistics.services[kind[0]].length_bins
        of_kind = sum(row.flows for h, _, row in bins if h.startswith(f"ipv{kind[1]}"))
        flows = block_flows(self._metadata, self._label) * of_kind / statistics.num_flows
        hosts = sum(row.hosts for row in sharing.server_clients)
        share = flows / sum(row.total for row in sharing.client_flows)
        number = max(round(hosts * share), 1)
        return [
            self._add_server(
                kind, size_at(sharing.server_clients, hosts * k // number, (k + 0.5) / number)
            )
            for k in range(number)
        ]

    def _add_server(self, kind: tuple[str, int], size: int) -> _Server:
        self._num_servers[kind[1]] += 1
        return _Server(self._num_servers[kind[1]] - 1, size)

    def _size(self, index: int, of: str, bins: list[HostBin]) -> int:
        """Draw a size of a host that flow `index` is the first to have."""
        choice, place = divmod(seed_of(self._seed, self._label, index, f"{of} size"), _PLACES)
        return size_at(bins, choice, place / _PLACES)


def _initial_lifetime(lifetime: int) -> int:
    """Return the lifetime from which hops have counted down to one that was captured: the least
    that systems begin with (32, 64, 128, 255); UNKNOWN of UNKNOWN."""
    return next(initial for initial in (UNKNOWN, 32, 64, 128, 255) if lifetime <= initial)


def _has_free_port(stack: FlowStack) -> bool:
    """Return whether the client's port tells apart the flows of two hosts."""
    has_ports = stack.protocols[1] in (IPPROTO_TCP, IPPROTO_UDP)
    return has_ports and stack.client_port == UNKNOWN and stack.server_port > 0
