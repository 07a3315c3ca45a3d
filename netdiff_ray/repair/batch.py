"""A batch of drawn flows, read from their nprints.

Reading settles by majority of cells where a flow ends, which IP version and which transport
protocol it has. The rules settle the rest.

Shape letters: N flows, R drawn rows, P rows before a flow's end (packets), B bits,
W = B / 8 words, S segments of the layout, H headers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.errors import NprintError
from netdiff_ray.fields import HEADERS
from netdiff_ray.flow_state import PACKET_STATE
from netdiff_ray.header_bytes import (
    ICMP_HEADER_BYTES,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    ONES,
    TCP_HEADER_BYTES,
    UDP_HEADER_BYTES,
)
from netdiff_ray.labels.stack import UNKNOWN
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.statecode import (
    DIRECTION,
    FLOW_BYTES,
    INTERARRIVAL,
    NEEDS_TCP,
    is_mostly_ones,
    read_state_bytes,
)
from netdiff_ray.nprint.timecode import level_of_bytes
from netdiff_ray.packets.headers import HEADER_ROW
from netdiff_ray.repair.plans import Plans

MAX_ROWS = 65_536
"""Rows that a flow may have; the windows of a long flow are repaired together."""

HALF, UNANSWERED = 1, 2

NOTHING_NEW, KEEP_ALIVE, KEEP_ALIVE_ANSWER, REPEATED_ACK = 1, 2, 3, 4

_FLOW, _IPV4, _IPV6, _TCP, _UDP, _ICMP = range(len(HEADERS))
_FIXED_BYTES = np.array(
    [FLOW_BYTES, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, TCP_HEADER_BYTES,
     UDP_HEADER_BYTES, ICMP_HEADER_BYTES], np.int64
)  # fmt: skip
"""(H,) bytes of each header without options."""

_LOW_BITS = np.uint64(0x0101010101010101)
_GATHER = np.uint64(0x8040201008040201)
_7, _8, _56, _255 = np.uint64(7), np.uint64(8), np.uint64(56), np.uint64(255)


class FlowColumns(NamedTuple):
    """What holds for a whole flow, as arrays that kernels take."""

    starts: np.ndarray
    """(N + 1,) int64: first packet of each flow, and P."""
    seed: np.ndarray
    """(N,) uint64: of every draw for the flow."""
    number: np.ndarray
    """(N,) uint64: the flow's number, which fixes its client's address and port."""
    version: np.ndarray
    """(N,) uint8: 4 or 6."""
    protocol: np.ndarray
    """(N,) uint8: IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP or IPPROTO_ICMPV6."""
    opens: np.ndarray
    """(N,) bool: whether the flow begins with a TCP handshake."""
    half: np.ndarray
    """(N,) int64: HALF for a TCP flow of several packets that a SYN opens and in which only the
    client sends, UNANSWERED if all of them are that SYN again, else 0."""
    server_port: np.ndarray
    """(N,) int64, 0 where the protocol has none."""
    client_port: np.ndarray
    """(N,) int64: likewise; for echo flows, the identifier."""
    kind: np.ndarray
    """(N,) int64: what the flow speaks, an index into `dialogue.KINDS`."""
    has_dialogue: np.ndarray
    """(N,) bool: whether its payloads are messages of its kind; settled by `serialise`."""


class PacketColumns(NamedTuple):
    """What holds for a packet, as arrays that kernels take; flow after flow."""

    rows: np.ndarray
    """(P,) HEADER_ROW."""
    direction: np.ndarray
    """(P,) uint8: 0 from the client, 1 to it."""
    level: np.ndarray
    """(P,) uint8: inter-arrival level."""
    interarrival_ns: np.ndarray
    """(P,) int64."""
    state: np.ndarray
    """(P,) PACKET_STATE: what the packet does in its flow, as drawn; 0 where that is not in the
    layout."""
    option_bytes: np.ndarray
    """(P,) uint8: bytes of TCP options whose cells were drawn present, from the first on;
    after the options are settled, those that the drawn lengths count."""
    profile_payload: np.ndarray
    """(P,) int64: bytes of payload chosen from the label's profile, -1 where the drawn ones
    stand."""
    payload_bytes: np.ndarray
    """(P,) int64: bytes after the transport header."""
    stuck: np.ndarray
    """(P,) uint8: NOTHING_NEW for a TCP packet without data, SYN, FIN or RST that has nothing
    new to acknowledge, REPEATED_ACK for such that repeats its window too, KEEP_ALIVE for a
    keep-alive, KEEP_ALIVE_ANSWER for its answer, else 0."""
    hole_bytes: np.ndarray
    """(P,) int64: bytes of its side's that are missing before a TCP segment."""
    moves: np.ndarray
    """(P,) int64: how far a TCP segment moves its sender's number, hole included."""
    arrived: np.ndarray
    """(P,) int64: how many of the other side's TCP segments that move its number have arrived at
    the sender, or where that is drawn, how many it acknowledges."""
    promised: np.ndarray
    """(P,) int64: for a TCP packet with a window, bytes that the other side has sent, from its
    first number on, when the sender's next window comes; else 0."""
    acknowledged: np.ndarray
    """(P,) int64: of those bytes, how many the packet acknowledges."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Flows under repair: the rules write into these arrays, in order."""

    position: np.ndarray
    """(N,) int64: position of each flow in the input."""
    flows: FlowColumns
    plans: Plans
    """Of the flows."""
    packets: PacketColumns
    drawn: np.ndarray
    """(P, W) uint16: the drawn row of each packet, as `codec.pack` writes it."""

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Drawn nprints, one after another."""

    cells: np.ndarray
    """(R, B) int8, C-contiguous."""
    row_starts: np.ndarray
    """(N + 1,) int64: first row of each flow, and R."""
    wrong: tuple[tuple[int, str], ...] = ()
    """Position and reason of each flow whose matrix cannot be read; they have no rows."""


def gather(nprints: np.ndarray | Sequence[np.ndarray], layout: Layout) -> Drawn:
    """Return the nprints of a batch, one after another.

    Args:
        nprints: (N, R, B) int8, or N matrices of (R_n, B). A matrix of another width, of
            more than MAX_ROWS rows or of no rows at all is in `wrong` with its reason.
    """
    if isinstance(nprints, np.ndarray) and nprints.ndim == 3 and nprints.dtype == np.int8:
        count, height, width = nprints.shape
        if width == layout.width and 1 <= height <= MAX_ROWS:
            cells = np.ascontiguousarray(nprints).reshape(count * height, width)
            return Drawn(cells=cells, row_starts=np.arange(count + 1, dtype=np.int64) * height)
    matrices, heights, wrong = [], [0], []
    for i, nprint in enumerate(nprints):
        matrix = np.asarray(nprint)
        try:
            matrices.append(_check_shape(matrix, layout))
            heights.append(len(matrix))
        except NprintError as error:
            wrong.append((i, str(error)))
            heights.append(0)
    cells = np.concatenate(matrices) if matrices else np.empty((0, layout.width), np.int8)
    return Drawn(
        cells=np.ascontiguousarray(cells),
        row_starts=np.cumsum(heights, dtype=np.int64),
        wrong=tuple(wrong),
    )


def _check_shape(matrix: np.ndarray, layout: Layout) -> np.ndarray:
    if matrix.ndim != 2 or matrix.shape[1] != layout.width:
        shape = " x ".join(map(str, matrix.shape))
        raise NprintError(
            f"the matrix is {shape}; layout {layout.name} needs rows of {layout.width:,} columns"
        )
    if not 1 <= len(matrix) <= MAX_ROWS:
        raise NprintError(f"the matrix has {len(matrix):,} rows; a flow has 1 to {MAX_ROWS:,}")
    if matrix.dtype == np.int8:
        return matrix
    if matrix.dtype.kind not in "biuf" or not np.isin(matrix, (1, 0, VACANT)).all():
        raise NprintError("the matrix holds other values than 1, 0 and -1")
    return matrix.astype(np.int8)


class _Readings(NamedTuple):
    """What `_read` finds out of each flow; each (N,)."""

    num_packets: np.ndarray
    """int64: rows before the end, 0 for a flow that cannot be read."""
    version: np.ndarray
    """uint8."""
    protocol: np.ndarray
    """uint8."""
    after_end: np.ndarray
    """int64: rows after the end that are not vacant."""
    fault: np.ndarray
    """int64: 0, _NOT_A_CELL, _EMPTY or _NO_TRANSPORT."""
    fault_cell: np.ndarray
    """int64: the cell in the batch that is none, for _NOT_A_CELL."""


_NOT_A_CELL, _EMPTY, _NO_TRANSPORT = 1, 2, 3


def read(
    drawn: Drawn, layout: Layout, seeds: np.ndarray, numbers: np.ndarray, plans: Plans
) -> tuple[Batch, np.ndarray, list[tuple[int, str]]]:
    """Return the batch that drawn nprints hold.

    A row is vacant if most cells of its flow columns and of its IP header (of the version
    that it has more of) are; the first vacant row ends the flow. The IP version and the
    transport protocol are those that are planned, or that most rows before the end drew.

    Returns:
        the batch; (N,) int64 rows after the end that were not vacant, for each flow of the
        batch; the flows that are not in it, with their reasons.
    """
    num_flows, num_rows = len(drawn.row_starts) - 1, len(drawn.cells)
    packets = PacketColumns(
        rows=np.zeros(num_rows, HEADER_ROW),
        direction=np.zeros(num_rows, np.uint8),
        level=np.zeros(num_rows, np.uint8),
        interarrival_ns=np.empty(num_rows, np.int64),
        state=np.zeros(num_rows, PACKET_STATE),
        option_bytes=np.zeros(num_rows, np.uint8),
        profile_payload=np.full(num_rows, -1, np.int64),
        payload_bytes=np.empty(num_rows, np.int64),
        stuck=np.zeros(num_rows, np.uint8),
        hole_bytes=np.zeros(num_rows, np.int64),
        moves=np.zeros(num_rows, np.int64),
        arrived=np.zeros(num_rows, np.int64),
        promised=np.zeros(num_rows, np.int64),
        acknowledged=np.zeros(num_rows, np.int64),
    )
    packed = np.empty((num_rows, layout.width // 8), np.uint16)
    readings = _Readings(
        num_packets=np.zeros(num_flows, np.int64),
        version=np.zeros(num_flows, np.uint8),
        protocol=np.zeros(num_flows, np.uint8),
        after_end=np.zeros(num_flows, np.int64),
        fault=np.zeros(num_flows, np.int64),
        fault_cell=np.zeros(num_flows, np.int64),
    )
    cells = drawn.cells.view(np.uint64)
    total = _read(cells, drawn.row_starts, layout.segments, plans, packets, packed, readings)
    rejected = dict(drawn.wrong)
    for i in np.flatnonzero(readings.fault).tolist():
        if i not in rejected:
            rejected[i] = _reason(readings, i, drawn, layout)
    chosen = np.flatnonzero(readings.num_packets)
    ends = np.cumsum(readings.num_packets[chosen])
    flows = FlowColumns(
        starts=np.concatenate([[0], ends]).astype(np.int64),
        seed=seeds[chosen].astype(np.uint64),
        number=numbers[chosen].astype(np.uint64),
        version=readings.version[chosen],
        protocol=readings.protocol[chosen],
        opens=np.zeros(len(chosen), np.bool_),
        half=np.zeros(len(chosen), np.int64),
        server_port=np.zeros(len(chosen), np.int64),
        client_port=np.zeros(len(chosen), np.int64),
        kind=np.zeros(len(chosen), np.int64),
        has_dialogue=np.zeros(len(chosen), np.bool_),
    )
    batch = Batch(
        position=chosen,
        flows=flows,
        plans=plans.of_flows(chosen),
        packets=PacketColumns(*(column[:total] for column in packets)),
        drawn=packed[:total],
    )
    return batch, readings.after_end[chosen], sorted(rejected.items())


def _reason(readings: _Readings, flow: int, drawn: Drawn, layout: Layout) -> str:
    fault, cell = int(readings.fault[flow]), int(readings.fault_cell[flow])
    if fault == _NOT_A_CELL:
        row, column = divmod(cell, layout.width)
        value = drawn.cells.reshape(-1)[cell]
        row -= int(drawn.row_starts[flow])
        return (
            f"row {row}, column {layout.column_names[column]} holds {value}; a cell is 1, 0 or -1"
        )
    if fault == _EMPTY:
        return "the first row is vacant: the flow has no packets"
    return "most rows have no transport header; a flow is TCP, UDP, ICMP or ICMPv6"


@numba.njit(cache=True)
def _pack_row(cells, packed):
    """Pack a row of cells, (W,) uint64, into `packed`, (W,) uint16; return whether each is a
    cell."""
    wrong = np.uint64(0)
    for k in range(len(cells)):
        word = cells[k]
        holes = (word >> _7) & _LOW_BITS
        low = word & _LOW_BITS
        wrong |= ((holes * _255) | low) ^ word
        bits = ((low & ~holes) * _GATHER) >> _56
        packed[k] = bits | ((holes * _GATHER) >> _56 << _8)
    return wrong == 0


@numba.njit(cache=True)
def _wrong_cell(cells):
    """Return the position of the first of a row of cells, (W,) uint64, that is none."""
    for k in range(len(cells)):
        for cell in range(8):
            byte = (cells[k] >> np.uint64(8 * cell)) & _255
            if 1 < byte < _255:
                return 8 * k + cell
    return -1


@numba.njit(cache=True)
def _read(cells, row_starts, segments, plans, packets, packed, readings):
    """Read flow after flow into `packets` and `packed`; return how many packets they have.

    Args:
        cells: (R, W) uint64.
        segments: (S, 4) int64: of each, header, first byte in it, bytes, first word of a row.
        plans: of the flows.
    """
    fixed = np.empty(len(segments), np.int64)
    whole = np.zeros(len(HEADERS), np.int64)
    _count_cells(segments, fixed, whole)
    votes = np.empty(len(HEADERS), np.int64)
    total = 0
    for f in range(len(row_starts) - 1):
        first = row_starts[f]
        end, after_end, wrong = _vote(
            cells[first : row_starts[f + 1]], segments, fixed, whole, packed[total:], votes
        )
        readings.after_end[f] = after_end
        if wrong >= 0:
            readings.fault[f] = _NOT_A_CELL
            readings.fault_cell[f] = first * cells.shape[1] * 8 + wrong
            continue
        if end == 0:
            readings.fault[f] = _EMPTY
            continue
        if 2 * (votes[_TCP] + votes[_UDP] + votes[_ICMP]) <= end:
            readings.fault[f] = _NO_TRANSPORT
            continue
        ip = _IPV4 if votes[_IPV4] >= votes[_IPV6] else _IPV6
        kind = _most(votes)
        if plans.version[f] != UNKNOWN:
            ip = _IPV4 if plans.version[f] == 4 else _IPV6
        if plans.protocol[f] == IPPROTO_TCP:
            kind = _TCP
        elif plans.protocol[f] == IPPROTO_UDP:
            kind = _UDP
        elif plans.protocol[f] != UNKNOWN:
            kind = _ICMP
        readings.version[f] = 4 if ip == _IPV4 else 6
        if kind == _TCP:
            readings.protocol[f] = IPPROTO_TCP
        elif kind == _UDP:
            readings.protocol[f] = IPPROTO_UDP
        else:
            readings.protocol[f] = IPPROTO_ICMP if ip == _IPV4 else IPPROTO_ICMPV6
        readings.num_packets[f] = end
        packets.rows["version"][total : total + end] = readings.version[f]
        packets.rows["protocol"][total : total + end] = readings.protocol[f]
        _fill(packets, packed, total, total + end, segments, fixed, ip, kind)
        total += end
    return total


@numba.njit(cache=True)
def _count_cells(segments, fixed, whole):
    """Fill `fixed` (S,) and `whole` (H,), see `_vote`."""
    for s in range(len(segments)):
        header, first = segments[s, 0], segments[s, 1]
        fixed[s] = min(max(_FIXED_BYTES[header] - first, 0), segments[s, 2])
        for k in range(first, first + fixed[s]):
            if header != _FLOW or not NEEDS_TCP[k]:
                whole[header] += 8


@numba.njit(cache=True)
def _vote(cells, segments, fixed, whole, packed, votes):
    """Pack a flow's rows, and count in `votes` (H,) the rows before its end by their headers.

    Args:
        fixed: (S,) bytes of each segment that are not options.
        whole: (H,) cells of each header that all its packets have.

    Returns:
        (rows before the end, rows after it that are not vacant, first cell that is none or -1).
    """
    present = np.empty(len(HEADERS), np.int64)
    share = np.zeros(len(HEADERS), np.float32)
    votes[:] = 0
    height = len(cells)
    end, after_end, wrong = height, 0, -1
    for r in range(height):
        row = packed[r]
        if not _pack_row(cells[r], row) and wrong < 0:
            wrong = r * cells.shape[1] * 8 + _wrong_cell(cells[r])
        present[:] = whole
        for s in range(len(segments)):
            header, first, column = segments[s, 0], segments[s, 1], segments[s, 3]
            for k in range(fixed[s]):
                if header != _FLOW or not NEEDS_TCP[first + k]:
                    present[header] -= ONES[row[column + k] >> 8]
        for h in range(len(HEADERS)):
            if whole[h]:
                share[h] = np.float32(present[h]) / np.float32(whole[h])
        ip = _IPV4 if share[_IPV4] >= share[_IPV6] else _IPV6
        if 2 * (present[_FLOW] + present[ip]) <= whole[_FLOW] + whole[ip]:
            end = min(end, r)
        elif r > end:
            after_end += 1
        if end == height:
            votes[ip] += 1
            kind = _most(share)
            if share[kind] > 0.5:
                votes[kind] += 1
    return end, after_end, wrong


@numba.njit(cache=True)
def _fill(packets, packed, begin, end, segments, fixed, ip, kind):
    """Write packets `begin` to `end` of one flow, of the headers `ip` and `kind`."""
    network, transport = packets.rows["network"], packets.rows["transport"]
    flow = np.zeros(FLOW_BYTES, np.uint8)
    for i in range(begin, end):
        row = packed[i]
        for s in range(len(segments)):
            header, first, column = segments[s, 0], segments[s, 1], segments[s, 3]
            if header == _FLOW:
                for k in range(fixed[s]):
                    flow[first + k] = row[column + k] & 255
            elif header == ip:
                for k in range(fixed[s]):
                    network[i, first + k] = row[column + k] & 255
            elif header == kind:
                for k in range(segments[s, 2]):
                    transport[i, first + k] = row[column + k] & 255
                if kind == _TCP:
                    options = row[column + fixed[s] : column + segments[s, 2]]
                    packets.option_bytes[i] += _drawn_options(options)
        packets.direction[i] = is_mostly_ones(flow[DIRECTION])
        packets.level[i] = level_of_bytes(
            flow[INTERARRIVAL], flow[INTERARRIVAL + 1], flow[INTERARRIVAL + 2]
        )
        read_state_bytes(flow, packets.state[i])
        if kind != _TCP:
            packets.state[i].sequence = 0
            packets.state[i].acknowledged = 0
            packets.state[i].same_window = 0
        packets.rows["network_len"][i] = _FIXED_BYTES[ip]
        packets.rows["transport_len"][i] = _FIXED_BYTES[kind]


@numba.njit(cache=True)
def _most(weight):
    """Return the transport header with the largest weight, (H,) by header."""
    best = _TCP
    for h in (_UDP, _ICMP):
        if weight[h] > weight[best]:
            best = h
    return best


@numba.njit(cache=True)
def _drawn_options(packed):
    """Return how many packed bytes stand before the first that is mostly vacant."""
    for k in range(len(packed)):
        if ONES[packed[k] >> 8] > 4:
            return k
    return len(packed)
