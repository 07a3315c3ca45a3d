"""A batch of drawn flows, read from their nprints.

Reading decides what a majority of cells decides: where the flow ends, which IP version
and which transport protocol it has. Everything else is left as drawn for the rules.

Shape letters: N flows, R drawn rows, P kept rows (packets), B bits, W = B / 8 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from netdiff_ray.errors import NprintError
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.fields import BIT_IN_HEADER, HEADER_BITS, HEADERS
from netdiff_ray.nprint.layouts import HEIGHTS, Layout
from netdiff_ray.nprint.timecode import level_of_bytes
from netdiff_ray.packets.headers import HEADER_ROW
from netdiff_ray.repair.bits import ONES

MAX_ROWS = HEIGHTS[-1]
NOTHING_NEW, KEEP_ALIVE, KEEP_ALIVE_ANSWER = 1, 2, 3

_FLOW, _IPV4, _IPV6, _TCP, _UDP, _ICMP = range(len(HEADERS))
_FIXED_BYTES = np.array(
    [HEADER_BITS["flow"] // 8, BIT_IN_HEADER["ipv4_opt"] // 8, HEADER_BITS["ipv6"] // 8,
     BIT_IN_HEADER["tcp_opt"] // 8, HEADER_BITS["udp"] // 8, HEADER_BITS["icmp"] // 8], np.int64
)  # fmt: skip
"""Bytes that each header has whenever it is there."""

_LOW_BITS = np.uint64(0x0101010101010101)
_GATHER = np.uint64(0x8040201008040201)
_7, _56, _255 = np.uint64(7), np.uint64(56), np.uint64(255)


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
    drawn_row: np.ndarray
    """(P,) int64: the drawn row of each packet."""
    direction: np.ndarray
    """(P,) uint8: 0 from the client, 1 to it."""
    level: np.ndarray
    """(P,) uint8: inter-arrival level."""
    interarrival_ns: np.ndarray
    """(P,) int64."""
    option_bytes: np.ndarray
    """(P,) uint8: bytes of TCP options whose cells were drawn present, from the first on;
    after the options are settled, those that the drawn lengths count."""
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
            more than 1,024 rows or of no rows at all is set aside with its reason.
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
        raise NprintError(f"the matrix has {len(matrix):,} rows; a window has 1 to {MAX_ROWS:,}")
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
    rows = np.empty(num_rows, HEADER_ROW)
    columns = {
        "drawn_row": np.empty(num_rows, np.int64), "direction": np.empty(num_rows, np.uint8),
        "level": np.empty(num_rows, np.uint8), "option_bytes": np.empty(num_rows, np.uint8),
    }  # fmt: skip
    lengths = np.zeros(num_flows, np.int64)
    version = np.zeros(num_flows, np.uint8)
    protocol = np.zeros(num_flows, np.uint8)
    after_end = np.zeros(num_flows, np.int64)
    fault = np.zeros(num_flows, np.int64)
    fault_cell = np.zeros(num_flows, np.int64)
    header_of, byte_at = byte_places(layout)
    total = _read(
        drawn.cells.view(np.uint64), drawn.row_starts, header_of, byte_at, rows["network"],
        rows["network_len"], rows["transport"], rows["transport_len"], rows["version"],
        rows["protocol"], columns["drawn_row"], columns["direction"], columns["level"],
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


def byte_places(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """(W,) int64 header (index in HEADERS) and byte in that header of each byte of a row."""
    header_of = np.empty(layout.width // 8, np.int64)
    byte_at = np.empty(layout.width // 8, np.int64)
    for header, first, length, column in layout.segments:
        header_of[column : column + length] = header
        byte_at[column : column + length] = np.arange(first, first + length)
    return header_of, byte_at


@numba.njit(cache=True)
def _read(
    words, row_starts, header_of, byte_at, network, network_len, transport, transport_len,
    row_version, row_protocol, drawn_row, direction, level, option_bytes, lengths, version,
    protocol, after_end, fault, fault_cell,
):  # fmt: skip
    num_headers = len(HEADERS)
    width = len(header_of)
    bits = np.empty((MAX_ROWS, width), np.uint8)
    vacant = np.empty((MAX_ROWS, width), np.uint8)
    share = np.empty((MAX_ROWS, num_headers), np.float32)
    whole = np.zeros(num_headers, np.float32)
    for k in range(width):
        if byte_at[k] < _FIXED_BYTES[header_of[k]]:
            whole[header_of[k]] += 8
    present = np.empty(num_headers, np.float32)
    votes = np.empty(num_headers, np.int64)
    total = 0
    for f in range(len(row_starts) - 1):
        begin = row_starts[f]
        height = row_starts[f + 1] - begin
        end = height
        for r in range(height):
            present[:] = 0
            for k in range(width):
                word = words[begin + r, k]
                holes = (word >> _7) & _LOW_BITS
                low = word & _LOW_BITS
                if ((holes * _255) | low) != word and fault[f] == 0:
                    fault[f] = _NOT_A_CELL
                    cell = np.int64(0)
                    while True:
                        byte = (word >> np.uint64(8 * cell)) & _255
                        if 1 < byte < _255:
                            break
                        cell += 1
                    fault_cell[f] = ((begin + r) * width + k) * 8 + cell
                bits[r, k] = ((low & ~holes) * _GATHER) >> _56
                gone = np.uint8((holes * _GATHER) >> _56)
                vacant[r, k] = gone
                if byte_at[k] < _FIXED_BYTES[header_of[k]]:
                    present[header_of[k]] += 8 - ONES[gone]
            for h in range(num_headers):
                share[r, h] = present[h] / whole[h] if whole[h] else np.float32(0)
            ip = _IPV4 if share[r, _IPV4] >= share[r, _IPV6] else _IPV6
            if 2 * (present[_FLOW] + present[ip]) <= whole[_FLOW] + whole[ip]:
                end = min(end, r)
            elif r > end:
                after_end[f] += 1
        if fault[f]:
            continue
        if end == 0:
            fault[f] = _NOTHING
            continue
        votes[:] = 0
        for r in range(end):
            votes[_IPV4 if share[r, _IPV4] >= share[r, _IPV6] else _IPV6] += 1
            best = _TCP
            for h in (_UDP, _ICMP):
                if share[r, h] > share[r, best]:
                    best = h
            if share[r, best] > 0.5:
                votes[best] += 1
        ip = _IPV4 if votes[_IPV4] >= votes[_IPV6] else _IPV6
        kind = _TCP
        for h in (_UDP, _ICMP):
            if votes[h] > votes[kind]:
                kind = h
        if 2 * (votes[_TCP] + votes[_UDP] + votes[_ICMP]) <= end:
            fault[f] = _NO_TRANSPORT
            continue
        version[f] = 4 if ip == _IPV4 else 6
        if kind == _TCP:
            protocol[f] = 6
        elif kind == _UDP:
            protocol[f] = 17
        else:
            protocol[f] = 1 if ip == _IPV4 else 58
        lengths[f] = end
        for r in range(end):
            i = total + r
            drawn_row[i] = begin + r
            direction[i] = 0
            level[i] = 0
            option_bytes[i] = 0
            for j in range(60):
                network[i, j] = 0
                transport[i, j] = 0
            counting = True
            for k in range(width):
                h = header_of[k]
                if h == ip:
                    network[i, byte_at[k]] = bits[r, k]
                elif h == kind:
                    transport[i, byte_at[k]] = bits[r, k]
                    if h == _TCP and byte_at[k] >= 20 and counting:
                        counting = ONES[vacant[r, k]] <= 4
                        option_bytes[i] += counting
            if header_of[0] == _FLOW:
                direction[i] = 1 if ONES[bits[r, 0]] > 4 else 0
                level[i] = level_of_bytes(bits[r, 1], bits[r, 2], bits[r, 3])
            network_len[i] = 20 if ip == _IPV4 else 40
            transport_len[i] = 20 if kind == _TCP else 8
            row_version[i] = version[f]
            row_protocol[i] = protocol[f]
        total += end
    return total
