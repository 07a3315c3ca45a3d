"""Plan flows: draw what holds for a whole flow from its label's statistics."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from netdiff_ray.labels.adapter_metadata import (
    AdapterMetadata,
    label_statistics,
    service_statistics,
)
from netdiff_ray.labels.duplicates import FlowDuplicates, captured_hosts, draw_duplicates
from netdiff_ray.labels.host_lengths import draw_host_length
from netdiff_ray.labels.loss import UNPLANNED_LOSS, draw_loss
from netdiff_ray.labels.pace import UNPACED, draw_pace
from netdiff_ray.labels.path import UNPLANNED_PATH, FlowPath
from netdiff_ray.labels.service import LabelService
from netdiff_ray.labels.stack import (
    NO_SYN,
    TIMESTAMPED,
    UNKNOWN,
    UNKNOWN_OPTIONS,
    UNPLANNED,
    FlowStack,
    StackCount,
    unknown_stack,
)
from netdiff_ray.labels.statistics import LabelStatistics, ServiceStatistics
from netdiff_ray.nprint.layouts import height_for

_SERVER_AT = FlowStack._fields.index("server_lifetime")
"""Where the attributes of the server begin."""
_GOLDEN_SPAN = 1 << 63
_GOLDEN_STEP = 5_700_357_409_661_599_242
"""The span divided by the golden ratio: the first of its multiples lie evenly on the span, so that
few draws keep proportions."""
_FINER_BITS = 10
_PLACES = _GOLDEN_SPAN >> _FINER_BITS
"""As many places as a float tells apart."""


@dataclass(frozen=True, kw_only=True)
class PlannedWindow:
    """One window to draw."""

    label: str
    """What to draw."""
    service: str
    """Of the label, see `LabelService`."""
    index: int
    """Number of the flow in the run, within its label."""
    window: int
    """Number of the window in its flow, from 0."""
    height: int
    """Rows of the raster."""
    length: int
    """Packets of the window, at most `height`."""
    headers: tuple[str, ...] = ()
    """See `FlowPlan.headers`."""
    stack: FlowStack = UNPLANNED
    """Of the flow's hosts."""
    path: FlowPath = UNPLANNED_PATH
    """Of the flow."""

    @property
    def label_service(self) -> LabelService:
        """The service with its label."""
        return LabelService(self.label, self.service)


@dataclass(frozen=True, kw_only=True)
class FlowPlan:
    """What holds for a whole flow, drawn before its rasters."""

    label: str
    """What to draw."""
    service: str
    """Of the label, see `LabelService`."""
    index: int
    """Number of the flow in the run, within its label."""
    headers: tuple[str, ...]
    """Those that most packets have, as in `("ipv6", "udp")`; () if most have others. With TCP,
    `tcp_opt` is among them if most packets have options, SYNs not counted, as with timestamps
    (RFC 7323); resets often lack them."""
    num_packets: int
    """Packets of the flow."""
    stack: FlowStack
    """Stacks of its hosts, and ports."""
    path: FlowPath = UNPLANNED_PATH
    """Of a flow that a handshake opens, where paths are known."""
    pace: int = UNPACED
    """How long its packets are apart in the mean, see `labels.pace`."""
    loss: int = UNPLANNED_LOSS
    """How large a part of its segments is sent again, see `labels.loss`."""
    duplicates: FlowDuplicates | None = None
    """How its packets, `num_packets`, are captured again; None if they are captured once."""
    max_height: int
    """Packets of a window but the last."""
    kind: str = ""
    """What the flow speaks; empty where its port says so."""

    @property
    def samples(self) -> list[PlannedWindow]:
        """The windows to draw, in order."""
        samples = []
        for first in range(0, self.num_packets, self.max_height):
            num_rows = min(self.num_packets - first, self.max_height)
            samples.append(
                PlannedWindow(
                    label=self.label, service=self.service, index=self.index,
                    window=first // self.max_height, height=height_for(num_rows),
                    length=num_rows, headers=self.headers, stack=self.stack,
                    path=self.path,
                )
            )  # fmt: skip
        return samples


class HostPlaces(NamedTuple):
    """63 bits each that draw what belongs to a flow's hosts, in place of the flow's index."""

    client: int
    server: int
    path: int
    """Of the pair of hosts."""


class HostStack(NamedTuple):
    """What is known of a client's system."""

    lifetime: int
    options: str
    """Of its SYN, see `FlowStack`."""


