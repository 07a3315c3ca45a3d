"""What an adapter says of its labels: aggregates of their windows, and draws from them.

Nothing here is a single flow's: a server port that only one flow has is counted as 0.
Neither torch nor diffusers is loaded. Shape letters: N windows, P packets, B bits.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numba
import numpy as np

from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.profile import Profile, count_profiles, counted, describe_profile
from netdiff_ray.nprint.codec import decode
from netdiff_ray.nprint.layouts import HEIGHTS, height_for
from netdiff_ray.nprint.timecode import level_of
from netdiff_ray.packets.headers import HEADER_ROW

MAX_WINDOW_PROMPTS = 8
"""Windows of a flow that have prompts of their own; later ones share the last."""

_EXACT_LENGTHS = 32
_BINS_PER_OCTAVE = 8
MIN_FLOWS_DISCLOSED = 2
_SHARE_OF_LONG_OPTIONS = 0.01


@dataclass(frozen=True, kw_only=True)
class LabelStatistics:
    """Aggregates of one label. Keys of mappings are strings of the numbers, as in JSON."""

    num_flows: int
    """Flows seen."""
    num_windows: int
    """Windows of them."""
    num_prompts: int
    """Windows that have a prompt of their own, at most MAX_WINDOW_PROMPTS."""
    lengths: dict[str, list[list[int]]]
    """Packets a flow, by the headers of flows, as in `ipv6 udp` or `ipv4 tcp tcp_opt` (see
    `Sample.headers`), or the empty text where they are others: [fewest, most, flows], both
    bounds inclusive."""
    heights: dict[str, int] = field(default_factory=dict)
    """Windows by the height of their raster."""
    server_ports: dict[str, dict[str, int]] = field(default_factory=dict)
    """`tcp` and `udp`: flows by the server's port; 0 stands for ports of one flow each."""
    lifetimes: dict[str, dict[str, int]] = field(default_factory=dict)
    """`client` and `server`: windows by the TTL or hop limit of that side's first packet."""
    tcp_options: dict[str, int] = field(default_factory=dict)
    """TCP packets by the octets of their options."""
    profile: Profile
    """What its flows begin and end with, and the times of all packets."""

    @property
    def fewest_packets(self) -> int:
        """Of a flow."""
        return min(low for bins in self.lengths.values() for low, _, _ in bins)

    @property
    def most_packets(self) -> int:
        """Of a flow, at least: the end of the last bin."""
        return max(high for bins in self.lengths.values() for _, high, _ in bins)


Tally = Counter[tuple]
"""Counts of windows, which add up over parts of them: (label, what, value) to a number.

    packets of a flow          windows by their rows, by their number in the flow
    headers                    packets by their flow and what headers they have, `tcp_opt` among
                               them with options and no SYN
    tcp, udp                   flows by the server's port, which the first window tells
    tcp options                TCP packets by octets of options
    client lifetime, server lifetime     windows by the side's TTL or hop limit

and what `profile.Counts` has.
"""

_TCP, _TCP_HEADER_OCTETS = 6, 20
_TCP_FLAGS, _SYN = 13, 2  # octet of the header, bit in it
_SIDES = ("client", "server")
_HEADERS = {
    (4, 6): "ipv4 tcp", (4, 17): "ipv4 udp", (4, 1): "ipv4 icmp",
    (6, 6): "ipv6 tcp", (6, 17): "ipv6 udp", (6, 58): "ipv6 icmp",
}  # fmt: skip
"""By IP version and protocol number; nPrint has ICMPv6 in the columns of ICMP."""


def describe(windows: LabelledWindows, max_height: int = HEIGHTS[-1]) -> dict[str, LabelStatistics]:
    """The facts of each label, by label, sorted; `max_height` as of `tally`."""
    return describe_tally(tally(windows, max_height))


def tally(windows: LabelledWindows, max_height: int) -> Tally:
    """The counts of windows, from which with others' the facts follow; one of fewer rows than
    `max_height` is the last of its flow."""
    labels = np.asarray(windows.label, dtype=object)
    counts: Tally = Counter()
    for label in sorted(set(windows.label)):
        _tally_label(counts, windows, max_height, label, np.flatnonzero(labels == label))
    return counts


