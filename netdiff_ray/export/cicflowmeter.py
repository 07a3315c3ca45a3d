"""Features of flows under CICFlowMeter's names (Draper-Gil et al., ICISSP 2016).

Names, order and units are those of `FlowFeature` in github.com/ahlashkari/CICFlowMeter (version 4);
definitions are those of its `BasicFlow`, where it computes what the name says, and otherwise what
the name says; docs/verbs.md lists the differences. Times are in whole microseconds; sizes are those
of payloads, headers those of the transport; standard deviations are those of a sample; what a flow
has none of is 0.

Shape letters: N flows, P packets, R runs of packets, n values.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from netdiff_ray.evaluate.flow_statistics import moments
from netdiff_ray.flows import Windows
from netdiff_ray.header_bytes import (
    ACK,
    CWR,
    ECE,
    FIN,
    IPPROTO_TCP,
    PSH,
    RST,
    SYN,
    TCP_FLAGS,
    TCP_WSIZE,
    URG,
    words16,
)
from netdiff_ray.labels.profile_counts import payload_bytes

SUBFLOW_GAP_US = 1_000_000
"""A longer silence begins another subflow, and ends a bulk."""
IDLE_US = 5_000_000
"""A longer silence is idle time; CICFlowMeter's default."""
BULK_PACKETS = 4
"""Fewest packets with payload in a row of one direction that are a bulk."""
_US = 1e-6
_SIDES = ("Fwd", "Bwd")
_MOMENTS = ("Min", "Mean", "Std", "Max")
_FLAGS = {
    "FIN": FIN, "SYN": SYN, "RST": RST, "PSH": PSH, "ACK": ACK, "URG": URG, "CWR": CWR, "ECE": ECE,
}  # fmt: skip


def _named(name: str, order: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name} {moment}" for moment in order)