def seed_of(seed: int, label: str, index: int, purpose: str) -> int:
    """Return 63 bits that depend on the arguments alone, on every machine."""
    text = f"{seed}\x1f{label}\x1f{index}\x1f{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def plan_service(metadata: AdapterMetadata, label: str, seed: int, index: int) -> str:
    """Return the service of a flow, drawn in proportion to the label's training flows.

    It depends on the arguments alone.

    Raises:
        ConfigError: the adapter has no such label.
    """
    services = label_statistics(metadata, label).services
    flows = np.cumsum([statistics.num_flows for statistics in services.values()])
    draw = seed_of(seed, label, index, "service") % int(flows[-1])
    return list(services)[int(np.searchsorted(flows, draw, side="right"))]


def plan_flow(
    metadata: AdapterMetadata,
    label: str,
    seed: int,
    index: int,
    *,
    service: str | None = None,
    places: HostPlaces | None = None,
    client: HostStack | None = None,
) -> FlowPlan:
    """Return the plan of a flow, drawn from the label's statistics.

    It depends on the adapter's metadata, the run's seed and the other arguments alone.

    Args:
        service: of the flow; drawn unless given.
        places: draw the stacks of its hosts and its path; the index does unless given.
        client: its client's system: the lifetime is the flow's, and of the label's stacks one that
            is like it is drawn, if there is one.

    Raises:
        ConfigError: the adapter has no such label, or the label no such service.
    """
    if service is None:
        service = plan_service(metadata, label, seed, index)
    statistics = service_statistics(metadata, label, service)
    rng = np.random.default_rng(seed_of(seed, label, index, "length"))
    bins = statistics.length_bins
    headers, one_way, length = bins[_index_of(rng, [length.flows for _, _, length in bins])]
    num_packets = int(rng.integers(length.fewest, length.most + 1))
    if places is None:
        drawn = _stack_places(label_statistics(metadata, label), statistics, seed, label, index)
    else:
        drawn = _host_places(places)
    stack = _draw_stack(statistics, headers, one_way, drawn, client)
    if client is not None:
        stack = _as_hosts(stack, statistics, client, drawn.server)
    of_hosts = draw_host_length(
        statistics.host_lengths, stack, seed_of(seed, label, index, "host length")
    )
    num_packets = num_packets if of_hosts is None else of_hosts
    return FlowPlan(
        label=label, service=service, index=index, headers=tuple(stack.headers.split()),
        num_packets=num_packets, stack=stack, max_height=metadata.max_height,
        path=_draw_path(statistics, stack, drawn),
        pace=draw_pace(
            statistics.profile.paces, num_packets, metadata.max_height,
            seed_of(seed, label, index, "pace"),
        ),
        loss=draw_loss(
            statistics.losses, num_packets, metadata.max_height,
            seed_of(seed, label, index, "loss"),
        ),
        duplicates=draw_duplicates(
            statistics.duplicates, captured_hosts(stack), seed_of(seed, label, index, "duplicates")
        ),
        kind=_draw_kind(statistics, stack.server_port, seed_of(seed, label, index, "kind")),
    )  # fmt: skip


def _draw_kind(statistics: ServiceStatistics, server_port: int, seed: int) -> str:
    """Draw what a flow speaks: as flows on the port do, else as those on rare ports, else as any.

    Empty if no payloads were captured.
    """
    for ports in ({server_port}, {UNKNOWN}, {row.server_port for row in statistics.kinds}):
        rows = [row for row in statistics.kinds if row.server_port in ports]
        if rows:
            return rows[_index_of(np.random.default_rng(seed), [row.flows for row in rows])].kind
    return ""


def _index_of(rng: np.random.Generator, flows: Sequence[int]) -> int:
    """Draw an index in proportion to flows."""
    weights = np.array(flows)
    return int(rng.choice(len(weights), p=weights / weights.sum()))


class _Places(NamedTuple):
    """Numbers from 0 to 1 that draw the stacks of a flow's hosts."""

    client: float
    server: float
    answer: float
    """Draws how a server answers that is silent in the flow that was drawn."""
    path: float
    """Draws the path, together with the two below."""
    client_level: float
    server_level: float


def _stack_places(
    statistics: LabelStatistics, service: ServiceStatistics, seed: int, label: str, index: int
) -> _Places:
    """Return what draws the stacks of a flow: the same for as many flows that follow each other as
    a client has in the mean, and of these for as many as a pair of hosts has."""
    places = []
    for side, bins in (("client", service.hosts.client_flows), ("pair", service.hosts.pair_flows)):
        flows_each = sum(row.total for row in bins) / sum(row.hosts for row in bins) if bins else 1
        share = service.num_flows / statistics.num_flows
        run = index // max(round(flows_each / share), 1)
        begin = seed_of(seed, label, 0, f"{side} stack")
        places.append((begin + run * _GOLDEN_STEP) % _GOLDEN_SPAN)
    places.append(seed_of(seed, label, index, "answer"))
    begin = seed_of(seed, label, 0, "path")
    places.append((begin + run * _GOLDEN_STEP) % _GOLDEN_SPAN)
    places += [seed_of(seed, label, run, f"{side} half") for side in ("client", "server")]
    return _Places(*((place >> _FINER_BITS) / _PLACES for place in places))