def _tally_label(
    counts: Tally, windows: LabelledWindows, max_height: int, label: str, chosen: np.ndarray
) -> None:
    rows_per_window = [len(windows.nprint[i]) for i in chosen]
    for i, num_rows in zip(chosen, rows_per_window, strict=True):
        counts[label, "packets", windows.flow[i]] += num_rows
        counts[label, "rows", num_rows] += 1
        counts[label, "window", int(windows.window[i])] += 1
    rows, direction, interarrival_ns = _decoded(windows, chosen)
    window_of_row = np.repeat(np.arange(len(chosen)), rows_per_window)
    tcp = (rows["protocol"] == _TCP) & (rows["transport_len"] >= _TCP_HEADER_OCTETS)
    options = np.where(tcp, rows["transport_len"], _TCP_HEADER_OCTETS) - _TCP_HEADER_OCTETS
    optioned = (options > 0) & (rows["transport"][:, _TCP_FLAGS] & _SYN == 0)
    headers = np.stack([window_of_row, rows["version"], rows["protocol"], optioned])
    for (k, *kind, has_options), number in zip(*counted(headers.T.astype(np.int64)), strict=True):
        name = _HEADERS.get(tuple(kind), "")
        name = f"{name} tcp_opt" if name and has_options else name
        counts[label, "headers", (windows.flow[chosen[k]], name)] += number
    is_first_window = np.array([windows.window[i] == 0 for i in chosen])
    for name, ports in _server_ports(rows, direction, window_of_row, is_first_window).items():
        _count(counts, (label, name), ports)
    _count(counts, (label, "tcp options"), options[tcp])
    lifetime = np.where(rows["version"] == 4, rows["network"][:, 8], rows["network"][:, 7])
    present = rows["version"] > 0
    for side, there in zip(_SIDES, (direction == 0, direction == 1), strict=True):
        first = _first_of_each(window_of_row, there & present)
        _count(counts, (label, f"{side} lifetime"), lifetime[first])
    is_last_window = np.array(rows_per_window) < max_height
    profiles = count_profiles(
        rows, direction, _levels(interarrival_ns), window_of_row, is_first_window[window_of_row],
        is_last_window[window_of_row],
    )  # fmt: skip
    for (what, value), number in profiles.items():
        counts[label, what, value] += number


def _count(counts: Tally, key: tuple[str, str], values: np.ndarray) -> None:
    for value, number in zip(*counted(np.asarray(values, np.int64)), strict=True):
        counts[*key, value] += number


def describe_tally(counts: Tally) -> dict[str, LabelStatistics]:
    """The facts of each label, by label, sorted, of all windows that were counted."""
    sorted_out: dict[str, dict[str, dict]] = {}
    for (label, what, value), number in counts.items():
        sorted_out.setdefault(str(label), {}).setdefault(what, {})[value] = number
    return {label: _describe_label(sorted_out[label]) for label in sorted(sorted_out)}


def _describe_label(counts: dict[str, dict]) -> LabelStatistics:
    heights: Counter[int] = Counter()
    for num_rows, number in counts["rows"].items():
        heights[height_for(num_rows)] += number
    ports = {name: _shared_ports(counts[name]) for name in ("tcp", "udp") if name in counts}
    return LabelStatistics(
        num_flows=len(counts["packets"]),
        num_windows=sum(counts["rows"].values()),
        num_prompts=min(max(counts["window"]) + 1, MAX_WINDOW_PROMPTS),
        lengths={
            headers: _bin_lengths([counts["packets"][flow] for flow in flows])
            for headers, flows in _flows_by_headers(counts["headers"]).items()
        },
        heights=_as_json(heights),
        server_ports=ports,
        tcp_options=_as_json(counts.get("tcp options", {})),
        lifetimes={side: _as_json(counts.get(f"{side} lifetime", {})) for side in _SIDES},
        profile=describe_profile(counts),
    )


