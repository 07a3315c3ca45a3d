"""Frames: what a payload of a given length looks like on a port.

A port has a kind, which says how its datagrams or its stream are framed, and a shortest
payload that its readers accept. The tables were measured by sending each kind at many lengths
to every port for which Wireshark 4.0 has a dissector, and noting which it accepts
without complaint. Lengths are bytes.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ICMP_PARAMETER_PROBLEM,
    ICMP_REDIRECT,
    ICMP_TIME_EXCEEDED,
    ICMP_TIMESTAMP,
    ICMP_TIMESTAMP_REPLY,
    ICMP_UNREACHABLE,
    ICMPV6_ECHO,
    ICMPV6_LISTENER_DONE,
    ICMPV6_LISTENER_QUERY,
    ICMPV6_LISTENER_REPORT_2,
    ICMPV6_NEIGHBOUR_ADVERTISEMENT,
    ICMPV6_NEIGHBOUR_SOLICITATION,
    ICMPV6_ROUTER_SOLICITATION,
)

OPAQUE, TEXT, ZEROS, TLS, QUIC, DNS, RTP, DHCP, MQTT, DNS_STREAM = range(10)
"""Kinds. OPAQUE: random after four bytes of ones, which no reader takes for a message that it
knows. TEXT: words. ZEROS: zeros, for readers that accept nothing else."""

_SHORTEST_DNS = 17
"""A header and a question for the root (RFC 1035 section 4.1)."""
_RTP_HEADER = 12

_TCP_PORTS: dict[tuple[int, int], tuple[int, ...]] = {
    (TLS, 6): (
        443, 465, 563, 585, 636, 853, 989, 990, 992, 993, 994, 995, 5061, 5223, 5228, 5671,
        8443, 8883,
    ),
    (TEXT, 0): (
        13, 21, 23, 25, 42, 70, 79, 80, 110, 119, 143, 210, 513, 554, 587, 631, 1102, 1533,
        2234, 2240, 2401, 2600, 3002, 3003, 3006, 3128, 4002, 4155, 4222, 4249, 4250, 5000, 5060,
        5222, 5445, 5534, *range(6000, 6064), 6121, 6417, 7871, 8000, 8008, 8009, 8080, 8888, 9092,
        10288, 24800,
    ),
    (MQTT, 8): (1883,),
    (DNS_STREAM, 0): (53,),
    (TEXT, 2): (5555, 6666),
    (TEXT, 4): (48049,),
    (ZEROS, 0): (500, 1861, 2404, 3452, 5094, 6667, 6668, 57000),
    (ZEROS, 2): (199,),
    (ZEROS, 4): (9956,),
    (ZEROS, 8): (4551,),
    (ZEROS, 10): (2269,),
    (ZEROS, 15): (925,),
    (ZEROS, 36): (7911,),
    (TEXT, 13): (873,),
    (OPAQUE, 2): (5010, 34980),
    (OPAQUE, 3): (2944,),
    (OPAQUE, 4): (37, 123, 389, 988, 1521, 3268, 4321, 4555, 9600),
    (OPAQUE, 5): (22, 29418),
    (OPAQUE, 6): (8085,),
    (OPAQUE, 8): (2812, 4223, 4224),
    (OPAQUE, 12): (3632,),
    (OPAQUE, 16): (548, 3357),
    (OPAQUE, 19): (524,),
    (OPAQUE, 38): (48898,),
}  # fmt: skip
_UDP_PORTS: dict[tuple[int, int], tuple[int, ...]] = {
    (QUIC, 0): (443,),
    (DNS, _SHORTEST_DNS): (53, 5353, 5355),
    (RTP, _RTP_HEADER): (5004,),
    (TEXT, 0): (13, 514, 1900, 5060, 5555, 6666, 7004, 7005, 7007, 7075, 17500, 19948),
    (TEXT, 3): (9201,),
    (TEXT, 4): (4569, 27950, 27951, 27952, 27953, 27961, 27962, 27963),
    (TEXT, 5): (17756,),
    (TEXT, 6): (27960,),
    (TEXT, 8): (6160,),
    (TEXT, 10): (27500,),
    (TEXT, 16): (10253,),
    (ZEROS, 0): (389, 500, 2949, 7000, 7255, 9202, 9203, 30030),
    (ZEROS, 2): (2222, 3250),
    (ZEROS, 3): (2345,),
    (ZEROS, 4): (3452, 4500, 4754, 9956),
    (ZEROS, 6): (49, 3671),
    (ZEROS, 8): (496, 664, 3389, 4551, 5436, 6081, 7275, 8848),
    (ZEROS, 9): (4341, 5072),
    (ZEROS, 10): (1194, 2269),
    (ZEROS, 12): (137,),
    (ZEROS, 13): (525,),
    (ZEROS, 14): (12220,),
    (ZEROS, 15): (925, 4729),
    (ZEROS, 16): (910,),
    (ZEROS, 18): (5031,),
    (ZEROS, 24): (3784, 4784, 4789, 6784, 7784, 11273, 44818),
    (DHCP, 300): (67, 68),
    (OPAQUE, 2): (
        177, 319, 320, 2055, 2948, 4000, 4739, 5094, 8211, 9200, 9996, 18246, 34980,
    ),
    (OPAQUE, 3): (69, 1293, 2944, 4342, 8600, 12000, 12001, 12002, 12003, 12004),
    (OPAQUE, 4): (37, 123, 546, 547, 1001, 2048, 4555, 5001, 6343, 6970, 9901),
    (OPAQUE, 5): (4306, 4307, 5000),
    (OPAQUE, 6): (4533, 4534, 7074, 8200),
    (OPAQUE, 7): (524,),
    (OPAQUE, 8): (173, 2428, 4790, 26000),
    (OPAQUE, 10): (138, 1755, 12222),
    (OPAQUE, 12): (8755, 8767, 9877),
    (OPAQUE, 13): (3000,),
    (OPAQUE, 16): (3357, 24576, 24577),
    (OPAQUE, 28): (921,),
    (OPAQUE, 30): (213,),
}  # fmt: skip

UNFRAMED_TCP = (
    161, 162, 639, 862, 1153, 1723, 1998, 2321, 2322, 2571, 3671, 3863, 4556, 6160, 7000, 8023,
    9300, 13400,
)  # fmt: skip
UNFRAMED_UDP = (
    427, 434, 464, 513, 520, 521, 701, 854, 1113, 1153, 1628, 1629, 1718, 1719, 1745, 2246, 2313,
    2945, 3130, 3343, 3455, 3544, 3804, 3863, 4791, 4991, 5246, 5247, 5683, 6118, 6635, 8805, 9214,
    9875, 9899, 12223, 13400, 17220, 17755, 19132, 23272, 25826, 27910, 34962, 37008, 41170, 47000,
    54328,
)  # fmt: skip
"""Ports whose Wireshark dissector takes no kind at every length: their packets are sound, but
it may call the payload malformed."""


def _tables(ports_of: dict[tuple[int, int], tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Return (65536,) uint8 kind and (65536,) int64 shortest payload of each port."""
    kinds = np.full(65_536, OPAQUE, np.uint8)
    shortest = np.zeros(65_536, np.int64)
    for (kind, length), ports in ports_of.items():
        kinds[list(ports)] = kind
        shortest[list(ports)] = length
    return kinds, shortest


