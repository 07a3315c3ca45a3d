"""Rules of the IP header: what does not vary within a direction, and what must be so.

Shape letters: N flows, P packets.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ICMP_TYPE,
    IPV4_FLAGS,
    IPV4_ID,
    IPV4_PROTO,
    IPV4_TTL,
    IPV6_FL,
    IPV6_HL,
    IPV6_NH,
    distance,
    put16,
)
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.splitmix import FOR_ID, draw

_FARTHEST_HOPS = 40
_DF = 0x40


def _plausible() -> np.ndarray:
    """Lifetimes at most _FARTHEST_HOPS below what stacks start from: 64, 128, 255."""
    near = {start - hops for start in (64, 128, 255) for hops in range(_FARTHEST_HOPS + 1)}
    return np.array(sorted(near), np.int64)


_PLAUSIBLE = _plausible()


def header(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """The fields of the IP header that only one value fits, and the identification.

    IPv4 (RFC 791): no options, no fragments, reserved bit 0; DSCP, ECN and DF as drawn. The
    identification counts each sender's packets, and is 0 under DF but for TCP (RFC 6864).
    IPv6 (RFC 8200): no extension headers.
    """
    _header(
        batch.flow_starts, batch.seed, batch.version, batch.protocol, batch.direction,
        batch.rows["network"],
    )  # fmt: skip


@numba.njit(cache=True)
def _header(flow_starts, seed, version, protocol, direction, network):
    for f in range(len(seed)):
        ids = np.empty(2, np.int64)
        for side in range(2):
            ids[side] = np.int64(draw(seed[f], FOR_ID, side) & np.uint64(0xFFFF))
        for i in range(flow_starts[f], flow_starts[f + 1]):
            if version[f] == 6:
                network[i, 0] = 0x60 | (network[i, 0] & 0x0F)
                network[i, IPV6_NH] = protocol[f]
                continue
            network[i, 0] = 0x45
            network[i, IPV4_FLAGS] &= _DF
            network[i, IPV4_FLAGS + 1] = 0
            network[i, IPV4_PROTO] = protocol[f]
            side = direction[i]
            value = ids[side]
            ids[side] += 1
            if network[i, IPV4_FLAGS] and protocol[f] != 6:
                value = 0
            put16(network, i, IPV4_ID, value & 0xFFFF)


def lifetime(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """One TTL (or hop limit) and one flow label (RFC 6437) a direction.

    Both are the bitwise majority of the direction's rows; the TTL is then snapped by
    Hamming distance to the label's known ones, or to at most 40 hops from 64, 128 or 255.
    A sender of neighbour discovery uses 255 (RFC 4861 section 7.1).
    """
    known = np.array(sorted(context.lifetimes), np.int64) if context.lifetimes else _PLAUSIBLE
    _lifetime(
        batch.flow_starts, batch.version, batch.protocol, batch.direction, batch.rows["network"],
        batch.rows["transport"], known,
    )  # fmt: skip


@numba.njit(cache=True)
def _lifetime(flow_starts, version, protocol, direction, network, transport, known):
    votes = np.empty((2, 28), np.int64)
    count = np.empty(2, np.int64)
    ttl = np.empty(2, np.int64)
    label = np.empty(2, np.int64)
    for f in range(len(version)):
        votes[:] = 0
        count[:] = 0
        at = IPV4_TTL if version[f] == 4 else IPV6_HL
        for i in range(flow_starts[f], flow_starts[f + 1]):
            side = direction[i]
            count[side] += 1
            value = np.int64(network[i, at])
            if version[f] == 6:
                value |= _label_of(network, i) << 8
            for b in range(28 if version[f] == 6 else 8):
                votes[side, b] += (value >> b) & 1
        discovers = np.zeros(2, np.bool_)
        if protocol[f] == 58:
            for i in range(flow_starts[f], flow_starts[f + 1]):
                discovers[direction[i]] |= 133 <= transport[i, ICMP_TYPE] <= 137
        for side in range(2):
            value = np.int64(0)
            for b in range(28):
                value |= np.int64(2 * votes[side, b] > count[side]) << b
            label[side] = value >> 8
            value &= 255
            best = 9
            for candidate in known:
                apart = distance(value, candidate)
                if apart < best:
                    best = apart
                    ttl[side] = candidate
            if discovers[side]:
                ttl[side] = 255
        for i in range(flow_starts[f], flow_starts[f + 1]):
            side = direction[i]
            network[i, at] = ttl[side]
            if version[f] == 6:
                network[i, IPV6_FL] = (network[i, IPV6_FL] & 0xF0) | (label[side] >> 16)
                put16(network, i, IPV6_FL + 1, label[side] & 0xFFFF)


@numba.njit(cache=True)
def _label_of(network, i):
    """Flow label: the low nibble of byte 1 and bytes 2 and 3."""
    high = np.int64(network[i, IPV6_FL] & 0x0F) << 16
    return high | (np.int64(network[i, IPV6_FL + 1]) << 8) | np.int64(network[i, IPV6_FL + 2])
