"""The account: every cell that repair changed, measured.

No rule reports on itself. The repaired rows are written as an nprint again and compared with
the drawn one cell by cell, so that nothing a rule does can go uncounted.

Shape letters: N flows, P packets, B bits, W = B / 8 words, F fields.
"""

import numba
import numpy as np

from netdiff_ray.fields import FIELD_NAMED, FIELDS
from netdiff_ray.header_bytes import ICMP_TYPE, ONES
from netdiff_ray.nprint.codec import pack
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.rules.icmp import is_echo
from netdiff_ray.repair.rules.tcp_options import parse

ASSIGNED_FIELDS = (
    "ipv4_id", "ipv4_cksum", "ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst", "tcp_seq", "tcp_ackn",
    "tcp_cksum", "udp_cksum", "icmp_cksum",
)  # fmt: skip
"""Never the model's to draw. Neither are, packet by packet: the client's port, identifier
and sequence number of ICMP queries, and the values of TCP timestamps."""

ASSIGNED, VALUE, PRESENCE = range(3)
"""Kinds of change: of an assigned cell; from 0 to 1 or back; from vacant or to it."""

_BLOCK = 1_024
"""Packets compared at a time, while they are in the processor's cache."""
_INDEX = {field.name: k for k, field in enumerate(FIELDS)}
_OPT, _ROH = _INDEX["tcp_opt"], _INDEX["icmp_roh"]
_PORTS = np.array([_INDEX[n] for n in ("tcp_sprt", "tcp_dprt", "udp_sport", "udp_dport")])


def account(batch: Batch, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The cells that repair changed, and those that the model answers for.

    Args:
        batch: after every rule and the checksums.

    Returns:
        (N, 3, F) int32 cells changed, by kind and field of FIELDS; (N,) int64 cells of
        the kept rows that are not assigned.
    """
    changed = np.zeros((len(batch), 3, len(FIELDS)), np.int32)
    answerable = np.zeros(len(batch), np.int64)
    field_of = np.repeat(
        [_INDEX[name] for name in layout.fields], [FIELD_NAMED[n].width for n in layout.fields]
    )
    field_of = field_of.reshape(-1, 8)
    whole = (field_of == field_of[:, :1]).all(axis=1)
    bit_in_field = np.concatenate([np.arange(FIELD_NAMED[n].width) for n in layout.fields])
    assigned = np.isin(field_of[:, 0], [_INDEX[name] for name in ASSIGNED_FIELDS])
    assert whole[assigned].all()
    holds = np.isin(["tcp_opt", "icmp_roh"], layout.fields)
    flow_of = np.repeat(np.arange(len(batch)), np.diff(batch.flow_starts))
    for begin in range(0, len(batch.rows), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        rows = batch.rows[block]
        repaired = pack(
            rows, layout, direction=batch.direction[block],
            interarrival_ns=batch.interarrival_ns[block],
        )  # fmt: skip
        _compare(
            batch.drawn[block], repaired, flow_of[block], batch.direction[block],
            rows["version"], rows["protocol"], rows["transport"], rows["transport_len"],
            field_of, whole, bit_in_field[::8] // 8, assigned, _PORTS, _OPT, _ROH, holds, changed,
            answerable,
        )  # fmt: skip
    return changed, answerable


@numba.njit(cache=True)
def _compare(
    before, after, flow_of, direction, version, protocol, transport, transport_len, field_of,
    whole, byte_in_field, assigned, ports, opt, roh, holds, changed, answerable,
):  # fmt: skip
    """Count into `changed` and `answerable`. Of each word of eight cells, `field_of` (W, 8) says
    whose they are, `whole` whether all are of one field, and `byte_in_field` where in it."""
    always = 8 * (len(assigned) - assigned.sum())
    for i in range(len(flow_of)):
        f = flow_of[i]
        stamp_at = 0
        answers = always
        client = -1
        if protocol[i] == 6:
            _, _, stamp_at = parse(transport, i, np.int64(transport_len[i]) - 20)
            client = ports[direction[i]]
            answers -= 16 + (64 if stamp_at and holds[0] else 0)
        elif protocol[i] == 17:
            client = ports[2 + direction[i]]
            answers -= 16
        echo = client < 0 and is_echo(version[i], transport[i, ICMP_TYPE])
        if echo and holds[1]:
            answers -= 32
        answerable[f] += answers
        for k in range(len(whole)):
            apart = before[i, k] ^ after[i, k]
            if apart == 0:
                continue
            moved = apart >> 8  # to or from vacant
            turned = apart & 255 & ~moved
            field = field_of[k, 0]
            if not whole[k]:
                for b in range(8):
                    cell = 128 >> b
                    changed[f, VALUE, field_of[k, b]] += turned & cell != 0
                    changed[f, PRESENCE, field_of[k, b]] += moved & cell != 0
                continue
            planned = assigned[k] or field == client or (echo and field == roh)
            if field == opt and stamp_at:
                planned |= stamp_at + 2 <= 20 + byte_in_field[k] < stamp_at + 10
            if planned:
                changed[f, ASSIGNED, field] += ONES[turned | moved]
            else:
                changed[f, VALUE, field] += ONES[turned]
                changed[f, PRESENCE, field] += ONES[moved]
