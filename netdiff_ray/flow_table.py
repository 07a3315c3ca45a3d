"""The flow table of a capture: which flow each packet belongs to, fragments included.

The table has a slot for each key (see `flow_keys`). A flow ends with a
silence longer than the idle timeout, or when a SYN opens another connection of the same key. A
datagram's slot ties its later fragments, which have no ports, to the flow of the first.

Shape letters: P packets, F flows, K slots of the flow table.
"""

import numba
import numpy as np

from netdiff_ray.flow_keys import (
    FRAGMENT_FLAG,
    KEY_WORDS,
    MIX,
    fill_datagram_key,
    fill_key,
    ports_of,
    protocol_of,
)
from netdiff_ray.flow_state import payload_bytes
from netdiff_ray.header_bytes import (
    ACK,
    FIN,
    IPPROTO_TCP,
    IPPROTO_UDP,
    RST,
    SYN,
    TCP_ACKN,
    TCP_FLAGS,
    TCP_SEQ,
    get32,
)
from netdiff_ray.packets.table import FIRST_FRAGMENT, WHOLE

SLOT = np.dtype(
    [
        ("key", "u8", (KEY_WORDS,)),
        ("flow", "i8"),  # its number; of a datagram, that of fragments before the first, or -1
        ("tied", "u8"),  # of a datagram: the last word of its flow's key
        ("last_ts_ns", "i8"),
        ("first_seq", "u4", (2,)),  # of TCP, by sender: 0 the lower endpoint, 1 the higher
        ("next_seq", "u4", (2,)),
        ("after_fin", "u4", (2,)),
        ("reuse", "u4"),
        ("state", "u2"),
        ("client", "i1"),
        ("opened_by_low", "?"),
        ("from_low", "?"),  # of a datagram: who sent it
        ("used", "?"),
    ]
)
"""A slot of the flow table (open addressing; the number of slots is a power of 2)."""

ASSIGNED = np.dtype(
    [
        ("flow", "i8"),
        ("datagram", "i8"),
        ("reuse", "u4"),
        ("from_low", "?"),
        ("client_is_low", "?"),
    ]
)
"""What `assign` says of a packet: the number of its flow; the number of its datagram if that had
fragments before its first and this is one of them or the first, else -1; how many connections
of the flow's key were opened before it without a silence; whether the lower endpoint sent
it; whether the lower endpoint is the flow's client, unless a SYN says otherwise."""

NUM_USED, NUM_FLOWS, NUM_DATAGRAMS = range(3)
"""Elements of a table's counts, int64: slots used, and the next flow and datagram numbers."""

REASSEMBLY_NS = 60 * 10**9
"""How long the fragments of a datagram are waited for (RFC 8200 section 4.5)."""


_TCP_MEMORY_NS = (2 * 3600 + 4 * 60) * 10**9  # RFC 5382, REQ-5: an idle connection in a NAT
_UDP_MEMORY_NS = 5 * 60 * 10**9  # RFC 4787, REQ-5
_WINDOW = 0xFFFF

_LOW, _HIGH, _UNKNOWN = 1, 0, -1  # values of `client`
# Bits of `state`; those of the higher endpoint are shifted by 1.
_HEARD, _SYN_SEEN, _FIN_SEEN, _FIN_ACKED, _RESET, _TALKED = 1, 4, 16, 64, 256, 512
_BOTH_HEARD, _BOTH_FINS_ACKED = 3 * _HEARD, 3 * _FIN_ACKED

_LAST_WELL_KNOWN_PORT = 1023
_REGISTERED_PORTS = (
    1194, 1433, 1434, 1521, 1701, 1723, 1812, 1813, 1883, 1900, 1935, 2049, 2123, 2152, 2404,
    3260, 3268, 3306, 3389, 3478, 3544, 3868, 4500, 4739, 4789, 5060, 5061, 5222, 5269, 5349,
    5353, 5355, 5432, 5671, 5672, 5683, 5684, 5900, 5985, 5986, 6081, 6379, 6443, 6514, 6653,
    8080, 8443, 8883, 9100, 11211, 20000, 25565, 27017, 44818, 47808,
)  # fmt: skip
_IS_REGISTERED = np.arange(1 << 16) <= _LAST_WELL_KNOWN_PORT
_IS_REGISTERED[list(_REGISTERED_PORTS)] = True
"""(65536,) bool: whether a port is a service's: system ports, and the registered ports that are
met most (IANA, Service Name and Transport Protocol Port Number Registry)."""


def new_table(num_slots: int) -> np.ndarray:
    """Return an empty table of `num_slots`, a power of 2."""
    return np.zeros(num_slots, SLOT)


def resized(slots: np.ndarray, num_slots: int) -> np.ndarray:
    """Return a table of `num_slots`, a power of 2, that holds the used `slots` (SLOT)."""
    table = new_table(num_slots)
    _reinsert(slots, table)
    return table


@numba.njit(cache=True)
def _reinsert(slots, table):
    for i in range(len(slots)):
        table[_find(table, slots[i].key)] = slots[i]


