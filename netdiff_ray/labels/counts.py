"""Count the windows of labels' services; the counts of parts of a collection add up.

Shape letters: N windows, P packets.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    DPORT,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_TTL,
    IPV6_HL,
    SPORT,
    SYN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    words16,
)
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.profile_counts import ProfileCounts, count_profile, counted
from netdiff_ray.labels.service import LabelService, fold_rare_services
from netdiff_ray.nprint.codec import decode
from netdiff_ray.nprint.timecode import level_of
from netdiff_ray.packets.headers import HEADER_ROW

_PORT_BYTES = 4
"""Bytes of a transport header that hold both ports."""
_HEADERS = {
    (4, IPPROTO_TCP): "ipv4 tcp", (4, IPPROTO_UDP): "ipv4 udp", (4, IPPROTO_ICMP): "ipv4 icmp",
    (6, IPPROTO_TCP): "ipv6 tcp", (6, IPPROTO_UDP): "ipv6 udp", (6, IPPROTO_ICMPV6): "ipv6 icmp",
}  # fmt: skip
"""By IP version and protocol number; nPrint has ICMPv6 in the columns of ICMP."""


@dataclass(kw_only=True)
class LabelCounts:
    """Counts of the windows of a label's service."""

    flow_packets: Counter[str] = field(default_factory=Counter)
    """Packets by flow."""
    window_rows: Counter[int] = field(default_factory=Counter)
    """Windows by their rows."""
    window_numbers: Counter[int] = field(default_factory=Counter)
    """Windows by their number in the flow."""
    flow_headers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Packets by flow and headers; `tcp_opt` is among these with options and no SYN."""
    tcp_ports: Counter[int] = field(default_factory=Counter)
    """Flows by the server's TCP port in the first window."""
    udp_ports: Counter[int] = field(default_factory=Counter)
    """Flows by the server's UDP port in the first window."""
    tcp_options: Counter[int] = field(default_factory=Counter)
    """TCP packets by bytes of options."""
    client_lifetimes: Counter[int] = field(default_factory=Counter)
    """Windows by TTL or hop limit of the client's first packet."""
    server_lifetimes: Counter[int] = field(default_factory=Counter)
    """Windows by TTL or hop limit of the server's first packet."""
    profile: ProfileCounts = field(default_factory=ProfileCounts)

    def update(self, other: "LabelCounts") -> None:
        """Add the counts of other windows."""
        for kind in fields(self):
            getattr(self, kind.name).update(getattr(other, kind.name))


def merge_counts(
    parts: Iterable[Mapping[LabelService, LabelCounts]],
) -> dict[LabelService, LabelCounts]:
    """Return the sums of counts by service."""
    total: dict[LabelService, LabelCounts] = {}
    for part in parts:
        for key, counts in part.items():
            total.setdefault(key, LabelCounts()).update(counts)
    return total


def folding_of(counts: Mapping[LabelService, LabelCounts]) -> dict[LabelService, LabelService]:
    """Return the service that each service counts as, see `fold_rare_services`."""
    return fold_rare_services({key: len(own.flow_packets) for key, own in counts.items()})


def fold_counts(
    counts: Mapping[LabelService, LabelCounts], folding: Mapping[LabelService, LabelService]
) -> dict[LabelService, LabelCounts]:
    """Return the sums of counts by the services that they count as."""
    return merge_counts({folding[key]: own} for key, own in counts.items())


def count_windows(windows: LabelledWindows, max_height: int) -> dict[LabelService, LabelCounts]:
    """Count windows by service, as they were captured; a window of fewer rows than `max_height`
    is the last of its flow."""
    chosen: dict[LabelService, list[int]] = {}
    for i, key in enumerate(zip(windows.label, windows.service, strict=True)):
        chosen.setdefault(LabelService(*key), []).append(i)
    return {
        key: _count_service(windows, max_height, np.array(chosen[key])) for key in sorted(chosen)
    }


