"""The flows of a group of hosts: when each begins, whose it is, its service and its server.

A group's flows are a function of the adapter's statistics, the scene, the seed and the group's
number alone, so that any worker can plan any group, and none has to plan all.

Shape letters: H hosts of a group, M sessions, N flows.
"""

from typing import NamedTuple

import numpy as np

from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.flow_plan import seed_of
from netdiff_ray.labels.hosts import HostBin, size_at
from netdiff_ray.scenes.scene import Incident, Scene
from netdiff_ray.scenes.tables import DISTINCT_SERVERS, SceneTables

GROUP_HOSTS = 64
NO_INCIDENT = NO_SERVER = -1
_MOST_SESSION_FLOWS = 512
_LOOKUP_HOLDS_S = 300.0
"""How long a client does not look a name up again."""
_LOOKUP_LEAD_S = (0.01, 0.08)
"""Least and most time from a lookup to the connection that it is for."""
_S_PER_HOUR = 3600.0
_HOURS = 24


class Schedule(NamedTuple):
    """The flows of a group, in the order in which they begin; arrays of (N,)."""

    start_s: np.ndarray
    """float64: after the scene's start."""
    host: np.ndarray
    """int64: number of the client in the scene."""
    service: np.ndarray
    """int64: index of the service in the tables."""
    server: np.ndarray
    """int64: number of the server in the scene."""
    named: np.ndarray
    """int64: number of the server whose name the flow asks for or speaks of."""
    incident: np.ndarray
    """int64: index of the incident that the flow is of, or NO_INCIDENT."""
    within_s: np.ndarray
    """float64: how soon the flow is over, for a lookup that a connection waits for; else inf."""


def group_hosts(scene: Scene, group: int) -> np.ndarray:
    """Return the numbers of a group's hosts, (H,) int64."""
    return np.arange(group * GROUP_HOSTS, min((group + 1) * GROUP_HOSTS, scene.num_hosts))


