"""Packets that were captured more than once, as by a port mirror that copies frames where they
enter a switch and where they leave it, or on both sides of a router.

Shape letters: P packets, S slots of a hash table, power of 2.
"""

from collections.abc import Iterable, Iterator

import numba
import numpy as np

from netdiff_ray.header_bytes import IPV4_CKSUM, IPV4_ID, IPV4_TTL, IPV6_HL, get16
from netdiff_ray.packets.headers import HEADER_ROW

MOST_NS = 20_000_000
"""Longest time after which a packet is captured again: shorter than any timer of RFC 6298 after
which it would be sent again."""

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(29)


def without_duplicates(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield header rows without the packets that were captured before, and say in the rows of
    these how often they were captured again.

    A packet is the one before if all of its header is but lifetime and header checksum, at most
    MOST_NS later. A sender gives every IPv4 packet an identification of its own, except 0 for
    packets that must not be fragmented (RFC 6864 section 4.1); where it has none, as in IPv6, the
    lifetime must have changed, as hosts do say the same twice.

    Args:
        chunks: (P,) HEADER_ROW each, in capture order.
    """
    held = np.empty(0, HEADER_ROW)
    for chunk in chunks:
        rows = np.concatenate([held, chunk])
        rows = rows[_find(rows)]
        due = len(rows)
        if due:
            latest_ns = np.maximum.accumulate(rows["ts_ns"])[-1]
            due = int(np.argmax(rows["ts_ns"] + MOST_NS >= latest_ns))
        held = rows[due:]
        yield rows[:due]
    yield held


def _find(rows: np.ndarray) -> np.ndarray:
    """Return (P,) bool: which packets were not captured before; count the others in their rows."""
    is_new = np.ones(len(rows), np.bool_)
    slots = np.full(1 << (2 * len(rows)).bit_length(), -1)
    _mark(rows, slots, is_new)
    return is_new


@numba.njit(cache=True)
def _mark(rows, slots, is_new):
    """Fill `is_new`; `slots` is (S,) int64 of -1."""
    network, transport = rows["network"], rows["transport"]
    mask = len(slots) - 1
    for i in range(len(rows)):
        row = rows[i]
        at = np.int64(_hash(network[i], transport[i], row) & np.uint64(mask))
        while slots[at] >= 0:
            j = slots[at]
            if _is_same(rows, network, transport, i, j):
                later_ns = row.ts_ns - rows[j].ts_ns
                hops = _lifetime(network, rows[j].version, j) - _lifetime(network, row.version, i)
                has_id = row.version == 4 and get16(network, i, IPV4_ID) != 0
                if 0 <= later_ns <= MOST_NS and (hops or has_id) and -128 <= hops < 128:
                    is_new[i] = False
                    if not rows[j].duplicates:
                        rows[j].duplicate_hops = hops
                        rows[j].duplicate_ns = later_ns
                    rows[j].duplicates = min(rows[j].duplicates + 1, 255)
                else:
                    slots[at] = i
                break
            at = (at + 1) & mask
        if slots[at] < 0:
            slots[at] = i


@numba.njit(cache=True)
def _lifetime(network, version, i):
    """Return the TTL or hop limit of packet `i`."""
    return np.int64(network[i, IPV4_TTL if version == 4 else IPV6_HL])


@numba.njit(cache=True)
def _hash(network, transport, row):
    """Return a hash, uint64, of what routers leave of a packet's headers."""
    digest = np.uint64(row.wirelen)
    for k in range(row.network_len):
        digest = _mixed(digest, 0 if _changes(row.version, k) else network[k])
    for k in range(row.transport_len):
        digest = _mixed(digest, transport[k])
    return digest ^ (digest >> _FOLD)


@numba.njit(cache=True)
def _mixed(digest, octet):
    """Return the digest with another octet in it."""
    digest = (digest ^ np.uint64(octet)) * _PRIME
    return digest ^ (digest >> _FOLD)


@numba.njit(cache=True)
def _changes(version, k):
    """Return whether routers change octet `k` of an IP header."""
    if version == 4:
        return k == IPV4_TTL or IPV4_CKSUM <= k < IPV4_CKSUM + 2
    return k == IPV6_HL


@numba.njit(cache=True)
def _is_same(rows, network, transport, i, j):
    """Return whether two packets are the same but for what routers change."""
    row, other = rows[i], rows[j]
    same = row.version == other.version and row.wirelen == other.wirelen
    same &= row.network_len == other.network_len and row.transport_len == other.transport_len
    for k in range(row.network_len):
        same &= network[i, k] == network[j, k] or _changes(row.version, k)
    for k in range(row.transport_len):
        same &= transport[i, k] == transport[j, k]
    return same
