"""Session statistics: how the flows of one client follow each other, whatever their labels.

A session is a run of flows of a client in one capture, none of which begins more than SESSION_GAP_S
after the one before. Rows are of at least MIN_HOSTS_DISCLOSED clients, so that no row is of a
single host.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from netdiff_ray.labels.counts import LabelCounts
from netdiff_ray.labels.hosts import MIN_HOSTS_DISCLOSED, HostBin
from netdiff_ray.labels.profile import as_columns
from netdiff_ray.labels.service import LabelService

SESSION_GAP_S = 60.0
"""Longest time between the beginnings of two flows of a session."""
HOURS = 24
_NS_PER_S = 10**9
_NS_PER_HOUR = 3600 * _NS_PER_S
_LONGEST_PAUSE_NS = _NS_PER_HOUR
_NS_PER_MS = 10**6
_MOST_LEVEL = 16
"""Of gaps: 65.5 s, which is more than SESSION_GAP_S."""


class SessionStart(NamedTuple):
    """How many sessions begin with a flow of a service."""

    label: str
    service: str
    sessions: int


class FlowSuccession(NamedTuple):
    """How often a flow of a session follows another."""

    label: str
    """Of the flow before."""
    service: str
    next_label: str
    next_service: str
    gap_level: int
    """Time between their beginnings: 0 below 1 ms, n from 2 ** (n - 1) ms to below 2 ** n ms."""
    same_server: int
    """1 if both have the same server, else 0."""
    flows: int


@dataclass(frozen=True, kw_only=True)
class SessionStatistics:
    """Aggregates of the sessions of all clients; empty where clients or times are not known."""

    starts: Annotated[list[SessionStart], *as_columns(SessionStart)] = field(default_factory=list)
    """Sorted; in JSON a mapping of columns."""
    follows: Annotated[list[FlowSuccession], *as_columns(FlowSuccession)] = field(
        default_factory=list
    )
    """Sorted; in JSON a mapping of columns."""
    session_flows: list[HostBin] = field(default_factory=list)
    """Sessions by their flows."""
    client_sessions: list[HostBin] = field(default_factory=list)
    """Clients by their sessions."""
    sessions_per_hour: float = 0.0
    """Of a client while a capture with it lasts; 0 where captures are too short to tell."""
    hours: list[int] = field(default_factory=list)
    """Sessions that begin in each hour of the day, UTC; those of hours with a single client are
    not counted. Empty if there are none."""

    def __post_init__(self) -> None:
        """Raise ValueError unless all rows are possible."""
        if any(row.sessions < MIN_HOSTS_DISCLOSED for row in self.starts):
            raise ValueError(f"starts are of at least {MIN_HOSTS_DISCLOSED} sessions")
        for row in self.follows:
            if row.flows < MIN_HOSTS_DISCLOSED or not 0 <= row.gap_level <= _MOST_LEVEL:
                raise ValueError(f"follows cannot have {row}")
        if len(self.hours) not in (0, HOURS) or any(n < 0 for n in self.hours):
            raise ValueError(f"hours has {len(self.hours)} counts; it needs none or {HOURS}")
        for name in ("session_flows", "client_sessions"):
            if any(row.hosts < MIN_HOSTS_DISCLOSED for row in getattr(self, name)):
                raise ValueError(f"{name}: a bin is of at least {MIN_HOSTS_DISCLOSED} clients")
        if not 0 <= self.sessions_per_hour < float("inf"):
            raise ValueError(f"sessions_per_hour is {self.sessions_per_hour}; it is 0 or more")


class _Flow(NamedTuple):
    """What is known of when and between whom a flow is."""

    start_ns: int
    label: str
    service: str
    client: int
    server: int


def describe_sessions(counts: Mapping[LabelService, LabelCounts]) -> SessionStatistics:
    """Return the statistics of the sessions of all flows whose client and start are known.

    Args:
        counts: by the services that flows count as.
    """
    flows: dict[tuple[str, int], list[_Flow]] = defaultdict(list)
    begins: dict[str, list[int]] = defaultdict(list)
    for key, own in counts.items():
        for flow, (capture, start_ns) in own.starts.items():
            begins[capture].append(start_ns)
            if flow in own.hosts:
                client, server = own.hosts[flow]
                of_client = flows[capture, client]
                of_client.append(_Flow(start_ns, key.label, key.service, client, server))
    sessions = [session for key in sorted(flows) for session in _sessions(flows[key])]
    lasted_ns = {capture: _lasted_ns(starts_ns) for capture, starts_ns in begins.items()}
    covered_ns = sum(lasted_ns[capture] for capture, _ in flows)
    by_client = Counter(session[0].client for session in sessions)
    rate = len(sessions) * _NS_PER_HOUR / covered_ns if covered_ns else 0.0
    return SessionStatistics(
        starts=_starts(sessions),
        follows=_follows(sessions),
        session_flows=_bins((len(session), session[0].client) for session in sessions),
        client_sessions=_bins((number, client) for client, number in by_client.items()),
        sessions_per_hour=float(f"{rate:.4g}") if len(by_client) >= MIN_HOSTS_DISCLOSED else 0.0,
        hours=_hours(sessions),
    )


def _lasted_ns(starts_ns: list[int]) -> int:
    """Return how long flows begin in a capture; longer pauses count as _LONGEST_PAUSE_NS, as
    captures that were joined have them."""
    gaps_ns = (after - start for start, after in itertools.pairwise(sorted(starts_ns)))
    return sum(min(gap_ns, _LONGEST_PAUSE_NS) for gap_ns in gaps_ns)


def gap_level(gap_ns: int) -> int:
    """Return the level of a gap, see `FlowSuccession`."""
    return min((gap_ns // _NS_PER_MS).bit_length(), _MOST_LEVEL)


def _sessions(flows: list[_Flow]) -> Iterable[list[_Flow]]:
    """Yield the sessions of a client's flows."""
    session: list[_Flow] = []
    for flow in sorted(flows):
        if session and flow.start_ns - session[-1].start_ns > SESSION_GAP_S * _NS_PER_S:
            yield session
            session = []
        session.append(flow)
    if session:
        yield session


