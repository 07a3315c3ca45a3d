"""The common view of flows, whatever they came from: what every measure compares.

Of each packet the columns count that say something of its behaviour by itself: direction, time and
header bits, but no addresses, ports, identifiers, sequence numbers or checksums. What it does in
its flow, such as to send again, is measured from flows (see `conversation`).

Shape letters: P packets, C columns of the view.
"""

import numpy as np

from netdiff_ray.header_bytes import IPV6_HEADER_BYTES
from netdiff_ray.nprint import VACANT, Layout, decode, encode, layout_named
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, STATE_FIELDS

WIDE = Layout(
    "wide", tuple(n for n in layout_named(DEFAULT_LAYOUT).fields if n not in STATE_FIELDS),
    zeroes_assigned=True,
)  # fmt: skip
"""The fields that sources are brought into, those of the view and ports."""
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
VIEW = Layout("view", tuple(n for n in WIDE.fields if n not in IDENTIFYING), zeroes_assigned=True)
"""The columns that the measures see."""
MAX_PACKETS = 128
"""Packets of a flow whose bits a block holds; statistics count all of them."""


def is_wide(layout: Layout) -> bool:
    """Return whether rows of a layout hold the fields of WIDE, as they stand there."""
    return layout.zeroes_assigned and set(WIDE.fields) <= set(layout.fields)


def wide_cells(
    nprint: np.ndarray, layout: Layout, direction: np.ndarray, interarrival_ns: np.ndarray
) -> np.ndarray:
    """Return the cells of packets in layout WIDE, by way of header bytes unless it `is_wide`.

    Args:
        nprint: (P, B) int8.
        layout: of B columns.
        direction: (P,) uint8, 0 from the client, 1 to it.
        interarrival_ns: (P,) int64 since the flow's packet before.
    """
    if is_wide(layout):
        return nprint[:, layout.indices(WIDE.fields)]
    rows, _, _ = decode(nprint, layout)
    return encode(rows, WIDE, direction=direction, interarrival_ns=interarrival_ns)


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
