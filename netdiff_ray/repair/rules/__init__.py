"""The rules, in the order in which they are applied.

A rule is a function of the batch, the context and the layout that writes into the batch. It is
named after what it settles, and owns the fields that only it writes. No rule counts its changes:
the change report compares the repaired rows with the drawn ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

from netdiff_ray.fields import FIELDS
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.copy_times import copy_times
from netdiff_ray.repair.rules.flow import direction, time
from netdiff_ray.repair.rules.icmp import icmp, icmp_rest
from netdiff_ray.repair.rules.kinds import kinds
from netdiff_ray.repair.rules.lengths import lengths
from netdiff_ray.repair.rules.network import header, lifetime
from netdiff_ray.repair.rules.pace import pace
from netdiff_ray.repair.rules.plan import plan
from netdiff_ray.repair.rules.ports import addresses, ports
from netdiff_ray.repair.rules.profile import profile
from netdiff_ray.repair.rules.tcp_connection import tcp_close, tcp_open
from netdiff_ray.repair.rules.tcp_numbers import tcp_numbers, tcp_timestamps
from netdiff_ray.repair.rules.tcp_options import tcp_options
from netdiff_ray.repair.rules.tcp_path import tcp_path
from netdiff_ray.repair.rules.tcp_window import tcp_window


@dataclass(frozen=True)
class Rule:
    """A rule and the fields that it owns."""

    apply: Callable[[Batch, RepairContext, Layout], None]
    fields: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name in the change report."""
        return self.apply.__name__

    @property
    def columns(self) -> list[int]:
        """Positions of its fields in FIELDS."""
        return [k for k, field in enumerate(FIELDS) if field.name in self.fields]


RULES: tuple[Rule, ...] = (
    Rule(direction, ("flow_direction",)),
    Rule(pace, ()),
    Rule(profile, ()),
    Rule(plan, ()),
    Rule(time, ("flow_interarrival", "flow_same_gap")),
    Rule(ports, ("tcp_sprt", "tcp_dprt", "udp_sport", "udp_dport")),
    Rule(kinds, ()),
    Rule(tcp_open, ("tcp_syn", "tcp_ackf", "tcp_rst", "tcp_res", "tcp_ns")),
    Rule(tcp_options, ("tcp_doff", "tcp_opt")),
    Rule(icmp, ("icmp_type", "icmp_code")),
    Rule(lengths, ("ipv4_tl", "ipv6_len", "udp_len", "flow_same_length")),
    Rule(icmp_rest, ("icmp_roh",)),
    Rule(tcp_close, ("tcp_fin", "tcp_urg", "tcp_urp", "tcp_psh", "tcp_ece", "tcp_cwr")),
    Rule(copy_times, ()),
    Rule(tcp_path, ()),
    Rule(
        tcp_numbers,
        (
            "tcp_seq", "tcp_ackn", "flow_retransmission", "flow_sequence_hole",
            "flow_acknowledged",
        ),
    ),
    Rule(tcp_window, ("tcp_wsize", "flow_same_window")),
    Rule(tcp_timestamps, ()),
    Rule(
        header,
        (
            "ipv4_ver", "ipv4_hl", "ipv4_tos", "ipv4_id", "ipv4_rbit", "ipv4_dfbit", "ipv4_mfbit",
            "ipv4_foff", "ipv4_proto", "ipv4_opt", "ipv6_ver", "ipv6_tc", "ipv6_nh",
        ),
    ),
    Rule(lifetime, ("ipv4_ttl", "ipv6_hl", "ipv6_fl")),
    Rule(addresses, ("ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst")),
)  # fmt: skip
"""Each field of the table has one owner; `serialise` writes the checksums last."""
