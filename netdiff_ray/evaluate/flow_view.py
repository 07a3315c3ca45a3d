"""The common view of flows, whatever they came from: what every measure compares.

Of each packet the columns of layout `timed` count that say something of behaviour: no
ports, identifiers or sequence numbers (addresses and checksums are not in that layout).
Of each flow, features over all its packets.

Shape letters: N flows, P packets, C columns of the view, F features.
"""

import numpy as np

from netdiff_ray.header_bytes import IPV6_HEADER_BYTES
from netdiff_ray.nprint import FIELDS, VACANT, Layout, layout_named

WIDE = layout_named("timed")
"""The layout that every source is brought into."""
IDENTIFYING = frozenset(
    {
        "tcp_sprt", "tcp_dprt", "udp_sport", "udp_dport",  # ports
        "ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst",  # addresses
        "ipv4_id", "ipv6_fl", "icmp_roh",  # identifiers; the last with echo's sequence number
        "ipv4_cksum", "tcp_cksum", "udp_cksum", "icmp_cksum",  # checksums
        "tcp_seq", "tcp_ackn",  # sequence numbers
    }
)  # fmt: skip
"""Fields that tell which flow it is, not what kind; no measure sees them."""
VIEW = Layout(
    "view", tuple(f.name for f in FIELDS if f.name in WIDE.offsets and f.name not in IDENTIFYING),
    zeroes_assigned=True,
)  # fmt: skip
"""The columns that the measures see."""
VIEW_COLUMNS = np.concatenate([np.arange(WIDE.width)[WIDE.columns(n)] for n in VIEW.fields])
"""(C,) int64: where each column of the view stands in `timed`."""
MAX_PACKETS = 128
"""Packets of a flow whose bits a block holds; features count all of them."""

_FLAGS = ("fin", "syn", "rst", "psh", "ackf", "urg", "ece", "cwr")
_TIMES = ("duration_s", "iat_mean_s", "iat_std_s", "iat_max_s")
FEATURES = (
    "packets", "packets_up", "packets_down", "bytes", "bytes_up", "bytes_down", *_TIMES,
    "size_mean", "size_std", "size_max", "size_up_mean", "size_up_max", "size_down_mean",
    "size_down_max", *(f"flags_{flag}" for flag in _FLAGS),
)  # fmt: skip
"""Features of a flow. `up` is from the client; sizes and bytes are those of IP packets, in
bytes; inter-arrival times (iat) and duration in seconds; flags are counts."""


def field_values(bits: np.ndarray, field: str) -> np.ndarray:
    """Return the (P,) uint64 values of a field of at most 64 bits; vacant is 0."""
    columns = bits[:, VIEW.columns(field)] == 1
    width = columns.shape[1]
    weights = np.uint64(1) << np.arange(width - 1, -1, -1, dtype=np.uint64)
    return columns.astype(np.uint64) @ weights


def packet_sizes(bits: np.ndarray) -> np.ndarray:
    """Return the (P,) float64 bytes of IP packets by their length fields (RFC 791, RFC 8200)."""
    is_6 = bits[:, VIEW.offsets["ipv6_len"]] != VACANT
    return np.where(
        is_6, IPV6_HEADER_BYTES + field_values(bits, "ipv6_len"), field_values(bits, "ipv4_tl")
    ).astype(np.float64)


def flow_features(
    bits: np.ndarray, first: np.ndarray, direction: np.ndarray, interarrival_ns: np.ndarray
) -> np.ndarray:
    """Return the (N, F) float64 FEATURES of flows.

    Args:
        bits: (P, C) int8 of the view, every packet.
        first: (N + 1,) int64; no flow is empty.
        direction: (P,) uint8, 0 from the client, 1 to it.
        interarrival_ns: (P,) int64; that of a flow's first packet does not count.
    """
    if len(first) == 1:
        return np.zeros((0, len(FEATURES)))
    up = direction == 0
    columns = _size_features(packet_sizes(bits), first, up) | _time_features(interarrival_ns, first)
    for flag in _FLAGS:
        is_set = bits[:, VIEW.offsets[f"tcp_{flag}"]] == 1
        columns[f"flags_{flag}"] = np.add.reduceat(is_set.astype(np.float64), first[:-1])
    return np.stack([columns[name] for name in FEATURES], axis=1)


def _size_features(size: np.ndarray, first: np.ndarray, up: np.ndarray) -> dict[str, np.ndarray]:
    """Return the features of counts and sizes.

    Args:
        size: (P,) float64 bytes of each packet.
        first: (N + 1,) int64.
        up: (P,) bool, whether a packet is from the client.
    """
    begins = first[:-1]
    count = np.diff(first).astype(np.float64)
    count_up = np.add.reduceat(up.astype(np.float64), begins)
    count_down = count - count_up
    bytes_all, bytes_up = np.add.reduceat(size, begins), np.add.reduceat(size * up, begins)
    mean = bytes_all / count
    square = (size - np.repeat(mean, np.diff(first))) ** 2
    return {
        "packets": count,
        "packets_up": count_up,
        "packets_down": count_down,
        "bytes": bytes_all,
        "bytes_up": bytes_up,
        "bytes_down": bytes_all - bytes_up,
        "size_mean": mean,
        "size_std": np.sqrt(np.add.reduceat(square, begins) / count),
        "size_max": np.maximum.reduceat(size, begins),
        "size_up_mean": bytes_up / np.maximum(count_up, 1),
        "size_up_max": np.maximum.reduceat(size * up, begins),
        "size_down_mean": (bytes_all - bytes_up) / np.maximum(count_down, 1),
        "size_down_max": np.maximum.reduceat(size * ~up, begins),
    }


def _time_features(interarrival_ns: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
    """Return the features of (P,) int64 inter-arrival times, in seconds."""
    begins = first[:-1]
    gap_s = interarrival_ns / 1e9
    gap_s[begins] = 0.0
    duration_s = np.add.reduceat(gap_s, begins)
    num_gaps = np.maximum(np.diff(first).astype(np.float64) - 1, 1)
    mean = duration_s / num_gaps
    is_gap = np.ones(len(gap_s), np.bool_)
    is_gap[begins] = False
    square = (gap_s - np.repeat(mean, np.diff(first))) ** 2 * is_gap
    return {
        "duration_s": duration_s,
        "iat_mean_s": mean,
        "iat_std_s": np.sqrt(np.add.reduceat(square, begins) / num_gaps),
        "iat_max_s": np.maximum.reduceat(gap_s, begins),
    }
