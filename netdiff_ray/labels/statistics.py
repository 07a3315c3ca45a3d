"""Statistics of labels that an adapter holds: aggregates of their windows.

Nothing here is a single flow's: what fewer than MIN_FLOWS_DISCLOSED flows share is not held.
Neither torch nor diffusers is loaded.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, NamedTuple

from netdiff_ray.dialogue.recognise import SIGNS
from netdiff_ray.labels.counts import LabelCounts, count_windows, fold_counts, folding_of
from netdiff_ray.labels.duplicates import (
    DuplicateCount,
    captured_hosts,
    check_duplicate_count,
    disclosed_duplicates,
)
from netdiff_ray.labels.host_lengths import HostLength, check_host_length, count_host_lengths
from netdiff_ray.labels.hosts import HostSharing, describe_hosts
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.length_bins import LengthBin, bin_lengths
from netdiff_ray.labels.loss import LossCount, check_loss_count, disclosed_losses
from netdiff_ray.labels.path import PathCount, check_path_count, disclosed_paths
from netdiff_ray.labels.profile import MIN_FLOWS_DISCLOSED, Profile, as_columns
from netdiff_ray.labels.profile_counts import describe_profile
from netdiff_ray.labels.service import LabelService
from netdiff_ray.labels.stack import UNKNOWN, FlowStack, StackCount, check_stack
from netdiff_ray.labels.stack_counts import disclosed_stacks
from netdiff_ray.nprint.layouts import HEIGHTS, height_for

MAX_WINDOW_PROMPTS = 8
"""Windows of a flow that have a prompt each; later ones share the last."""

_SHARE_OF_LONG_OPTIONS = 0.01


class KindCount(NamedTuple):
    """How many flows speak what."""

    server_port: int
    """Or UNKNOWN, for flows with ports that are not disclosed."""
    kind: str
    """Of `dialogue.recognise.SIGNS`."""
    flows: int


@dataclass(frozen=True, kw_only=True)
class ServiceStatistics:
    """Aggregates of a label's service. Keys of mappings are strings of the numbers, as in JSON."""

    num_flows: int
    """Flows."""
    num_windows: int
    """Windows of them."""
    num_prompts: int
    """Windows of a flow that have a prompt each, at most MAX_WINDOW_PROMPTS."""
    lengths: dict[str, list[LengthBin]]
    """Lengths of flows in which both sides send, by their headers, as in `ipv6 udp` or `ipv4 tcp
    tcp_opt` (see `FlowPlan.headers`), or the empty text for other headers."""
    one_way_lengths: dict[str, list[LengthBin]] = field(default_factory=dict)
    """Of flows whose server sends nothing: unanswered ones, and halves of conversations whose other
    half took another way."""
    host_lengths: Annotated[list[HostLength], *as_columns(HostLength)] = field(default_factory=list)
    """Lengths of flows by their hosts, sorted; in JSON a mapping of columns; none of hosts that few
    flows have."""
    heights: dict[str, int] = field(default_factory=dict)
    """Windows by the height of their raster."""
    stacks: Annotated[list[StackCount], *as_columns(StackCount)] = field(default_factory=list)
    """Flows by the stacks of their hosts and their ports, sorted; in JSON a mapping of columns."""
    hosts: HostSharing = field(default_factory=HostSharing)
    """How its flows share clients and servers."""
    paths: Annotated[list[PathCount], *as_columns(PathCount)] = field(default_factory=list)
    """Flows that a handshake opens by their paths, sorted; in JSON a mapping of columns."""
    losses: Annotated[list[LossCount], *as_columns(LossCount)] = field(default_factory=list)
    """TCP flows with data by their loss, sorted; in JSON a mapping of columns."""
    duplicates: Annotated[list[DuplicateCount], *as_columns(DuplicateCount)] = field(
        default_factory=list
    )
    """Flows by how their packets were captured twice, sorted; in JSON a mapping of columns; empty
    where none were."""
    kinds: Annotated[list[KindCount], *as_columns(KindCount)] = field(default_factory=list)
    """Flows by what their first payloads show that they speak, as far as those were captured."""
    tcp_options: dict[str, int] = field(default_factory=dict)
    """TCP packets by the bytes of their options."""
    profile: Profile
    """How its flows begin and end, and the times of all packets."""

    def __post_init__(self) -> None:
        """Raise ValueError unless all rows are possible and of several flows."""
        for path in self.paths:
            check_path_count(path, MIN_FLOWS_DISCLOSED)
        for loss in self.losses:
            check_loss_count(loss, MIN_FLOWS_DISCLOSED)
        for length in self.host_lengths:
            check_host_length(length)
        for duplicate in self.duplicates:
            check_duplicate_count(duplicate, MIN_FLOWS_DISCLOSED)
        for row in self.kinds:
            if row.kind not in SIGNS or row.flows < MIN_FLOWS_DISCLOSED:
                raise ValueError(
                    f"kinds: {row.flows} flows speak {row.kind!r}; at least {MIN_FLOWS_DISCLOSED} "
                    f"speak one of {', '.join(SIGNS[1:])}"
                )
        for row in self.stacks:
            if row.flows < MIN_FLOWS_DISCLOSED:
                raise ValueError(
                    f"stacks: {row.flows} flows have {row.stack}; at least {MIN_FLOWS_DISCLOSED} do"
                )
            try:
                check_stack(row.stack)
            except ValueError as error:
                raise ValueError(f"stacks: {error}") from None

    @cached_property
    def stacks_by_headers(self) -> dict[str, list[StackCount]]:
        """The rows of `stacks` by their headers."""
        tables: dict[str, list[StackCount]] = {}
        for row in self.stacks:
            tables.setdefault(row.headers, []).append(row)
        return tables

    @property
    def length_bins(self) -> list[tuple[str, int, LengthBin]]:
        """(headers, whether only the client sends, bin) of all lengths."""
        return [
            (headers, one_way, length)
            for one_way, lengths in enumerate((self.lengths, self.one_way_lengths))
            for headers, bins in lengths.items()
            for length in bins
        ]

    @property
    def fewest_packets(self) -> int:
        """Of a flow."""
        return min(length.fewest for _, _, length in self.length_bins)

    @property
    def most_packets(self) -> int:
        """Of a flow, at least: the end of the last bin."""
        return max(length.most for _, _, length in self.length_bins)