def _flows_by_headers(counts: dict[tuple[str, str], int]) -> dict[str, list[str]]:
    """Flows by the headers that most of their packets have."""
    most: dict[str, tuple[int, str]] = {}
    for (flow, headers), number in counts.items():
        most[flow] = max(most.get(flow, (0, "")), (number, headers))
    flows: dict[str, list[str]] = {headers: [] for _, headers in sorted(most.values())}
    for flow, (_, headers) in most.items():
        flows[headers].append(flow)
    return dict(sorted(flows.items()))


def _as_json(counts: dict[int, int]) -> dict[str, int]:
    return {str(value): counts[value] for value in sorted(counts)}


def _shared_ports(counts: dict[int, int]) -> dict[str, int]:
    """Flows by port, those of ports that one flow has under 0."""
    table = _as_json({port: n for port, n in counts.items() if n >= MIN_FLOWS_DISCLOSED})
    alone = sum(n for n in counts.values() if n < MIN_FLOWS_DISCLOSED)
    return {**table, "0": alone} if alone else table


@numba.njit(cache=True)
def _levels(interarrival_ns):
    levels = np.empty(len(interarrival_ns), np.int64)
    for i in range(len(interarrival_ns)):
        levels[i] = level_of(interarrival_ns[i])
    return levels


def _decoded(
    windows: LabelledWindows, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Header rows, direction and time of the chosen windows' packets, one after another."""
    rows, direction, interarrival_ns = decode(
        np.concatenate([windows.nprint[i] for i in chosen]), windows.layout
    )
    if windows.direction is not None:
        direction = np.concatenate([windows.direction[i] for i in chosen])
    if windows.interarrival_ns is not None:
        interarrival_ns = np.concatenate([windows.interarrival_ns[i] for i in chosen])
    return rows, direction, interarrival_ns


def _first_of_each(group: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of the first wanted row of each group that has one."""
    at = np.flatnonzero(wanted)
    return at[np.unique(group[at], return_index=True)[1]]


def _server_ports(
    rows: np.ndarray, direction: np.ndarray, window_of_row: np.ndarray, is_first: np.ndarray
) -> dict[str, np.ndarray]:
    """`tcp` and `udp` to the server's port of each flow whose first window is there."""
    assert rows.dtype == HEADER_ROW
    octets = rows["transport"].astype(np.int64)
    source = octets[:, 0] * 256 + octets[:, 1]
    destination = octets[:, 2] * 256 + octets[:, 3]
    server = np.where(direction == 1, source, destination)
    found = {}
    for name, protocol in (("tcp", 6), ("udp", 17)):
        usable = (rows["protocol"] == protocol) & (rows["transport_len"] >= 4) & (server > 0)
        usable &= is_first[window_of_row]
        found[name] = server[_first_of_each(window_of_row, usable)]
    return found


def _bin_lengths(lengths: Collection[int]) -> list[list[int]]:
    """[fewest, most, flows] for lengths: exact up to 32 packets, then an eighth of an octave."""
    edges = [*range(1, _EXACT_LENGTHS + 1)]
    while edges[-1] <= max(lengths):
        edges.append(max(edges[-1] + 1, round(edges[-1] * 2 ** (1 / _BINS_PER_OCTAVE))))
    counts, _ = np.histogram(list(lengths), bins=[*edges, edges[-1] + 1])
    bounds = zip(edges, [*edges[1:], edges[-1] + 1], counts, strict=True)
    return [[low, high - 1, int(n)] for low, high, n in bounds if n]


def most_option_octets(labels: Mapping[str, LabelStatistics]) -> int:
    """The octets that the TCP options of all but a hundredth of a label's packets fit, in the
    label that has the longest."""
    most = 0
    for label in labels.values():
        packets = sum(label.tcp_options.values())
        longer = 0
        for octets in sorted(map(int, label.tcp_options), reverse=True):
            longer += label.tcp_options[str(octets)]
            if longer >= packets * _SHARE_OF_LONG_OPTIONS:
                most = max(most, octets)
                break
    return most
