"""Rules of ICMP and ICMPv6: messages that exist, replies that answer a request.

Shape letters: N flows, P packets.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ICMP_CODE,
    ICMP_ECHO,
    ICMP_ECHO_REPLY,
    ICMP_FRAGMENTATION_NEEDED,
    ICMP_PARAMETER_PROBLEM,
    ICMP_REDIRECT,
    ICMP_ROH,
    ICMP_TIME_EXCEEDED,
    ICMP_TIMESTAMP,
    ICMP_TIMESTAMP_REPLY,
    ICMP_TYPE,
    ICMP_UNREACHABLE,
    ICMPV6_ECHO,
    ICMPV6_ECHO_REPLY,
    ICMPV6_LISTENER_DONE,
    ICMPV6_LISTENER_QUERY,
    ICMPV6_LISTENER_REPORT,
    ICMPV6_LISTENER_REPORT_2,
    ICMPV6_NEIGHBOUR_ADVERTISEMENT,
    ICMPV6_NEIGHBOUR_SOLICITATION,
    ICMPV6_PACKET_TOO_BIG,
    ICMPV6_PARAMETER_PROBLEM,
    ICMPV6_ROUTER_SOLICITATION,
    ICMPV6_TIME_EXCEEDED,
    ICMPV6_UNREACHABLE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    cleared_from_top,
    distance,
    get16,
    get32,
    put16,
    put32,
)
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.splitmix import FOR_ECHO, draw_below

_MESSAGES = {
    4: {
        ICMP_ECHO_REPLY: 0, ICMP_UNREACHABLE: 15, ICMP_REDIRECT: 3, ICMP_ECHO: 0,
        ICMP_TIME_EXCEEDED: 1, ICMP_PARAMETER_PROBLEM: 2, ICMP_TIMESTAMP: 0,
        ICMP_TIMESTAMP_REPLY: 0,
    },
    6: {
        ICMPV6_UNREACHABLE: 6, ICMPV6_PACKET_TOO_BIG: 0, ICMPV6_TIME_EXCEEDED: 1,
        ICMPV6_PARAMETER_PROBLEM: 2, ICMPV6_ECHO: 0, ICMPV6_ECHO_REPLY: 0,
        ICMPV6_LISTENER_QUERY: 0, ICMPV6_LISTENER_REPORT: 0, ICMPV6_LISTENER_DONE: 0,
        ICMPV6_ROUTER_SOLICITATION: 0, ICMPV6_NEIGHBOUR_SOLICITATION: 0,
        ICMPV6_NEIGHBOUR_ADVERTISEMENT: 0, ICMPV6_LISTENER_REPORT_2: 0,
    },
}  # fmt: skip
"""Largest code of each type that packets may have, by IP version (RFC 792, RFC 1812;
RFC 4443, RFC 2710, RFC 4861, RFC 3810)."""


def _largest_codes() -> np.ndarray:
    """Return (2, 256) int64: largest code of each type, -1 for no type; IPv4 first."""
    table = np.full((2, 256), -1, np.int64)
    for k, version in enumerate((4, 6)):
        for kind, code in _MESSAGES[version].items():
            table[k, kind] = code
    return table


_LARGEST_CODE = _largest_codes()


def icmp(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle types and codes that exist: an unknown type becomes the one its sender sends most, and
    a reply without a request before it becomes a request (RFC 792, RFC 4443)."""
    _icmp(batch.flows, batch.packets, _LARGEST_CODE)