@numba.njit(cache=True)
def kept_slots(table, now_ns, idle_timeout_ns):
    """Return (K,) bool: the slots that packets from `now_ns` on may depend on: those of flows and
    datagrams that have not ended, and those that say who the client is."""
    kept = np.zeros(len(table), np.bool_)
    for slot in range(len(table)):
        if table[slot].used:
            is_alive = now_ns - table[slot].last_ts_ns <= idle_timeout_ns
            kept[slot] = is_alive or _remembers_client(table[slot], now_ns)
    return kept


def is_datagram_slot(table: np.ndarray) -> np.ndarray:
    """Return (K,) bool: the slots of datagrams, not of flows."""
    return table["key"][:, KEY_WORDS - 1] & FRAGMENT_FLAG != 0


@numba.njit(cache=True)
def assign(rows, table, counts, idle_timeout_ns, assigned):
    """Assign packets to flows, new ones included, and note them in the table.

    Args:
        rows: (P,) HEADER_ROW in capture order.
        table: (K,) SLOT with 2 P slots free.
        counts: (3,) int64, see NUM_USED; brought up to date.
        assigned: (P,) ASSIGNED, filled.
    """
    key = np.zeros(KEY_WORDS, np.uint64)
    datagram_key = np.zeros(KEY_WORDS, np.uint64)
    for i in range(len(rows)):
        ts_ns = rows[i].ts_ns
        low = fill_key(rows, i, key)
        assigned[i].datagram = -1
        if rows[i].fragment != WHOLE:
            fill_datagram_key(rows, i, key, low, datagram_key)
            slot = _find(table, datagram_key)
            timeout_ns = min(idle_timeout_ns, REASSEMBLY_NS)
            if rows[i].fragment == FIRST_FRAGMENT:
                waited = _tie(table[slot], ts_ns, timeout_ns, key, low, datagram_key, counts)
                assigned[i].datagram = waited
            else:
                low = _follow(table[slot], ts_ns, timeout_ns, key, low, datagram_key, counts)
                assigned[i].datagram = table[slot].flow
        entry = table[_find(table, key)]
        if not entry.used:
            counts[NUM_USED] += 1
            entry.used = True
            entry.key[:] = key
            entry.client = _UNKNOWN
            _open_flow(entry, low, 0, counts)
        elif ts_ns - entry.last_ts_ns > idle_timeout_ns:
            if not _remembers_client(entry, ts_ns):
                entry.client = _UNKNOWN
            _open_flow(entry, low, 0, counts)
        elif _opens_connection(entry, rows, i, low):
            entry.client = _UNKNOWN
            _open_flow(entry, low, entry.reuse + 1, counts)
        entry.last_ts_ns = ts_ns
        _note_packet(entry, rows, i, low)
        assigned[i].flow = entry.flow
        assigned[i].reuse = entry.reuse
        assigned[i].from_low = low
        assigned[i].client_is_low = entry.opened_by_low


@numba.njit(cache=True)
def _tie(entry, ts_ns, timeout_ns, key, low, datagram_key, counts):
    """Tie a datagram's slot to the flow of its first fragment; return the number of the fragments
    that waited for it, or -1."""
    waited = np.int64(-1)
    if not entry.used:
        counts[NUM_USED] += 1
        entry.used = True
        entry.key[:] = datagram_key
    elif ts_ns - entry.last_ts_ns <= timeout_ns:
        waited = entry.flow
    entry.flow = -1
    entry.tied = key[4]
    entry.from_low = low
    entry.last_ts_ns = ts_ns
    return waited


@numba.njit(cache=True)
def _follow(entry, ts_ns, timeout_ns, key, low, datagram_key, counts):
    """Change the `key` of a later fragment to that of its first; if that has not come, number the
    datagram. Return whether the lower endpoint sent it."""
    is_known = entry.used and ts_ns - entry.last_ts_ns <= timeout_ns
    if is_known and entry.flow < 0:
        if low != entry.from_low:
            for k in range(2):
                key[k], key[k + 2] = key[k + 2], key[k]
        low = entry.from_low
        key[4] = entry.tied
    elif not is_known:
        if not entry.used:
            counts[NUM_USED] += 1
            entry.used = True
            entry.key[:] = datagram_key
        entry.flow = counts[NUM_DATAGRAMS]
        counts[NUM_DATAGRAMS] += 1
    if entry.flow < 0 or not is_known:  # the first is waited for from the first that came on
        entry.last_ts_ns = ts_ns
    return low


@numba.njit(cache=True)
def _open_flow(entry, low, reuse, counts):
    """Begin a flow in the slot of its key, with a packet that the lower endpoint sent or not."""
    entry.flow = counts[NUM_FLOWS]
    counts[NUM_FLOWS] += 1
    entry.reuse = reuse
    entry.state = 0
    client = entry.client
    if client == _UNKNOWN:
        client = _client_by_ports(entry.key)
    if client == _UNKNOWN:
        client = _LOW if low else _HIGH
    entry.opened_by_low = client == _LOW
    if protocol_of(entry.key) == IPPROTO_UDP:
        entry.client = client


