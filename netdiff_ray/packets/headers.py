"""Header rows: the captured header bytes of each packet, payloads left behind.

A header row is what the codec, the flows and a shuffle between machines carry.
Shape letters: P packets.
"""

import numba
import numpy as np

from netdiff_ray.dialogue.recognise import recognise
from netdiff_ray.header_bytes import (
    DPORT,
    ICMP_HEADER_BYTES,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_HL,
    IPV4_TL,
    IPV6_HEADER_BYTES,
    IPV6_LEN,
    MAX_HEADER_BYTES,
    SPORT,
    TCP_DOFF,
    TCP_HEADER_BYTES,
    UDP_HEADER_BYTES,
    u16,
)
from netdiff_ray.packets.table import PacketTable

HEADER_ROW = np.dtype(
    [
        ("ts_ns", "<i8"),
        ("wirelen", "<u4"),
        ("fragment_id", "<u4"),
        ("network", "u1", (MAX_HEADER_BYTES,)),
        ("transport", "u1", (MAX_HEADER_BYTES,)),
        ("network_len", "u1"),
        ("transport_len", "u1"),
        ("version", "u1"),
        ("protocol", "u1"),
        ("fragment", "u1"),
        ("sign", "u1"),
        ("duplicate_hops", "i1"),
        ("duplicates", "u1"),
        ("duplicate_ns", "u4"),
    ],
    align=True,
)
"""One packet: its time (ns), wire length (bytes), IP header and transport header bytes
with how many of each were captured (0 without a header; bytes past them are 0),
IP version, protocol after the extension headers, `fragment` as in `PacketTable`, which of
`dialogue.recognise.SIGNS` its payload shows, 0 for none, and, settled by `packets.duplicates`, how
often it was captured again, how many routers nearer its target, and how much later (ns)."""


def header_rows(table: PacketTable) -> np.ndarray:
    """Return the rows of the packets in `table` that have an IP header.

    Returns:
        (P,) HEADER_ROW in capture order, P <= len(table), a copy.
    """
    chosen = np.flatnonzero(table.reason == 0)
    rows = np.empty(len(chosen), HEADER_ROW)
    _fill(chosen, table.data, table.columns, rows)
    return rows


@numba.njit(cache=True)
def _fill(chosen, data, columns, rows):
    """Write records `chosen` (P,) of RecordColumns into `rows`, with the signs of whole packets."""
    for k in range(len(chosen)):
        i = chosen[k]
        row = rows[k]
        row.ts_ns = columns.ts_ns[i]
        row.wirelen = min(columns.wirelen[i], 0xFFFFFFFF)
        row.fragment_id = columns.fragment_id[i]
        row.version = columns.version[i]
        row.protocol = columns.protocol[i]
        row.fragment = columns.fragment[i]
        row.duplicate_hops = 0
        row.duplicates = 0
        row.duplicate_ns = 0
        begin = columns.start[i]
        end = begin + columns.caplen[i]
        at = begin + columns.network[i]
        length = IPV6_HEADER_BYTES
        if columns.version[i] == 4:
            length = np.int64(data[at + IPV4_HL] & 15) * 4
        length = min(length, end - at)
        into = row.network
        for j in range(length):
            into[j] = data[at + j]
        for j in range(length, MAX_HEADER_BYTES):
            into[j] = 0
        row.network_len = length
        length = 0
        into = row.transport
        if columns.transport[i] >= 0:
            at = begin + columns.transport[i]
            length = max(min(_transport_bytes(data, at, end, columns.protocol[i]), end - at), 0)
            for j in range(length):
                into[j] = data[at + j]
        for j in range(length, MAX_HEADER_BYTES):
            into[j] = 0
        row.transport_len = length
        row.sign = 0
        if columns.transport[i] >= 0 and columns.fragment[i] == 0 and length > DPORT + 1:
            ports = (u16(into, SPORT), u16(into, DPORT))
            size = _packet_bytes(row.network, columns.version[i])
            if size:  # else left to the network card
                end = min(end, begin + columns.network[i] + size)
            row.sign = recognise(data, at + length, end, columns.protocol[i], ports)


@numba.njit(cache=True)
def _packet_bytes(network, version):
    """Return the length of an IP packet as its header says, behind which Ethernet may pad; 0 if it
    says none."""
    if version == 4:
        return u16(network, IPV4_TL)
    length = u16(network, IPV6_LEN)
    return length + IPV6_HEADER_BYTES if length else 0


@numba.njit(cache=True)
def _transport_bytes(data, at, end, protocol):
    """Return the length of the transport header at data[at], as its data offset says if TCP."""
    if protocol == IPPROTO_UDP:
        return UDP_HEADER_BYTES
    if protocol != IPPROTO_TCP:
        return ICMP_HEADER_BYTES
    if at + TCP_DOFF < end:
        return np.int64(data[at + TCP_DOFF] >> 4) * 4
    return TCP_HEADER_BYTES