def _count_service(windows: LabelledWindows, max_height: int, chosen: np.ndarray) -> LabelCounts:
    counts = LabelCounts()
    rows_per_window = [len(windows.nprint[i]) for i in chosen]
    for i, num_rows in zip(chosen, rows_per_window, strict=True):
        counts.flow_packets[windows.flow[i]] += num_rows
        counts.window_rows[num_rows] += 1
        counts.window_numbers[int(windows.window[i])] += 1
    rows, direction, interarrival_ns = _decoded(windows, chosen)
    assert rows.dtype == HEADER_ROW
    window_of_row = np.repeat(np.arange(len(chosen)), rows_per_window)
    flow_of_window = [windows.flow[i] for i in chosen]
    counts.flow_headers = _count_headers(rows, window_of_row, flow_of_window)
    is_first_window = np.array([windows.window[i] == 0 for i in chosen])[window_of_row]
    is_last_window = (np.array(rows_per_window) < max_height)[window_of_row]
    server = _server_ports(rows, direction)
    for ports, protocol in ((counts.tcp_ports, IPPROTO_TCP), (counts.udp_ports, IPPROTO_UDP)):
        usable = (rows["protocol"] == protocol) & (rows["transport_len"] >= _PORT_BYTES)
        usable &= (server > 0) & is_first_window
        _count(ports, server[_first_of_each(window_of_row, usable)])
    is_tcp = _is_tcp(rows)
    _count(counts.tcp_options, rows["transport_len"][is_tcp] - TCP_HEADER_BYTES)
    ipv4_ttl, ipv6_hl = rows["network"][:, IPV4_TTL], rows["network"][:, IPV6_HL]
    lifetime = np.where(rows["version"] == 4, ipv4_ttl, ipv6_hl)
    for side, lifetimes in enumerate((counts.client_lifetimes, counts.server_lifetimes)):
        sent = (direction == side) & (rows["version"] > 0)
        _count(lifetimes, lifetime[_first_of_each(window_of_row, sent)])
    counts.profile = count_profile(
        rows, direction, _levels(interarrival_ns), window_of_row, is_first_window, is_last_window
    )
    return counts


def _count(counts: Counter[int], values: np.ndarray) -> None:
    for value, number in zip(*counted(np.asarray(values, np.int64)), strict=True):
        counts[value] += number


def _is_tcp(rows: np.ndarray) -> np.ndarray:
    """Return (P,) bool: whether a packet has a TCP header."""
    return (rows["protocol"] == IPPROTO_TCP) & (rows["transport_len"] >= TCP_HEADER_BYTES)


def _count_headers(
    rows: np.ndarray, window_of_row: np.ndarray, flow_of_window: list[str]
) -> Counter[tuple[str, str]]:
    """Count packets by flow and headers."""
    has_options = _is_tcp(rows) & (rows["transport_len"] > TCP_HEADER_BYTES)
    has_options &= rows["transport"][:, TCP_FLAGS] & SYN == 0
    columns = np.stack([window_of_row, rows["version"], rows["protocol"], has_options], axis=1)
    counts: Counter[tuple[str, str]] = Counter()
    for (window, *kind, optioned), number in zip(*counted(columns.astype(np.int64)), strict=True):
        name = _HEADERS.get(tuple(kind), "")
        name = f"{name} tcp_opt" if name and optioned else name
        counts[flow_of_window[window], name] += number
    return counts


@numba.njit(cache=True)
def _levels(interarrival_ns):
    levels = np.empty(len(interarrival_ns), np.int64)
    for i in range(len(interarrival_ns)):
        levels[i] = level_of(interarrival_ns[i])
    return levels


def _decoded(
    windows: LabelledWindows, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return header rows, direction and time of the chosen windows' packets."""
    rows, direction, interarrival_ns = decode(
        np.concatenate([windows.nprint[i] for i in chosen]), windows.layout
    )
    if windows.direction is not None:
        direction = np.concatenate([windows.direction[i] for i in chosen])
    if windows.interarrival_ns is not None:
        interarrival_ns = np.concatenate([windows.interarrival_ns[i] for i in chosen])
    return rows, direction, interarrival_ns


def _first_of_each(group: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the index of the first wanted row of each group that has such a row."""
    at = np.flatnonzero(wanted)
    return at[np.unique(group[at], return_index=True)[1]]


def _server_ports(rows: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return (P,) int64: the server's port of each packet."""
    transport = rows["transport"]
    return np.where(direction == 1, words16(transport, SPORT), words16(transport, DPORT))