def _host_places(places: HostPlaces) -> _Places:
    """Return what draws the stacks of a flow, the same for all flows of its hosts."""
    halves = (places.path * factor % _GOLDEN_SPAN for factor in (3, 5))
    drawn = (places.client, places.server, places.server, places.path, *halves)
    return _Places(*((place >> _FINER_BITS) / _PLACES for place in drawn))


def _draw_stack(
    statistics: ServiceStatistics,
    headers: str,
    one_way: int,
    places: _Places,
    client_like: HostStack | None = None,
) -> FlowStack:
    """Draw the stacks of a flow with the headers.

    Those of flows with the same headers, or else of the same IP version and transport, whose
    headers the flow then has; of them those that are one-way as the flow is, if there are such. A
    server that is silent in the flow that was drawn, or refuses, has the stack that answers such a
    client elsewhere, unless all packets are the client's.
    """
    bare = headers.removesuffix(TIMESTAMPED)
    tables = statistics.stacks_by_headers
    rows = [*tables.get(bare, ()), *tables.get(bare + TIMESTAMPED, ())]
    if not rows:
        return unknown_stack(headers)
    alike = tables.get(headers, rows)
    alike = [row for row in alike if row.one_way == one_way] or alike
    alike = _most_like(alike, client_like) if client_like else alike
    client = _row_at(places.client, alike)[:_SERVER_AT]
    drawn = _row_at(places.server, [row for row in alike if row[:_SERVER_AT] == client])
    drawn = drawn._replace(one_way=one_way)
    is_whole = drawn.server_lifetime != UNKNOWN and (drawn.opens != 1 or _is_answer(drawn))
    if drawn.sends_one_way or is_whole:
        return drawn
    answers = [
        row
        for row in rows
        if row.server_lifetime != UNKNOWN
        and row.client_options == drawn.client_options
        and (drawn.opens != 1 or _is_answer(row))
    ]
    if not answers:
        return drawn
    alike = [row for row in answers if row[:_SERVER_AT] == drawn[:_SERVER_AT]]
    server = _row_at(places.answer, alike or answers)[_SERVER_AT:]
    return FlowStack(*drawn[:_SERVER_AT], *server)


def _most_like(rows: list[StackCount], client: HostStack) -> list[StackCount]:
    """Return those of rows whose clients are most like one: in the options of a SYN, then in the
    lifetime."""
    keys = [
        (row.client_options == client.options, row.client_lifetime == client.lifetime)
        for row in rows
    ]
    return [row for row, key in zip(rows, keys, strict=True) if key == max(keys)]


def _as_hosts(
    stack: FlowStack, statistics: ServiceStatistics, client: HostStack, place: float
) -> FlowStack:
    """Return a stack with its client's lifetime, and with that of its server in all its flows.

    Args:
        place: draws the server's lifetime from those of its service.
    """
    changed = {}
    if UNKNOWN not in (stack.client_lifetime, client.lifetime):
        changed["client_lifetime"] = client.lifetime
    rows = [row for row in statistics.stacks if row.server_lifetime != UNKNOWN]
    if stack.server_lifetime != UNKNOWN and rows:
        changed["server_lifetime"] = _row_at(place, rows).server_lifetime
    return stack._replace(**changed)


def _draw_path(service: ServiceStatistics, stack: FlowStack, places: _Places) -> FlowPath:
    """Draw the path of a flow with a stack; UNPLANNED_PATH unless a handshake opens it."""
    if stack.opens != 1 or stack.sends_one_way or not service.paths:
        return UNPLANNED_PATH
    ends = np.cumsum([row.flows for row in service.paths])
    row = service.paths[int(np.searchsorted(ends, places.path * ends[-1], side="right"))]
    return FlowPath(
        row.client_least + int(places.client_level * (row.client_most - row.client_least + 1)),
        row.server_least + int(places.server_level * (row.server_most - row.server_least + 1)),
    )


def _row_at(place: float, rows: Sequence[StackCount]) -> FlowStack:
    """Return the stack at a place, 0 to 1, among rows that are as wide as they have flows."""
    ends = np.cumsum([row.flows for row in rows])
    return rows[int(np.searchsorted(ends, place * ends[-1], side="right"))].stack


def _is_answer(stack: FlowStack | StackCount) -> bool:
    """Return whether the server answers a SYN with known options."""
    return stack.server_options not in (NO_SYN, UNKNOWN_OPTIONS)