_MAX_FIRST, _MEAN_FIRST = ("Max", "Min", "Mean", "Std"), ("Mean", "Std", "Max", "Min")
COLUMNS = (
    "Flow ID", "Src IP", "Src Port", "Dst IP", "Dst Port", "Protocol", "Timestamp",
    "Flow Duration", "Total Fwd Packet", "Total Bwd packets", "Total Length of Fwd Packet",
    "Total Length of Bwd Packet", *_named("Fwd Packet Length", _MAX_FIRST),
    *_named("Bwd Packet Length", _MAX_FIRST), "Flow Bytes/s", "Flow Packets/s",
    *_named("Flow IAT", _MEAN_FIRST), *_named("Fwd IAT", ("Total", *_MEAN_FIRST)),
    *_named("Bwd IAT", ("Total", *_MEAN_FIRST)), "Fwd PSH Flags", "Bwd PSH Flags",
    "Fwd URG Flags", "Bwd URG Flags", "Fwd Header Length", "Bwd Header Length", "Fwd Packets/s",
    "Bwd Packets/s", *_named("Packet Length", ("Min", "Max", "Mean", "Std", "Variance")),
    *(f"{flag} Flag Count" for flag in _FLAGS), "Down/Up Ratio", "Average Packet Size",
    "Fwd Segment Size Avg", "Bwd Segment Size Avg", "Fwd Bytes/Bulk Avg", "Fwd Packet/Bulk Avg",
    "Fwd Bulk Rate Avg", "Bwd Bytes/Bulk Avg", "Bwd Packet/Bulk Avg", "Bwd Bulk Rate Avg",
    "Subflow Fwd Packets", "Subflow Fwd Bytes", "Subflow Bwd Packets", "Subflow Bwd Bytes",
    "FWD Init Win Bytes", "Bwd Init Win Bytes", "Fwd Act Data Pkts", "Fwd Seg Size Min",
    *_named("Active", _MEAN_FIRST), *_named("Idle", _MEAN_FIRST), "Label", "flow_id",
)  # fmt: skip
"""In CICFlowMeter's order, the flow id of the index after them."""


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
        ends = [flow[name] for name in ("client_ip", "server_ip", "client_port", "server_port")]
        start = datetime.fromtimestamp(flow["start_ts_ns"] // 10**9, UTC)
        rows.append({
            "Flow ID": "-".join(map(str, [*ends, flow["protocol"]])), "Src IP": ends[0],
            "Src Port": ends[2], "Dst IP": ends[1], "Dst Port": ends[3],
            "Protocol": flow["protocol"], "Timestamp": start.strftime("%d/%m/%Y %I:%M:%S %p"),
            "Label": flow["label"], "flow_id": flow["flow_id"],
        })  # fmt: skip
    return rows, features(windows)


class _Packets(NamedTuple):
    """P packets of N flows, flow after flow."""

    flow: np.ndarray
    """(P,) int64: number of the flow, ascending."""
    ts_us: np.ndarray
    """(P,) int64."""
    payload: np.ndarray
    """(P,) int64: bytes."""
    header: np.ndarray
    """(P,) int64: bytes of the transport header."""
    flags: np.ndarray
    """(P,) int64: of TCP, else 0."""
    window: np.ndarray
    """(P,) int64: of TCP as it stands in the header, else 0."""

    def chosen(self, which: np.ndarray) -> "_Packets":
        """Return some of the packets."""
        return _Packets(*(column[which] for column in self))


def features(windows: Windows) -> dict[str, np.ndarray]:
    """Return the (N,) values of each column but endpoints, time, label and id.

    Args:
        windows: N, each a whole flow.
    """
    rows, n = windows.rows, len(windows)
    is_tcp = rows["protocol"] == IPPROTO_TCP
    packets = _Packets(
        flow=np.repeat(np.arange(n), np.diff(windows.first)),
        ts_us=rows["ts_ns"] // 1000,
        payload=payload_bytes(rows),
        header=rows["transport_len"].astype(np.int64),
        flags=np.where(is_tcp, rows["transport"][:, TCP_FLAGS], 0),
        window=np.where(is_tcp, words16(rows["transport"], TCP_WSIZE), 0),
    )
    to_client = windows.direction != 0
    values = _of_both(packets, n)
    seconds = values["Flow Duration"] * _US
    gaps, of_gap = _gaps(packets)
    subflows = 1 + np.bincount(of_gap, gaps > SUBFLOW_GAP_US, n)
    for side, name in enumerate(_SIDES):
        of_side = packets.chosen(np.flatnonzero(to_client == side))
        values |= _of_side(of_side, n, name, seconds, subflows)
    client, server = (packets.chosen(np.flatnonzero(to_client == side)) for side in range(2))
    sent, received = (np.bincount(side.flow, minlength=n) for side in (client, server))
    up, down = (np.bincount(side.flow, side.payload, n) for side in (client, server))
    least, initial = _least_and_first(client, n)
    values |= {
        "Total Fwd Packet": sent, "Total Bwd packets": received,
        "Total Length of Fwd Packet": up, "Total Length of Bwd Packet": down,
        "Flow Bytes/s": _ratio(up + down, seconds),
        "Flow Packets/s": _ratio(sent + received, seconds),
        "Down/Up Ratio": _ratio(received, sent),
        "FWD Init Win Bytes": initial, "Fwd Seg Size Min": least,
        "Bwd Init Win Bytes": _least_and_first(server, n)[1],
        "Fwd Act Data Pkts": np.bincount(client.flow, client.payload > 0, n),
    }  # fmt: skip
    return values | _bulks(packets, to_client, n) | _active_and_idle(packets, n)


def _of_both(packets: _Packets, num_flows: int) -> dict[str, np.ndarray]:
    """Return the columns of which direction does not matter."""
    begins = np.flatnonzero(np.diff(packets.flow, prepend=-1))
    ends = np.append(begins[1:], len(packets.flow)) - 1
    size = moments(packets.payload.astype(float), packets.flow, num_flows)
    gaps, of_gap = _gaps(packets)
    values = dict(zip(_named("Packet Length", _MOMENTS), size, strict=True))
    values |= zip(_named("Flow IAT", _MOMENTS), moments(gaps, of_gap, num_flows), strict=True)
    values |= {
        f"{name} Flag Count": np.bincount(packets.flow, packets.flags & flag != 0, num_flows)
        for name, flag in _FLAGS.items()
    }
    return values | {
        "Flow Duration": packets.ts_us[ends] - packets.ts_us[begins],
        "Average Packet Size": size[1], "Packet Length Variance": size[2] ** 2,
    }  # fmt: skip


def _of_side(
    packets: _Packets, num_flows: int, name: str, seconds: np.ndarray, subflows: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the columns that both directions have.

    Args:
        packets: of the direction.
        num_flows: N.
        name: of the direction.
        seconds: (N,) durations of the flows.
        subflows: (N,) of the flows.
    """
    flow = packets.flow
    count = np.bincount(flow, minlength=num_flows)
    size = moments(packets.payload.astype(float), flow, num_flows)
    gaps, of_gap = _gaps(packets)
    values = dict(zip(_named(f"{name} Packet Length", _MOMENTS), size, strict=True))
    values |= zip(_named(f"{name} IAT", _MOMENTS), moments(gaps, of_gap, num_flows), strict=True)
    return values | {
        f"{name} IAT Total": np.bincount(of_gap, gaps, num_flows),
        f"{name} PSH Flags": np.bincount(flow, packets.flags & PSH != 0, num_flows),
        f"{name} URG Flags": np.bincount(flow, packets.flags & URG != 0, num_flows),
        f"{name} Header Length": np.bincount(flow, packets.header, num_flows),
        f"{name} Packets/s": _ratio(count, seconds),
        f"{name} Segment Size Avg": size[1],
        f"Subflow {name} Packets": count / subflows,
        f"Subflow {name} Bytes": np.bincount(flow, packets.payload, num_flows) / subflows,
    }


def _least_and_first(packets: _Packets, num_flows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) the shortest header and the first window of each flow's packets."""
    begins = np.flatnonzero(np.diff(packets.flow, prepend=-1))
    least, initial = np.zeros(num_flows), np.zeros(num_flows)
    if len(begins):
        least[packets.flow[begins]] = np.minimum.reduceat(packets.header, begins)
        initial[packets.flow[begins]] = packets.window[begins]
    return least, initial


def _gaps(packets: _Packets) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) times between the packets of each flow, and the flow of each."""
    follows = np.flatnonzero(packets.flow[1:] == packets.flow[:-1]) + 1
    gaps = packets.ts_us[follows] - packets.ts_us[follows - 1]
    return gaps.astype(float), packets.flow[follows]


def _ratio(numbers: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return (N,) quotients, 0 where the divisor is."""
    return np.divide(numbers, of, out=np.zeros(len(numbers)), where=of != 0)


def _bulks(packets: _Packets, to_client: np.ndarray, num_flows: int) -> dict[str, np.ndarray]:
    """Return the means over the bulks of each direction: runs of at least BULK_PACKETS packets with
    payload that none of the other direction and no long silence interrupts.

    Args:
        packets: P.
        to_client: (P,) bool.
        num_flows: N.
    """
    data = np.flatnonzero(packets.payload > 0)
    flow, time, payload, side = *packets.chosen(data)[:3], to_client[data]
    cut = (np.diff(flow) != 0) | (np.diff(side) != 0) | (np.diff(time) > SUBFLOW_GAP_US)
    begins = np.flatnonzero(np.append(len(data) > 0, cut))
    lengths = np.diff(begins, append=len(data))
    ends = begins + lengths - 1
    sizes = np.add.reduceat(payload, begins) if len(begins) else lengths
    values = {}
    for number, name in enumerate(_SIDES):
        is_bulk = np.flatnonzero((lengths >= BULK_PACKETS) & (side[begins] == number))
        of = flow[begins[is_bulk]]
        count = np.bincount(of, minlength=num_flows)
        total = np.bincount(of, sizes[is_bulk], num_flows)
        seconds = np.bincount(of, (time[ends] - time[begins])[is_bulk] * _US, num_flows)
        values |= {
            f"{name} Bytes/Bulk Avg": _ratio(total, count),
            f"{name} Packet/Bulk Avg": _ratio(np.bincount(of, lengths[is_bulk], num_flows), count),
            f"{name} Bulk Rate Avg": _ratio(total, seconds),
        }
    return values


def _active_and_idle(packets: _Packets, num_flows: int) -> dict[str, np.ndarray]:
    """Return the moments of silences longer than IDLE_US, and of the times before each of them in
    which a flow was active, those of single packets left out."""
    of_flow, ts_us = packets.flow, packets.ts_us
    changes = np.diff(of_flow, prepend=-1) != 0
    silence = np.diff(ts_us, prepend=ts_us[:1])
    is_idle = ~changes & (silence > IDLE_US)
    begins = np.flatnonzero(changes | is_idle)
    ends = np.append(begins[1:], len(ts_us)) - 1
    followed = np.append(is_idle[begins[1:]], False) if len(begins) else np.empty(0, np.bool_)
    active = (ts_us[ends] - ts_us[begins]).astype(float)
    counts = followed & (active > 0)
    idle = np.flatnonzero(is_idle)
    of_active = moments(active[counts], of_flow[begins[counts]], num_flows)
    of_idle = moments(silence[idle].astype(float), of_flow[idle], num_flows)
    return {
        **dict(zip(_named("Active", _MOMENTS), of_active, strict=True)),
        **dict(zip(_named("Idle", _MOMENTS), of_idle, strict=True)),
    }
