"""A scene and an adapter's statistics as tables that sessions are drawn from.

Shape letters: S services of labels, E servers of all services, K successions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.adapter_metadata import (
    AdapterMetadata,
    label_statistics,
    service_statistics,
)
from netdiff_ray.labels.addresses import num_hosts
from netdiff_ray.labels.flow_plan import seed_of
from netdiff_ray.labels.hosts import HostBin, size_at
from netdiff_ray.labels.service import LabelService
from netdiff_ray.labels.sessions import FlowSuccession
from netdiff_ray.labels.stack import UNKNOWN, StackCount
from netdiff_ray.labels.statistics import ServiceStatistics
from netdiff_ray.scenes.scene import Scene, Weights

LOOKUP_SERVICES = ("udp-53", "udp-dns")
DISTINCT_SERVERS = 4096
"""Servers of a service whose flows of a client only the server's address tells apart."""
_UNKNOWN_RATE = 12.0
"""Sessions of a client in an hour where they are not known."""
_UNKNOWN_SESSION = HostBin(1, 8, 64, 256)
"""Flows of a session where they are not known."""
_UNKNOWN_LEVEL = 10
"""Of the gap behind a flow that nothing is known to follow: 0.5 to 1 s."""
_MOST_SERVERS = 4096


class Successions(NamedTuple):
    """What follows a flow of a service; arrays of (K,)."""

    service: np.ndarray
    """int64 index of the service."""
    gap_level: np.ndarray
    """int64, see `FlowSuccession`."""
    same_server: np.ndarray
    """bool."""
    ends: np.ndarray
    """int64 cumulated flows."""


@dataclass(frozen=True, kw_only=True)
class SceneTables:
    """What sessions are drawn from."""

    services: tuple[LabelService, ...]
    """S, sorted; those of incidents too."""
    is_lookup: np.ndarray
    """(S,) bool: whether the flows ask resolvers."""
    is_distinct: np.ndarray
    """(S,) bool: whether only the server tells a client's flows apart, which have no port or a
    planned one."""
    asks: np.ndarray
    """(S,) float64: share of connections to new servers that begin with a lookup."""
    lookup: int
    """Index of the service of lookups that begin connections; -1 if there is none."""
    starts: tuple[np.ndarray, ...]
    """(S,) float64 weights of what sessions begin with, by site."""
    follows: tuple[Successions, ...]
    """S."""
    flows: np.ndarray
    """(S,) float64: training flows."""
    first_server: np.ndarray
    """(S + 1,) int64: number of the first server of each service, and E; below the first are the
    resolvers."""
    server_ends: tuple[np.ndarray, ...]
    """S arrays: cumulated weights of the servers of each service."""
    session_flows: tuple[HostBin, ...]
    client_sessions: tuple[HostBin, ...]
    """Empty if all clients are to be alike."""
    rates: tuple[float, ...]
    """Sessions of a client in an hour, by site."""

    def of_label(self, label: str, service: str | None = None) -> np.ndarray:
        """Return (S,) bool: which services are of the label, and that service of it if given."""
        return np.array(
            [key.label == label and service in (None, key.service) for key in self.services]
        )


def scene_tables(metadata: AdapterMetadata, scene: Scene, seed: int) -> SceneTables:
    """Return the tables of a scene.

    Raises:
        ConfigError: the adapter has no such label or service, or networks are too small for the
            servers.
    """
    normal = _labels(metadata, scene)
    labels = {label for of_site in normal for label, _ in of_site}
    everything = sorted(labels | {incident.label for incident in scene.incidents})
    for incident in scene.incidents:
        if incident.service is not None:
            service_statistics(metadata, incident.label, incident.service)
    services = tuple(
        LabelService(label, service)
        for label in everything
        for service in label_statistics(metadata, label).services
    )
    own = [service_statistics(metadata, *key) for key in services]
    flows = np.array([statistics.num_flows for statistics in own], np.float64)
    is_lookup = np.array([key.service in LOOKUP_SERVICES for key in services])
    is_distinct = np.array([_is_distinct(key, s) for key, s in zip(services, own, strict=True)])
    is_distinct &= ~is_lookup
    weights = [
        _server_weights(s, scene.num_hosts, seed, key)
        if not distinct
        else np.ones(DISTINCT_SERVERS, np.int64)
        for key, s, distinct in zip(services, own, is_distinct, strict=True)
    ]
    resolvers = sum(site.resolvers for site in scene.sites)
    first = np.cumsum([resolvers, *map(len, weights)])
    _check_room(scene, int(first[-1] - resolvers))
    sessions = metadata.sessions
    rate = scene.sessions_per_hour
    rate = (sessions.sessions_per_hour or _UNKNOWN_RATE) if rate is None else rate
    return SceneTables(
        services=services, is_lookup=is_lookup, is_distinct=is_distinct,
        asks=_asks(services, is_lookup, is_distinct, scene.lookups),
        lookup=_lookup_service(metadata, services, is_lookup),
        starts=tuple(_starts(metadata, services, flows, of_site) for of_site in normal),
        follows=tuple(_follows(metadata, services, flows, labels, k) for k in range(len(services))),
        flows=flows, first_server=first, server_ends=tuple(map(np.cumsum, weights)),
        session_flows=tuple(sessions.session_flows) or (_UNKNOWN_SESSION,),
        client_sessions=tuple(sessions.client_sessions),
        rates=tuple(
            rate if site.sessions_per_hour is None else site.sessions_per_hour
            for site in scene.sites
        ),
    )  # fmt: skip


