"""What a scene is: hosts of sites, what they do over a time, and what befalls them."""

import math
from dataclasses import dataclass, field

from netdiff_ray.config.checks import check_share, require, require_at_least_1
from netdiff_ray.config.nets import Net, overlap, parse_nets
from netdiff_ray.config.pins import PlanPins
from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.addresses import DEFAULT_NETS, num_hosts

DEFAULT_HOSTS, DEFAULT_MINUTES = 50, 10.0
MINUTES_PER_DAY = 24 * 60
_MOST_MINUTES = 31 * MINUTES_PER_DAY
_HOURS = 24
Weights = tuple[tuple[str, float], ...]
"""Labels with their weights."""


def _check_weights(name: str, weights: Weights) -> None:
    for label, weight in weights:
        holds = 0 < weight < math.inf
        require(holds, f"{name}.{label}", weight, "a weight above 0; leave the label out for none")


def _check_rate(name: str, rate: float | None) -> None:
    require(rate is None or 0 <= rate < math.inf, name, rate, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Site:
    """A part of the network: clients of the same subnets, with resolvers beside them."""

    name: str
    hosts: int
    """Clients."""
    nets: tuple[str, ...] = tuple(map(str, DEFAULT_NETS[0]))
    """Subnets, of IPv4, IPv6 or both. The first address is the gateway's, the next ones are the
    resolvers', then come the clients'."""
    resolvers: int = 1
    """DNS servers in the subnets, which the clients ask."""
    labels: Weights = ()
    """Labels of its sessions with their weights; those of the scene unless given."""
    sessions_per_hour: float | None = None
    """Of a client, in the mean; that of the scene unless given."""

    def __post_init__(self):
        require(bool(self.name), "sites.name", self.name, "a name")
        require_at_least_1(self, "hosts", "resolvers")
        _check_weights("sites.labels", self.labels)
        _check_rate("sites.sessions_per_hour", self.sessions_per_hour)
        for version in sorted({net.version for net in self.parsed_nets}):
            room = num_hosts(self.parsed_nets, version)
            if room < self.num_addresses:
                raise ConfigError(
                    f"site {self.name!r} has room for {room:,} IPv{version} addresses in "
                    f"{', '.join(self.nets)}, and needs {self.num_addresses:,}: {self.hosts:,} "
                    f"hosts, {self.resolvers} resolvers and a gateway; give it larger nets or "
                    "fewer hosts"
                )

    @property
    def parsed_nets(self) -> tuple[Net, ...]:
        """The subnets."""
        return parse_nets(f"nets of site {self.name!r}", self.nets)

    @property
    def num_addresses(self) -> int:
        """Addresses that it needs of each IP version."""
        return 1 + self.resolvers + self.hosts


@dataclass(frozen=True, kw_only=True)
class Incident:
    """What happens for some time: traffic of its own, or more or less of what there is."""

    name: str
    begin_minute: float
    """After the scene's start."""
    minutes: float
    label: str
    """Whose traffic it is."""
    service: str | None = None
    """Of the label; all its services unless given."""
    flows_per_second: float | None = None
    """Flows that it adds, of all its sources together."""
    factor: float | None = None
    """What the label's traffic is multiplied by instead: 0 for an outage, 3 for a rush."""
    sources: int = 1
    """Hosts that the added flows come from."""
    targets: int = 1
    """Servers that the added flows go to: 1 for a flood, many for a scan."""

    def __post_init__(self):
        name = f"incident {self.name!r}"
        require(self.minutes > 0, f"{name}: minutes", self.minutes, "above 0")
        require(self.begin_minute >= 0, f"{name}: begin_minute", self.begin_minute, "0 or more")
        if (self.flows_per_second is None) == (self.factor is None):
            raise ConfigError(
                f"{name} needs either flows_per_second (traffic of its own) or factor (more or "
                "less of the label's)"
            )
        for key in ("flows_per_second", "factor"):
            _check_rate(f"{name}: {key}", getattr(self, key))
        for key in ("sources", "targets"):
            require(getattr(self, key) >= 1, f"{name}: {key}", getattr(self, key), "at least 1")

    @property
    def end_minute(self) -> float:
        """After the scene's start."""
        return self.begin_minute + self.minutes


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The traffic of a network over a time, before it is drawn."""

    seed: int | None = None
    """Of everything random; that of the command line unless given."""
    start: str | None = None
    """When it begins: as in 2026-01-31T08:00:00Z, UTC unless it says otherwise."""
    minutes: float = DEFAULT_MINUTES
    """How long flows begin."""
    labels: Weights = ()
    """Labels of the sessions with their weights; unless given, all that begin sessions in the
    adapter's statistics, as often as there."""
    sessions_per_hour: float | None = None
    """Of a client, in the mean; as learnt unless given."""
    daily: tuple[float, ...] = ()
    """Relative rate of sessions in each hour of the day, UTC; the same all day unless given."""
    lookups: float | None = None
    """Share of connections to servers not looked up for 5 minutes that begin with a lookup of the
    server's name. Unless given, 1 for labels without lookups of their own, and 0 for others."""
    servers: tuple[str, ...] = tuple(map(str, DEFAULT_NETS[1]))
    """Networks of the servers outside."""
    sites: tuple[Site, ...] = field(
        default_factory=lambda: (Site(name="site", hosts=DEFAULT_HOSTS),)
    )
    incidents: tuple[Incident, ...] = ()

    def __post_init__(self):
        require(
            0 < self.minutes <= _MOST_MINUTES, "minutes", self.minutes,
            f"above 0 and at most {_MOST_MINUTES:,}",
        )  # fmt: skip
        PlanPins(start=self.start)
        _check_weights("labels", self.labels)
        _check_rate("sessions_per_hour", self.sessions_per_hour)
        if self.lookups is not None:
            check_share("lookups", self.lookups)
        if self.daily:
            holds = len(self.daily) == _HOURS and min(self.daily) >= 0 < sum(self.daily) < math.inf
            require(holds, "daily", list(self.daily), f"{_HOURS} rates, 0 or more, one above 0")
        require(bool(self.sites), "sites", [], "at least one site")
        for kind in ("sites", "incidents"):
            names = [row.name for row in getattr(self, kind)]
            twice = next((name for name in names if names.count(name) > 1), None)
            require(twice is None, f"{kind}.name", twice, f"of one of the {kind} alone")
        self._check_nets()
        for incident in self.incidents:
            if incident.end_minute > self.minutes:
                raise ConfigError(
                    f"incident {incident.name!r} lasts from minute {incident.begin_minute:g} to "
                    f"{incident.end_minute:g}; the scene ends at minute {self.minutes:g}"
                )
            if incident.sources > self.num_hosts:
                raise ConfigError(
                    f"incident {incident.name!r} has {incident.sources:,} sources; the scene has "
                    f"{self.num_hosts:,} hosts"
                )

    def _check_nets(self) -> None:
        """Raise ConfigError unless no networks overlap, and all are of the same IP versions."""
        known = [("servers", net) for net in parse_nets("servers", self.servers)]
        versions = {net.version for _, net in known}
        for site in self.sites:
            for net in site.parsed_nets:
                for name, other in known:
                    if overlap(net, other):
                        raise ConfigError(
                            f"site {site.name!r} has {net} and {name} has {other}, which overlap: "
                            "give each networks of its own"
                        )
            if {net.version for net in site.parsed_nets} != versions:
                raise ConfigError(
                    f"site {site.name!r} has nets {', '.join(site.nets)} and servers has "
                    f"{', '.join(self.servers)}; give all sites and servers networks of the same "
                    "IP versions"
                )
            known += [(f"site {site.name!r}", net) for net in site.parsed_nets]

    @property
    def server_nets(self) -> tuple[Net, ...]:
        """The networks of the servers."""
        return parse_nets("servers", self.servers)

    @property
    def ip_version(self) -> int | None:
        """The IP version of all networks; None for both."""
        versions = {net.version for net in self.server_nets}
        return versions.pop() if len(versions) == 1 else None

    @property
    def start_ns(self) -> int:
        """When it begins, in nanoseconds since 1970-01-01 UTC."""
        return PlanPins(start=self.start).start_ns()

    @property
    def duration_s(self) -> float:
        """How long flows begin."""
        return self.minutes * 60

    @property
    def num_hosts(self) -> int:
        """Clients of all sites."""
        return sum(site.hosts for site in self.sites)
