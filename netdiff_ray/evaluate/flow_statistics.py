"""Statistics of whole flows, as NFStream (Aouini and Pekar, Computer Networks 204, 2022) has them.

Names and definitions are those of its core and statistical features with `accounting_mode=1`
(sizes of IP packets): counts, bytes, durations, sizes (ps) and inter-arrival times (piat) of
packets of both directions, from the client (src2dst) and to it (dst2src), and TCP flags.
Inter-arrival times of a direction are those between its packets; standard deviations are
those of a sample (n - 1), 0 for a single value; what a flow has none of is 0.

Shape letters: N flows, P packets, S statistics, F features, n values.
"""

import numpy as np

from netdiff_ray.evaluate.flow_view import VIEW, packet_sizes
from netdiff_ray.header_bytes import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from netdiff_ray.nprint import VACANT

_DIRECTIONS = ("bidirectional", "src2dst", "dst2src")
_MOMENTS = ("min", "mean", "stddev", "max")
_FLAGS = {
    "syn": "tcp_syn", "cwr": "tcp_cwr", "ece": "tcp_ece", "urg": "tcp_urg", "ack": "tcp_ackf",
    "psh": "tcp_psh", "rst": "tcp_rst", "fin": "tcp_fin",
}  # fmt: skip
STATISTICS = (
    "protocol",
    *(
        f"{direction}_{name}"
        for direction in _DIRECTIONS
        for name in (
            "packets", "bytes", "duration_ms", *(f"{m}_ps" for m in _MOMENTS),
            *(f"{m}_piat_ms" for m in _MOMENTS), *(f"{flag}_packets" for flag in _FLAGS),
        )
    ),
)  # fmt: skip
"""Sizes and bytes in bytes, times in milliseconds; `protocol` is the number of the transport."""

_SIDES = (("bidirectional", ""), ("src2dst", "_up"), ("dst2src", "_down"))
_FEATURE_OF = {
    **{f"{side}_packets": f"packets{end}" for side, end in _SIDES},
    **{f"{side}_bytes": f"bytes{end}" for side, end in _SIDES},
    "bidirectional_duration_ms": "duration_s", "bidirectional_mean_piat_ms": "iat_mean_s",
    "bidirectional_stddev_piat_ms": "iat_std_s", "bidirectional_max_piat_ms": "iat_max_s",
    "bidirectional_mean_ps": "size_mean", "bidirectional_stddev_ps": "size_std",
    "bidirectional_max_ps": "size_max", "src2dst_mean_ps": "size_up_mean",
    "src2dst_max_ps": "size_up_max", "dst2src_mean_ps": "size_down_mean",
    "dst2src_max_ps": "size_down_max",
    **{f"bidirectional_{flag}_packets": f"flags_{flag}"
       for flag in ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")},
}  # fmt: skip
FEATURES = tuple(_FEATURE_OF.values())
"""Those of the statistics whose distributions are compared. `up` is from the client; sizes and
bytes are those of IP packets, in bytes; inter-arrival times (iat) and duration in seconds; flags
are counts."""
_FEATURE_COLUMNS = np.array([STATISTICS.index(name) for name in _FEATURE_OF])
_FEATURE_UNITS = np.array([1e-3 if name.endswith("_s") else 1.0 for name in FEATURES])


def features_of(statistics: np.ndarray) -> np.ndarray:
    """Return the (N, F) float64 FEATURES of flows, from their (N, S) STATISTICS."""
    return statistics[:, _FEATURE_COLUMNS] * _FEATURE_UNITS


def flow_statistics(
    bits: np.ndarray, first: np.ndarray, direction: np.ndarray, interarrival_ns: np.ndarray
) -> np.ndarray:
    """Return the (N, S) float64 STATISTICS of flows.

    Args:
        bits: (P, C) int8 of the view, every packet.
        first: (N + 1,) int64; no flow is empty.
        direction: (P,) uint8, 0 from the client, 1 to it.
        interarrival_ns: (P,) int64; that of a flow's first packet does not count.
    """
    num_flows = len(first) - 1
    of_flow = np.repeat(np.arange(num_flows), np.diff(first))
    ts_ns = np.cumsum(interarrival_ns)
    size = packet_sizes(bits)
    columns = [_protocols(bits[first[:-1]])]
    for chosen in (None, direction == 0, direction != 0):
        packets = np.arange(len(bits)) if chosen is None else np.flatnonzero(chosen)
        flow = of_flow[packets]
        follows = np.flatnonzero(flow[1:] == flow[:-1]) + 1
        gaps_ms = (ts_ns[packets[follows]] - ts_ns[packets[follows - 1]]) / 1e6
        columns += [
            np.bincount(flow, minlength=num_flows),
            np.bincount(flow, size[packets], num_flows),
            np.bincount(flow[follows], gaps_ms, num_flows),
            *moments(size[packets], flow, num_flows),
            *moments(gaps_ms, flow[follows], num_flows),
        ]
        for field in _FLAGS.values():
            is_set = bits[packets, VIEW.offsets[field]] == 1
            columns.append(np.bincount(flow, is_set, num_flows))
    return np.stack(columns, axis=1).astype(np.float64)


def _protocols(bits: np.ndarray) -> np.ndarray:
    """Return the (N,) transport protocols of packets, by which header they have; 0 for none."""
    protocol = np.zeros(len(bits), np.int64)
    is_6 = bits[:, VIEW.offsets["ipv6_len"]] != VACANT
    for field, number in (
        ("icmp_type", np.where(is_6, IPPROTO_ICMPV6, IPPROTO_ICMP)),
        ("udp_len", IPPROTO_UDP),
        ("tcp_doff", IPPROTO_TCP),
    ):
        has = bits[:, VIEW.offsets[field]] != VACANT
        protocol = np.where(has, number, protocol)
    return protocol


def moments(values: np.ndarray, flow: np.ndarray, num_flows: int) -> list[np.ndarray]:
    """Return least, mean, standard deviation and largest of each flow's values, (N,) each.

    Args:
        values: (n,) float64.
        flow: (n,) int64, ascending.
        num_flows: N.
    """
    count = np.bincount(flow, minlength=num_flows)
    mean = np.bincount(flow, values, num_flows) / np.maximum(count, 1)
    squares = np.bincount(flow, (values - mean[flow]) ** 2, num_flows)
    least, largest = np.zeros(num_flows), np.zeros(num_flows)
    if len(values):
        begins = np.flatnonzero(np.diff(flow, prepend=-1))
        least[flow[begins]] = np.minimum.reduceat(values, begins)
        largest[flow[begins]] = np.maximum.reduceat(values, begins)
    return [least, mean, np.sqrt(squares / np.maximum(count - 1, 1)), largest]