class PortFrames(NamedTuple):
    """Kind and shortest payload by port, for kernels; each (65536,)."""

    tcp_kind: np.ndarray
    """uint8."""
    tcp_shortest: np.ndarray
    """int64, of each segment; with TLS and MQTT, whose frames span segments, of a connection's
    first."""
    udp_kind: np.ndarray
    """uint8."""
    udp_shortest: np.ndarray
    """int64."""


FRAMES = PortFrames(*_tables(_TCP_PORTS), *_tables(_UDP_PORTS))


@numba.njit(cache=True)
def framed_length(kind, shortest, payload):
    """Return `payload`, or the next length that a payload of the kind can have; 0 stays 0."""
    if payload == 0:
        return payload
    if kind == DNS and payload == _SHORTEST_DNS + 1:
        return _SHORTEST_DNS + 2
    return max(payload, shortest)


@numba.njit(cache=True)
def message_length(version, kind, payload):
    """Return `payload`, or the nearest length that an ICMP message of the type can have after its
    8 bytes.

    Errors hold the IP header and 8 bytes of the packet that they report (RFC 792, RFC 4443);
    timestamp messages 12 bytes; neighbour discovery and multicast listener messages an address
    and options of 8 bytes (RFC 4861, RFC 2710), or records of 20 bytes (RFC 3810).
    """
    if version == 4:
        if kind in (ICMP_UNREACHABLE, ICMP_REDIRECT, ICMP_TIME_EXCEEDED, ICMP_PARAMETER_PROBLEM):
            return max(payload, 28)
        if kind in (ICMP_TIMESTAMP, ICMP_TIMESTAMP_REPLY):
            return 12
        return payload
    if kind < ICMPV6_ECHO:
        return max(payload, 48)
    if ICMPV6_LISTENER_QUERY <= kind <= ICMPV6_LISTENER_DONE:
        return 16
    if kind == ICMPV6_ROUTER_SOLICITATION:
        return payload & ~7
    if kind in (ICMPV6_NEIGHBOUR_SOLICITATION, ICMPV6_NEIGHBOUR_ADVERTISEMENT):
        return max(payload & ~7, 16)
    if kind == ICMPV6_LISTENER_REPORT_2:
        return payload - payload % 20
    return payload
