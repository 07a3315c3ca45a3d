"""The field table: every field, in wire order, with its width in bits.

Names of header fields are nPrint's, verbatim. Each offset, layout, rule and test
of the package derives from this table.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """One field of a header."""

    name: str
    """As nPrint spells it, without the bit number."""
    width: int
    """Bits."""
    header: str
    """One of HEADERS."""

    @property
    def needs(self) -> str:
        """The header, one of HEADERS, without which the cells are vacant."""
        return "tcp" if self.name in _OF_TCP else self.header


HEADERS = ("flow", "ipv4", "ipv6", "tcp", "udp", "icmp")
"""The headers in nprint order. `flow` is what no header of the packet alone holds: direction, time,
and what the packet does in its flow (see `flow_state`)."""

_OF_TCP = (
    "flow_retransmission", "flow_sequence_hole", "flow_acknowledged", "flow_same_window",
)  # fmt: skip

_WIDTHS = {
    "flow": {
        "flow_retransmission": 4, "flow_sequence_hole": 4, "flow_acknowledged": 16,
        "flow_direction": 8, "flow_interarrival": 24, "flow_same_length": 8,
        "flow_same_window": 8, "flow_same_gap": 8,
    },
    "ipv4": {
        "ipv4_ver": 4, "ipv4_hl": 4, "ipv4_tos": 8, "ipv4_tl": 16, "ipv4_id": 16,
        "ipv4_rbit": 1, "ipv4_dfbit": 1, "ipv4_mfbit": 1, "ipv4_foff": 13, "ipv4_ttl": 8,
        "ipv4_proto": 8, "ipv4_cksum": 16, "ipv4_src": 32, "ipv4_dst": 32, "ipv4_opt": 320,
    },
    "ipv6": {
        "ipv6_ver": 4, "ipv6_tc": 8, "ipv6_fl": 20, "ipv6_len": 16, "ipv6_nh": 8,
        "ipv6_hl": 8, "ipv6_src": 128, "ipv6_dst": 128,
    },
    "tcp": {
        "tcp_sprt": 16, "tcp_dprt": 16, "tcp_seq": 32, "tcp_ackn": 32, "tcp_doff": 4,
        "tcp_res": 3, "tcp_ns": 1, "tcp_cwr": 1, "tcp_ece": 1, "tcp_urg": 1, "tcp_ackf": 1,
        "tcp_psh": 1, "tcp_rst": 1, "tcp_syn": 1, "tcp_fin": 1, "tcp_wsize": 16,
        "tcp_cksum": 16, "tcp_urp": 16, "tcp_opt": 320,
    },
    "udp": {"udp_sport": 16, "udp_dport": 16, "udp_len": 16, "udp_cksum": 16},
    "icmp": {"icmp_type": 8, "icmp_code": 8, "icmp_cksum": 16, "icmp_roh": 32},
}  # fmt: skip

FIELDS: tuple[Field, ...] = tuple(
    Field(name, width, header) for header in HEADERS for name, width in _WIDTHS[header].items()
)
"""Every field: headers in nprint order, fields of a header in wire order."""

HEADER_BITS: dict[str, int] = {header: sum(_WIDTHS[header].values()) for header in HEADERS}
"""Bits of each whole header."""

BIT_IN_HEADER: dict[str, int] = {
    field.name: sum(before.width for before in FIELDS[:i] if before.header == field.header)
    for i, field in enumerate(FIELDS)
}
"""Offset of each field in its header, in bits from the first on the wire."""

FIELD_NAMED: dict[str, Field] = {field.name: field for field in FIELDS}
"""Field by name."""
