"""The flows of a scene as plans, with addresses, ports and times.

The flows of a label have indices `group * GROUP_INDICES + k`: the k-th of a group of hosts, in the
order in which they begin.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from netdiff_ray.config.pins import PlanPins
from netdiff_ray.dialogue import Named
from netdiff_ray.errors import ConfigError
from netdiff_ray.header_bytes import IPPROTO_TCP, IPPROTO_UDP
from netdiff_ray.labels.adapter_metadata import AdapterMetadata, service_statistics
from netdiff_ray.labels.addresses import UNPLANNED_ADDRESSES, AddressPair, address_at
from netdiff_ray.labels.flow_plan import FlowPlan, HostPlaces, HostStack, plan_flow, seed_of
from netdiff_ray.labels.pins import pin_metadata
from netdiff_ray.labels.stack import NO_SYN, UNKNOWN, UNKNOWN_OPTIONS, StackCount
from netdiff_ray.repair.rules.ports import EPHEMERAL
from netdiff_ray.scenes.names import question_bytes, question_sizes, server_name
from netdiff_ray.scenes.scene import Scene
from netdiff_ray.scenes.sessions import (
    NO_INCIDENT,
    Schedule,
    num_groups,
    rank_within,
    schedule_group,
)
from netdiff_ray.scenes.tables import SceneTables, flows_by_label, scene_tables

GROUP_INDICES = 1 << 32
_NS_PER_S = 1e9
_LONGEST_S = 1e9
_ANSWERED = 0.95
"""Share of the time before what waits for a flow in which it is over."""


class SceneFlow(NamedTuple):
    """A flow of a scene, before it is drawn."""

    plan: FlowPlan
    addresses: AddressPair
    client_port: int
    """UNKNOWN where the plan's stack has one, or the flow has no ports."""
    number: int
    """Of the flow among those of the scene's clients, see `FlowColumns.number`."""
    start_ns: int
    """When it begins, in nanoseconds since 1970-01-01 UTC."""
    most_ns: int
    """Longest time from its first to its last packet: a lookup ends before what waits for it."""
    host: str
    """Name of its client, see `host_name`."""
    incident: str
    """Name of the incident that it is of; empty if it is of none."""
    named: Named
    """The server that it asks for or speaks to."""
    question: int
    """Bytes of a lookup's first message, in which the name fits; 0 for others, and for any."""

    @property
    def repaired_plan(self) -> FlowPlan:
        """The plan with the client's port, which is not for the model to know; a scene has one
        point of capture, which sees every packet once."""
        stack = self.plan.stack
        if self.client_port != UNKNOWN:
            stack = stack._replace(client_port=self.client_port)
        return replace(self.plan, stack=stack, duplicates=None)


def scene_metadata(metadata: AdapterMetadata, scene: Scene, seed: int) -> AdapterMetadata:
    """Return the metadata of the flows of the scene's IP version.

    Raises:
        ConfigError: see `ScenePlanner`; or a label has no flows of that version.
    """
    labels = {key.label for key in scene_tables(metadata, scene, seed).services}
    return pin_metadata(metadata, labels, PlanPins(ip_version=scene.ip_version))


