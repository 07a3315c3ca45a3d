"""Packets to flows to windows.

A flow is the packets of a bidirectional 5-tuple, in capture order, split where more than the
idle timeout lies between two of them, and where a SYN opens another connection. ICMP and
ICMPv6 have, instead of ports, the type pair (request and reply) and the identifier. Later
fragments have no ports: they belong to the flow of their first fragment, whatever their order.
A window is a run of at most `height` packets of a flow.

The client is who sent the SYN, in this flow or in one of the same 5-tuple before a silence.
Where no SYN was seen, it is the other side of the registered port, of TCP of the lower port;
where the ports do not tell, who sent first.

Shape letters: P packets, F flows, W windows, K slots of the flow table.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numba
import numpy as np

from netdiff_ray.flow_keys import KEY_WORDS, bucket_of, fill_key
from netdiff_ray.flow_state import FLOW_STATE, follow_flows
from netdiff_ray.flow_table import (
    ASSIGNED,
    NUM_USED,
    REASSEMBLY_NS,
    assign,
    is_datagram_slot,
    kept_slots,
    new_table,
    resized,
)
from netdiff_ray.header_bytes import ACK, IPPROTO_TCP, SYN, TCP_FLAGS
from netdiff_ray.packets.headers import HEADER_ROW
from netdiff_ray.packets.table import FIRST_FRAGMENT, LATER_FRAGMENT

DEFAULT_IDLE_TIMEOUT_S = 60.0
NO_IDLE_TIMEOUT_S = 1e9
"""Longer than any capture: no silence ends a flow."""
DEFAULT_HEIGHT = 1024
_RELEASE_PACKETS = 1 << 17
_MAX_HOST_PAIRS = 1 << 62
_AT_START = np.zeros((), FLOW_STATE)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of flows, their packets one after another."""

    rows: np.ndarray
    """(P,) HEADER_ROW, or what the assembler was given, window by window, each in capture order."""
    direction: np.ndarray
    """(P,) uint8: 0 from the client, 1 to it."""
    interarrival_ns: np.ndarray
    """(P,) int64: time since the flow's packet before, at least 0; 0 for its first."""
    state: np.ndarray
    """(P,) PACKET_STATE: what each packet does in its flow."""
    first: np.ndarray
    """(W + 1,) int64: the first packet of each window; the last element is P."""
    flow_id: list[str]
    """W ids of 32 hex digits: a hash of capture content, 5-tuple and start, and of how many
    connections preceded the flow without a silence, if any did."""
    window: np.ndarray
    """(W,) int32: number of the window in its flow, from 0."""
    is_last: np.ndarray
    """(W,) bool: whether the flow ends with this window."""
    flow_start_ns: np.ndarray
    """(W,) int64: time of the flow's first packet, ns since 1970-01-01 UTC."""

    def __len__(self) -> int:
        return len(self.window)

    def chosen(self, is_chosen: np.ndarray) -> "Windows":
        """Return some of the windows: those where (W,) bool is true."""
        counts = np.diff(self.first)
        of_packet = np.repeat(is_chosen, counts)
        return Windows(
            rows=self.rows[of_packet], direction=self.direction[of_packet],
            interarrival_ns=self.interarrival_ns[of_packet], state=self.state[of_packet],
            first=np.append(0, np.cumsum(counts[is_chosen])),
            flow_id=[self.flow_id[k] for k in np.flatnonzero(is_chosen).tolist()],
            window=self.window[is_chosen], is_last=self.is_last[is_chosen],
            flow_start_ns=self.flow_start_ns[is_chosen],
        )  # fmt: skip


@dataclass
class _Carried:
    """State of a flow whose earlier windows have been released."""

    flow_id: str
    client_is_low: bool
    next_window: int
    last_ts_ns: int
    start_ns: int
    state: np.ndarray
    """() FLOW_STATE."""


