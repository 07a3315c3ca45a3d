"""Count the windows of labels' services; the counts of parts of a collection add up.

Shape letters: N windows, P packets.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from netdiff_ray.dialogue import OPAQUE_KINDS
from netdiff_ray.header_bytes import (
    DPORT,
    IPPROTO_TCP,
    IPPROTO_UDP,
    SPORT,
    SYN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    words16,
)
from netdiff_ray.labels.duplicates import FlowDuplicates
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.loss import window_losses
from netdiff_ray.labels.path import FlowPath, window_paths
from netdiff_ray.labels.profile_counts import (
    ProfileCounts,
    count_profile,
    payload_bytes,
)
from netdiff_ray.labels.row_counts import counted
from netdiff_ray.labels.service import LabelService, fold_rare_services
from netdiff_ray.labels.stack import PROTOCOLS, TIMESTAMPED, FlowStack
from netdiff_ray.labels.stack_counts import flow_stacks
from netdiff_ray.nprint.codec import decode
from netdiff_ray.nprint.statecode import decode_states
from netdiff_ray.nprint.timecode import levels_of
from netdiff_ray.packets.headers import HEADER_ROW

_PORT_BYTES = 4
"""Bytes of a transport header that hold both ports."""
_HEADERS = {protocols: headers for headers, protocols in PROTOCOLS.items()}


@dataclass(kw_only=True)
class LabelCounts:
    """Counts of the windows of a label's service."""

    flow_packets: Counter[str] = field(default_factory=Counter)
    """Packets by flow."""
    server_packets: Counter[str] = field(default_factory=Counter)
    """Packets that the server sends, by flow."""
    window_rows: Counter[int] = field(default_factory=Counter)
    """Windows by their rows."""
    window_numbers: Counter[int] = field(default_factory=Counter)
    """Windows by their number in the flow."""
    flow_headers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Packets by flow and headers; `tcp_opt` is among these with options and no SYN."""
    stacks: dict[str, FlowStack] = field(default_factory=dict)
    """By flow, of its first window; without headers."""
    hosts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Client and server by flow, where they are known."""
    starts: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Capture by flow, and when the flow begins there, in nanoseconds, where they are known."""
    paths: dict[str, FlowPath] = field(default_factory=dict)
    """By flow, of its first window."""
    losses: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Octave of packets and loss by flow, of its first window, where the layout has what packets do
    in their flows."""
    duplicates: dict[str, FlowDuplicates | None] = field(default_factory=dict)
    """By flow, how its first window was captured again, None if it was captured once, where that is
    known."""
    kinds: dict[str, str] = field(default_factory=dict)
    """By flow, what its first window speaks, if its payloads were captured."""
    tcp_options: Counter[int] = field(default_factory=Counter)
    """TCP packets by bytes of options."""
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
    flows = {key: len(own.flow_packets) for key, own in counts.items()}
    kinds = {key: _protocol_of(own) for key, own in counts.items()}
    return fold_rare_services(flows, {key: kind for key, kind in kinds.items() if kind})


def _protocol_of(counts: LabelCounts) -> str:
    """Return the protocol that most flows speak, the first of several; empty if it is not known."""
    spoken = Counter(kind for kind in counts.kinds.values() if kind not in OPAQUE_KINDS)
    return min(spoken, key=lambda kind: (-spoken[kind], kind), default="")


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
        if windows.client is not None and windows.server is not None:
            client, server = windows.client[i], windows.server[i]
            if client is not None and server is not None:
                counts.hosts[windows.flow[i]] = client, server
        if windows.capture is not None and windows.start_ns is not None and windows.window[i] == 0:
            counts.starts[windows.flow[i]] = windows.capture[i], windows.start_ns[i]
    rows, direction, interarrival_ns = _decoded(windows, chosen)
    assert rows.dtype == HEADER_ROW
    window_of_row = np.repeat(np.arange(len(chosen)), rows_per_window)
    flow_of_window = [windows.flow[i] for i in chosen]
    for k, number in zip(*counted(window_of_row[direction == 1]), strict=True):
        counts.server_packets[flow_of_window[k]] += number
    counts.flow_headers = _count_headers(rows, window_of_row, flow_of_window)
    is_first_window = np.array([windows.window[i] == 0 for i in chosen])[window_of_row]
    is_last_window = (np.array(rows_per_window) < max_height)[window_of_row]
    option_bytes = rows["transport_len"][_is_tcp(rows)] - TCP_HEADER_BYTES
    for num_bytes, number in zip(*counted(option_bytes.astype(np.int64)), strict=True):
        counts.tcp_options[num_bytes] += number
    first_windows = np.flatnonzero([windows.window[i] == 0 for i in chosen])
    stacks = flow_stacks(
        rows[is_first_window],
        direction[is_first_window],
        np.searchsorted(first_windows, window_of_row[is_first_window]),
        _ports(rows, direction)[is_first_window],
    )
    level = levels_of(interarrival_ns)
    paths = window_paths(
        rows[is_first_window],
        direction[is_first_window],
        level[is_first_window],
        np.searchsorted(first_windows, window_of_row[is_first_window]),
    )
    states = None
    if windows.layout.has_state:
        states = _states(windows, chosen)
        losses = window_losses(
            rows[is_first_window],
            payload_bytes(rows[is_first_window]),
            states[is_first_window],
            np.searchsorted(first_windows, window_of_row[is_first_window]),
        )
        for k, loss in zip(first_windows.tolist(), losses, strict=True):
            counts.losses[flow_of_window[k]] = loss
    for k, stack, path in zip(first_windows.tolist(), stacks, paths, strict=True):
        counts.stacks[flow_of_window[k]] = stack
        counts.paths[flow_of_window[k]] = path
        if windows.duplicates is not None:
            counts.duplicates[flow_of_window[k]] = windows.duplicates[chosen[k]]
        if windows.kind is not None and windows.kind[chosen[k]]:
            counts.kinds[flow_of_window[k]] = windows.kind[chosen[k]]
    counts.profile = count_profile(
        rows, direction, level, window_of_row, is_first_window, is_last_window, states
    )
    return counts


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
        name = name + TIMESTAMPED if name and optioned else name
        counts[flow_of_window[window], name] += number
    return counts


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


def _states(windows: LabelledWindows, chosen: np.ndarray) -> np.ndarray:
    """Return what the chosen windows' packets do in their flows, (P,) PACKET_STATE."""
    return decode_states(np.concatenate([windows.nprint[i] for i in chosen]), windows.layout)


def _ports(rows: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return (P, 2) int64: the client's and the server's port of each packet, 0 without ports."""
    ports = np.stack([words16(rows["transport"], at) for at in (SPORT, DPORT)], axis=1)
    has_ports = np.isin(rows["protocol"], (IPPROTO_TCP, IPPROTO_UDP))
    has_ports &= rows["transport_len"] >= _PORT_BYTES
    return np.where(direction[:, None] == 1, ports[:, ::-1], ports) * has_ports[:, None]
