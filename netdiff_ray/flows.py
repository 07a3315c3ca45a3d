"""Packets to flows to windows.

A flow is the packets of one bidirectional 5-tuple, in capture order, split where more
than the idle timeout lies between two of them. Ports of ICMP and ICMPv6 are stood in
for by the type pair (a request and its reply are one) and the identifier. Later
fragments have no ports: they follow their first fragment. A window is a run of at most
`height` packets of a flow.

Shape letters: P packets, W windows, K slots of the flow table.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numba
import numpy as np

from netdiff_ray.packets.headers import HEADER_ROW

DEFAULT_IDLE_TIMEOUT_S = 60.0
DEFAULT_HEIGHT = 1024
_PENDING_PACKETS = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of flows, their packets one after another."""

    rows: np.ndarray
    """(P,) HEADER_ROW, window by window, each window in capture order."""
    direction: np.ndarray
    """(P,) uint8: 0 from the client, 1 to it."""
    interarrival_ns: np.ndarray
    """(P,) int64: time since the flow's packet before, at least 0; 0 for its first."""
    first: np.ndarray
    """(W + 1,) int64: the first packet of each window; the last element is P."""
    flow_id: list[str]
    """W ids of 32 hex digits: a hash of capture content, 5-tuple and start."""
    window: np.ndarray
    """(W,) int32: number of the window in its flow, from 0."""
    is_last: np.ndarray
    """(W,) bool: whether the flow ends with this window."""
    flow_start_ns: np.ndarray
    """(W,) int64: time of the flow's first packet, ns since 1970-01-01 UTC."""

    def __len__(self) -> int:
        return len(self.window)


@dataclass
class _Carried:
    """What is remembered of a flow whose earlier windows have been given out."""

    flow_id: str
    client_is_low: bool
    next_window: int
    last_ts_ns: int
    start_ns: int