def _labels(metadata: AdapterMetadata, scene: Scene) -> list[Weights]:
    """Return the labels of sessions with their weights, by site."""
    whole = scene.labels
    if not whole:
        begun: dict[str, float] = {}
        for row in metadata.sessions.starts:
            begun[row.label] = begun.get(row.label, 0.0) + row.sessions
        whole = tuple(sorted((begun or dict.fromkeys(metadata.labels, 1.0)).items()))
    of_sites = [site.labels or whole for site in scene.sites]
    for of_site in of_sites:
        for label, _ in of_site:
            label_statistics(metadata, label)
    return of_sites


def _is_distinct(key: LabelService, statistics: ServiceStatistics) -> bool:
    """Return whether flows of a service may lack a port that their client chooses."""
    has_ports = key.service.startswith(("tcp-", "udp-"))
    return not has_ports or any(_has_fixed_port(row) for row in statistics.stacks)


def _has_fixed_port(row: StackCount) -> bool:
    return row.client_port != UNKNOWN or row.server_port <= 0


def _server_weights(
    statistics: ServiceStatistics, hosts: int, seed: int, key: LabelService
) -> np.ndarray:
    """Return the weights of a service's servers: they have as many clients as those of training
    flows, and are as many for as many clients."""
    bins, clients = statistics.hosts.server_clients, statistics.hosts.client_flows
    if not bins:
        return np.ones(1, np.int64)
    servers = sum(row.hosts for row in bins)
    number = round(servers * hosts / max(sum(row.hosts for row in clients), 1))
    number = min(max(number, 1), _MOST_SERVERS)
    places = seed_of(seed, key.label, 0, f"{key.service} servers")
    sizes = [
        size_at(bins, servers * k // number, (k + 0.5) / number if number > 1 else 0.5)
        for k in range(number)
    ]
    return np.random.default_rng(places).permutation(np.array(sizes, np.int64))


def _check_room(scene: Scene, servers: int) -> None:
    """Raise ConfigError unless the networks of servers have room for them."""
    for version in sorted({net.version for net in scene.server_nets}):
        room = num_hosts(scene.server_nets, version)
        if room < servers:
            raise ConfigError(
                f"servers has room for {room:,} IPv{version} addresses in "
                f"{', '.join(scene.servers)}, and the scene has up to {servers:,} servers: give "
                "larger networks"
            )


def _asks(
    services: tuple[LabelService, ...],
    is_lookup: np.ndarray,
    is_distinct: np.ndarray,
    lookups: float | None,
) -> np.ndarray:
    """Return the share of connections to new servers that begin with a lookup, by service."""
    own = {key.label for key, asks in zip(services, is_lookup, strict=True) if asks}
    shares = [float(key.label not in own) if lookups is None else lookups for key in services]
    connects = [key.service.startswith("tcp-") or key.service == "udp-443" for key in services]
    return np.array(shares) * np.array(connects) * ~is_distinct * ~is_lookup


def _lookup_service(
    metadata: AdapterMetadata, services: tuple[LabelService, ...], is_lookup: np.ndarray
) -> int:
    """Return the index of the service with most lookups; -1 if there is none."""
    flows = [service_statistics(metadata, *key).num_flows for key in services] * is_lookup
    return int(np.argmax(flows)) if is_lookup.any() else -1


def _starts(
    metadata: AdapterMetadata,
    services: tuple[LabelService, ...],
    flows: np.ndarray,
    labels: Weights,
) -> np.ndarray:
    """Return the weights of what sessions begin with: of a label's services as learnt, or else as
    its flows are."""
    begun = {(row.label, row.service): row.sessions for row in metadata.sessions.starts}
    weights = np.zeros(len(services))
    for label, weight in labels:
        of_label = np.array([key.label == label for key in services])
        own = np.array([begun.get(tuple(key), 0) for key in services]) * of_label
        own = own if own.any() else flows * of_label
        weights += weight * own / own.sum()
    return weights


def _follows(
    metadata: AdapterMetadata,
    services: tuple[LabelService, ...],
    flows: np.ndarray,
    labels: set[str],
    of: int,
) -> Successions:
    """Return what follows flows of a service among flows of the labels."""
    number = {tuple(key): k for k, key in enumerate(services)}
    rows = [
        row
        for row in metadata.sessions.follows
        if (row.label, row.service) == tuple(services[of])
        and row.next_label in labels
        and (row.next_label, row.next_service) in number
    ]
    if not rows:
        label = services[of].label
        rows = [
            FlowSuccession(*services[of], *key, _UNKNOWN_LEVEL, 0, int(flows[k]))
            for k, key in enumerate(services)
            if key.label == label
        ]
    return Successions(
        service=np.array([number[row.next_label, row.next_service] for row in rows]),
        gap_level=np.array([row.gap_level for row in rows]),
        same_server=np.array([row.same_server == 1 for row in rows]),
        ends=np.cumsum([row.flows for row in rows]),
    )


def flows_by_label(tables: SceneTables, service: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return the positions of the flows of each label, sorted.

    Args:
        service: (N,) int64 index of each flow's service.
    """
    labels = np.array([key.label for key in tables.services])[service]
    return {str(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
