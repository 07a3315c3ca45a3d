"""Header rows to nprint matrices and back.

Shape letters: P packets, B bits (columns of the layout).
"""

import numba
import numpy as np

from netdiff_ray.errors import NprintError
from netdiff_ray.fields import HEADERS
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import CODE_BYTES, level_of, level_of_bytes, nanoseconds_of
from netdiff_ray.packets.headers import HEADER_ROW

VACANT = -1

_FLOW, _IPV4, _IPV6, _TCP, _UDP, _ICMP = range(len(HEADERS))


def _byte_cells() -> np.ndarray:
    """(256,) uint64: the eight int8 cells of each byte value, as they lie in memory."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return bits.view(np.uint64).ravel()


_CELLS = _byte_cells()
VACANT_CELLS = np.full(8, VACANT, np.int8).view(np.uint64)[0]
_PACKED = np.arange(256, dtype=np.uint16)
_VACANT_PACKED = np.uint16(0xFF00)


def encode(
    rows: np.ndarray,
    layout: Layout,
    *,
    direction: np.ndarray | None = None,
    interarrival_ns: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The nprint of packets.

    Args:
        rows: (P,) HEADER_ROW.
        layout: what to write.
        direction: (P,) uint8, 0 from the client and 1 to it; only for a layout that
            needs it, which is then required.
        interarrival_ns: (P,) int64, time since the packet before; like `direction`.
        out: (P or more, B) int8, C-contiguous, to write into and save an allocation.

    Returns:
        (P, B) int8 of 1, 0, -1 (vacant).
    """
    if out is None:
        out = np.empty((len(rows), layout.width), np.int8)
    out = out[: len(rows)]
    _write(rows, layout, direction, interarrival_ns, _CELLS, VACANT_CELLS, out.view(np.uint64))
    return out


