"""Header rows: the captured header bytes of each packet, payloads left behind.

A header row is what the codec, the flows and a shuffle between machines carry.
Shape letters: P packets.
"""

import numba
import numpy as np

from netdiff_ray.packets.table import PacketTable

HEADER_ROW = np.dtype(
    [
        ("ts_ns", "<i8"),
        ("wirelen", "<u4"),
        ("fragment_id", "<u4"),
        ("network", "u1", (60,)),
        ("transport", "u1", (60,)),
        ("network_len", "u1"),
        ("transport_len", "u1"),
        ("version", "u1"),
        ("protocol", "u1"),
        ("fragment", "u1"),
    ],
    align=True,
)
"""One packet: its time (ns), wire length (bytes), IP header and transport header bytes
with how many of each were captured (0 where there is no header; bytes past them are 0),
IP version, protocol after the extension headers, and `fragment` as in `PacketTable`."""


def header_rows(table: PacketTable) -> np.ndarray:
    """The rows of the packets in `table` that have an IP header.

    Returns:
        (P,) HEADER_ROW in capture order, P <= len(table), memory of its own.
    """
    chosen = np.flatnonzero(table.reason == 0)
    rows = np.empty(len(chosen), HEADER_ROW)
    _fill(
        chosen, table.data, table.start, table.caplen, table.wirelen, table.ts_ns,
        table.network, table.transport, table.version, table.protocol, table.fragment,
        table.fragment_id, rows,
    )  # fmt: skip
    return rows


@numba.njit(cache=True)
def _fill(
    chosen, data, start, caplen, wirelen, ts_ns, network, transport, version, protocol,
    fragment, fragment_id, rows,
):  # fmt: skip
    for k in range(len(chosen)):
        i = chosen[k]
        row = rows[k]
        row.ts_ns = ts_ns[i]
        row.wirelen = min(wirelen[i], 0xFFFFFFFF)
        row.fragment_id = fragment_id[i]
        row.version = version[i]
        row.protocol = protocol[i]
        row.fragment = fragment[i]
        begin = start[i]
        end = begin + caplen[i]
        at = begin + network[i]
        length = 40
        if version[i] == 4:
            length = np.int64(data[at] & 15) * 4
        length = min(length, end - at)
        into = row.network
        for j in range(length):
            into[j] = data[at + j]
        for j in range(length, 60):
            into[j] = 0
        row.network_len = length
        length = 0
        into = row.transport
        if transport[i] >= 0:
            at = begin + transport[i]
            if protocol[i] != 6:
                length = 8
            elif at + 12 < end:
                length = np.int64(data[at + 12] >> 4) * 4
            else:
                length = 20
            length = max(min(length, end - at), 0)
            for j in range(length):
                into[j] = data[at + j]
        for j in range(length, 60):
            into[j] = 0
        row.transport_len = length