@dataclass(frozen=True, kw_only=True)
class LabelStatistics:
    """Aggregates of a label."""

    services: dict[str, ServiceStatistics]
    """By service, sorted."""

    @property
    def num_flows(self) -> int:
        """Flows of all services."""
        return sum(service.num_flows for service in self.services.values())

    @property
    def num_windows(self) -> int:
        """Windows of all services."""
        return sum(service.num_windows for service in self.services.values())

    @property
    def fewest_packets(self) -> int:
        """Of a flow."""
        return min(service.fewest_packets for service in self.services.values())

    @property
    def most_packets(self) -> int:
        """Of a flow, at least: the end of the last bin."""
        return max(service.most_packets for service in self.services.values())


def describe(windows: LabelledWindows, max_height: int = HEIGHTS[-1]) -> dict[str, LabelStatistics]:
    """Return the statistics of each label, sorted; `max_height` as in `count_windows`."""
    counts = count_windows(windows, max_height)
    return by_label(describe_counts(fold_counts(counts, folding_of(counts))))


def describe_counts(
    counts: Mapping[LabelService, LabelCounts],
) -> dict[LabelService, ServiceStatistics]:
    """Return the statistics of each service, sorted, of all windows that were counted."""
    return {key: _describe_service(counts[key]) for key in sorted(counts)}


def by_label(
    services: Mapping[LabelService, ServiceStatistics],
) -> dict[str, LabelStatistics]:
    """Return the statistics of services by label."""
    labels: dict[str, dict[str, ServiceStatistics]] = {}
    for key, statistics in services.items():
        labels.setdefault(key.label, {})[key.service] = statistics
    return {label: LabelStatistics(services=own) for label, own in labels.items()}


def services_of(labels: Mapping[str, LabelStatistics]) -> dict[LabelService, ServiceStatistics]:
    """Return the statistics of all services of labels."""
    return {
        LabelService(label, service): statistics
        for label, of_label in labels.items()
        for service, statistics in of_label.services.items()
    }


