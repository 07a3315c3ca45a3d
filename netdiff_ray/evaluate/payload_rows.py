"""Header rows with what the payload of each packet begins with.

Shape letters: P packets, B bytes.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    DPORT,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_TL,
    IPV6_HEADER_BYTES,
    IPV6_LEN,
    SPORT,
    TCP_DOFF,
    UDP_HEADER_BYTES,
)
from netdiff_ray.packets import HEADER_ROW, PacketTable, header_rows

HEAD_BYTES = 24
DNS_PORT = 53
_DNS_HEADER_BYTES = 12
_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)

PAYLOAD_ROW = np.dtype(
    [
        *((name, HEADER_ROW.fields[name][0]) for name in HEADER_ROW.names),
        ("payload_bytes", "<u4"),
        ("head_bytes", "u1"),
        ("head", "u1", (HEAD_BYTES,)),
        ("name_hash", "<u8"),
    ],
    align=True,
)
"""HEADER_ROW with the bytes after the transport header as the IP header counts them, the first
of them as captured and how many of these, and a hash (FNV-1a) of the name that a DNS message
over UDP asks for, in lower case (0 without one)."""


def payload_rows(table: PacketTable) -> np.ndarray:
    """Return (P,) PAYLOAD_ROW of the packets that have an IP header, a copy."""
    rows = header_rows(table)
    result = np.zeros(len(rows), PAYLOAD_ROW)
    for name in HEADER_ROW.names:
        result[name] = rows[name]
    _fill_payloads(np.flatnonzero(table.reason == 0), table.data, table.columns, result)
    return result


@numba.njit(cache=True)
def _fill_payloads(chosen, data, columns, rows):
    """Write the payload fields of records `chosen` (P,) of RecordColumns into PAYLOAD_ROW."""
    for k in range(len(chosen)):
        i = chosen[k]
        row = rows[k]
        if columns.transport[i] < 0 or row.transport_len < UDP_HEADER_BYTES:
            continue
        start = columns.start[i]
        captured = start + columns.caplen[i]
        network = start + columns.network[i]
        at = start + columns.transport[i] + UDP_HEADER_BYTES
        if row.protocol == IPPROTO_TCP:
            if row.transport_len <= TCP_DOFF:
                continue
            at = start + columns.transport[i] + np.int64(row.transport[TCP_DOFF] >> 4) * 4
        end = network + _packet_bytes(row.version, data, network, captured)
        if end == network:  # left to the network card
            end = start + columns.wirelen[i]
        row.payload_bytes = max(end - at, 0)
        size = max(min(end, captured) - at, 0)
        row.head_bytes = min(size, HEAD_BYTES)
        head = row.head
        for j in range(row.head_bytes):
            head[j] = data[at + j]
        if row.protocol == IPPROTO_UDP and _has_port(row.transport, DNS_PORT):
            row.name_hash = _name_hash(data, at + _DNS_HEADER_BYTES, at + size)


@numba.njit(cache=True)
def _packet_bytes(version, data, at, captured):
    """Return the length of the IP packet at data[at] as its header says, 0 if it says none."""
    field = IPV4_TL if version == 4 else IPV6_LEN
    if at + field + 1 >= captured:
        return np.int64(0)
    length = np.int64(data[at + field]) << 8 | np.int64(data[at + field + 1])
    if version == 6 and length:
        length += IPV6_HEADER_BYTES
    return length


@numba.njit(cache=True)
def _has_port(transport, port):
    """Return whether a header of (B,) uint8 has a port."""
    for at in (SPORT, DPORT):
        if np.int64(transport[at]) << 8 | np.int64(transport[at + 1]) == port:
            return True
    return False


@numba.njit(cache=True)
def _name_hash(data, at, end):
    """Return the hash of the DNS name at data[at] (RFC 1035, 3.1), 0 if it is cut or compressed."""
    value = _FNV_START
    while at < end:
        length = np.int64(data[at])
        if length == 0:
            return value
        if length > 63 or at + length >= end:
            break
        for j in range(at, at + length + 1):
            byte = np.uint64(data[j])
            if j > at and 65 <= data[j] <= 90:
                byte += np.uint64(32)
            value = (value ^ byte) * _FNV_PRIME
        at += length + 1
    return np.uint64(0)