class FlowAssembler:
    """The flows of one capture, assembled as its header rows come in.

    Memory grows with the flows that are open at a time and with at most `height` packets
    of each, not with the capture.

    Args:
        fingerprint: bytes that stand for the capture's content, part of each flow id.
        idle_timeout_s: silence that ends a flow, in seconds.
        height: packets in a full window.
    """

    def __init__(
        self,
        fingerprint: bytes,
        *,
        idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S,
        height: int = DEFAULT_HEIGHT,
    ):
        self.idle_timeout_ns = int(idle_timeout_s * 1e9)
        self.height = height
        self._fingerprint = fingerprint
        self._table = np.zeros(1 << 12, _SLOT)
        self._num_used = 0
        self._num_flows = 0
        self._latest_ns = np.iinfo(np.int64).min + self.idle_timeout_ns
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._num_pending = 0
        self._threshold = _PENDING_PACKETS
        self._carried: dict[int, _Carried] = {}

    def add(self, rows: np.ndarray) -> Windows | None:
        """Take (P,) HEADER_ROW in capture order; returns windows that are complete, if any."""
        flow, from_low = self._assign(rows)
        self._pending.append((rows, flow, from_low))
        self._num_pending += len(rows)
        if self._num_pending < self._threshold:
            return None
        windows = self._release(at_end=False)
        self._threshold = max(_PENDING_PACKETS, 2 * self._num_pending)
        return windows

    def finish(self) -> Windows:
        """The windows of all flows still open."""
        return self._release(at_end=True)

    def _assign(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flow number (P,) int64 and whether the lower endpoint sent (P,) bool."""
        if (self._num_used + 2 * len(rows)) * 2 > len(self._table):  # a packet may take two
            alive = self._table[self._is_alive()]
            needed = (len(alive) + 2 * len(rows)) * 4
            self._table = np.zeros(1 << int(needed - 1).bit_length(), _SLOT)
            self._num_used = len(alive)
            _reinsert(alive["key"], alive, self._table["key"], self._table)
        flow = np.empty(len(rows), np.int64)
        from_low = np.empty(len(rows), np.bool_)
        table = self._table
        self._num_used, self._num_flows = _assign(
            rows["version"], rows["protocol"], rows["fragment"], rows["fragment_id"],
            rows["network"], rows["transport"], rows["transport_len"], rows["ts_ns"],
            self.idle_timeout_ns, table["key"], table["flow"], table["from_low"],
            table["last_ts_ns"], table["used"], self._num_used, self._num_flows, flow, from_low,
        )  # fmt: skip
        if len(rows):
            self._latest_ns = max(self._latest_ns, int(rows["ts_ns"].max()))
        return flow, from_low

    def _is_alive(self) -> np.ndarray:
        """(K,) bool: slots whose flow may still get packets."""
        table = self._table
        return table["used"] & (table["last_ts_ns"] >= self._latest_ns - self.idle_timeout_ns)

    def _release(self, *, at_end: bool) -> Windows:
        """Cut windows out of the pending packets; keep the unfinished rest pending."""
        empty = (np.empty(0, HEADER_ROW), np.empty(0, np.int64), np.empty(0, np.bool_))
        rows, flow, from_low = (
            np.concatenate(parts) for parts in zip(empty, *self._pending, strict=True)
        )
        order = np.argsort(flow, kind="stable")
        begins = np.flatnonzero(np.diff(flow[order], prepend=-1))
        counts = np.diff(begins, append=len(order))
        numbers = flow[order][begins]
        if at_end:
            ended = np.ones(len(numbers), np.bool_)
            taken = counts
        else:
            ended = ~np.isin(numbers, self._table["flow"][self._is_alive()])
            # A full window waits for the packet after it: only that shows it is not the last.
            taken = np.where(ended, counts, (counts - 1) // self.height * self.height)
        rank = np.arange(len(order)) - np.repeat(begins, counts)
        goes = rank < np.repeat(taken, counts)
        rest = np.sort(order[~goes])
        self._pending = [(rows[rest], flow[rest], from_low[rest])]
        self._num_pending = len(rest)
        order = order[goes]
        some = taken > 0
        return self._cut(rows[order], from_low[order], numbers[some], taken[some], ended[some])

    def _cut(
        self,
        rows: np.ndarray,
        from_low: np.ndarray,
        numbers: np.ndarray,
        counts: np.ndarray,
        ended: np.ndarray,
    ) -> Windows:
        """Windows of flows whose packets lie one flow after another, `counts` of each."""
        begins = np.cumsum(counts) - counts
        keys = np.zeros((len(numbers), 6), np.uint64)
        client_is_low = _first_facts(
            rows["version"], rows["protocol"], rows["fragment"], rows["network"],
            rows["transport"], rows["transport_len"], rows["ts_ns"], from_low, begins,
            np.minimum(counts, self.height), keys,
        )  # fmt: skip
        flows: list[_Carried] = []
        last_ts_ns = rows["ts_ns"][begins + counts - 1]
        for k, number in enumerate(numbers.tolist()):
            state = self._carried.pop(number, None)
            if state is None:
                start_ns = int(rows["ts_ns"][begins[k]])
                flow_id = hashlib.blake2b(
                    keys[k].tobytes(), digest_size=16, key=self._fingerprint
                ).hexdigest()
                state = _Carried(flow_id, bool(client_is_low[k]), 0, start_ns, start_ns)
            flows.append(state)
        interarrival_ns = np.diff(rows["ts_ns"], prepend=0)
        interarrival_ns[begins] = rows["ts_ns"][begins] - [f.last_ts_ns for f in flows]
        low = np.repeat(np.array([f.client_is_low for f in flows], np.bool_), counts)

        per_flow = -(-counts // self.height)
        of_flow = np.repeat(np.arange(len(flows)), per_flow)
        nth = np.arange(len(of_flow)) - np.repeat(np.cumsum(per_flow) - per_flow, per_flow)
        first = np.append(begins[of_flow] + nth * self.height, len(rows))
        next_window = np.array([f.next_window for f in flows], np.int32)
        for k, (state, number) in enumerate(zip(flows, numbers.tolist(), strict=True)):
            if not ended[k]:
                state.next_window += int(per_flow[k])
                state.last_ts_ns = int(last_ts_ns[k])
                self._carried[number] = state
        return Windows(
            rows=rows,
            direction=(from_low != low).astype(np.uint8),
            interarrival_ns=np.maximum(interarrival_ns, 0),
            first=first,
            flow_id=[flows[k].flow_id for k in of_flow],
            window=(next_window[of_flow] + nth).astype(np.int32),
            is_last=ended[of_flow] & (nth == per_flow[of_flow] - 1),
            flow_start_ns=np.array([f.start_ns for f in flows], np.int64)[of_flow],
        )


def assemble_flows(
    chunks: Iterable[np.ndarray],
    fingerprint: bytes,
    *,
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S,
    height: int = DEFAULT_HEIGHT,
) -> Iterator[Windows]:
    """The windows of one capture, from its header rows chunk by chunk in capture order."""
    assembler = FlowAssembler(fingerprint, idle_timeout_s=idle_timeout_s, height=height)
    for rows in chunks:
        windows = assembler.add(rows)
        if windows is not None:
            yield windows
    yield assembler.finish()


def bucket_of(rows: np.ndarray, num_buckets: int) -> np.ndarray:
    """(P,) int64 below `num_buckets`, the same for all packets of a flow.

    It depends on the two addresses alone, so that fragments, which have no ports, go with
    their flow.
    """
    return _bucket_of(rows["version"], rows["network"], num_buckets)


@numba.njit(cache=True)
def _bucket_of(version, network, num_buckets):
    buckets = np.empty(len(version), np.int64)
    mix = np.uint64(0x9E3779B97F4A7C15)
    for i in range(len(version)):
        begin, size = (12, 4) if version[i] == 4 else (8, 16)
        both = np.uint64(0)
        for end in range(2):
            one = np.uint64(1469598103934665603)
            for k in range(begin + end * size, begin + (end + 1) * size):
                one = (one ^ np.uint64(network[i, k])) * np.uint64(1099511628211)  # FNV-1a
            both += one * mix
        both ^= both >> np.uint64(32)
        buckets[i] = np.int64(both % np.uint64(num_buckets))
    return buckets


_SLOT = np.dtype(
    [
        ("key", "u8", (5,)),
        ("flow", "i8"),  # flow number; for a fragment's slot, the last word of its flow's key
        ("last_ts_ns", "i8"),
        ("from_low", "?"),
        ("used", "?"),
    ]
)
_FRAGMENT_FLAG = np.uint64(0x80)


@numba.njit(cache=True)
def _word(data, i, at, size):
    """The big-endian unsigned integer of `size` bytes at data[i, at]."""
    value = np.uint64(0)
    for k in range(at, at + size):
        value = (value << np.uint64(8)) | np.uint64(data[i, k])
    return value


@numba.njit(cache=True)
def _icmp_pair(version, kind):
    """(the request's type for a request or its reply, whether an identifier follows):
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
def _key(version, protocol, fragment, network, transport, transport_len, i, key):
    """Fill `key` (5,) uint64 with what both directions of packet i's flow share.

    Returns whether the packet's sender is the lower of the two endpoints.
    """
    shift = np.uint64(16)
    if version[i] == 4:
        source_high = np.uint64(0)
        target_high = np.uint64(0)
        source = _word(network, i, 12, 4)
        target = _word(network, i, 16, 4)
    else:
        source_high = _word(network, i, 8, 8)
        source = _word(network, i, 16, 8)
        target_high = _word(network, i, 24, 8)
        target = _word(network, i, 32, 8)
    sport = np.uint64(0)
    dport = np.uint64(0)
    ports_follow = protocol[i] in (6, 17)
    if fragment[i] != 2 and transport_len[i] >= 4 and ports_follow:
        sport = _word(transport, i, 0, 2)
        dport = _word(transport, i, 2, 2)
    low = source_high < target_high or (source_high == target_high and source < target)
    if source_high == target_high and source == target:
        low = sport <= dport
    if not ports_follow and fragment[i] != 2 and transport_len[i] >= 1:
        kind, has_identifier = _icmp_pair(version[i], np.int64(transport[i, 0]))
        ports = np.uint64(kind) << shift
        if has_identifier and transport_len[i] >= 6:
            ports |= _word(transport, i, 4, 2)
    elif low:
        ports = (sport << shift) | dport
    else:
        ports = (dport << shift) | sport
    if low:
        key[0], key[1], key[2], key[3] = source_high, source, target_high, target
    else:
        key[0], key[1], key[2], key[3] = target_high, target, source_high, source
    key[4] = (ports << shift) | (np.uint64(protocol[i]) << np.uint64(8)) | np.uint64(version[i])
    return low


@numba.njit(cache=True)
def _find(keys, used, key):
    """Slot of `key`, or the free slot where it belongs (open addressing)."""
    mix = np.uint64(0x9E3779B97F4A7C15)
    value = np.uint64(0)
    for k in range(5):
        value = (value ^ key[k]) * mix
        value ^= value >> np.uint64(29)
    mask = np.uint64(len(used) - 1)
    slot = value & mask
    while used[slot]:
        same = True
        for k in range(5):
            if keys[slot, k] != key[k]:
                same = False
                break
        if same:
            return slot
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit(cache=True)
def _reinsert(old_keys, old, keys, table):
    for i in range(len(old)):
        slot = _find(keys, table["used"], old_keys[i])
        table[slot] = old[i]


@numba.njit(cache=True)
def _assign(
    version, protocol, fragment, fragment_id, network, transport, transport_len, ts_ns,
    idle_timeout_ns, keys, flows, from_lows, last_ts_ns, used, num_used, num_flows,
    flow, from_low,
):  # fmt: skip
    key = np.zeros(5, np.uint64)
    fragment_key = np.zeros(5, np.uint64)
    for i in range(len(version)):
        low = _key(version, protocol, fragment, network, transport, transport_len, i, key)
        if fragment[i] != 0:
            protocol_bits = np.uint64(protocol[i]) if version[i] == 4 else np.uint64(0)
            # The direction of a fragment matters, so its key keeps source before target.
            for k in range(4):
                fragment_key[k] = key[k] if low else key[(k + 2) % 4]
            fragment_key[4] = (
                (np.uint64(fragment_id[i]) << np.uint64(16))
                | (protocol_bits << np.uint64(8))
                | np.uint64(version[i])
                | _FRAGMENT_FLAG
            )
            slot = _find(keys, used, fragment_key)
            if fragment[i] == 1:
                if not used[slot]:
                    num_used += 1
                    used[slot] = True
                    keys[slot] = fragment_key
                flows[slot] = np.int64(key[4])
                from_lows[slot] = low
                last_ts_ns[slot] = ts_ns[i]
            elif used[slot] and ts_ns[i] - last_ts_ns[slot] <= idle_timeout_ns:
                if low != from_lows[slot]:
                    for k in range(2):
                        key[k], key[k + 2] = key[k + 2], key[k]
                low = from_lows[slot]
                key[4] = np.uint64(flows[slot])
                last_ts_ns[slot] = ts_ns[i]
        slot = _find(keys, used, key)
        if not used[slot]:
            num_used += 1
            used[slot] = True
            keys[slot] = key
            flows[slot] = num_flows
            num_flows += 1
        elif ts_ns[i] - last_ts_ns[slot] > idle_timeout_ns:
            flows[slot] = num_flows
            num_flows += 1
        last_ts_ns[slot] = ts_ns[i]
        flow[i] = flows[slot]
        from_low[i] = low
    return num_used, num_flows


@numba.njit(cache=True)
def _first_facts(
    version, protocol, fragment, network, transport, transport_len, ts_ns, from_low, begins,
    counts, keys,
):  # fmt: skip
    """Whether the client is the lower endpoint, per flow, judged by its first window; fills
    `keys` (flows, 6) with the flow's key and its start."""
    client_is_low = np.empty(len(begins), np.bool_)
    for f in range(len(begins)):
        i = begins[f]
        _key(version, protocol, fragment, network, transport, transport_len, i, keys[f, :5])
        keys[f, 5] = np.uint64(ts_ns[i])
        client_is_low[f] = from_low[i]
        for j in range(i, i + counts[f]):
            if protocol[j] == 6 and transport_len[j] >= 14 and transport[j, 13] & 0x02:
                answers = (transport[j, 13] & 0x10) != 0
                client_is_low[f] = from_low[j] != answers
                break
    return client_is_low
