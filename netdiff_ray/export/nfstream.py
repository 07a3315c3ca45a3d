"""Features of flows under NFStream's names (Aouini and Pekar, Computer Networks 204, 2022).

They are those of its core and statistical features with `accounting_mode=1` (sizes of IP packets),
without what it reads of payloads and link layers. As in NFStream, times are whole milliseconds
before they are subtracted. Source is the client, where NFStream takes who sent first.

Shape letters: N flows, P packets.
"""

from collections.abc import Sequence

import numpy as np

from netdiff_ray.evaluate.flow_statistics import STATISTICS, flow_statistics
from netdiff_ray.evaluate.flow_view import VIEW, WIDE
from netdiff_ray.export.directions import directions_of
from netdiff_ray.flows import Windows
from netdiff_ray.nprint.codec import encode_windows

_DIRECTIONS = ("bidirectional", "src2dst", "dst2src")
_NS_PER_MS = 1_000_000
_ENDPOINTS = ("src_ip", "src_port", "dst_ip", "dst_port", "protocol", "ip_version")
_CORE = tuple(
    f"{direction}_{name}"
    for direction in _DIRECTIONS
    for name in ("first_seen_ms", "last_seen_ms", "duration_ms", "packets", "bytes")
)
COLUMNS = (
    *_ENDPOINTS, *_CORE,
    *(
        name
        for kind in ("_ps", "_piat_ms", "_packets")
        for name in STATISTICS
        if name.endswith(kind) and name not in _CORE
    ),
    "label", "flow_id",
)  # fmt: skip
"""In NFStream's order, label and flow id after them."""


def rows_and_values(
    flows: Sequence[dict], windows: Windows
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Return what is a flow's own, N mappings, and the (N,) values of the other columns.

    Args:
        flows: N rows of FLOW_SCHEMA.
        windows: N, each a whole flow.
    """
    rows = []
    for flow in flows:
        rows.append({
            "src_ip": flow["client_ip"], "src_port": flow["client_port"],
            "dst_ip": flow["server_ip"], "dst_port": flow["server_port"],
            "protocol": flow["protocol"], "ip_version": flow["ip_version"],
            "label": flow["label"], "flow_id": flow["flow_id"],
        })  # fmt: skip
    return rows, _values(windows)


def _values(windows: Windows) -> dict[str, np.ndarray]:
    """Return the (N,) values of each column but endpoints, label and id."""
    ts_ms = windows.rows["ts_ns"] // _NS_PER_MS
    steps_ms = np.diff(ts_ms, prepend=0)
    steps_ms[windows.first[:-1]] = 0
    bits = encode_windows(windows, WIDE)[:, WIDE.indices(VIEW.fields)]
    table = flow_statistics(bits, windows.first, windows.direction, steps_ms * _NS_PER_MS)
    values = {name: table[:, k] for k, name in enumerate(STATISTICS)}
    values["bidirectional_first_seen_ms"] = ts_ms[windows.first[:-1]]
    values["bidirectional_last_seen_ms"] = ts_ms[windows.first[1:] - 1]
    found = directions_of(windows.rows, windows.direction, windows.first)
    for side, name in enumerate(_DIRECTIONS[1:]):
        chosen = found.side == side
        for what, times in (("first", found.start_ns), ("last", found.end_ns)):
            column = np.zeros(len(windows), np.int64)
            column[found.flow[chosen]] = times[chosen] // _NS_PER_MS
            values[f"{name}_{what}_seen_ms"] = column
    return values