def _describe_service(counts: LabelCounts) -> ServiceStatistics:
    heights: Counter[int] = Counter()
    for num_rows, number in counts.window_rows.items():
        heights[height_for(num_rows)] += number
    flows_by_headers = _flows_by_headers(counts.flow_headers)
    stacks = stacks_by_flow(counts)
    return ServiceStatistics(
        num_flows=len(counts.flow_packets),
        num_windows=counts.window_rows.total(),
        num_prompts=min(max(counts.window_numbers) + 1, MAX_WINDOW_PROMPTS),
        lengths=_lengths(counts, flows_by_headers, one_way=False),
        one_way_lengths=_lengths(counts, flows_by_headers, one_way=True),
        host_lengths=count_host_lengths(
            (stack, counts.flow_packets[flow]) for flow, stack in stacks.items()
        ),
        heights=_as_json(heights),
        stacks=disclosed_stacks(list(stacks.values())),
        hosts=describe_hosts(counts.hosts.values()),
        paths=disclosed_paths(counts.paths.values(), MIN_FLOWS_DISCLOSED),
        losses=disclosed_losses(counts.losses.values(), MIN_FLOWS_DISCLOSED),
        duplicates=disclosed_duplicates(
            [(captured_hosts(stacks[flow]), own) for flow, own in counts.duplicates.items()],
            MIN_FLOWS_DISCLOSED,
        ),
        kinds=_disclosed_kinds(counts),
        tcp_options=_as_json(counts.tcp_options),
        profile=describe_profile(counts.profile),
    )


def stacks_by_flow(counts: LabelCounts) -> dict[str, FlowStack]:
    """Return the stacks, with their headers, of the flows whose first window was counted."""
    return {
        flow: counts.stacks[flow]._replace(
            headers=headers, one_way=int(flow not in counts.server_packets)
        )
        for headers, flows in _flows_by_headers(counts.flow_headers).items()
        for flow in flows
        if flow in counts.stacks
    }


def _disclosed_kinds(counts: LabelCounts) -> list[KindCount]:
    """Return the kinds that several flows speak on a port, and on ports that few have."""
    by_port = Counter(
        (counts.stacks[flow].server_port, kind) for flow, kind in counts.kinds.items()
    )
    flows: Counter[tuple[int, str]] = Counter()
    for (port, kind), number in by_port.items():
        flows[port if number >= MIN_FLOWS_DISCLOSED else UNKNOWN, kind] += number
    return [
        KindCount(*key, number)
        for key, number in sorted(flows.items())
        if number >= MIN_FLOWS_DISCLOSED
    ]


def _lengths(
    counts: LabelCounts, flows_by_headers: Mapping[str, list[str]], *, one_way: bool
) -> dict[str, list[LengthBin]]:
    """Return the bins of lengths, by headers, of flows in which the server sends or does not."""
    lengths = {
        headers: [
            counts.flow_packets[flow]
            for flow in flows
            if (flow not in counts.server_packets) == one_way
        ]
        for headers, flows in flows_by_headers.items()
    }
    return {headers: bin_lengths(some) for headers, some in lengths.items() if some}


def _flows_by_headers(counts: Mapping[tuple[str, str], int]) -> dict[str, list[str]]:
    """Return flows by the headers that most of their packets have."""
    most: dict[str, tuple[int, str]] = {}
    for (flow, headers), number in counts.items():
        most[flow] = max(most.get(flow, (0, "")), (number, headers))
    flows: dict[str, list[str]] = {headers: [] for _, headers in sorted(most.values())}
    for flow, (_, headers) in most.items():
        flows[headers].append(flow)
    return dict(sorted(flows.items()))


def _as_json(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(value): counts[value] for value in sorted(counts)}


def most_option_octets(services: Iterable[ServiceStatistics]) -> int:
    """Return the bytes that fit the TCP options of all but a hundredth of a service's packets, for
    the service that needs most."""
    most = 0
    for service in services:
        packets = sum(service.tcp_options.values())
        longer = 0
        for num_bytes in sorted(map(int, service.tcp_options), reverse=True):
            longer += service.tcp_options[str(num_bytes)]
            if longer >= packets * _SHARE_OF_LONG_OPTIONS:
                most = max(most, num_bytes)
                break
    return most
