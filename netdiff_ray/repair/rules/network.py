"""Rules of the IP header: fields that have only one valid value, or one in a direction.

Shape letters: N flows, P packets.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ICMP_TYPE,
    ICMPV6_REDIRECT,
    ICMPV6_ROUTER_SOLICITATION,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPV4_DONT_FRAGMENT,
    IPV4_FLAGS,
    IPV4_ID,
    IPV4_PROTO,
    IPV4_TTL,
    IPV4_VER,
    IPV4_VER_HL,
    IPV6_FL,
    IPV6_HL,
    IPV6_NH,
    IPV6_VER,
    IPV6_VER_TC,
    distance,
    put16,
)
from netdiff_ray.labels.stack import UNKNOWN
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.splitmix import FOR_ID, draw

_FARTHEST_HOPS = 40


def _plausible() -> np.ndarray:
    """Return the lifetimes at most _FARTHEST_HOPS below what stacks start from: 64, 128, 255."""
    near = {start - hops for start in (64, 128, 255) for hops in range(_FARTHEST_HOPS + 1)}
    return np.array(sorted(near), np.int64)


_PLAUSIBLE = _plausible()


def header(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle the IP header's fields that have one valid value, and the identification.

    IPv4 (RFC 791): no options, no fragments, reserved bit 0; DSCP, ECN and DF stand. The
    identification counts each sender's packets, and is 0 under DF but for TCP (RFC 6864).
    IPv6 (RFC 8200): no extension headers.
    """
    _header(batch.flows, batch.packets)


@numba.njit(cache=True)
def _header(flows, packets):
    network = packets.rows["network"]
    for f in range(len(flows.seed)):
        protocol = flows.protocol[f]
        ids = np.empty(2, np.int64)
        for side in range(2):
            ids[side] = np.int64(draw(flows.seed[f], FOR_ID, side) & np.uint64(0xFFFF))
        for i in range(flows.starts[f], flows.starts[f + 1]):
            if flows.version[f] == 6:
                network[i, IPV6_VER] = IPV6_VER_TC | (network[i, IPV6_VER] & 0x0F)
                network[i, IPV6_NH] = protocol
                continue
            network[i, IPV4_VER] = IPV4_VER_HL
            network[i, IPV4_FLAGS] &= IPV4_DONT_FRAGMENT >> 8
            network[i, IPV4_FLAGS + 1] = 0
            network[i, IPV4_PROTO] = protocol
            side = packets.direction[i]
            value = ids[side]
            ids[side] += 1
            if network[i, IPV4_FLAGS] and protocol != IPPROTO_TCP:
                value = 0
            put16(network, i, IPV4_ID, value & 0xFFFF)


def lifetime(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle the TTL (or hop limit) and the flow label (RFC 6437) of each direction.

    The TTL is as planned. Otherwise both are the bitwise majority of the direction's rows, the TTL
    then snapped by Hamming distance to at most 40 hops from 64, 128 or 255.
    A sender of neighbour discovery uses 255 (RFC 4861 section 7.1).
    """
    _lifetime(batch.flows, batch.packets, batch.plans.lifetime, _PLAUSIBLE)


@numba.njit(cache=True)
def _lifetime(flows, packets, planned, candidates):
    network, transport = packets.rows["network"], packets.rows["transport"]
    direction = packets.direction
    votes = np.empty((2, 28), np.int64)
    count = np.empty(2, np.int64)
    ttl = np.empty(2, np.int64)
    label = np.empty(2, np.int64)
    for f in range(len(flows.seed)):
        begin, end = flows.starts[f], flows.starts[f + 1]
        version = flows.version[f]
        votes[:] = 0
        count[:] = 0
        at = IPV4_TTL if version == 4 else IPV6_HL
        for i in range(begin, end):
            side = direction[i]
            count[side] += 1
            value = np.int64(network[i, at])
            if version == 6:
                value |= _label_of(network, i) << 8
            for b in range(28 if version == 6 else 8):
                votes[side, b] += (value >> b) & 1
        discovers = np.zeros(2, np.bool_)
        if flows.protocol[f] == IPPROTO_ICMPV6:
            for i in range(begin, end):
                kind = transport[i, ICMP_TYPE]
                discovers[direction[i]] |= ICMPV6_ROUTER_SOLICITATION <= kind <= ICMPV6_REDIRECT
        for side in range(2):
            value = np.int64(0)
            for b in range(28):
                value |= np.int64(2 * votes[side, b] > count[side]) << b
            label[side] = value >> 8
            value &= 255
            best = 9
            for candidate in candidates:
                apart = distance(value, candidate)
                if apart < best:
                    best = apart
                    ttl[side] = candidate
            if planned[f, side] != UNKNOWN:
                ttl[side] = planned[f, side]
            if discovers[side]:
                ttl[side] = 255
        for i in range(begin, end):
            side = direction[i]
            network[i, at] = ttl[side]
            if version == 6:
                network[i, IPV6_FL] = (network[i, IPV6_FL] & 0xF0) | (label[side] >> 16)
                put16(network, i, IPV6_FL + 1, label[side] & 0xFFFF)


@numba.njit(cache=True)
def _label_of(network, i):
    """Return the flow label: the low nibble of its first byte and the two bytes after it."""
    high = np.int64(network[i, IPV6_FL] & 0x0F) << 16
    return high | (np.int64(network[i, IPV6_FL + 1]) << 8) | np.int64(network[i, IPV6_FL + 2])
