"""The common view of flows, whatever they came from: what every measure compares.

Of each packet the columns of layout `timed` count that say something of behaviour: no
ports, identifiers or sequence numbers (addresses and checksums are not in that layout).

Shape letters: P packets, C columns of the view.
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
"""Packets of a flow whose bits a block holds; statistics count all of them."""


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
