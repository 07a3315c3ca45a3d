"""From a tunnel's outer headers to the packet that it carries.

GRE (RFC 2784, 2890), IP in IP (RFC 2003), 6in4 (RFC 4213), VXLAN (RFC 7348), Geneve
(RFC 8926), GTP-U (3GPP TS 29.281) and Teredo (RFC 4380).
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    DPORT,
    IPPROTO_UDP,
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    SPORT,
    UDP_HEADER_BYTES,
    u16,
)
from netdiff_ray.packets.linklayer import (
    ETHERNET_BYTES,
    find_network,
    has_columns,
    through_ipv4,
    through_ipv6,
    through_tags,
)
from netdiff_ray.packets.table import LATER_FRAGMENT, WHOLE, Reason

TUNNELS = {
    1: "IP-in-IP", 2: "6in4", 4: "GRE", 8: "VXLAN", 16: "Geneve", 32: "GTP-U", 64: "Teredo",
}  # fmt: skip
"""Bits of a `tunnels` column."""
_IPIP, _SIX_IN_FOUR, _GRE, _VXLAN, _GENEVE, _GTPU, _TEREDO = TUNNELS

_IPPROTO_IPIP, _IPPROTO_IPV6, _IPPROTO_GRE = 4, 41, 47
_PORT_VXLAN, _PORT_GENEVE, _PORT_GTPU, _PORT_TEREDO = 4789, 6081, 2152, 3544
_TYPE_ETHERNET = 0x6558  # transparent Ethernet bridging
_GRE_CHECKSUM, _GRE_ROUTING, _GRE_KEY, _GRE_SEQUENCE, _GRE_VERSION = (
    0x8000,
    0x4000,
    0x2000,
    0x1000,
    7,
)
_GTPU_OPTIONAL, _GTPU_EXTENSION = 7, 4  # flags of fields that follow, 3GPP TS 29.281, 5.1
_GTPU_G_PDU = 255
_MAX_LAYERS = 8


def counts_by_tunnel(tunnels: np.ndarray) -> dict[str, int]:
    """Return how often each kind of tunnel was followed, without those that never were.

    Args:
        tunnels: (P,) uint8, the column of a `PacketTable`.
    """
    counts = {name: int(np.count_nonzero(tunnels & bit)) for bit, name in TUNNELS.items()}
    return {name: count for name, count in counts.items() if count}


@numba.njit(cache=True)
def follow_tunnels(data, columns):
    """Let the located columns of a `PacketTable` say where the innermost packets are, in place.

    A tunnel whose packet is cut, or whose outer packet is a fragment, is left as it is.

    Args:
        data: (bytes,) uint8.
        columns: RecordColumns that `locate` has filled.
    """
    for i in range(len(columns.start)):
        if columns.version[i] == 0 or columns.fragment[i] != WHOLE:
            continue
        begin = columns.start[i]
        end = begin + columns.caplen[i]
        _, ip, at, _ = find_network(data, begin, end, columns.link_type[i])
        _, proto, after, part, part_id = _through(data, at, end, ip)
        followed = 0
        for _ in range(_MAX_LAYERS):
            kind, inner, inside = _inner_packet(data, after, end, proto)
            least = IPV4_HEADER_BYTES if inner == 4 else IPV6_HEADER_BYTES
            if part != WHOLE or kind == 0 or inside + least > end or data[inside] >> 4 != inner:
                break
            why, proto_inside, after_inside, part_inside, id_inside = _through(
                data, inside, end, inner
            )
            if why != Reason.OK.value:
                break
            followed |= kind
            ip, at, proto, after = inner, inside, proto_inside, after_inside
            part, part_id = part_inside, id_inside
        if not followed:
            continue
        columns.tunnels[i] = followed
        columns.version[i] = ip
        columns.protocol[i] = proto
        columns.fragment[i] = part
        columns.fragment_id[i] = part_id
        has_row = has_columns(ip, proto, part, False)
        columns.reason[i] = Reason.OK.value if has_row else Reason.PROTOCOL.value
        columns.network[i] = at - begin if has_row else -1
        columns.transport[i] = after - begin if has_row and part != LATER_FRAGMENT else -1


@numba.njit(cache=True)
def _through(data, at, end, version):
    """Return what `through_ipv4` or `through_ipv6` does."""
    if version == 4:
        return through_ipv4(data, at, False)
    return through_ipv6(data, at, end, False)


@numba.njit(cache=True)
def _inner_packet(data, at, end, protocol):
    """Return (bit of TUNNELS or 0, IP version, position of the IP header) of what the payload at
    `at` of an IP packet carries."""
    if protocol == _IPPROTO_IPIP:
        return _IPIP, 4, at
    if protocol == _IPPROTO_IPV6:
        return _SIX_IN_FOUR, 6, at
    if protocol == _IPPROTO_GRE:
        return _inside_gre(data, at, end)
    if protocol == IPPROTO_UDP and at + 2 * UDP_HEADER_BYTES <= end:
        return _inside_udp(data, at, end)
    return 0, 0, at


@numba.njit(cache=True)
def _inside_udp(data, at, end):
    source, target = u16(data, at + SPORT), u16(data, at + DPORT)
    at += UDP_HEADER_BYTES
    if target == _PORT_VXLAN and data[at] & 0x08:  # the flag that the identifier is valid
        return _inside_ethernet(_VXLAN, data, at + 8, end)
    if target == _PORT_GENEVE and data[at] >> 6 == 0:
        inside = at + 8 + np.int64(data[at] & 0x3F) * 4
        return _of_type(_GENEVE, data, inside, end, u16(data, at + 2))
    if _PORT_GTPU in (source, target):
        return _inside_gtpu(data, at, end)
    if _PORT_TEREDO in (source, target):
        return _inside_teredo(data, at, end)
    return 0, 0, at


@numba.njit(cache=True)
def _of_type(kind, data, at, end, ether_type):
    """Return what `_inner_packet` does of a payload with an EtherType."""
    if ether_type == _TYPE_ETHERNET:
        return _inside_ethernet(kind, data, at, end)
    version, at, _ = through_tags(data, at, end, ether_type)
    return (kind, version, at) if version and at >= 0 else (0, 0, at)


@numba.njit(cache=True)
def _inside_ethernet(kind, data, at, end):
    if at + ETHERNET_BYTES > end:
        return 0, 0, at
    version, inside, _ = through_tags(data, at + ETHERNET_BYTES, end, u16(data, at + 12))
    return (kind, version, inside) if version and inside >= 0 else (0, 0, at)


@numba.njit(cache=True)
def _inside_gre(data, at, end):
    if at + 4 > end:
        return 0, 0, at
    flags = u16(data, at)
    if flags & (_GRE_ROUTING | _GRE_VERSION):
        return 0, 0, at
    inside = at + 4
    for flag in (_GRE_CHECKSUM, _GRE_KEY, _GRE_SEQUENCE):
        inside += 4 if flags & flag else 0
    return _of_type(_GRE, data, inside, end, u16(data, at + 2))


@numba.njit(cache=True)
def _inside_gtpu(data, at, end):
    flags = data[at]
    if flags >> 4 != 3 or data[at + 1] != _GTPU_G_PDU:  # version 1, GTP and not GTP'
        return 0, 0, at
    inside = at + 8
    if flags & _GTPU_OPTIONAL:
        inside += 4
        if inside > end:
            return 0, 0, at
        extension = data[inside - 1] if flags & _GTPU_EXTENSION else 0
        while extension:
            size = np.int64(data[inside]) * 4 if inside < end else 0
            inside += size
            if size == 0 or inside > end:
                return 0, 0, at
            extension = data[inside - 1]
    if inside >= end:
        return 0, 0, at
    version = np.int64(data[inside] >> 4)
    return (_GTPU, version, inside) if version in (4, 6) else (0, 0, at)


@numba.njit(cache=True)
def _inside_teredo(data, at, end):
    if u16(data, at) == 1:  # authentication: identifier, value, nonce and confirmation
        at += 4 + np.int64(data[at + 2]) + np.int64(data[at + 3]) + 9
    if at + 2 <= end and u16(data, at) == 0:  # origin indication
        at += 8
    return (_TEREDO, 6, at) if at < end and data[at] >> 4 == 6 else (0, 0, at)