@numba.njit(cache=True)
def _client_by_ports(key):
    """Return the client that the ports tell: the other side of the only registered port, of TCP
    also the side of the higher port."""
    protocol = protocol_of(key)
    if protocol != IPPROTO_TCP and protocol != IPPROTO_UDP:
        return _UNKNOWN
    low_port, high_port = ports_of(key)
    if _IS_REGISTERED[low_port] != _IS_REGISTERED[high_port]:
        return _HIGH if _IS_REGISTERED[low_port] else _LOW
    if protocol == IPPROTO_UDP or low_port == high_port:
        return _UNKNOWN
    return _LOW if low_port > high_port else _HIGH


@numba.njit(cache=True)
def _remembers_client(entry, now_ns):
    """Return whether a slot is kept for its client: a connection that was in use and has not
    ended, and whose ports tell another client or none."""
    if not entry.state & _TALKED or _has_ended(entry) or entry.client == _UNKNOWN:
        return False
    protocol = protocol_of(entry.key)
    memory_ns = _TCP_MEMORY_NS if protocol == IPPROTO_TCP else _UDP_MEMORY_NS
    return now_ns - entry.last_ts_ns <= memory_ns and _client_by_ports(entry.key) != entry.client


@numba.njit(cache=True)
def _has_ended(entry):
    """Return whether a TCP connection was reset, or both its FINs were acknowledged."""
    fins_acked = entry.state & _BOTH_FINS_ACKED == _BOTH_FINS_ACKED
    return fins_acked or entry.state & _RESET != 0


@numba.njit(cache=True)
def _is_tcp(rows, i):
    """Return whether row i has a TCP header up to its flags."""
    return rows[i].protocol == IPPROTO_TCP and rows[i].transport_len > TCP_FLAGS


@numba.njit(cache=True)
def _opens_connection(entry, rows, i, low):
    """Return whether row i is a SYN that opens another connection than that of the slot.

    It is not where it repeats the connection's SYN, and not where the connection is open and
    the number lies in what was sent or in the window after it. A first SYN of the other side
    (simultaneous open) belongs to an open connection.
    """
    if not _is_tcp(rows, i) or rows.transport[i, TCP_FLAGS] & (SYN | ACK) != SYN:
        return False
    side = 0 if low else 1
    if not entry.state & (_HEARD << side):
        return _has_ended(entry)
    seq = get32(rows.transport, i, TCP_SEQ)
    first, following = np.int64(entry.first_seq[side]), np.int64(entry.next_seq[side])
    if entry.state & (_SYN_SEEN << side):
        if seq == first:
            return False
    else:
        first -= _WINDOW
    if _has_ended(entry):
        return True
    return (seq - first) % (1 << 32) > (following - first) % (1 << 32) + _WINDOW


@numba.njit(cache=True)
def _note_packet(entry, rows, i, low):
    """Note in the slot of its flow what row i says of the connection."""
    side = 0 if low else 1
    was_heard = entry.state & (_HEARD << side)
    entry.state |= _HEARD << side
    if rows[i].protocol == IPPROTO_UDP and entry.state & _BOTH_HEARD == _BOTH_HEARD:
        entry.state |= _TALKED
    if not _is_tcp(rows, i):
        return
    flags = rows.transport[i, TCP_FLAGS]
    seq = get32(rows.transport, i, TCP_SEQ)
    following = (seq + _sequence_space(rows, i)) & 0xFFFFFFFF
    if not was_heard or (flags & SYN and not entry.state & (_SYN_SEEN << side)):
        entry.first_seq[side] = seq
    if not was_heard or (following - np.int64(entry.next_seq[side])) % (1 << 32) < 1 << 31:
        entry.next_seq[side] = following
    if flags & SYN:
        entry.state |= _SYN_SEEN << side
        entry.client = _LOW if low != (flags & ACK != 0) else _HIGH
    elif flags & ACK and not flags & RST:
        entry.state |= _TALKED
    if flags & FIN:
        entry.state |= _FIN_SEEN << side
        entry.after_fin[side] = following
    if flags & RST:
        entry.state |= _RESET
    elif flags & ACK and entry.state & (_FIN_SEEN << (1 - side)):
        acknowledged = get32(rows.transport, i, TCP_ACKN)
        if (acknowledged - np.int64(entry.after_fin[1 - side])) % (1 << 32) < 1 << 31:
            entry.state |= _FIN_ACKED << (1 - side)


@numba.njit(cache=True)
def _sequence_space(rows, i):
    """Return how many sequence numbers the TCP segment of row i takes."""
    flags = rows.transport[i, TCP_FLAGS]
    payload = payload_bytes(rows.network, rows.transport, rows[i].version, i)
    return payload + (flags & SYN != 0) + (flags & FIN != 0)


@numba.njit(cache=True)
def _find(table, key):
    """Return the slot of `key`, or the free slot where it belongs."""
    value = np.uint64(0)
    for k in range(KEY_WORDS):
        value = (value ^ key[k]) * MIX
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
