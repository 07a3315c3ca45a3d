"""From a captured frame to its IP and transport headers, by the capture's link type.

A frame is never guessed at: of an unknown link type it is counted by name and gives no
row. The *strict* reading is that of nPrint 1.2.1, which looks for an EtherType at
bytes 12-13 whatever the link type; it exists for comparison with that tool.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    IPPROTO_AH,
    IPPROTO_DSTOPTS,
    IPPROTO_FRAGMENT,
    IPPROTO_HIP,
    IPPROTO_HOPOPTS,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_MOBILITY,
    IPPROTO_ROUTING,
    IPPROTO_SHIM6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_FLAGS,
    IPV4_FRAGMENT_OFFSET,
    IPV4_HEADER_BYTES,
    IPV4_HL,
    IPV4_ID,
    IPV4_MORE_FRAGMENTS,
    IPV4_PROTO,
    IPV6_FRAGMENT_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    IPV6_NH,
    u16,
)
from netdiff_ray.packets.linktypes import (
    C_HDLC,
    ETHERNET,
    IPV4,
    IPV6,
    LINUX_SLL,
    LINUX_SLL2,
    LOOP,
    NULL,
    PPP,
    PPP_ETHER,
    PPP_HDLC,
    RAW,
    RAW_BSD,
    RAW_OPENBSD,
)
from netdiff_ray.packets.table import FIRST_FRAGMENT, LATER_FRAGMENT, WHOLE, Reason

ETHERNET_BYTES, _SLL_BYTES, _SLL2_BYTES = 14, 16, 20
_TYPE_IPV4, _TYPE_IPV6 = 0x0800, 0x86DD
_TYPE_MPLS, _TYPE_MPLS_UPSTREAM, _TYPE_PPPOE = 0x8847, 0x8848, 0x8864
LEAST_ETHER_TYPE = 0x0600  # smaller ones are lengths (IEEE 802.3)
_PPP_IPV4, _PPP_IPV6, _PPP_MPLS = 0x0021, 0x0057, 0x0281
_IPV6_MORE_FRAGMENTS, _IPV6_FRAGMENT_OFFSET = 0x0001, 0xFFF8  # RFC 8200 section 4.5


@numba.njit(cache=True)
def _u32(data, at):
    return (u16(data, at) << 16) | u16(data, at + 2)


@numba.njit(cache=True)
def _ether_type_of_ppp(protocol):
    """Return the EtherType of a PPP protocol number (RFC 1332, 5072, 3032), 0 for others."""
    if protocol == _PPP_IPV4:
        return _TYPE_IPV4
    if protocol == _PPP_IPV6:
        return _TYPE_IPV6
    if protocol == _PPP_MPLS:
        return _TYPE_MPLS
    return 0


@numba.njit(cache=True)
def _ppp(data, at, end):
    """Return (EtherType or 0, position after the protocol field, protocol); -1 position if cut.

    RFC 1661 and 1662: address and control may be compressed away, and the protocol
    field to one byte, whose lowest bit is then 1.
    """
    if at + 2 <= end and data[at] == 0xFF and data[at + 1] == 0x03:
        at += 2
    if at + 1 > end:
        return 0, -1, 0
    if data[at] & 1:
        protocol = np.int64(data[at])
        at += 1
    else:
        if at + 2 > end:
            return 0, -1, 0
        protocol = u16(data, at)
        at += 2
    return _ether_type_of_ppp(protocol), at, protocol


@numba.njit(cache=True)
def through_tags(data, at, end, ether_type):
    """Walk VLAN tags, MPLS labels and PPPoE from `ether_type` on.

    Returns (version, position of the IP header, EtherType of what is not IP); the
    position is -1 if the frame is cut.
    """
    while True:
        if ether_type == _TYPE_IPV4:
            return 4, at, 0
        if ether_type == _TYPE_IPV6:
            return 6, at, 0
        if ether_type in (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300):
            if at + 4 > end:
                return 0, -1, 0
            ether_type = u16(data, at + 2)
            at += 4
        elif ether_type in (_TYPE_MPLS, _TYPE_MPLS_UPSTREAM):
            while True:
                if at + 4 > end:
                    return 0, -1, 0
                bottom = data[at + 2] & 1
                at += 4
                if bottom:
                    break
            if at >= end:
                return 0, -1, 0
            version = data[at] >> 4
            if version == 4 or version == 6:
                return np.int64(version), at, 0
            return 0, at, ether_type
        elif ether_type == _TYPE_PPPOE:
            if at + 6 > end:
                return 0, -1, 0
            ether_type, at, protocol = _ppp(data, at + 6, end)
            if at < 0:
                return 0, -1, 0
            if ether_type == 0:
                return 0, at, protocol
        elif ether_type < LEAST_ETHER_TYPE:  # a length, then LLC; SNAP carries an EtherType
            if at + 8 > end:
                return 0, at, ether_type
            if u16(data, at) != 0xAAAA or data[at + 2] != 3 or u16(data, at + 3) != 0:
                return 0, at, ether_type
            if data[at + 5] != 0:
                return 0, at, ether_type
            ether_type = u16(data, at + 6)
            at += 8
            if ether_type < LEAST_ETHER_TYPE:
                return 0, at, ether_type
        else:
            return 0, at, ether_type


@numba.njit(cache=True)
def _version_of_family(family):
    """Return the IP version of an AF_ number, 0 if it has none: 2 is IPv4 everywhere; IPv6 is
    10 on Linux, 24 NetBSD, 28 FreeBSD, 30 Darwin."""
    if family == 2:
        return 4
    if family in (10, 24, 28, 30):
        return 6
    return 0


@numba.njit(cache=True, inline="always")
def find_network(data, at, end, link_type):
    """Return (reason, version, position of the IP header, EtherType of what is not IP)."""
    version = 0
    other = 0
    if link_type == ETHERNET:
        if at + ETHERNET_BYTES > end:
            return Reason.LINK_CUT.value, 0, -1, 0
        ether_type = u16(data, at + 12)
        version, at, other = through_tags(data, at + ETHERNET_BYTES, end, ether_type)
    elif link_type in (RAW_BSD, RAW_OPENBSD, RAW):
        version = np.int64(data[at] >> 4)
        if version != 4 and version != 6:
            return Reason.VERSION.value, 0, -1, 0
    elif link_type == IPV4:
        version = 4
    elif link_type == IPV6:
        version = 6
    elif link_type == LINUX_SLL:
        if at + _SLL_BYTES > end:
            return Reason.LINK_CUT.value, 0, -1, 0
        version, at, other = through_tags(data, at + _SLL_BYTES, end, u16(data, at + 14))
    elif link_type == LINUX_SLL2:
        if at + _SLL2_BYTES > end:
            return Reason.LINK_CUT.value, 0, -1, 0
        version, at, other = through_tags(data, at + _SLL2_BYTES, end, u16(data, at))
    elif link_type == NULL or link_type == LOOP:
        if at + 4 > end:
            return Reason.LINK_CUT.value, 0, -1, 0
        family = _u32(data, at)
        if family > 0xFFFF:  # written in the byte order of a little-endian host
            family = (family >> 24) | ((family >> 8) & 0xFF00)
        version = _version_of_family(family)
        other = family
        at += 4
    elif link_type == PPP or link_type == PPP_HDLC:
        if at + 4 <= end and data[at] in (0x0F, 0x8F) and data[at + 1] == 0:
            version, at, other = through_tags(data, at + 4, end, u16(data, at + 2))
        else:
            ether_type, at, other = _ppp(data, at, end)
            if at >= 0 and ether_type:
                version, at, other = through_tags(data, at, end, ether_type)
    elif link_type == PPP_ETHER:
        version, at, other = through_tags(data, at, end, _TYPE_PPPOE)
    elif link_type == C_HDLC:
        if at + 4 > end:
            return Reason.LINK_CUT.value, 0, -1, 0
        version, at, other = through_tags(data, at + 4, end, u16(data, at + 2))
    else:
        return Reason.LINK_TYPE.value, 0, -1, 0
    if at < 0:
        return Reason.LINK_CUT.value, 0, -1, 0
    if version == 0:
        return Reason.NOT_IP.value, 0, -1, other
    if at >= end:
        return Reason.NETWORK_CUT.value, 0, -1, 0
    if data[at] >> 4 != version:
        return Reason.VERSION.value, 0, -1, 0
    return Reason.OK.value, version, at, 0


@numba.njit(cache=True)
def _strict_network(data, at, end, link_type):
    """Do what `find_network` does as nPrint 1.2.1 does it."""
    if link_type == LINUX_SLL:
        at += _SLL_BYTES
    elif at + ETHERNET_BYTES <= end and u16(data, at + 12) in (_TYPE_IPV4, _TYPE_IPV6):
        at += ETHERNET_BYTES
    if at >= end:
        return Reason.NETWORK_CUT.value, 0, -1, 0
    version = np.int64(data[at] >> 4)
    if version != 4 and version != 6:
        return Reason.VERSION.value, 0, -1, 0
    return Reason.OK.value, version, at, 0


@numba.njit(cache=True)
def _is_extension(protocol):
    """Return whether an IPv6 next header is an extension header to walk past."""
    return protocol in (
        IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_FRAGMENT, IPPROTO_AH, IPPROTO_DSTOPTS,
        IPPROTO_MOBILITY, IPPROTO_HIP, IPPROTO_SHIM6,
    )  # fmt: skip


@numba.njit(cache=True, inline="always")
def through_ipv4(data, at, strict):
    """Return (reason, protocol, position after the IPv4 header at `at`, fragment, its
    identification)."""
    header_bytes = np.int64(data[at + IPV4_HL] & 15) * 4
    protocol = data[at + IPV4_PROTO]
    after = at + header_bytes
    fragment, fragment_id = WHOLE, np.int64(0)
    if strict:
        return Reason.OK.value, protocol, after, fragment, fragment_id
    if header_bytes < IPV4_HEADER_BYTES:
        return Reason.HEADER_LENGTH.value, protocol, after, fragment, fragment_id
    flags = u16(data, at + IPV4_FLAGS)
    if flags & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET):
        fragment = LATER_FRAGMENT if flags & IPV4_FRAGMENT_OFFSET else FIRST_FRAGMENT
        fragment_id = u16(data, at + IPV4_ID)
    return Reason.OK.value, protocol, after, fragment, fragment_id


@numba.njit(cache=True, inline="always")
def through_ipv6(data, at, end, strict):
    """Return what `through_ipv4` does of an IPv6 header and its extension headers."""
    protocol = data[at + IPV6_NH]
    after = at + IPV6_HEADER_BYTES
    fragment, fragment_id = WHOLE, np.int64(0)
    while not strict and _is_extension(protocol) and fragment != LATER_FRAGMENT:
        if after + 8 > end:
            return Reason.EXTENSION_CUT.value, protocol, after, fragment, fragment_id
        extension = protocol
        protocol = data[after]
        if extension == IPPROTO_FRAGMENT:
            flags = u16(data, after + 2)
            if flags & (_IPV6_MORE_FRAGMENTS | _IPV6_FRAGMENT_OFFSET):
                fragment = LATER_FRAGMENT if flags & _IPV6_FRAGMENT_OFFSET else FIRST_FRAGMENT
                fragment_id = _u32(data, after + 4)
            after += IPV6_FRAGMENT_HEADER_BYTES
        elif extension == IPPROTO_AH:
            after += (np.int64(data[after + 1]) + 2) * 4
        else:
            after += (np.int64(data[after + 1]) + 1) * 8
        if after > end:
            return Reason.EXTENSION_CUT.value, protocol, after, fragment, fragment_id
    return Reason.OK.value, protocol, after, fragment, fragment_id


@numba.njit(cache=True, inline="always")
def has_columns(version, protocol, fragment, strict):
    """Return whether an nprint has columns for the transport of a packet, or it is a fragment
    without a transport header."""
    if protocol == IPPROTO_TCP or protocol == IPPROTO_UDP or protocol == IPPROTO_ICMP:
        return True
    if strict or version == 4:
        return False
    return protocol == IPPROTO_ICMPV6 or fragment == LATER_FRAGMENT


@numba.njit(cache=True)
def locate(data, columns, strict):
    """Fill the located columns of a `PacketTable` from its record columns, in place.

    Records whose `reason` already is not OK are left without headers.

    Args:
        data: (bytes,) uint8.
        columns: RecordColumns.
        strict: bool, read as nPrint does.
    """
    # Locals, because each look-up in a tuple of arrays costs a reference count.
    start, caplen, reason = columns.start, columns.caplen, columns.reason
    link_type, ether_type = columns.link_type, columns.ether_type
    network, transport = columns.network, columns.transport
    version, protocol = columns.version, columns.protocol
    fragment, fragment_id = columns.fragment, columns.fragment_id
    for i in range(len(start)):
        network[i] = -1
        transport[i] = -1
        version[i] = 0
        protocol[i] = 0
        fragment[i] = WHOLE
        fragment_id[i] = 0
        ether_type[i] = 0
        columns.tunnels[i] = 0
        if reason[i] != Reason.OK.value:
            continue
        begin = start[i]
        end = begin + caplen[i]
        if begin == end:
            reason[i] = Reason.EMPTY.value
            continue
        if strict:
            why, ip, at, other = _strict_network(data, begin, end, link_type[i])
        else:
            why, ip, at, other = find_network(data, begin, end, link_type[i])
        if why != Reason.OK.value:
            reason[i] = why
            ether_type[i] = other
            continue
        if at + (IPV4_HEADER_BYTES if ip == 4 else IPV6_HEADER_BYTES) > end:
            reason[i] = Reason.NETWORK_CUT.value
            continue
        if ip == 4:
            why, proto, after, part, part_id = through_ipv4(data, at, strict)
        else:
            why, proto, after, part, part_id = through_ipv6(data, at, end, strict)
        fragment[i] = part
        fragment_id[i] = part_id
        if why != Reason.OK.value:
            reason[i] = why
            continue
        version[i] = ip
        protocol[i] = proto
        if not has_columns(ip, proto, part, strict):
            reason[i] = Reason.PROTOCOL.value
            continue
        network[i] = at - begin
        if part != LATER_FRAGMENT:
            transport[i] = after - begin
