"""The account: every cell that repair changed, measured.

No rule reports on itself. The repaired rows are encoded again and compared with the
drawn matrix cell by cell, so that nothing a rule does can go uncounted.

Shape letters: N flows, P packets, B bits, F fields.
"""

import numba
import numpy as np

from netdiff_ray.nprint.codec import encode
from netdiff_ray.nprint.fields import FIELD_NAMED, FIELDS
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch, Drawn
from netdiff_ray.repair.bits import ICMP_TYPE
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

_BLOCK = 4_096
_INDEX = {field.name: k for k, field in enumerate(FIELDS)}
_OPT, _ROH = _INDEX["tcp_opt"], _INDEX["icmp_roh"]
_PORTS = np.array([_INDEX[n] for n in ("tcp_sprt", "tcp_dprt", "udp_sport", "udp_dport")])


def account(
    drawn: Drawn, batch: Batch, layout: Layout, after: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The cells that repair changed, and those that the model answers for.

    Args:
        after: scratch, (_BLOCK or more, B) int8.

    Returns:
        (N, 3, F) int32 cells changed, by kind and field of FIELDS; (N,) int64 cells of
        the kept rows that are not assigned.
    """
    changed = np.zeros((len(batch), 3, len(FIELDS)), np.int32)
    answerable = np.zeros(len(batch), np.int64)
    field_of = np.repeat(
        [_INDEX[name] for name in layout.fields], [FIELD_NAMED[n].width for n in layout.fields]
    )
    column_in_field = np.concatenate([np.arange(FIELD_NAMED[n].width) for n in layout.fields])
    assigned = np.isin(field_of, [_INDEX[name] for name in ASSIGNED_FIELDS])
    flow_of = np.repeat(np.arange(len(batch)), np.diff(batch.flow_starts))
    if after is None:
        after = np.empty((_BLOCK, layout.width), np.int8)
    words = drawn.cells.view(np.uint64)
    for begin in range(0, len(batch.rows), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        rows = batch.rows[block]
        repaired = encode(
            rows, layout, direction=batch.direction[block],
            interarrival_ns=batch.interarrival_ns[block], out=after,
        )  # fmt: skip
        _compare(
            words, repaired.view(np.uint64), batch.drawn_row[block], flow_of[block],
            batch.direction[block], rows["version"], rows["protocol"], rows["transport"],
            rows["transport_len"], field_of, column_in_field, assigned, _PORTS, _OPT, _ROH,
            np.isin(["tcp_opt", "icmp_roh"], layout.fields), changed, answerable,
        )  # fmt: skip
    return changed, answerable


@numba.njit(cache=True)
def _compare(
    before, after, drawn_row, flow_of, direction, version, protocol, transport, transport_len,
    field_of, column_in_field, assigned, ports, opt, roh, holds, changed, answerable,
):  # fmt: skip
    width = after.shape[1]
    always = width * 8 - assigned.sum()
    for i in range(len(flow_of)):
        f = flow_of[i]
        stamp_at = 0
        own = always
        client = -1
        if protocol[i] == 6:
            _, _, stamp_at = parse(transport, i, np.int64(transport_len[i]) - 20)
            client = ports[direction[i]]
            own -= 16 + (64 if stamp_at and holds[0] else 0)
        elif protocol[i] == 17:
            client = ports[2 + direction[i]]
            own -= 16
        echo = client < 0 and is_echo(version[i], transport[i, ICMP_TYPE])
        if echo and holds[1]:
            own -= 32
        answerable[f] += own
        for k in range(width):
            apart = before[drawn_row[i], k] ^ after[i, k]
            if apart == 0:
                continue
            for b in range(8):
                shift = np.uint64(8 * b)
                if (apart >> shift) & np.uint64(255) == 0:
                    continue
                column = 8 * k + b
                field = field_of[column]
                kind = VALUE
                if ((before[drawn_row[i], k] | after[i, k]) >> shift) & np.uint64(128):
                    kind = PRESENCE
                if assigned[column] or field == client or (echo and field == roh):
                    kind = ASSIGNED
                elif field == opt and stamp_at:
                    byte = 20 + column_in_field[column] // 8
                    if stamp_at + 2 <= byte < stamp_at + 10:
                        kind = ASSIGNED
                changed[f, kind, field] += 1