class FlowAssembler:
    """The flows of one capture, assembled as its header rows come in.

    Memory grows with the flows that are open at a time and with at most `height` packets
    of each, not with the capture.

    Args:
        fingerprint: bytes that identify the capture's content, part of each flow id.
        idle_timeout_s: silence that ends a flow, in seconds.
        height: packets in a full window.
        release_packets: packets to gather before windows are cut out of them.
        row_type: the fields of HEADER_ROW, and others that windows shall keep.
    """

    def __init__(
        self,
        fingerprint: bytes,
        *,
        idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S,
        height: int = DEFAULT_HEIGHT,
        release_packets: int = _RELEASE_PACKETS,
        row_type: np.dtype = HEADER_ROW,
    ):
        self.idle_timeout_ns = int(idle_timeout_s * 1e9)
        self.height = height
        self._row_type = row_type
        self._fingerprint = fingerprint
        self._table = new_table(1 << 12)
        self._counts = np.zeros(3, np.int64)
        self._latest_ns = np.iinfo(np.int64).min + self.idle_timeout_ns
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_pending = 0
        self._release_packets = release_packets
        self._threshold = release_packets
        self._carried: dict[int, _Carried] = {}

    def add(self, rows: np.ndarray) -> Windows | None:
        """Add (P,) HEADER_ROW in capture order; return windows that are complete, if any."""
        self._pending.append((rows, self._assign(rows)))
        self._num_pending += len(rows)
        if self._num_pending < self._threshold:
            return None
        windows = self._release(at_end=False)
        self._threshold = max(self._release_packets, 2 * self._num_pending)
        return windows

    def finish(self) -> Windows:
        """Return the windows of all flows still open."""
        return self._release(at_end=True)

    def _assign(self, rows: np.ndarray) -> np.ndarray:
        """Return (P,) ASSIGNED: the flows of the next rows."""
        needed = int(self._counts[NUM_USED]) + 2 * len(rows)  # a packet may take two slots
        if needed * 2 > len(self._table):
            kept = self._table[kept_slots(self._table, self._latest_ns, self.idle_timeout_ns)]
            needed = (len(kept) + 2 * len(rows)) * 4
            self._table = resized(kept, 1 << int(needed - 1).bit_length())
            self._counts[NUM_USED] = len(kept)
        assigned = np.empty(len(rows), ASSIGNED)
        assign(rows, self._table, self._counts, self.idle_timeout_ns, assigned)
        if len(rows):
            self._latest_ns = max(self._latest_ns, int(rows["ts_ns"].max()))
        return assigned

    def _open_flows(self) -> np.ndarray:
        """Return the numbers of the flows that may still get packets."""
        table = self._table
        is_alive = table["last_ts_ns"] >= self._latest_ns - self.idle_timeout_ns
        return table["flow"][table["used"] & is_alive & ~is_datagram_slot(table)]

    def _open_datagrams(self) -> np.ndarray:
        """Return the numbers of the datagrams whose first fragment may still come."""
        table = self._table
        timeout_ns = min(self.idle_timeout_ns, REASSEMBLY_NS)
        is_alive = table["last_ts_ns"] >= self._latest_ns - timeout_ns
        return table["flow"][table["used"] & is_alive & is_datagram_slot(table)]

    def _release(self, *, at_end: bool) -> Windows:
        """Cut windows out of the pending packets; keep the unfinished rest pending."""
        empty = (np.empty(0, self._row_type), np.empty(0, ASSIGNED))
        rows, assigned = (
            np.concatenate(parts) for parts in zip(empty, *self._pending, strict=True)
        )
        _join_fragments(rows, assigned)
        order = np.argsort(assigned["flow"], kind="stable")
        flow = assigned["flow"][order]
        begins = np.flatnonzero(np.diff(flow, prepend=-1))
        counts = np.diff(begins, append=len(order))
        numbers = flow[begins]
        if at_end:
            ended = np.ones(len(numbers), np.bool_)
            taken = counts
        else:
            ended = ~np.isin(numbers, self._open_flows())
            is_settled = np.append(0, np.cumsum(self._is_settled(rows, assigned)[order]))
            num_settled = is_settled[begins + counts] - is_settled[begins]
            # A full window waits for the packet after it: only that shows it is not the last.
            full = np.maximum(num_settled - 1, 0) // self.height * self.height
            taken = np.where(ended, counts, full)
        rank = np.arange(len(order)) - np.repeat(begins, counts)
        goes = rank < np.repeat(taken, counts)
        rest = np.sort(order[~goes])
        self._pending = [(rows[rest], assigned[rest])]
        self._num_pending = len(rest)
        order = order[goes]
        some = taken > 0
        return self._cut(rows[order], assigned[order], numbers[some], taken[some], ended[some])

    def _is_settled(self, rows: np.ndarray, assigned: np.ndarray) -> np.ndarray:
        """Return (P,) bool: whether no fragment of the same hosts up to this row still waits for
        its first, which may give it another flow."""
        waits = assigned["datagram"] >= 0
        if not waits.any():
            return ~waits
        waits &= np.isin(assigned["datagram"], self._open_datagrams())
        hosts = bucket_of(rows, _MAX_HOST_PAIRS)
        of_pair = np.argsort(hosts, kind="stable")
        num_waiting = np.cumsum(waits[of_pair])
        begins = np.flatnonzero(np.diff(hosts[of_pair], prepend=-1))
        before = np.repeat(
            (num_waiting - waits[of_pair])[begins], np.diff(begins, append=len(rows))
        )
        is_settled = np.empty(len(rows), np.bool_)
        is_settled[of_pair] = num_waiting == before
        return is_settled

    def _states(
        self,
        rows: np.ndarray,
        assigned: np.ndarray,
        numbers: np.ndarray,
        begins: np.ndarray,
        counts: np.ndarray,
    ) -> list[_Carried]:
        """Return the state of each flow, carried over or begun with its `counts` (F,) rows from
        `begins` (F,) on."""
        client_is_low = _client_is_low(rows, assigned, begins, counts)
        keys = keys_and_starts(rows, begins, counts)
        states = []
        for k, number in enumerate(numbers.tolist()):
            state = self._carried.pop(number, None)
            if state is None:
                start_ns = int(rows["ts_ns"][begins[k]])
                reuse = int(assigned["reuse"][begins[k]])
                identity = keys[k].tobytes() + (reuse.to_bytes(4, "little") if reuse else b"")
                flow_id = hashlib.blake2b(
                    identity, digest_size=16, key=self._fingerprint
                ).hexdigest()
                state = _Carried(flow_id, bool(client_is_low[k]), 0, start_ns, start_ns, _AT_START)
            states.append(state)
        return states

    def _cut(
        self,
        rows: np.ndarray,
        assigned: np.ndarray,
        numbers: np.ndarray,
        counts: np.ndarray,
        ended: np.ndarray,
    ) -> Windows:
        """Return the windows of flows whose packets lie one flow after another, `counts` of
        each."""
        begins = np.cumsum(counts) - counts
        first_counts = np.minimum(counts, self.height)
        flows = self._states(rows, assigned, numbers, begins, first_counts)
        last_ts_ns = rows["ts_ns"][begins + counts - 1]
        interarrival_ns = np.diff(rows["ts_ns"], prepend=0)
        interarrival_ns[begins] = rows["ts_ns"][begins] - [f.last_ts_ns for f in flows]
        interarrival_ns = np.maximum(interarrival_ns, 0)
        low = np.repeat(np.array([f.client_is_low for f in flows], np.bool_), counts)
        direction = (assigned["from_low"] != low).astype(np.uint8)
        goes_on = ~ended | np.array([f.next_window > 0 for f in flows], np.bool_)
        slots = np.where(goes_on, np.cumsum(goes_on) - 1, -1)
        states = np.zeros(max(goes_on.sum(), 1), FLOW_STATE)
        for k in np.flatnonzero(goes_on).tolist():
            states[slots[k]] = flows[k].state
        state = follow_flows(
            rows, direction, interarrival_ns, np.append(begins, len(rows)), slots, states
        )

        per_flow = -(-counts // self.height)
        of_flow = np.repeat(np.arange(len(flows)), per_flow)
        nth = np.arange(len(of_flow)) - np.repeat(np.cumsum(per_flow) - per_flow, per_flow)
        first = np.append(begins[of_flow] + nth * self.height, len(rows))
        next_window = np.array([f.next_window for f in flows], np.int32)
        for k, (carried, number) in enumerate(zip(flows, numbers.tolist(), strict=True)):
            if not ended[k]:
                carried.next_window += int(per_flow[k])
                carried.last_ts_ns = int(last_ts_ns[k])
                carried.state = states[slots[k]].copy()
                self._carried[number] = carried
        return Windows(
            rows=rows,
            direction=direction,
            interarrival_ns=interarrival_ns,
            state=state,
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
    row_type: np.dtype = HEADER_ROW,
) -> Iterator[Windows]:
    """Yield the windows of a capture, from its header rows chunk by chunk in capture order.

    The arguments are those of `FlowAssembler`.
    """
    assembler = FlowAssembler(
        fingerprint,
        idle_timeout_s=idle_timeout_s,
        height=height,
        release_packets=release_packets,
        row_type=row_type,
    )
    for rows in chunks:
        windows = assembler.add(rows)
        if windows is not None:
            yield windows
    yield assembler.finish()


def _join_fragments(rows: np.ndarray, assigned: np.ndarray) -> None:
    """Give fragments that came before their first its flow and direction, in place."""
    numbered = np.flatnonzero(assigned["datagram"] >= 0)
    kinds = rows["fragment"][numbered]
    firsts, later = numbered[kinds == FIRST_FRAGMENT], numbered[kinds == LATER_FRAGMENT]
    if not len(firsts):
        return
    numbers = assigned["datagram"][firsts]
    firsts = firsts[np.argsort(numbers)]
    numbers = np.sort(numbers)
    nth = np.minimum(np.searchsorted(numbers, assigned["datagram"][later]), len(firsts) - 1)
    has_first = numbers[nth] == assigned["datagram"][later]
    assigned["datagram"][firsts] = -1
    assigned[later[has_first]] = assigned[firsts[nth[has_first]]]


@numba.njit(cache=True)
def keys_and_starts(rows, begins, counts):
    """Return (F, KEY_WORDS + 1) uint64: the key and the start of the flows with `counts` (F,) rows
    from `begins` (F,) on. A later fragment has no ports, so that the first row that is none
    tells the key."""
    keys = np.zeros((len(begins), KEY_WORDS + 1), np.uint64)
    for f in range(len(begins)):
        i = begins[f]
        for j in range(begins[f], begins[f] + counts[f]):
            if rows[j].fragment != LATER_FRAGMENT:
                i = j
                break
        fill_key(rows, i, keys[f, :KEY_WORDS])
        keys[f, KEY_WORDS] = np.uint64(rows[begins[f]].ts_ns)
    return keys


@numba.njit(cache=True)
def _client_is_low(rows, assigned, begins, counts):
    """Return (F,) bool: whether the client is the lower endpoint, by the first SYN among the
    `counts` (F,) rows from `begins` (F,) on, else as `assigned` says."""
    client_is_low = np.empty(len(begins), np.bool_)
    for f in range(len(begins)):
        client_is_low[f] = assigned[begins[f]].client_is_low
        for j in range(begins[f], begins[f] + counts[f]):
            if rows[j].protocol != IPPROTO_TCP or rows[j].transport_len <= TCP_FLAGS:
                continue
            flags = rows[j].transport[TCP_FLAGS]
            if flags & SYN:
                answers = (flags & ACK) != 0
                client_is_low[f] = assigned[j].from_low != answers
                break
    return client_is_low
