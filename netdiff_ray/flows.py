"""Packets to flows to windows.

A flow is the packets of one bidirectional 5-tuple, in capture order, split where more
than the idle timeout lies between two of them. ICMP and ICMPv6 have, instead of ports,
the type pair (request and reply) and the identifier. Later fragments have no ports: they
follow their first fragment. A window is a run of at most `height` packets of a flow.

Shape letters: P packets, F flows, W windows, K slots of the flow table.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numba
import numpy as np

from netdiff_ray.flow_table import KEY_WORDS, SLOT, assign, fill_key, resized
from netdiff_ray.header_bytes import ACK, IPPROTO_TCP, SYN, TCP_FLAGS
from netdiff_ray.packets.headers import HEADER_ROW

DEFAULT_IDLE_TIMEOUT_S = 60.0
DEFAULT_HEIGHT = 1024
_RELEASE_PACKETS = 1 << 17


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
    """State of a flow whose earlier windows have been released."""

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
        fingerprint: bytes that identify the capture's content, part of each flow id.
        idle_timeout_s: silence that ends a flow, in seconds.
        height: packets in a full window.
        release_packets: packets to gather before windows are cut out of them.
    """

    def __init__(
        self,
        fingerprint: bytes,
        *,
        idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S,
        height: int = DEFAULT_HEIGHT,
        release_packets: int = _RELEASE_PACKETS,
    ):
        self.idle_timeout_ns = int(idle_timeout_s * 1e9)
        self.height = height
        self._fingerprint = fingerprint
        self._table = np.zeros(1 << 12, SLOT)
        self._num_used = 0
        self._num_flows = 0
        self._latest_ns = np.iinfo(np.int64).min + self.idle_timeout_ns
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._num_pending = 0
        self._release_packets = release_packets
        self._threshold = release_packets
        self._carried: dict[int, _Carried] = {}

    def add(self, rows: np.ndarray) -> Windows | None:
        """Add (P,) HEADER_ROW in capture order; return windows that are complete, if any."""
        flow, from_low = self._assign(rows)
        self._pending.append((rows, flow, from_low))
        self._num_pending += len(rows)
        if self._num_pending < self._threshold:
            return None
        windows = self._release(at_end=False)
        self._threshold = max(self._release_packets, 2 * self._num_pending)
        return windows

    def finish(self) -> Windows:
        """Return the windows of all flows still open."""
        return self._release(at_end=True)

    def _assign(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the flow number (P,) int64 and whether the lower endpoint sent (P,) bool."""
        if (self._num_used + 2 * len(rows)) * 2 > len(self._table):  # a packet may take two
            alive = self._table[self._is_alive()]
            needed = (len(alive) + 2 * len(rows)) * 4
            self._table = resized(alive, 1 << int(needed - 1).bit_length())
            self._num_used = len(alive)
        flow = np.empty(len(rows), np.int64)
        from_low = np.empty(len(rows), np.bool_)
        self._num_used, self._num_flows = assign(
            rows, self._table, self._num_used, self._num_flows, self.idle_timeout_ns, flow, from_low
        )
        if len(rows):
            self._latest_ns = max(self._latest_ns, int(rows["ts_ns"].max()))
        return flow, from_low

    def _is_alive(self) -> np.ndarray:
        """Return (K,) bool: slots whose flow may still get packets."""
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

    def _states(
        self,
        rows: np.ndarray,
        from_low: np.ndarray,
        numbers: np.ndarray,
        begins: np.ndarray,
        counts: np.ndarray,
    ) -> list[_Carried]:
        """Return the state of each flow, carried over or begun with its `counts` (F,) rows from
        `begins` (F,) on."""
        client_is_low = _client_is_low(rows, from_low, begins, counts)
        keys = _keys_and_starts(rows, begins)
        states = []
        for k, number in enumerate(numbers.tolist()):
            state = self._carried.pop(number, None)
            if state is None:
                start_ns = int(rows["ts_ns"][begins[k]])
                flow_id = hashlib.blake2b(
                    keys[k].tobytes(), digest_size=16, key=self._fingerprint
                ).hexdigest()
                state = _Carried(flow_id, bool(client_is_low[k]), 0, start_ns, start_ns)
            states.append(state)
        return states

    def _cut(
        self,
        rows: np.ndarray,
        from_low: np.ndarray,
        numbers: np.ndarray,
        counts: np.ndarray,
        ended: np.ndarray,
    ) -> Windows:
        """Return the windows of flows whose packets lie one flow after another, `counts` of
        each."""
        begins = np.cumsum(counts) - counts
        first_counts = np.minimum(counts, self.height)
        flows = self._states(rows, from_low, numbers, begins, first_counts)
        last_ts_ns = rows["ts_ns"][begins + counts - 1]
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
    release_packets: int = _RELEASE_PACKETS,
) -> Iterator[Windows]:
    """Yield the windows of a capture, from its header rows chunk by chunk in capture order.

    The arguments are those of `FlowAssembler`.
    """
    assembler = FlowAssembler(
        fingerprint,
        idle_timeout_s=idle_timeout_s,
        height=height,
        release_packets=release_packets,
    )
    for rows in chunks:
        windows = assembler.add(rows)
        if windows is not None:
            yield windows
    yield assembler.finish()


@numba.njit(cache=True)
def _keys_and_starts(rows, begins):
    """Return (F, KEY_WORDS + 1) uint64: the key and the start of the flows that begin at rows
    `begins` (F,)."""
    keys = np.zeros((len(begins), KEY_WORDS + 1), np.uint64)
    for f in range(len(begins)):
        fill_key(rows, begins[f], keys[f, :KEY_WORDS])
        keys[f, KEY_WORDS] = np.uint64(rows[begins[f]].ts_ns)
    return keys


@numba.njit(cache=True)
def _client_is_low(rows, from_low, begins, counts):
    """Return (F,) bool: whether the client is the lower endpoint, by the first SYN among the
    `counts` (F,) rows from `begins` (F,) on, else by who sends first."""
    client_is_low = np.empty(len(begins), np.bool_)
    for f in range(len(begins)):
        client_is_low[f] = from_low[begins[f]]
        for j in range(begins[f], begins[f] + counts[f]):
            if rows[j].protocol != IPPROTO_TCP or rows[j].transport_len <= TCP_FLAGS:
                continue
            flags = rows[j].transport[TCP_FLAGS]
            if flags & SYN:
                answers = (flags & ACK) != 0
                client_is_low[f] = from_low[j] != answers
                break
    return client_is_low
