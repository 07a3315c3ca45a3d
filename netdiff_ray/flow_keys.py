"""Keys of flows and datagrams: what says that packets belong together.

A flow's key is the same for both directions: the lower endpoint's address, the higher's,
then ports, protocol and IP version.

Shape letters: P packets.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    DPORT,
    ICMP_ECHO,
    ICMP_ECHO_REPLY,
    ICMP_MASK_REPLY,
    ICMP_ROH,
    ICMP_ROUTER_ADVERTISEMENT,
    ICMP_ROUTER_SOLICITATION,
    ICMP_TIMESTAMP,
    ICMP_TYPE,
    ICMPV6_ECHO,
    ICMPV6_ECHO_REPLY,
    ICMPV6_NEIGHBOUR_ADVERTISEMENT,
    ICMPV6_NODE_QUERY,
    ICMPV6_NODE_REPLY,
    ICMPV6_ROUTER_SOLICITATION,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_ADDRESS_BYTES,
    IPV4_DST,
    IPV4_SRC,
    IPV6_ADDRESS_BYTES,
    IPV6_DST,
    IPV6_SRC,
    SPORT,
)
from netdiff_ray.packets.table import LATER_FRAGMENT

KEY_WORDS = 5
"""64-bit words of a key: two addresses of two words each, and a last word of ports, protocol and
IP version."""
FRAGMENT_FLAG = np.uint64(0x80)
"""Set in the last word of a datagram's key, never in that of a flow."""
MIX = np.uint64(0x9E3779B97F4A7C15)
"""Odd number that spreads keys over a table."""


@numba.njit(cache=True)
def fill_key(rows, i, key):
    """Write what both directions of row i's flow share into `key` (KEY_WORDS,) uint64.

    Returns whether the packet's sender is the lower of the two endpoints.
    """
    network, transport = rows.network, rows.transport
    protocol, length = rows[i].protocol, rows[i].transport_len
    shift = np.uint64(16)
    if rows[i].version == 4:
        source_high = np.uint64(0)
        target_high = np.uint64(0)
        source = _word(network, i, IPV4_SRC, IPV4_ADDRESS_BYTES)
        target = _word(network, i, IPV4_DST, IPV4_ADDRESS_BYTES)
    else:
        source_high = _word(network, i, IPV6_SRC, 8)
        source = _word(network, i, IPV6_SRC + 8, 8)
        target_high = _word(network, i, IPV6_DST, 8)
        target = _word(network, i, IPV6_DST + 8, 8)
    sport = np.uint64(0)
    dport = np.uint64(0)
    has_ports = protocol == IPPROTO_TCP or protocol == IPPROTO_UDP
    has_transport = rows[i].fragment != LATER_FRAGMENT
    if has_transport and length >= 4 and has_ports:
        sport = _word(transport, i, SPORT, 2)
        dport = _word(transport, i, DPORT, 2)
    low = source_high < target_high or (source_high == target_high and source < target)
    if source_high == target_high and source == target:
        low = sport <= dport
    if not has_ports and has_transport and length >= 1:
        kind, has_identifier = _icmp_pair(rows[i].version, np.int64(transport[i, ICMP_TYPE]))
        ports = np.uint64(kind) << shift
        if has_identifier and length >= 6:
            ports |= _word(transport, i, ICMP_ROH, 2)
    elif low:
        ports = (sport << shift) | dport
    else:
        ports = (dport << shift) | sport
    if low:
        key[0], key[1], key[2], key[3] = source_high, source, target_high, target
    else:
        key[0], key[1], key[2], key[3] = target_high, target, source_high, source
    key[4] = (ports << shift) | (np.uint64(protocol) << np.uint64(8)) | np.uint64(rows[i].version)
    return low


@numba.njit(cache=True)
def fill_datagram_key(rows, i, key, low, datagram_key):
    """Write the key of the datagram that row i is a fragment of, given its flow's `key`.

    Direction matters: the source stands before the target.
    """
    is_4 = rows[i].version == 4
    protocol_bits = np.uint64(rows[i].protocol) if is_4 else np.uint64(0)
    for k in range(4):
        datagram_key[k] = key[k] if low else key[(k + 2) % 4]
    datagram_key[4] = (
        (np.uint64(rows[i].fragment_id) << np.uint64(16))
        | (protocol_bits << np.uint64(8))
        | np.uint64(rows[i].version)
        | FRAGMENT_FLAG
    )


@numba.njit(cache=True)
def _word(data, i, at, size):
    """Return the big-endian unsigned integer of `size` bytes at data[i, at]."""
    value = np.uint64(0)
    for k in range(at, at + size):
        value = (value << np.uint64(8)) | np.uint64(data[i, k])
    return value


@numba.njit(cache=True)
def _icmp_pair(version, kind):
    """Return (the request's type for a request or its reply, whether an identifier follows):
    RFC 792, 950, 4443, 4861."""
    if version == 4:
        if kind in (ICMP_ECHO_REPLY, ICMP_ECHO):
            return ICMP_ECHO, True
        if ICMP_TIMESTAMP <= kind <= ICMP_MASK_REPLY:
            return kind - 1 + kind % 2, True
        if kind in (ICMP_ROUTER_ADVERTISEMENT, ICMP_ROUTER_SOLICITATION):
            return ICMP_ROUTER_SOLICITATION, False
    else:
        if kind in (ICMPV6_ECHO, ICMPV6_ECHO_REPLY):
            return ICMPV6_ECHO, True
        if (
            ICMPV6_ROUTER_SOLICITATION <= kind <= ICMPV6_NEIGHBOUR_ADVERTISEMENT
            or ICMPV6_NODE_QUERY <= kind <= ICMPV6_NODE_REPLY
        ):
            return kind - 1 + kind % 2, False
    return kind, False


def bucket_of(rows: np.ndarray, num_buckets: int) -> np.ndarray:
    """Return (P,) int64 below `num_buckets`, the same for all packets of a flow.

    It depends on the two addresses alone, so that fragments, which have no ports, go with
    their flow.
    """
    return _bucket_of(rows, num_buckets)


@numba.njit(cache=True)
def _bucket_of(rows, num_buckets):
    network = rows.network
    buckets = np.empty(len(rows), np.int64)
    for i in range(len(rows)):
        begin, size = IPV6_SRC, IPV6_ADDRESS_BYTES
        if rows[i].version == 4:
            begin, size = IPV4_SRC, IPV4_ADDRESS_BYTES
        both = np.uint64(0)
        for end in range(2):
            address = np.uint64(1469598103934665603)
            for k in range(begin + end * size, begin + (end + 1) * size):
                address = (address ^ np.uint64(network[i, k])) * np.uint64(1099511628211)  # FNV-1a
            both += address * MIX
        both ^= both >> np.uint64(32)
        buckets[i] = np.int64(both % np.uint64(num_buckets))
    return buckets


@numba.njit(cache=True)
def protocol_of(key):
    """Return the IP protocol of a flow's key."""
    return (key[4] >> np.uint64(8)) & np.uint64(0xFF)


@numba.njit(cache=True)
def ports_of(key):
    """Return the ports of the lower and of the higher endpoint of a flow's key, as int64."""
    low = (key[4] >> np.uint64(32)) & np.uint64(0xFFFF)
    return np.int64(low), np.int64((key[4] >> np.uint64(16)) & np.uint64(0xFFFF))
