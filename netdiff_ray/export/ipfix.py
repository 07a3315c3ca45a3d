"""IPFIX: a file of messages (RFC 7011, RFC 5655), each of which fits a datagram to a collector.

A direction of a flow is a record, as routers export them; each message has the templates, so that
a collector may begin with any. Element numbers are IANA's (IPFIX Information Elements). `flowId` is
the flow id of the index, where that has 16 hex digits, else the first 16.

Shape letters: D records.
"""

import struct
from collections.abc import Iterator, Sequence
from socket import AF_INET, AF_INET6, inet_pton

import numpy as np

from netdiff_ray.export.directions import Directions, directions_of
from netdiff_ray.flows import Windows
from netdiff_ray.header_bytes import ICMP_CODE, ICMP_TYPE, IPPROTO_ICMP, IPPROTO_ICMPV6

_VERSION, _TEMPLATE_SET = 10, 2
_HEADER_BYTES, _SET_HEADER_BYTES = 16, 4
_MESSAGE_BYTES = 1400
"""Most bytes of a message: those of a datagram that no link splits."""
_NS_PER_MS = 1_000_000
_COMMON = (
    ("start", 152, ">u8"), ("end", 153, ">u8"), ("octets", 1, ">u8"), ("packets", 2, ">u8"),
    ("id", 148, ">u8"), ("sport", 7, ">u2"), ("dport", 11, ">u2"), ("protocol", 4, "u1"),
    ("flags", 6, "u1"),
)  # fmt: skip
"""flowStartMilliseconds, flowEndMilliseconds, octetDeltaCount, packetDeltaCount, flowId,
sourceTransportPort, destinationTransportPort, protocolIdentifier, tcpControlBits."""
_FIELDS = {
    4: (*_COMMON, ("source", 8, "V4"), ("target", 12, "V4")),
    6: (*_COMMON, ("source", 27, "V16"), ("target", 28, "V16")),
}
"""By IP version: with sourceIPv4Address and destinationIPv4Address, or those of IPv6."""
_TEMPLATES = {4: 256, 6: 257}
_RECORDS = {
    version: np.dtype([(name, kind) for name, _, kind in fields])
    for version, fields in _FIELDS.items()
}


class MessageWriter:
    """Maker of the messages of one file, numbered one after another."""

    def __init__(self):
        self._num_records = 0

    def messages(self, flows: Sequence[dict], windows: Windows) -> Iterator[bytes]:
        """Yield the messages of flows.

        Args:
            flows: rows of FLOW_SCHEMA.
            windows: as many, each a whole flow.
        """
        found = directions_of(windows.rows, windows.direction, windows.first)
        versions = np.array([flow["ip_version"] for flow in flows])[found.flow]
        for version in _TEMPLATES:
            chosen = np.flatnonzero(versions == version)
            records = _records(flows, windows.rows, found, chosen, version)
            room = _MESSAGE_BYTES - _HEADER_BYTES - len(_template_set()) - _SET_HEADER_BYTES
            step = room // records.dtype.itemsize
            for begin in range(0, len(records), step):
                yield self._message(records[begin : begin + step], version)

    def _message(self, records: np.ndarray, version: int) -> bytes:
        """Return a message with the templates and some records."""
        data = records.tobytes()
        body = _template_set() + struct.pack(
            ">HH", _TEMPLATES[version], _SET_HEADER_BYTES + len(data)
        )
        body += data
        exported_s = int(records["end"].max()) // 1000 + 1
        header = struct.pack(
            ">HHIII", _VERSION, _HEADER_BYTES + len(body), exported_s & 0xFFFFFFFF,
            self._num_records & 0xFFFFFFFF, 0,
        )  # fmt: skip
        self._num_records += len(records)
        return header + body


def _template_set() -> bytes:
    """Return the set of both templates."""
    templates = b""
    for version, fields in _FIELDS.items():
        templates += struct.pack(">HH", _TEMPLATES[version], len(fields))
        for _, element, kind in fields:
            templates += struct.pack(">HH", element, np.dtype(kind).itemsize)
    return struct.pack(">HH", _TEMPLATE_SET, _SET_HEADER_BYTES + len(templates)) + templates


def _records(
    flows: Sequence[dict], rows: np.ndarray, found: Directions, chosen: np.ndarray, version: int
) -> np.ndarray:
    """Return the records of the `chosen` (D,) directions of flows of an IP version."""
    records = np.zeros(len(chosen), _RECORDS[version])
    records["start"] = found.start_ns[chosen] // _NS_PER_MS
    records["end"] = found.end_ns[chosen] // _NS_PER_MS
    records["octets"], records["packets"] = found.ip_bytes[chosen], found.packets[chosen]
    records["flags"] = found.tcp_flags[chosen]
    family = AF_INET if version == 4 else AF_INET6
    for record, k in zip(records, chosen.tolist(), strict=True):
        flow = flows[found.flow[k]]
        ends = [("client_ip", "client_port"), ("server_ip", "server_port")]
        source, target = ends[:: -1 if found.side[k] else 1]
        record["source"] = inet_pton(family, flow[source[0]])
        record["target"] = inet_pton(family, flow[target[0]])
        record["sport"], record["dport"] = flow[source[1]], flow[target[1]]
        record["protocol"] = flow["protocol"]
        record["id"] = int(flow["flow_id"][:16], 16)
        if flow["protocol"] in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            transport = rows["transport"][found.first[k]]
            record["dport"] = int(transport[ICMP_TYPE]) << 8 | int(transport[ICMP_CODE])
    return records
