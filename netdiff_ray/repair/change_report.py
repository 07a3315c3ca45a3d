"""The change report: every cell that repair changed, counted.

No rule counts its changes. The repaired rows are encoded as an nprint again and compared with
the drawn nprint cell by cell, so that every change is counted.

Shape letters: N flows, P packets, B bits, W = B / 8 words, F fields.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.fields import FIELD_NAMED, FIELDS
from netdiff_ray.flow_state import packet_states
from netdiff_ray.header_bytes import (
    ICMP_TYPE,
    IPPROTO_TCP,
    IPPROTO_UDP,
    ONES,
    TCP_HEADER_BYTES,
    TCP_OPT,
)
from netdiff_ray.nprint.codec import pack
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.rules.icmp import is_echo
from netdiff_ray.repair.rules.tcp_options import parse

ASSIGNED_FIELDS = (
    "ipv4_id", "ipv4_cksum", "ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst", "tcp_seq", "tcp_ackn",
    "tcp_cksum", "udp_cksum", "icmp_cksum",
)  # fmt: skip
"""Fields that the model does not answer for. Neither does it, packet by packet, for the client's
port, identifier and sequence number of ICMP queries, and the values of TCP timestamps."""

ASSIGNED, VALUE, PRESENCE = range(3)
"""Kinds of change: of an assigned cell; from 0 to 1 or back; from vacant or to it."""

_BLOCK = 1_024
"""Packets compared at a time, while they are in the processor's cache."""
_INDEX = {field.name: k for k, field in enumerate(FIELDS)}
_OPT, _ROH = _INDEX["tcp_opt"], _INDEX["icmp_roh"]
_PORTS = np.array([_INDEX[n] for n in ("tcp_sprt", "tcp_dprt", "udp_sport", "udp_dport")])
_PORT_CELLS, _ROH_CELLS = FIELD_NAMED["tcp_sprt"].width, FIELD_NAMED["icmp_roh"].width
_STAMP_VALUE_BYTES = 8
"""Bytes of a timestamps option's two values, behind its kind and length."""


class _Cells(NamedTuple):
    """Whose the cells of a layout are; a word is eight of them."""

    field_of: np.ndarray
    """(W, 8) int64: index in FIELDS."""
    whole: np.ndarray
    """(W,) bool: whether all eight are of one field."""
    byte_in_field: np.ndarray
    """(W,) int64: the word's byte in its field."""
    assigned: np.ndarray
    """(W,) bool: whether the field is one of ASSIGNED_FIELDS."""
    has_options: bool
    """Whether the layout has `tcp_opt`."""
    has_rest: bool
    """Whether the layout has `icmp_roh`."""


def change_report(batch: Batch, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Count the cells that repair changed, and those that the model answers for.

    Args:
        batch: after every rule and the checksums.

    Returns:
        (N, 3, F) int32 cells changed, by kind and field of FIELDS; (N,) int64 cells of
        the flow's rows that are not assigned.
    """
    changed = np.zeros((len(batch), 3, len(FIELDS)), np.int32)
    answerable = np.zeros(len(batch), np.int64)
    cells = _cells_of(layout)
    flow_of = np.repeat(np.arange(len(batch)), np.diff(batch.flows.starts))
    packets = batch.packets
    state = batch_states(batch, layout)
    for begin in range(0, len(packets.rows), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        rows, direction = packets.rows[block], packets.direction[block]
        repaired = pack(
            rows, layout, direction=direction, interarrival_ns=packets.interarrival_ns[block],
            state=None if state is None else state[block],
        )  # fmt: skip
        _compare(
            batch.drawn[block],
            repaired,
            rows,
            direction,
            flow_of[block],
            cells,
            changed,
            answerable,
        )
    return changed, answerable


def batch_states(batch: Batch, layout: Layout) -> np.ndarray | None:
    """Return what the repaired packets do in their flows, (P,) PACKET_STATE; None unless it is in
    the layout."""
    if not layout.has_state:
        return None
    packets = batch.packets
    return packet_states(
        packets.rows, packets.direction, packets.interarrival_ns, batch.flows.starts
    )


def _cells_of(layout: Layout) -> _Cells:
    widths = [FIELD_NAMED[name].width for name in layout.fields]
    field_of = np.repeat([_INDEX[name] for name in layout.fields], widths).reshape(-1, 8)
    whole = (field_of == field_of[:, :1]).all(axis=1)
    assigned = np.isin(field_of[:, 0], [_INDEX[name] for name in ASSIGNED_FIELDS])
    assert whole[assigned].all()
    return _Cells(
        field_of=field_of,
        whole=whole,
        byte_in_field=np.concatenate([np.arange(width) for width in widths])[::8] // 8,
        assigned=assigned,
        has_options="tcp_opt" in layout.fields,
        has_rest="icmp_roh" in layout.fields,
    )


@numba.njit(cache=True)
def _compare(before, after, rows, direction, flow_of, cells, changed, answerable):
    """Count into `changed` and `answerable`; `before` and `after` are (P, W) uint16."""
    transport, transport_len = rows["transport"], rows["transport_len"]
    version, protocol = rows["version"], rows["protocol"]
    always = 8 * (len(cells.assigned) - cells.assigned.sum())
    for i in range(len(flow_of)):
        f = flow_of[i]
        stamp_at = 0
        answers = always
        client = -1
        if protocol[i] == IPPROTO_TCP:
            length = np.int64(transport_len[i]) - TCP_HEADER_BYTES
            _, _, stamp_at = parse(transport, i, length)
            client = _PORTS[direction[i]]
            stamps = 8 * _STAMP_VALUE_BYTES if stamp_at and cells.has_options else 0
            answers -= _PORT_CELLS + stamps
        elif protocol[i] == IPPROTO_UDP:
            client = _PORTS[2 + direction[i]]
            answers -= _PORT_CELLS
        echo = client < 0 and is_echo(version[i], transport[i, ICMP_TYPE])
        if echo and cells.has_rest:
            answers -= _ROH_CELLS
        answerable[f] += answers
        stamp_value = stamp_at + 2 - TCP_OPT
        for k in range(len(cells.whole)):
            apart = before[i, k] ^ after[i, k]
            if apart == 0:
                continue
            moved = apart >> 8  # to or from vacant
            turned = apart & 255 & ~moved
            field = cells.field_of[k, 0]
            if not cells.whole[k]:
                for b in range(8):
                    cell = 128 >> b
                    changed[f, VALUE, cells.field_of[k, b]] += turned & cell != 0
                    changed[f, PRESENCE, cells.field_of[k, b]] += moved & cell != 0
                continue
            assigned = cells.assigned[k] or field == client or (echo and field == _ROH)
            if field == _OPT and stamp_at:
                byte = cells.byte_in_field[k]
                assigned |= stamp_value <= byte < stamp_value + _STAMP_VALUE_BYTES
            if assigned:
                changed[f, ASSIGNED, field] += ONES[turned | moved]
            else:
                changed[f, VALUE, field] += ONES[turned]
                changed[f, PRESENCE, field] += ONES[moved]