def num_groups(scene: Scene) -> int:
    """Return how many groups a scene's hosts make."""
    return -(-scene.num_hosts // GROUP_HOSTS)


def site_of(scene: Scene, hosts: np.ndarray) -> np.ndarray:
    """Return the index of each host's site."""
    ends = np.cumsum([site.hosts for site in scene.sites])
    return np.searchsorted(ends, hosts, side="right")


def schedule_group(scene: Scene, tables: SceneTables, seed: int, group: int) -> Schedule:
    """Return the flows of a group of hosts.

    Raises:
        ConfigError: a host has more flows than can be told apart.
    """
    random = np.random.default_rng(seed_of(seed, "", group, "sessions"))
    sessions = _begin_sessions(scene, tables, random, group)
    flows = _fill_sessions(tables, random, sessions)
    flows = _apply_outages(scene, tables, random, flows)
    flows = _with_servers(scene, tables, random, flows)
    added = [_incident_flows(scene, tables, seed, group, k) for k in range(len(scene.incidents))]
    parts = [flows, *added]
    joined = Schedule(*map(np.concatenate, zip(*parts, strict=True)))
    joined = _sorted(joined, scene.duration_s)
    joined = _tell_apart(tables, joined)
    return _sorted(_with_lookups(scene, tables, random, joined), scene.duration_s)


class _Sessions(NamedTuple):
    """Sessions, arrays of (M,), as far as they are drawn."""

    host: np.ndarray
    start_s: np.ndarray
    service: np.ndarray
    num_flows: np.ndarray
    incident: np.ndarray


class _Flows(NamedTuple):
    """Flows of sessions, session after session; arrays of (N,)."""

    session: np.ndarray
    start_s: np.ndarray
    host: np.ndarray
    service: np.ndarray
    same_server: np.ndarray
    incident: np.ndarray


def _sizes(random: np.random.Generator, bins: tuple[HostBin, ...], number: int) -> np.ndarray:
    """Draw sizes as bins have them."""
    total = sum(row.hosts for row in bins)
    choices, places = random.integers(0, total, number), random.random(number)
    pairs = zip(choices.tolist(), places.tolist(), strict=True)
    return np.array([size_at(list(bins), *pair) for pair in pairs], np.int64)


def _begin_sessions(
    scene: Scene, tables: SceneTables, random: np.random.Generator, group: int
) -> _Sessions:
    """Draw when the group's sessions begin, and with which service."""
    hosts = group_hosts(scene, group)
    site = site_of(scene, hosts)
    busy = np.ones(len(hosts))
    if tables.client_sessions:
        bins = tables.client_sessions
        mean = sum(row.total for row in bins) / sum(row.hosts for row in bins)
        busy = _sizes(random, bins, len(hosts)) / mean
    edges_s, work = _daily_work(scene)
    counts = random.poisson(np.array(tables.rates)[site] * busy * work[-1])
    start_s = np.interp(random.random(counts.sum()) * work[-1], work, edges_s)
    host = np.repeat(hosts, counts)
    service = np.empty(len(host), np.int64)
    for k, weights in enumerate(tables.starts):
        chosen = np.flatnonzero(np.repeat(site, counts) == k)
        ends = np.cumsum(weights)
        service[chosen] = np.searchsorted(ends, random.random(len(chosen)) * ends[-1], side="right")
    incident = np.full(len(host), NO_INCIDENT)
    columns = [host, start_s, service, incident]
    for k, rush in enumerate(scene.incidents):
        if rush.factor is not None and rush.factor > 1:
            columns = _rushed(tables, random, columns, rush, k)
    host, start_s, service, incident = columns
    num_flows = np.minimum(_sizes(random, tables.session_flows, len(host)), _MOST_SESSION_FLOWS)
    return _Sessions(host, start_s, service, num_flows, incident)


def _daily_work(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return times of the scene in seconds, and the hours of mean rate that are over by them."""
    begin_s = scene.start_ns / 1e9 % (_HOURS * _S_PER_HOUR)
    whole = np.arange(np.ceil(begin_s / _S_PER_HOUR) * _S_PER_HOUR, begin_s + scene.duration_s,
                      _S_PER_HOUR)  # fmt: skip
    edges_s = np.unique(np.concatenate([[0.0], whole - begin_s, [scene.duration_s]]))
    rates = np.array(scene.daily or (1.0,) * _HOURS)
    rates = rates / rates.mean()
    middle = begin_s + (edges_s[:-1] + edges_s[1:]) / 2
    of_span = rates[(middle // _S_PER_HOUR).astype(np.int64) % _HOURS]
    work = np.concatenate([[0.0], np.cumsum(of_span * np.diff(edges_s) / _S_PER_HOUR)])
    return edges_s, work


def _rushed(
    tables: SceneTables,
    random: np.random.Generator,
    columns: list[np.ndarray],
    rush: Incident,
    number: int,
) -> list[np.ndarray]:
    """Return (host, start, service, incident) of sessions, with those that a rush adds."""
    host, start_s, service, incident = columns
    begin_s, end_s = rush.begin_minute * 60, rush.end_minute * 60
    within = (start_s >= begin_s) & (start_s < end_s)
    within &= tables.of_label(rush.label, rush.service)[service] & (incident == NO_INCIDENT)
    again = np.repeat(np.flatnonzero(within), random.poisson((rush.factor or 0) - 1, within.sum()))
    added = (
        host[again], begin_s + random.random(len(again)) * (end_s - begin_s), service[again],
        np.full(len(again), number),
    )  # fmt: skip
    return [np.concatenate(pair) for pair in zip(columns, added, strict=True)]


def _fill_sessions(tables: SceneTables, random: np.random.Generator, begun: _Sessions) -> _Flows:
    """Draw the flows of sessions, step by step for all sessions together."""
    active = np.arange(len(begun.host))
    service, start_s = begun.service.copy(), begun.start_s.copy()
    parts = [(active, start_s.copy(), service.copy(), np.zeros(len(active), bool))]
    for step in range(1, int(begun.num_flows.max(initial=1))):
        active = active[begun.num_flows[active] > step]
        same_server = np.zeros(len(active), bool)
        before = service[active]
        for k in np.unique(before):
            chosen = np.flatnonzero(before == k)
            follows = tables.follows[k]
            draws = random.random((2, len(chosen)))
            row = np.searchsorted(follows.ends, draws[0] * follows.ends[-1], side="right")
            service[active[chosen]] = follows.service[row]
            same_server[chosen] = follows.same_server[row]
            start_s[active[chosen]] += _gap_s(follows.gap_level[row], draws[1])
        parts.append((active, start_s[active], service[active], same_server))
    session, start_s, service, same_server = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(session, kind="stable")
    session = session[order]
    return _Flows(
        session, start_s[order], begun.host[session], service[order], same_server[order],
        begun.incident[session],
    )  # fmt: skip


def _gap_s(level: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return gaps of levels, see `FlowSuccession`; `place` is from 0 to 1 within each."""
    least_ms = np.where(level > 0, 2.0 ** (level - 1), 0.0)
    return (least_ms + place * np.maximum(least_ms, 1.0)) / 1000


def _apply_outages(
    scene: Scene, tables: SceneTables, random: np.random.Generator, flows: _Flows
) -> _Flows:
    """Leave out what incidents with a factor below 1 suppress."""
    keep = np.ones(len(flows.session), bool)
    for outage in scene.incidents:
        if outage.factor is not None and outage.factor < 1:
            within = flows.start_s >= outage.begin_minute * 60
            within &= flows.start_s < outage.end_minute * 60
            within &= tables.of_label(outage.label, outage.service)[flows.service]
            keep &= ~within | (random.random(len(keep)) < outage.factor)
    return _Flows(*(column[keep] for column in flows))


def _with_servers(
    scene: Scene, tables: SceneTables, random: np.random.Generator, flows: _Flows
) -> Schedule:
    """Draw the servers: that of the flow before, where the succession says so, or by how many
    clients they have. A lookup goes to a resolver and asks for the next connection's server."""
    number = len(flows.session)
    drawn = _draw_servers(tables, random, flows.service)
    is_lookup = tables.is_lookup[flows.service]
    first = np.concatenate([[True], np.diff(flows.session) != 0])[:number]
    inherits = flows.same_server & ~first & ~is_lookup
    inherits[1:] &= ~is_lookup[:-1]
    source = np.maximum.accumulate(np.where(inherits, 0, np.arange(number)))
    server = drawn[source]
    after = np.where(is_lookup, number, np.arange(number))
    after = np.minimum.accumulate(after[::-1])[::-1]
    has_next = after < number
    has_next[has_next] &= flows.session[after[has_next]] == flows.session[has_next]
    others = _draw_servers(tables, random, _other_services(tables, random, number))
    asked = np.where(has_next, server[np.minimum(after, max(number - 1, 0))], others)
    resolver = _resolvers(scene, random, flows.host)
    waits = is_lookup & has_next
    until_s = flows.start_s[np.minimum(after, max(number - 1, 0))]
    return Schedule(
        start_s=flows.start_s, host=flows.host, service=flows.service,
        server=np.where(is_lookup, resolver, server),
        named=np.where(is_lookup, asked, server), incident=flows.incident,
        within_s=np.where(waits, until_s - flows.start_s, np.inf),
    )  # fmt: skip


def _draw_servers(
    tables: SceneTables, random: np.random.Generator, service: np.ndarray
) -> np.ndarray:
    """Draw a server of each flow's service."""
    server = np.empty(len(service), np.int64)
    for k in np.unique(service):
        chosen = np.flatnonzero(service == k)
        ends = tables.server_ends[k]
        place = np.searchsorted(ends, random.random(len(chosen)) * ends[-1], side="right")
        server[chosen] = tables.first_server[k] + place
    return server


def _other_services(tables: SceneTables, random: np.random.Generator, number: int) -> np.ndarray:
    """Draw services that lookups without a connection ask for the servers of."""
    weights = tables.flows * ~(tables.is_lookup | tables.is_distinct)
    weights = weights if weights.any() else tables.flows
    ends = np.cumsum(weights)
    return np.searchsorted(ends, random.random(number) * ends[-1], side="right")


def _resolvers(scene: Scene, random: np.random.Generator, host: np.ndarray) -> np.ndarray:
    """Draw one of the resolvers of each host's site."""
    number = np.array([site.resolvers for site in scene.sites])
    first = np.cumsum(number) - number
    site = site_of(scene, host)
    return first[site] + random.integers(0, number[site])


def _incident_flows(
    scene: Scene, tables: SceneTables, seed: int, group: int, number: int
) -> Schedule:
    """Return the flows that an incident adds to a group's hosts."""
    incident = scene.incidents[number]
    whole = np.random.default_rng(seed_of(seed, incident.name, number, "incident"))
    sources = np.sort(whole.choice(scene.num_hosts, incident.sources, replace=False))
    weights = tables.flows * tables.of_label(incident.label, incident.service)
    ends = np.cumsum(weights)
    targets = np.searchsorted(ends, whole.random(incident.targets) * ends[-1], side="right")
    targets = _draw_servers(tables, whole, targets)
    if incident.targets > 1:  # as many as asked for, whatever the sizes of servers
        spans = np.diff(tables.first_server)[weights > 0]
        every = np.concatenate(
            [np.arange(a, a + n) for a, n in zip(tables.first_server[:-1][weights > 0], spans,
                                                 strict=True)]
        )  # fmt: skip
        targets = whole.permutation(every)[: incident.targets]
    random = np.random.default_rng(seed_of(seed, incident.name, group, "incident flows"))
    own = sources[np.isin(sources, group_hosts(scene, group))]
    per_source = (incident.flows_per_second or 0) * incident.minutes * 60 / len(sources)
    counts = random.poisson(per_source, len(own))
    total = counts.sum()
    start_s = (incident.begin_minute + random.random(total) * incident.minutes) * 60
    service = np.searchsorted(ends, random.random(total) * ends[-1], side="right")
    server = targets[random.integers(0, len(targets), total)]
    is_lookup = tables.is_lookup[service]
    host = np.repeat(own, counts)
    return Schedule(
        start_s=start_s, host=host, service=service,
        server=np.where(is_lookup, _resolvers(scene, random, host), server),
        named=server, incident=np.full(total, number), within_s=np.full(total, np.inf),
    )  # fmt: skip


def _sorted(flows: Schedule, duration_s: float) -> Schedule:
    """Return the flows that begin within the scene, in the order in which they begin."""
    order = np.lexsort((flows.server, flows.service, flows.host, flows.start_s))
    order = order[(flows.start_s[order] >= 0) & (flows.start_s[order] < duration_s)]
    return Schedule(*(column[order] for column in flows))


def _tell_apart(tables: SceneTables, flows: Schedule) -> Schedule:
    """Give those flows of a client that only servers tell apart a server each.

    Raises:
        ConfigError: a client has more of them than servers.
    """
    chosen = np.flatnonzero(tables.is_distinct[flows.service])
    keys = flows.host[chosen] * len(tables.services) + flows.service[chosen]
    rank = rank_within(keys)
    if rank.max(initial=0) >= DISTINCT_SERVERS:
        service = tables.services[flows.service[chosen[rank.argmax()]]]
        raise ConfigError(
            f"a host has more than {DISTINCT_SERVERS:,} flows of {service.label} "
            f"{service.service}, which only their servers tell apart: lower its rate, or give the "
            "incident more sources"
        )
    server = flows.server.copy()
    begin = keys * 7919 % DISTINCT_SERVERS  # hosts begin at different servers
    server[chosen] = tables.first_server[flows.service[chosen]] + (begin + rank) % DISTINCT_SERVERS
    named = flows.named.copy()
    named[chosen] = server[chosen]
    return flows._replace(server=server, named=named)


def _with_lookups(
    scene: Scene, tables: SceneTables, random: np.random.Generator, flows: Schedule
) -> Schedule:
    """Add the lookups before connections to servers that a client has not looked up of late."""
    if tables.lookup < 0:
        return flows
    connects = tables.asks[flows.service] > 0
    is_lookup = tables.is_lookup[flows.service]
    known = np.flatnonzero(connects | is_lookup)
    keys = flows.host[known] * tables.first_server[-1] + flows.named[known]
    epoch = (flows.start_s[known] // _LOOKUP_HOLDS_S).astype(np.int64)
    epochs = int(scene.duration_s // _LOOKUP_HOLDS_S) + 1
    _, first = np.unique(keys * epochs + epoch, return_index=True)
    chosen = known[np.sort(first)]
    chosen = chosen[random.random(len(chosen)) < tables.asks[flows.service[chosen]]]
    lead_s = random.uniform(*_LOOKUP_LEAD_S, len(chosen))
    added = Schedule(
        start_s=flows.start_s[chosen] - lead_s,
        host=flows.host[chosen],
        service=np.full(len(chosen), tables.lookup),
        server=_resolvers(scene, random, flows.host[chosen]),
        named=flows.named[chosen],
        incident=flows.incident[chosen],
        within_s=lead_s,
    )
    return Schedule(*map(np.concatenate, zip(flows, added, strict=True)))


def rank_within(keys: np.ndarray) -> np.ndarray:
    """Return how many equal keys stand before each of (N,) int64."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.concatenate([[True], np.diff(ordered) != 0])[: len(keys)]
    run_begin = np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys)) - run_begin
    return rank
