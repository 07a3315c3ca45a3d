"""Statistics of labels that an adapter holds: aggregates of their windows.

Nothing here is a single flow's: server ports that fewer than MIN_FLOWS_DISCLOSED flows have are
counted together as port 0. Neither torch nor diffusers is loaded.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from netdiff_ray.labels.counts import LabelCounts, count_windows
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.profile import MIN_FLOWS_DISCLOSED, Profile
from netdiff_ray.labels.profile_counts import describe_profile
from netdiff_ray.nprint.layouts import HEIGHTS, height_for

MAX_WINDOW_PROMPTS = 8
"""Windows of a flow that have a prompt each; later ones share the last."""

_EXACT_LENGTHS = 32
_BINS_PER_OCTAVE = 8
_SHARE_OF_LONG_OPTIONS = 0.01


class LengthBin(NamedTuple):
    """How many flows have a length within bounds, in packets."""

    fewest: int
    most: int
    """Inclusive."""
    flows: int


@dataclass(frozen=True, kw_only=True)
class LabelStatistics:
    """Aggregates of one label. Keys of mappings are strings of the numbers, as in JSON."""

    num_flows: int
    """Flows."""
    num_windows: int
    """Windows of them."""
    num_prompts: int
    """Windows of a flow that have a prompt each, at most MAX_WINDOW_PROMPTS."""
    lengths: dict[str, list[LengthBin]]
    """Lengths of flows, by their headers, as in `ipv6 udp` or `ipv4 tcp tcp_opt` (see
    `Sample.headers`), or the empty text for other headers."""
    heights: dict[str, int] = field(default_factory=dict)
    """Windows by the height of their raster."""
    server_ports: dict[str, dict[str, int]] = field(default_factory=dict)
    """`tcp` and `udp`: flows by the server's port; 0 for ports that are not disclosed."""
    lifetimes: dict[str, dict[str, int]] = field(default_factory=dict)
    """`client` and `server`: windows by the TTL or hop limit of that side's first packet."""
    tcp_options: dict[str, int] = field(default_factory=dict)
    """TCP packets by the bytes of their options."""
    profile: Profile
    """How its flows begin and end, and the times of all packets."""

    @property
    def fewest_packets(self) -> int:
        """Of a flow."""
        return min(length.fewest for bins in self.lengths.values() for length in bins)

    @property
    def most_packets(self) -> int:
        """Of a flow, at least: the end of the last bin."""
        return max(length.most for bins in self.lengths.values() for length in bins)


def describe(windows: LabelledWindows, max_height: int = HEIGHTS[-1]) -> dict[str, LabelStatistics]:
    """Return the statistics of each label, sorted; `max_height` as in `count_windows`."""
    return describe_counts(count_windows(windows, max_height))


def describe_counts(counts: Mapping[str, LabelCounts]) -> dict[str, LabelStatistics]:
    """Return the statistics of each label, sorted, of all windows that were counted."""
    return {label: _describe_label(counts[label]) for label in sorted(counts)}


def _describe_label(counts: LabelCounts) -> LabelStatistics:
    heights: Counter[int] = Counter()
    for num_rows, number in counts.window_rows.items():
        heights[height_for(num_rows)] += number
    ports = {"tcp": counts.tcp_ports, "udp": counts.udp_ports}
    return LabelStatistics(
        num_flows=len(counts.flow_packets),
        num_windows=counts.window_rows.total(),
        num_prompts=min(max(counts.window_numbers) + 1, MAX_WINDOW_PROMPTS),
        lengths={
            headers: _bin_lengths([counts.flow_packets[flow] for flow in flows])
            for headers, flows in _flows_by_headers(counts.flow_headers).items()
        },
        heights=_as_json(heights),
        server_ports={name: _disclosed_ports(flows) for name, flows in ports.items() if flows},
        tcp_options=_as_json(counts.tcp_options),
        lifetimes={
            "client": _as_json(counts.client_lifetimes),
            "server": _as_json(counts.server_lifetimes),
        },
        profile=describe_profile(counts.profile),
    )


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


def _disclosed_ports(counts: Mapping[int, int]) -> dict[str, int]:
    """Return flows by port, those of ports that too few flows have under 0."""
    table = _as_json({port: n for port, n in counts.items() if n >= MIN_FLOWS_DISCLOSED})
    suppressed = sum(n for n in counts.values() if n < MIN_FLOWS_DISCLOSED)
    return {**table, "0": suppressed} if suppressed else table


def _bin_lengths(lengths: Collection[int]) -> list[LengthBin]:
    """Return the bins of lengths: exact up to 32 packets, then an eighth of an octave."""
    edges = [*range(1, _EXACT_LENGTHS + 1)]
    while edges[-1] <= max(lengths):
        edges.append(max(edges[-1] + 1, round(edges[-1] * 2 ** (1 / _BINS_PER_OCTAVE))))
    counts, _ = np.histogram(list(lengths), bins=[*edges, edges[-1] + 1])
    bounds = zip(edges, [*edges[1:], edges[-1] + 1], counts, strict=True)
    return [LengthBin(low, high - 1, int(n)) for low, high, n in bounds if n]


def most_option_octets(labels: Mapping[str, LabelStatistics]) -> int:
    """Return the bytes that fit the TCP options of all but a hundredth of a label's packets, for
    the label that needs most."""
    most = 0
    for label in labels.values():
        packets = sum(label.tcp_options.values())
        longer = 0
        for num_bytes in sorted(map(int, label.tcp_options), reverse=True):
            longer += label.tcp_options[str(num_bytes)]
            if longer >= packets * _SHARE_OF_LONG_OPTIONS:
                most = max(most, num_bytes)
                break
    return most
