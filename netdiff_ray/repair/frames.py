"""Frames: what a payload of a given length looks like on a port.

A port has a kind; a kind says how its datagrams or its stream are framed, and the shortest
datagram that its readers accept. Lengths are bytes.
"""

import numba
import numpy as np

OPAQUE, TLS, QUIC, DNS, RTP, SSH, TEXT, DNS_STREAM = range(8)
"""Kinds. OPAQUE: no reader looks in."""

_TCP_PORTS = {
    TLS: (443, 465, 563, 636, 853, 989, 990, 992, 993, 994, 995, 5061, 5223, 5228, 8443, 8883),
    SSH: (22,),
    DNS_STREAM: (53,),
}
_UDP_PORTS = {QUIC: (443,), DNS: (53,), RTP: (5004,)}


def _kinds() -> tuple[np.ndarray, np.ndarray]:
    """(65536,) uint8 kind of each TCP port, and of each UDP port."""
    tables = []
    for ports_of in (_TCP_PORTS, _UDP_PORTS):
        table = np.full(65_536, OPAQUE, np.uint8)
        for kind, ports in ports_of.items():
            table[list(ports)] = kind
        tables.append(table)
    return tables[0], tables[1]


TCP_KIND, UDP_KIND = _kinds()

_DNS_HEADER, _DNS_QUESTION, _DNS_OPT, _DNS_OPTION = 12, 5, 11, 4
SHORTEST_DNS = _DNS_HEADER + _DNS_QUESTION
"""A header and a question for the root (RFC 1035 section 4.1)."""
_RTP_HEADER = 12
_EMBEDDED = {4: 28, 6: 48}


@numba.njit(cache=True)
def shortest_datagram(kind, payload):
    """`payload`, or the next length that a datagram of the kind can have."""
    if kind == DNS:
        if payload < SHORTEST_DNS:
            return SHORTEST_DNS if payload else 0
        return SHORTEST_DNS + 2 if payload == SHORTEST_DNS + 1 else payload
    if kind == RTP and payload:
        return max(payload, _RTP_HEADER)
    return payload


@numba.njit(cache=True)
def shortest_message(version, kind, payload):
    """`payload`, or the least that an ICMP message of the type needs after its 8 bytes.

    Errors hold the IP header and 8 bytes of what they are about (RFC 792, RFC 4443); timestamp
    messages 12 bytes; neighbour discovery and multicast listener messages an address and options
    of 8 bytes (RFC 4861, RFC 2710).
    """
    if version == 4:
        if kind in (3, 5, 11, 12):
            return max(payload, 28)
        if kind in (13, 14):
            return 12
        return payload
    if kind < 128:
        return max(payload, 48)
    if kind >= 130 and kind <= 132:
        return 16
    if kind == 133:
        return payload & ~7
    if kind in (135, 136):
        return max(payload & ~7, 16)
    return payload
