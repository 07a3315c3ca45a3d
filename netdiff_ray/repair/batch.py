"""A batch of drawn flows, read from their nprints.

Reading decides what a majority of cells decides: where the flow ends, which IP version
and which transport protocol it has. Everything else is left as drawn for the rules.

Shape letters: N flows, R drawn rows, P kept rows (packets), B bits, W = B / 8 words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from netdiff_ray.errors import NprintError
from netdiff_ray.fields import BIT_IN_HEADER, HEADER_BITS, HEADERS
from netdiff_ray.header_bytes import ONES
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import level_of_bytes
from netdiff_ray.packets.headers import HEADER_ROW

MAX_ROWS = 65_536
"""Rows that a flow may have: the windows of a long one are repaired together."""

NOTHING_NEW, KEEP_ALIVE, KEEP_ALIVE_ANSWER = 1, 2, 3

_FLOW, _IPV4, _IPV6, _TCP, _UDP, _ICMP = range(len(HEADERS))
_FIXED_BYTES = np.array(
    [HEADER_BITS["flow"] // 8, BIT_IN_HEADER["ipv4_opt"] // 8, HEADER_BITS["ipv6"] // 8,
     BIT_IN_HEADER["tcp_opt"] // 8, HEADER_BITS["udp"] // 8, HEADER_BITS["icmp"] // 8], np.int64
)  # fmt: skip
"""Bytes that each header has whenever it is there."""

_LOW_BITS = np.uint64(0x0101010101010101)
_GATHER = np.uint64(0x8040201008040201)
_7, _8, _56, _255 = np.uint64(7), np.uint64(8), np.uint64(56), np.uint64(255)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Flows under repair: the rules write into these arrays, in order."""

    flow: np.ndarray
    """(N,) int64: position of each flow in what was handed in."""
    flow_starts: np.ndarray
    """(N + 1,) int64: first packet of each flow, and P."""
    seed: np.ndarray
    """(N,) uint64: what every draw for the flow depends on."""
    number: np.ndarray
    """(N,) uint64: the flow's number, which fixes its client's address and port."""
    version: np.ndarray
    """(N,) uint8: 4 or 6."""
    protocol: np.ndarray
    """(N,) uint8: 6, 17, 1 or 58."""
    opens: np.ndarray
    """(N,) bool: whether the flow begins with a TCP handshake."""
    server_port: np.ndarray
    """(N,) int64, 0 where the protocol has none."""
    client_port: np.ndarray
    """(N,) int64: likewise; for echo flows, the identifier."""
    rows: np.ndarray
    """(P,) HEADER_ROW."""
    drawn: np.ndarray
    """(P, W) uint16: the drawn row of each packet, as `codec.pack` writes it."""
    direction: np.ndarray
    """(P,) uint8: 0 from the client, 1 to it."""
    level: np.ndarray
    """(P,) uint8: inter-arrival level."""
    interarrival_ns: np.ndarray
    """(P,) int64."""
    option_bytes: np.ndarray
    """(P,) uint8: bytes of TCP options whose cells were drawn present, from the first on;
    after the options are settled, those that the drawn lengths count."""
    known_payload: np.ndarray
    """(P,) int64: bytes of payload that the label is known to have there, -1 for the drawn ones."""
    payload_bytes: np.ndarray
    """(P,) int64: bytes after the transport header."""
    stuck: np.ndarray
    """(P,) uint8: NOTHING_NEW for a TCP packet without data, SYN, FIN or RST that has nothing
    new to acknowledge, KEEP_ALIVE for one sent as such, KEEP_ALIVE_ANSWER, else 0."""

    def __len__(self) -> int:
        return len(self.flow)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Drawn nprints, one after another."""

    cells: np.ndarray
    """(R, B) int8, C-contiguous."""
    row_starts: np.ndarray
    """(N + 1,) int64: first row of each flow, and R."""
    wrong: tuple[tuple[int, str], ...] = ()
    """Flows whose matrix cannot be read, with the reason; they have no rows."""


def gather(nprints: np.ndarray | Sequence[np.ndarray], layout: Layout) -> Drawn:
    """The nprints of a batch one after another.

    Args:
        nprints: (N, R, B) int8, or N matrices of (R_n, B). A matrix of another width, of
            more than MAX_ROWS rows or of no rows at all is set aside with its reason.
    """
    if isinstance(nprints, np.ndarray) and nprints.ndim == 3 and nprints.dtype == np.int8:
        count, height, width = nprints.shape
        if width == layout.width and 1 <= height <= MAX_ROWS:
            cells = np.ascontiguousarray(nprints).reshape(count * height, width)
            return Drawn(cells=cells, row_starts=np.arange(count + 1, dtype=np.int64) * height)
    kept, heights, wrong = [], [0], []
    for i, nprint in enumerate(nprints):
        matrix = np.asarray(nprint)
        try:
            kept.append(_check_shape(matrix, layout))
            heights.append(len(matrix))
        except NprintError as error:
            wrong.append((i, str(error)))
            heights.append(0)
    cells = np.concatenate(kept) if kept else np.empty((0, layout.width), np.int8)
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


def read(
    drawn: Drawn, layout: Layout, seeds: np.ndarray, numbers: np.ndarray
) -> tuple[Batch, np.ndarray, list[tuple[int, str]]]:
    """The batch that drawn nprints hold.

    A row is vacant if most of the cells that any packet has (flow, and IP header of the
    version it has more of) are; the first vacant row ends the flow. The IP version and the
    transport protocol are those that most kept rows drew.

    Returns:
        the batch; (N,) int64 rows after the end that were not vacant, for each flow of the
        batch; the flows that are not in it, with their reasons.
    """
    num_flows = len(drawn.row_starts) - 1
    num_rows = len(drawn.cells)
    rows = np.zeros(num_rows, HEADER_ROW)
    columns = {
        "drawn": np.empty((num_rows, layout.width // 8), np.uint16),
        "direction": np.zeros(num_rows, np.uint8), "level": np.zeros(num_rows, np.uint8),
        "option_bytes": np.zeros(num_rows, np.uint8),
    }  # fmt: skip
    lengths = np.zeros(num_flows, np.int64)
    version = np.zeros(num_flows, np.uint8)
    protocol = np.zeros(num_flows, np.uint8)
    after_end = np.zeros(num_flows, np.int64)
    fault = np.zeros(num_flows, np.int64)
    fault_cell = np.zeros(num_flows, np.int64)
    total = _read(
        drawn.cells.view(np.uint64), drawn.row_starts, layout.segments, rows["network"],
        rows["network_len"], rows["transport"], rows["transport_len"], rows["version"],
        rows["protocol"], columns["drawn"], columns["direction"], columns["level"],
        columns["option_bytes"], lengths, version, protocol, after_end, fault, fault_cell,
    )  # fmt: skip
    rejected = list(drawn.wrong)
    unread = {i for i, _ in drawn.wrong}
    for i in np.flatnonzero(fault):
        if int(i) not in unread:
            rejected.append((int(i), _reason(int(fault[i]), int(fault_cell[i]), drawn, layout)))
    rejected.sort()
    kept = np.flatnonzero(lengths)
    batch = Batch(
        flow=kept,
        flow_starts=np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64),
        seed=seeds[kept].astype(np.uint64),
        number=numbers[kept].astype(np.uint64),
        version=version[kept],
        protocol=protocol[kept],
        opens=np.zeros(len(kept), np.bool_),
        server_port=np.zeros(len(kept), np.int64),
        client_port=np.zeros(len(kept), np.int64),
        rows=rows[:total],
        interarrival_ns=np.empty(total, np.int64),
        known_payload=np.full(total, -1, np.int64),
        payload_bytes=np.empty(total, np.int64),
        stuck=np.zeros(total, np.uint8),
        **{name: column[:total] for name, column in columns.items()},
    )
    return batch, after_end[kept], rejected


_NOT_A_CELL, _NOTHING, _NO_TRANSPORT = 1, 2, 3


def _reason(fault: int, cell: int, drawn: Drawn, layout: Layout) -> str:
    if fault == _NOT_A_CELL:
        row, column = divmod(cell, layout.width)
        value = drawn.cells.reshape(-1)[cell]
        row -= int(drawn.row_starts[np.searchsorted(drawn.row_starts, row, "right") - 1])
        return (
            f"row {row}, column {layout.column_names[column]} holds {value}; a cell is 1, 0 or -1"
        )
    if fault == _NOTHING:
        return "the first row is vacant: the flow has no packets"
    return "most rows have no transport header; a flow is TCP, UDP, ICMP or ICMPv6"


@numba.njit(cache=True)
def _pack_row(cells, packed):
    """Pack a row of cells, (W,) uint64, into `packed`, (W,) uint16; whether all were cells."""
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
    """Store of the first of a row of cells, (W,) uint64, that is none."""
    for k in range(len(cells)):
        for cell in range(8):
            byte = (cells[k] >> np.uint64(8 * cell)) & _255
            if 1 < byte < _255:
                return 8 * k + cell
    return -1


@numba.njit(cache=True)
def _read(
    cells, row_starts, segments, network, network_len, transport, transport_len, row_version,
    row_protocol, packed, direction, level, option_bytes, lengths, version, protocol, after_end,
    fault, fault_cell,
):  # fmt: skip
    fixed = np.empty(len(segments), np.int64)
    whole = np.zeros(len(HEADERS), np.int64)
    for s in range(len(segments)):
        header = segments[s, 0]
        fixed[s] = min(max(_FIXED_BYTES[header] - segments[s, 1], 0), segments[s, 2])
        whole[header] += 8 * fixed[s]
    present = np.empty(len(HEADERS), np.int64)
    share = np.zeros(len(HEADERS), np.float32)
    votes = np.empty(len(HEADERS), np.int64)
    total = 0
    for f in range(len(row_starts) - 1):
        begin = row_starts[f]
        height = row_starts[f + 1] - begin
        end = height
        votes[:] = 0
        for r in range(height):
            row = packed[total + r]
            if not _pack_row(cells[begin + r], row) and fault[f] == 0:
                fault[f] = _NOT_A_CELL
                fault_cell[f] = (begin + r) * cells.shape[1] * 8 + _wrong_cell(cells[begin + r])
            present[:] = whole
            for s in range(len(segments)):
                for k in range(segments[s, 3], segments[s, 3] + fixed[s]):
                    present[segments[s, 0]] -= ONES[row[k] >> 8]
            for h in range(len(HEADERS)):
                if whole[h]:
                    share[h] = np.float32(present[h]) / np.float32(whole[h])
            ip = _IPV4 if share[_IPV4] >= share[_IPV6] else _IPV6
            if 2 * (present[_FLOW] + present[ip]) <= whole[_FLOW] + whole[ip]:
                end = min(end, r)
            elif r > end:
                after_end[f] += 1
            if end == height:
                votes[ip] += 1
                kind = _most(share)
                if share[kind] > 0.5:
                    votes[kind] += 1
        if fault[f]:
            continue
        if end == 0:
            fault[f] = _NOTHING
            continue
        if 2 * (votes[_TCP] + votes[_UDP] + votes[_ICMP]) <= end:
            fault[f] = _NO_TRANSPORT
            continue
        ip = _IPV4 if votes[_IPV4] >= votes[_IPV6] else _IPV6
        kind = _most(votes)
        version[f] = 4 if ip == _IPV4 else 6
        if kind == _TCP:
            protocol[f] = 6
        elif kind == _UDP:
            protocol[f] = 17
        else:
            protocol[f] = 1 if ip == _IPV4 else 58
        lengths[f] = end
        for i in range(total, total + end):
            row = packed[i]
            for s in range(len(segments)):
                header, first, column = segments[s, 0], segments[s, 1], segments[s, 3]
                if header == _FLOW:
                    direction[i] = ONES[row[column] & 255] > 4
                    level[i] = level_of_bytes(
                        row[column + 1] & 255, row[column + 2] & 255, row[column + 3] & 255
                    )
                elif header == ip:
                    for k in range(fixed[s]):
                        network[i, first + k] = row[column + k] & 255
                elif header == kind:
                    for k in range(segments[s, 2]):
                        transport[i, first + k] = row[column + k] & 255
                    if kind == _TCP:
                        options = row[column + fixed[s] : column + segments[s, 2]]
                        option_bytes[i] += _drawn_options(options)
            network_len[i] = 20 if ip == _IPV4 else 40
            transport_len[i] = 20 if kind == _TCP else 8
            row_version[i] = version[f]
            row_protocol[i] = protocol[f]
        total += end
    return total


@numba.njit(cache=True)
def _most(weight):
    """The transport header that has most of something, (H,) by header."""
    best = _TCP
    for h in (_UDP, _ICMP):
        if weight[h] > weight[best]:
            best = h
    return best


@numba.njit(cache=True)
def _drawn_options(packed):
    """How many of the packed bytes stand before the first that is mostly vacant."""
    for k in range(len(packed)):
        if ONES[packed[k] >> 8] > 4:
            return k
    return len(packed)