class ScenePlanner:
    """Plans the flows of a scene, group by group; keeps the schedule of the last.

    Args:
        metadata: of the adapter, of the flows of the scene's IP versions.
        seed: of the run.

    Raises:
        ConfigError: the adapter does not have what the scene names, or networks are too small.
    """

    def __init__(self, metadata: AdapterMetadata, scene: Scene, seed: int):
        self.tables: SceneTables = scene_tables(metadata, scene, seed)
        self.scene = scene
        self._metadata, self._seed = metadata, seed
        self._group, self._schedule = -1, None
        self._server_nets = scene.server_nets
        self._site_nets = [site.parsed_nets for site in scene.sites]
        self._site_ends = np.cumsum([site.hosts for site in scene.sites])
        self._versions = sorted({net.version for net in self._server_nets})
        self._sizes = question_sizes(metadata, self.tables)
        self._stacks = _client_stacks(metadata, self.tables)

    def schedule(self, group: int) -> Schedule:
        """Return the flows of a group of hosts."""
        if self._group != group or self._schedule is None:
            self._schedule = schedule_group(self.scene, self.tables, self._seed, group)
            self._group = group
        return self._schedule

    def counts(self) -> dict[str, dict[int, int]]:
        """Return how many flows each group has, by label."""
        counts: dict[str, dict[int, int]] = {}
        for group in range(num_groups(self.scene)):
            by_label = flows_by_label(self.tables, self.schedule(group).service)
            for label, positions in by_label.items():
                counts.setdefault(label, {})[group] = len(positions)
        return counts

    def flows(self, label: str, first: int, count: int) -> list[SceneFlow]:
        """Return consecutive flows of a label, all of one group.

        Args:
            first: index of the first.
        """
        group, begin = divmod(first, GROUP_INDICES)
        schedule = self.schedule(group)
        positions = flows_by_label(self.tables, schedule.service)[label][begin : begin + count]
        rank = rank_within(schedule.host)
        self._check_ports(schedule, rank)
        return [
            self._flow(schedule, int(at), int(rank[at]), first + k)
            for k, at in enumerate(positions)
        ]

    def _flow(self, schedule: Schedule, at: int, rank: int, index: int) -> SceneFlow:
        """Return the flow at a position of a schedule.

        Args:
            rank: how many flows of its client begin before it.
            index: of the flow, in its label.
        """
        host, server = int(schedule.host[at]), int(schedule.server[at])
        label, service = self.tables.services[schedule.service[at]]
        is_lookup = bool(self.tables.is_lookup[schedule.service[at]])
        plan = plan_flow(
            self._metadata, label, self._seed, index, service=service,
            places=HostPlaces(
                client=seed_of(self._seed, "", host, "client stack"),
                server=seed_of(self._seed, "", server, "server stack"),
                path=seed_of(self._seed, "", server, f"path from {host}"),
            ),
            client=self._client_stack(host),
        )  # fmt: skip
        named = int(schedule.named[at])
        version, protocol = plan.stack.protocols
        port = UNKNOWN
        has_ports = protocol in (IPPROTO_TCP, IPPROTO_UDP)
        if has_ports and (plan.stack.client_port == UNKNOWN or is_lookup):
            shift = seed_of(self._seed, "", host, "ports")
            port = int(EPHEMERAL[(shift + rank) % len(EPHEMERAL)])
        incident = int(schedule.incident[at])
        return SceneFlow(
            plan=plan,
            addresses=self.addresses(host, server, version) if version else UNPLANNED_ADDRESSES,
            client_port=port,
            number=host * len(EPHEMERAL) + rank,
            start_ns=self.scene.start_ns + round(float(schedule.start_s[at]) * _NS_PER_S),
            most_ns=int(min(float(schedule.within_s[at]) * _ANSWERED, _LONGEST_S) * _NS_PER_S),
            host=self.host_name(host),
            incident="" if incident == NO_INCIDENT else self.scene.incidents[incident].name,
            named=self._named(named, with_addresses=is_lookup),
            question=self._question(named) if is_lookup else 0,
        )

    def host_name(self, host: int) -> str:
        """Return the name of a client: its site's, and its number there."""
        site, number = self._place(host)
        return f"{self.scene.sites[site].name}-{number}"

    def _place(self, host: int) -> tuple[int, int]:
        """Return the index of a client's site, and its number there, from 0."""
        site = int(np.searchsorted(self._site_ends, host, side="right"))
        return site, host - int(self._site_ends[site]) + self.scene.sites[site].hosts

    def addresses(self, host: int, server: int, version: int) -> AddressPair:
        """Return the addresses of a client and of a server of an IP version."""
        return AddressPair(self.client_address(host, version), self.server_address(server, version))

    def gateway_address(self, site: int, version: int) -> bytes:
        """Return the packed address of a site's gateway: the first of its networks."""
        return address_at(self._site_nets[site], version, 0)

    def client_address(self, host: int, version: int) -> bytes:
        """Return the packed address of a client."""
        site, number = self._place(host)
        place = 1 + self.scene.sites[site].resolvers + number
        return address_at(self._site_nets[site], version, place)

    def server_address(self, server: int, version: int) -> bytes:
        """Return the packed address of a server; the first servers are the sites' resolvers."""
        before = 0
        for site, nets in zip(self.scene.sites, self._site_nets, strict=True):
            if server < before + site.resolvers:
                return address_at(nets, version, 1 + server - before)
            before += site.resolvers
        return address_at(self._server_nets, version, server - before)

    def _named(self, server: int, *, with_addresses: bool) -> Named:
        """Return the name of a server, and its addresses if wanted."""
        addresses = ()
        if with_addresses:
            addresses = tuple(self.server_address(server, v) for v in self._versions)
        return Named(server_name(self._seed, server, self._question(server)), addresses)

    def _question(self, server: int) -> int:
        """Return the bytes of a question for a server's name."""
        first = self.tables.first_server
        service = max(int(np.searchsorted(first, server, side="right")) - 1, 0)
        return question_bytes(self._sizes[service], self._seed, server)

    def _client_stack(self, host: int) -> HostStack | None:
        """Return the stack of a client, drawn from those of all labels."""
        rows, ends = self._stacks
        if not rows:
            return None
        draw = seed_of(self._seed, "", host, "system") % int(ends[-1])
        row = rows[int(np.searchsorted(ends, draw, side="right"))]
        return HostStack(row.client_lifetime, row.client_options)

    def _check_ports(self, schedule: Schedule, rank: np.ndarray) -> None:
        """Raise ConfigError if a client would take a port to a server again."""
        if rank.max(initial=0) < len(EPHEMERAL):
            return
        keys = np.stack([schedule.host, schedule.server, rank % len(EPHEMERAL)])
        _, number = np.unique(keys, axis=1, return_counts=True)
        if number.max() > 1:
            raise ConfigError(
                f"a host has {rank.max() + 1:,} flows, more than {len(EPHEMERAL):,} ports tell "
                "apart: lower its rate, or give the incident more sources or targets"
            )


def _client_stacks(
    metadata: AdapterMetadata, tables: SceneTables
) -> tuple[list[StackCount], np.ndarray]:
    """Return the stacks that say most of clients, with cumulated flows: of handshakes, or else all
    with a lifetime."""
    rows = [
        row
        for key in tables.services
        for row in service_statistics(metadata, *key).stacks
        if row.client_lifetime != UNKNOWN
    ]
    telling = [row for row in rows if row.client_options not in (NO_SYN, UNKNOWN_OPTIONS)]
    rows = telling or rows
    return rows, np.cumsum([row.flows for row in rows])