def _starts(sessions: Iterable[list[_Flow]]) -> list[SessionStart]:
    counts: Counter[tuple[str, str]] = Counter()
    clients: dict[tuple[str, str], set[int]] = defaultdict(set)
    for flow, *_ in sessions:
        counts[flow.label, flow.service] += 1
        clients[flow.label, flow.service].add(flow.client)
    return [
        SessionStart(*key, number)
        for key, number in sorted(counts.items())
        if len(clients[key]) >= MIN_HOSTS_DISCLOSED
    ]


def _follows(sessions: Iterable[list[_Flow]]) -> list[FlowSuccession]:
    """Return the disclosed successions; rare gaps of two services are joined under their median,
    and left out if they are of a single client even so."""
    seen: dict[tuple, list[tuple[int, int, int]]] = defaultdict(list)
    for session in sessions:
        for flow, after in itertools.pairwise(session):
            pair = flow.label, flow.service, after.label, after.service
            level = gap_level(after.start_ns - flow.start_ns)
            same = int(after.server == flow.server)
            seen[pair].append((level, same, flow.client))
    rows = []
    for pair, followed in sorted(seen.items()):
        clients: dict[tuple[int, int], set[int]] = defaultdict(set)
        for level, same, client in followed:
            clients[level, same].add(client)
        rare = [row for row in followed if len(clients[row[:2]]) < MIN_HOSTS_DISCLOSED]
        flows = Counter(row[:2] for row in followed)
        for key in {row[:2] for row in rare}:
            del flows[key]
        if len({client for _, _, client in rare}) >= MIN_HOSTS_DISCLOSED:
            median = sorted(level for level, _, _ in rare)[len(rare) // 2]
            same = int(2 * sum(same for _, same, _ in rare) > len(rare))
            flows[median, same] += len(rare)
        rows += [FlowSuccession(*pair, *key, number) for key, number in sorted(flows.items())]
    return rows


def _bins(sizes: Iterable[tuple[int, int]]) -> list[HostBin]:
    """Return bins of sizes in octaves, each of several clients; rare ones are joined to the next
    that is smaller, or else larger.

    Args:
        sizes: with the client that each is of.
    """
    octaves: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for size, client in sizes:
        octaves[(size - 1).bit_length()].append((size, client))
    bins: list[list[tuple[int, int]]] = []
    rare: list[tuple[int, int]] = []
    for octave in sorted(octaves, reverse=True):
        rare = octaves[octave] + rare
        if len({client for _, client in rare}) >= MIN_HOSTS_DISCLOSED:
            bins.append(rare)
            rare = []
    if rare and bins:
        bins[-1] = rare + bins[-1]
    return [_bin([size for size, _ in members]) for members in reversed(bins)]


def _bin(sizes: list[int]) -> HostBin:
    """Return the bin of sizes; its bounds are the octaves'."""
    fewest = 1 + (1 << (min(sizes) - 1).bit_length() - 1) if min(sizes) > 1 else 1
    most = 1 << (max(sizes) - 1).bit_length()
    return HostBin(fewest, most, len(sizes), sum(sizes))


def _hours(sessions: Iterable[list[_Flow]]) -> list[int]:
    counts = [0] * HOURS
    clients: list[set[int]] = [set() for _ in range(HOURS)]
    for flow, *_ in sessions:
        hour = flow.start_ns // _NS_PER_HOUR % HOURS
        counts[hour] += 1
        clients[hour].add(flow.client)
    known = [
        n if len(of) >= MIN_HOSTS_DISCLOSED else 0 for n, of in zip(counts, clients, strict=True)
    ]
    return known if any(known) else []