def pack(
    rows: np.ndarray,
    layout: Layout,
    *,
    direction: np.ndarray | None = None,
    interarrival_ns: np.ndarray | None = None,
) -> np.ndarray:
    """The nprint of packets, eight cells a word.

    Args:
        rows, layout, direction, interarrival_ns: as `encode` takes them.

    Returns:
        (P, W) uint16, W = B / 8: in the low byte the cells' bits, the first cell's highest and
        vacant ones 0; in the high byte, in the same order, which of them are vacant.
    """
    out = np.empty((len(rows), layout.width // 8), np.uint16)
    _write(rows, layout, direction, interarrival_ns, _PACKED, _VACANT_PACKED, out)
    return out


def _write(rows, layout, direction, interarrival_ns, words, vacant, out) -> None:
    """Write packets into `out` (P, W): for each byte its word of `words` (256,), or `vacant`."""
    if layout.needs_flow:
        assert direction is not None
        assert interarrival_ns is not None
    else:
        direction = np.zeros(len(rows), np.uint8)
        interarrival_ns = np.zeros(len(rows), np.int64)
    _encode(
        rows["network"], rows["network_len"], rows["transport"], rows["transport_len"],
        rows["version"], rows["protocol"], direction, interarrival_ns, layout.segments,
        layout.zeroes_assigned, CODE_BYTES, words, vacant, out,
    )  # fmt: skip


@numba.njit(cache=True)
def _header_of(protocol):
    if protocol == 6:
        return _TCP
    if protocol == 17:
        return _UDP
    return _ICMP


@numba.njit(cache=True)
def _encode(
    network, network_len, transport, transport_len, version, protocol, direction,
    interarrival_ns, segments, zeroes_assigned, code_bytes, words, vacant, out,
):  # fmt: skip
    held = np.empty(len(HEADERS), np.int64)
    scratch = np.zeros(60, np.uint8)
    for i in range(len(version)):
        held[:] = 0
        held[_FLOW] = 4
        held[_IPV4 if version[i] == 4 else _IPV6] = network_len[i]
        here = _header_of(protocol[i])
        held[here] = transport_len[i]
        for j in range(transport_len[i]):
            scratch[j] = transport[i, j]
        if zeroes_assigned:
            _zero_assigned(scratch, transport_len[i], here, direction[i])
        for s in range(len(segments)):
            header = segments[s, 0]
            first = segments[s, 1]
            length = segments[s, 2]
            column = segments[s, 3]
            there = min(max(held[header] - first, 0), length)
            if header == _FLOW:
                level = level_of(interarrival_ns[i])
                out[i, column] = words[255 if direction[i] else 0]
                for k in range(3):
                    out[i, column + 1 + k] = words[code_bytes[level, k]]
            elif header == _IPV4 or header == _IPV6:
                for k in range(there):
                    out[i, column + k] = words[network[i, first + k]]
            else:
                for k in range(there):
                    out[i, column + k] = words[scratch[first + k]]
            for k in range(there, length):
                out[i, column + k] = vacant


@numba.njit(cache=True)
def _zero_assigned(header, length, kind, direction):
    """Set to 0 what only repair can set: the client's ephemeral port (1024 and above,
    unless it is the server's too), and the values of TCP timestamp options (RFC 7323)."""
    if kind != _ICMP and length >= 4:
        sport = (np.int64(header[0]) << 8) | np.int64(header[1])
        dport = (np.int64(header[2]) << 8) | np.int64(header[3])
        client = dport if direction else sport
        if client >= 1024 and sport != dport:
            at = 2 if direction else 0
            header[at] = 0
            header[at + 1] = 0
    if kind != _TCP:
        return
    at = 20
    while at < length:
        option = header[at]
        if option == 0:
            return
        if option == 1:
            at += 1
            continue
        if at + 1 >= length or header[at + 1] < 2:
            return
        size = np.int64(header[at + 1])
        if option == 8 and size == 10:
            for k in range(at + 2, min(at + 10, length)):
                header[k] = 0
        at += size


def decode(nprint: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The header bytes that an nprint holds.

    A header's length is what its own length field says, cut at the first byte that is
    wholly vacant; bits that the layout lacks, and lone vacant bits, become 0. Of the IP
    versions, and of the transport headers, the one with most of its first bytes present
    is taken. The protocol is that of the transport header that is there, else what the IP header
    says.

    Args:
        nprint: (P, B) int8 of 1, 0, -1.

    Returns:
        (P,) HEADER_ROW, a wholly vacant row having version 0; `wirelen` is the length
        that the IP header claims, `ts_ns` the running sum of the inter-arrival times (0
        if the layout has none), `fragment` 2 where the transport header is vacant for it.
        (P,) uint8 direction and (P,) int64 inter-arrival time in ns, 0 if not in the layout.

    Raises:
        NprintError: the matrix has another width than the layout, or other values.
    """
    nprint = check_nprint(nprint, layout)
    num_packets = len(nprint)
    rows = np.zeros(num_packets, HEADER_ROW)
    direction = np.zeros(num_packets, np.uint8)
    level = np.zeros(num_packets, np.uint8)
    _decode(
        nprint, layout.segments, rows["network"], rows["network_len"], rows["transport"],
        rows["transport_len"], rows["version"], rows["protocol"], rows["fragment"],
        rows["wirelen"], direction, level,
    )  # fmt: skip
    interarrival_ns = nanoseconds_of(level)
    rows["ts_ns"] = np.cumsum(interarrival_ns)
    return rows, direction, interarrival_ns


def check_nprint(nprint: np.ndarray, layout: Layout) -> np.ndarray:
    """`nprint` as C-contiguous int8.

    Raises:
        NprintError: it is no (P, B) matrix of 1, 0, -1.
    """
    nprint = np.asarray(nprint)
    if nprint.ndim != 2 or nprint.shape[1] != layout.width:
        shape = " x ".join(map(str, nprint.shape))
        raise NprintError(
            f"the matrix is {shape}; layout {layout.name} needs rows of {layout.width:,} columns"
        )
    wrong = (nprint < -1) | (nprint > 1)
    if wrong.any():
        row, column = (int(x[0]) for x in np.nonzero(wrong))
        raise NprintError(
            f"row {row}, column {layout.column_names[column]} holds {nprint[row, column]}; "
            "a cell is 1, 0 or -1"
        )
    return np.ascontiguousarray(nprint, np.int8)


@numba.njit(cache=True)
def _decode(
    nprint, segments, network, network_len, transport, transport_len, version, protocol,
    fragment, wirelen, direction, level,
):  # fmt: skip
    num_headers = len(HEADERS)
    image = np.zeros((num_headers, 60), np.uint8)
    first_vacant = np.empty(num_headers, np.int64)
    present = np.empty(num_headers, np.int64)
    for i in range(len(nprint)):
        image[:] = 0
        first_vacant[:] = 60
        present[:] = 0
        for s in range(len(segments)):
            header = segments[s, 0]
            first = segments[s, 1]
            column = segments[s, 3] * 8
            for k in range(segments[s, 2]):
                byte = 0
                vacant = 0
                for b in range(8):
                    cell = nprint[i, column + 8 * k + b]
                    byte = (byte << 1) | (cell == 1)
                    vacant += cell == VACANT
                if vacant == 8:
                    first_vacant[header] = min(first_vacant[header], first + k)
                else:
                    image[header, first + k] = byte
                    if first + k < 8:
                        present[header] += 8 - vacant
        direction[i] = _majority(image[_FLOW, 0])
        level[i] = level_of_bytes(image[_FLOW, 1], image[_FLOW, 2], image[_FLOW, 3])
        if present[_IPV4] == 0 and present[_IPV6] == 0:
            continue
        ip = _IPV4 if present[_IPV4] >= present[_IPV6] else _IPV6
        here = _TCP
        for header in (_UDP, _ICMP):
            if present[header] > present[here]:
                here = header
        if ip == _IPV4:
            version[i] = 4
            whole = np.int64(image[ip, 0] & 15) * 4
            says = image[ip, 9]
            claimed = np.int64(image[ip, 2]) * 256 + np.int64(image[ip, 3])
        else:
            version[i] = 6
            whole = 40
            says = image[ip, 6]
            claimed = np.int64(image[ip, 4]) * 256 + np.int64(image[ip, 5]) + 40
        network_len[i] = min(whole, first_vacant[ip])
        for j in range(network_len[i]):
            network[i, j] = image[ip, j]
        if present[here] == 0:
            protocol[i] = says
            if ip == _IPV4 and (image[ip, 6] & 0x1F or image[ip, 7]):
                fragment[i] = 2
        else:
            if here == _TCP:
                protocol[i] = 6
                whole = 20
                if first_vacant[here] > 12:
                    whole = np.int64(image[here, 12] >> 4) * 4
            elif here == _UDP:
                protocol[i] = 17
                whole = 8
            else:
                protocol[i] = 1 if ip == _IPV4 or says == 1 else 58
                whole = 8
            transport_len[i] = min(whole, first_vacant[here])
            for j in range(transport_len[i]):
                transport[i, j] = image[here, j]
        wirelen[i] = max(claimed, np.int64(network_len[i]) + np.int64(transport_len[i]))


@numba.njit(cache=True)
def _majority(byte):
    """1 if more than half of the eight bits are."""
    ones = 0
    for k in range(8):
        ones += (byte >> k) & 1
    return 1 if ones > 4 else 0
