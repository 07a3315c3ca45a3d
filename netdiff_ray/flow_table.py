"""The flow table of a capture: which flow each packet belongs to, fragments included.

A flow's key is the same for both directions: the lower endpoint's address, the higher's,
then ports, protocol and IP version. A fragment's slot ties the later fragments of a
datagram, which have no ports, to the flow of the first.

Shape letters: P packets, F flows, K slots of the flow table.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    DPORT,
    ICMP_ROH,
    ICMP_TYPE,
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
from netdiff_ray.packets.table import FIRST_FRAGMENT, LATER_FRAGMENT, WHOLE

SLOT = np.dtype(
    [
        ("key", "u8", (5,)),
        ("flow", "i8"),  # flow number; for a fragment's slot, the last word of its flow's key
        ("last_ts_ns", "i8"),
        ("from_low", "?"),
        ("used", "?"),
    ]
)
"""A slot of the flow table (open addressing; the number of slots is a power of 2)."""

KEY_WORDS = SLOT["key"].shape[0]
_FRAGMENT_FLAG = np.uint64(0x80)
_MIX = np.uint64(0x9E3779B97F4A7C15)


def resized(slots: np.ndarray, num_slots: int) -> np.ndarray:
    """Return a table of `num_slots`, a power of 2, that holds the used `slots` (SLOT)."""
    table = np.zeros(num_slots, SLOT)
    _reinsert(slots, table)
    return table


@numba.njit(cache=True)
def _reinsert(slots, table):
    for i in range(len(slots)):
        table[_find(table, slots[i].key)] = slots[i]


@numba.njit(cache=True)
def assign(rows, table, num_used, num_flows, idle_timeout_ns, flow, from_low):
    """Assign packets to flows, new ones included, and note them in the table.

    Args:
        rows: (P,) HEADER_ROW in capture order.
        table: (K,) SLOT with 2 P slots free.
        num_used: slots used.
        num_flows: flows so far, the number of the next.
        flow: (P,) int64, filled with flow numbers.
        from_low: (P,) bool, filled with whether the lower endpoint sent the packet.

    Returns:
        (`num_used`, `num_flows`) after these packets.
    """
    key = np.zeros(KEY_WORDS, np.uint64)
    fragment_key = np.zeros(KEY_WORDS, np.uint64)
    for i in range(len(rows)):
        ts_ns = rows[i].ts_ns
        low = fill_key(rows, i, key)
        if rows[i].fragment != WHOLE:
            _fill_fragment_key(rows, i, key, low, fragment_key)
            slot = _find(table, fragment_key)
            if rows[i].fragment == FIRST_FRAGMENT:
                if not table[slot].used:
                    num_used += 1
                    table[slot].used = True
                    table[slot].key[:] = fragment_key
                table[slot].flow = np.int64(key[4])
                table[slot].from_low = low
                table[slot].last_ts_ns = ts_ns
            elif table[slot].used and ts_ns - table[slot].last_ts_ns <= idle_timeout_ns:
                if low != table[slot].from_low:
                    for k in range(2):
                        key[k], key[k + 2] = key[k + 2], key[k]
                low = table[slot].from_low
                key[4] = np.uint64(table[slot].flow)
                table[slot].last_ts_ns = ts_ns
        slot = _find(table, key)
        if not table[slot].used:
            num_used += 1
            table[slot].used = True
            table[slot].key[:] = key
            table[slot].flow = num_flows
            num_flows += 1
        elif ts_ns - table[slot].last_ts_ns > idle_timeout_ns:
            table[slot].flow = num_flows
            num_flows += 1
        table[slot].last_ts_ns = ts_ns
        flow[i] = table[slot].flow
        from_low[i] = low
    return num_used, num_flows


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
def _fill_fragment_key(rows, i, key, low, fragment_key):
    """Write the key of the datagram that row i is a fragment of, given its flow's `key`.

    Direction matters: the source stands before the target.
    """
    is_4 = rows[i].version == 4
    protocol_bits = np.uint64(rows[i].protocol) if is_4 else np.uint64(0)
    for k in range(4):
        fragment_key[k] = key[k] if low else key[(k + 2) % 4]
    fragment_key[4] = (
        (np.uint64(rows[i].fragment_id) << np.uint64(16))
        | (protocol_bits << np.uint64(8))
        | np.uint64(rows[i].version)
        | _FRAGMENT_FLAG
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
        if kind in (0, 8):
            return 8, True
        if 13 <= kind <= 18:
            return kind - 1 + kind % 2, True
        if kind in (9, 10):
            return 10, False
    else:
        if kind in (128, 129):
            return 128, True
        if kind in (133, 134, 135, 136, 139, 140):
            return kind - 1 + kind % 2, False
    return kind, False


@numba.njit(cache=True)
def _find(table, key):
    """Return the slot of `key`, or the free slot where it belongs."""
    value = np.uint64(0)
    for k in range(KEY_WORDS):
        value = (value ^ key[k]) * _MIX
        value ^= value >> np.uint64(29)
    mask = np.uint64(len(table) - 1)
    slot = value & mask
    while table[slot].used:
        same = True
        for k in range(KEY_WORDS):
            if table[slot].key[k] != key[k]:
                same = False
                break
        if same:
            return slot
        slot = (slot + np.uint64(1)) & mask
    return slot


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
            both += address * _MIX
        both ^= both >> np.uint64(32)
        buckets[i] = np.int64(both % np.uint64(num_buckets))
    return buckets