def icmp_rest(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle the four bytes after the checksum. Echo and timestamp pairs share the flow's
    identifier, and their sequence numbers count (RFC 792, RFC 4443 section 4); elsewhere they are
    as drawn where they have a meaning, else 0."""
    _icmp_rest(batch.flows, batch.packets)


@numba.njit(cache=True)
def is_echo(version, kind):
    """Return whether a message has an identifier and a sequence number."""
    if version == 4:
        return kind in (ICMP_ECHO_REPLY, ICMP_ECHO, ICMP_TIMESTAMP, ICMP_TIMESTAMP_REPLY)
    return kind in (ICMPV6_ECHO, ICMPV6_ECHO_REPLY)


@numba.njit(cache=True)
def _request_of(kind):
    """Return the type of request that a type of reply answers, -1 for another type."""
    if kind == ICMP_ECHO_REPLY:
        return ICMP_ECHO
    if kind == ICMP_TIMESTAMP_REPLY:
        return ICMP_TIMESTAMP
    if kind == ICMPV6_ECHO_REPLY:
        return ICMPV6_ECHO
    return -1


@numba.njit(cache=True)
def _icmp(flows, packets, largest_code):
    transport, direction = packets.rows["transport"], packets.direction
    count = np.empty((2, 256), np.int64)
    waiting = np.empty((2, 2), np.int64)
    for f in range(len(flows.seed)):
        if flows.protocol[f] not in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            continue
        table = largest_code[0 if flows.protocol[f] == IPPROTO_ICMP else 1]
        begin, end = flows.starts[f], flows.starts[f + 1]
        count[:] = 0
        for i in range(begin, end):
            count[direction[i], transport[i, ICMP_TYPE]] += 1
        waiting[:] = 0
        for i in range(begin, end):
            side = direction[i]
            kind = np.int64(transport[i, ICMP_TYPE])
            if table[kind] < 0:
                kind = _nearest_type(kind, table, count[side], end - begin)
            other = 1 if kind in (ICMP_TIMESTAMP, ICMP_TIMESTAMP_REPLY) else 0
            if _request_of(kind) >= 0:
                if waiting[1 - side, other]:
                    waiting[1 - side, other] -= 1
                else:
                    kind = _request_of(kind)
            if kind in (ICMP_ECHO, ICMP_TIMESTAMP, ICMPV6_ECHO):
                waiting[side, other] += 1
            transport[i, ICMP_TYPE] = kind
            code = np.int64(transport[i, ICMP_CODE])
            transport[i, ICMP_CODE] = cleared_from_top(code, table[kind])


@numba.njit(cache=True)
def _nearest_type(kind, largest_code, count, num_packets):
    """Return the type that is most frequent in `count` (256,), of equal ones the nearest in
    bits to `kind`."""
    best, least = 0, 1 << 30
    for candidate in range(256):
        if largest_code[candidate] >= 0:
            cost = 16 * (num_packets - count[candidate]) + distance(kind, candidate)
            if cost < least:
                best, least = candidate, cost
    return best


@numba.njit(cache=True)
def _icmp_rest(flows, packets):
    transport, payload_bytes = packets.rows["transport"], packets.payload_bytes
    requests = np.empty((2, 2), np.int64)
    replies = np.empty((2, 2), np.int64)
    for f in range(len(flows.seed)):
        if flows.protocol[f] not in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            continue
        version = flows.version[f]
        requests[:] = draw_below(flows.seed[f], FOR_ECHO, 0, 256)
        replies[:] = requests
        for i in range(flows.starts[f], flows.starts[f + 1]):
            side = packets.direction[i]
            kind = np.int64(transport[i, ICMP_TYPE])
            if not is_echo(version, kind):
                rest = _rest_of(version, kind, transport[i, ICMP_CODE], transport, i)
                if kind == ICMPV6_LISTENER_REPORT_2 and version == 6:
                    # Number of records, RFC 3810 section 5.2.
                    rest = payload_bytes[i] // 20
                put32(transport, i, ICMP_ROH, rest)
                continue
            other = 1 if kind in (ICMP_TIMESTAMP, ICMP_TIMESTAMP_REPLY) else 0
            put16(transport, i, ICMP_ROH, flows.client_port[f])
            if _request_of(kind) >= 0:
                replies[1 - side, other] += 1
                put16(transport, i, ICMP_ROH + 2, replies[1 - side, other])
            else:
                requests[side, other] += 1
                put16(transport, i, ICMP_ROH + 2, requests[side, other])


@numba.njit(cache=True)
def _rest_of(version, kind, code, transport, i):
    """Return the four bytes after the checksum, as drawn where they have a meaning, else 0."""
    drawn = get32(transport, i, ICMP_ROH)
    if version == 4:
        if kind == ICMP_UNREACHABLE and code == ICMP_FRAGMENTATION_NEEDED:
            mtu = drawn & 0xFFFF
            return mtu if mtu >= 68 else mtu | 512
        if kind == ICMP_REDIRECT:  # gateway
            return 0x0A000001
        if kind == ICMP_PARAMETER_PROBLEM:  # pointer
            return (drawn >> 24 & 15) << 24
        return 0
    if kind == ICMPV6_PACKET_TOO_BIG:  # MTU, RFC 4443 section 3.2
        mtu = drawn & 0xFFFF
        return mtu if mtu >= 1280 else mtu | 2048
    if kind == ICMPV6_PARAMETER_PROBLEM:  # pointer
        return drawn & 31
    if kind == ICMPV6_NEIGHBOUR_ADVERTISEMENT:  # flags, RFC 4861 section 4.4
        return drawn & 0xE0000000
    if kind == ICMPV6_LISTENER_QUERY:  # maximum response delay, RFC 2710
        return get16(transport, i, ICMP_ROH) << 16
    return 0


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
