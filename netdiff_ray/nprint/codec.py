"""Header rows to nprint matrices and back.

Shape letters: P packets, B bits (columns of the layout), W words of eight bits, H headers.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.errors import NprintError
from netdiff_ray.fields import HEADERS
from netdiff_ray.flow_state import PACKET_STATE, packet_states
from netdiff_ray.flows import Windows
from netdiff_ray.header_bytes import (
    DPORT,
    ICMP_HEADER_BYTES,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_FLAGS,
    IPV4_FRAGMENT_OFFSET,
    IPV4_HL,
    IPV4_PROTO,
    IPV4_TL,
    IPV6_HEADER_BYTES,
    IPV6_LEN,
    IPV6_NH,
    MAX_HEADER_BYTES,
    SPORT,
    TCP_DOFF,
    TCP_HEADER_BYTES,
    TCP_OPT,
    TCP_OPTION_END,
    TCP_OPTION_NOP,
    TCP_OPTION_SACK,
    TCP_OPTION_TIMESTAMPS,
    UDP_HEADER_BYTES,
    u16,
)
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.statecode import (
    DIRECTION,
    FLOW_BYTES,
    INTERARRIVAL,
    NEEDS_TCP,
    fill_state_bytes,
    is_mostly_ones,
)
from netdiff_ray.nprint.timecode import CODE_BYTES, level_of, level_of_bytes, nanoseconds_of
from netdiff_ray.packets.headers import HEADER_ROW
from netdiff_ray.packets.table import LATER_FRAGMENT

VACANT = -1

_FLOW, _IPV4, _IPV6, _TCP, _UDP, _ICMP = range(len(HEADERS))
_DECIDING_BYTES = 8  # first bytes of a header by which headers are told apart
FIRST_UNPRIVILEGED_PORT = 1024
_TIMESTAMPS_BYTES = 10


class _FlowCells(NamedTuple):
    """What a layout with flow fields needs beside the headers; as `encode` takes them."""

    direction: np.ndarray
    interarrival_ns: np.ndarray
    state: np.ndarray


class _Alphabet(NamedTuple):
    """The words that stand for bytes in a matrix."""

    words: np.ndarray
    """(256,): the word of each byte value."""
    vacant: np.unsignedinteger
    """The word of a vacant byte."""


class _Headers(NamedTuple):
    """The headers of a packet while it is decoded, in the order of HEADERS."""

    octets: np.ndarray
    """(H, MAX_HEADER_BYTES) uint8."""
    first_vacant: np.ndarray
    """(H,) int64: the first wholly vacant byte, MAX_HEADER_BYTES if none is."""
    present: np.ndarray
    """(H,) int64: bits that are not vacant among the first _DECIDING_BYTES."""


def _byte_cells() -> np.ndarray:
    """Return (256,) uint64: the eight int8 cells of each byte value, in memory order."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return bits.view(np.uint64).ravel()


VACANT_CELLS = np.full(8, VACANT, np.int8).view(np.uint64)[0]
_CELLS = _Alphabet(_byte_cells(), VACANT_CELLS)
_PACKED = _Alphabet(np.arange(256, dtype=np.uint16), np.uint16(0xFF00))


def encode(
    rows: np.ndarray,
    layout: Layout,
    *,
    direction: np.ndarray | None = None,
    interarrival_ns: np.ndarray | None = None,
    state: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the nprint of packets.

    Args:
        rows: (P,) HEADER_ROW.
        layout: what to write.
        direction: (P,) uint8, 0 from the client and 1 to it; only for a layout that
            needs it, which is then required.
        interarrival_ns: (P,) int64, time since the packet before; like `direction`.
        state: (P,) PACKET_STATE, for a layout that has it; that of the packets of one flow, from
            its first, unless given.
        out: (P or more, B) int8, C-contiguous, to write into and save an allocation.

    Returns:
        (P, B) int8 of 1, 0, -1 (vacant).
    """
    if out is None:
        out = np.empty((len(rows), layout.width), np.int8)
    out = out[: len(rows)]
    flow = _flow_cells(rows, layout, direction, interarrival_ns, state)
    _write(rows, layout, flow, _CELLS, out.view(np.uint64))
    return out


def encode_windows(windows: Windows, layout: Layout) -> np.ndarray:
    """Return the nprint of the packets of windows, one window after another, (P, B) int8."""
    return encode(
        windows.rows, layout, direction=windows.direction,
        interarrival_ns=windows.interarrival_ns, state=windows.state,
    )  # fmt: skip


def pack(
    rows: np.ndarray,
    layout: Layout,
    *,
    direction: np.ndarray | None = None,
    interarrival_ns: np.ndarray | None = None,
    state: np.ndarray | None = None,
) -> np.ndarray:
    """Return the nprint of packets, eight cells a word.

    Args:
        rows, layout, direction, interarrival_ns, state: as `encode` takes them.

    Returns:
        (P, W) uint16, W = B / 8: in the low byte the cells' bits, the first cell's highest and
        vacant ones 0; in the high byte, in the same order, which of them are vacant.
    """
    out = np.empty((len(rows), layout.width // 8), np.uint16)
    flow = _flow_cells(rows, layout, direction, interarrival_ns, state)
    _write(rows, layout, flow, _PACKED, out)
    return out


def _flow_cells(
    rows: np.ndarray,
    layout: Layout,
    direction: np.ndarray | None,
    interarrival_ns: np.ndarray | None,
    state: np.ndarray | None,
) -> _FlowCells:
    """Return what the layout needs, of what `encode` is given; zeros for what it does not need."""
    if layout.needs_flow:
        assert direction is not None
        assert interarrival_ns is not None
    else:
        direction = np.zeros(len(rows), np.uint8)
        interarrival_ns = np.zeros(len(rows), np.int64)
    if not layout.has_state:
        state = np.zeros(len(rows), PACKET_STATE)
    elif state is None:
        state = packet_states(rows, direction, interarrival_ns, np.array([0, len(rows)]))
    return _FlowCells(direction, interarrival_ns, state)


def _write(
    rows: np.ndarray, layout: Layout, flow: _FlowCells, alphabet: _Alphabet, out: np.ndarray
) -> None:
    """Write packets into `out` (P, W), a word of the alphabet for each byte of the layout."""
    _encode(rows, flow, layout.segments, layout.zeroes_assigned, alphabet, out)


@numba.njit(cache=True)
def _header_of(protocol):
    if protocol == IPPROTO_TCP:
        return _TCP
    if protocol == IPPROTO_UDP:
        return _UDP
    return _ICMP


@numba.njit(cache=True)
def _encode(rows, flow, segments, zeroes_assigned, alphabet, out):
    words, vacant = alphabet.words, alphabet.vacant
    present = np.empty(len(HEADERS), np.int64)  # bytes that the packet has of each header
    scratch = np.zeros(MAX_HEADER_BYTES, np.uint8)
    flow_octets = np.zeros(FLOW_BYTES, np.uint8)
    needs_flow = (segments[:, 0] == _FLOW).any()
    for i in range(len(rows)):
        row = rows[i]
        if needs_flow:
            _fill_flow(flow_octets, flow, i)
        present[:] = 0
        present[_FLOW] = FLOW_BYTES
        present[_IPV4 if row.version == 4 else _IPV6] = row.network_len
        transport_header = _header_of(row.protocol)
        present[transport_header] = row.transport_len
        for j in range(row.transport_len):
            scratch[j] = row.transport[j]
        if zeroes_assigned:
            _zero_assigned(scratch, row.transport_len, transport_header, flow.direction[i])
        for s in range(len(segments)):
            header = segments[s, 0]
            first = segments[s, 1]
            length = segments[s, 2]
            column = segments[s, 3]
            available = min(max(present[header] - first, 0), length)
            if header == _FLOW:
                for k in range(length):
                    lacks = NEEDS_TCP[first + k] and present[_TCP] == 0
                    out[i, column + k] = vacant if lacks else words[flow_octets[first + k]]
            elif header == _IPV4 or header == _IPV6:
                for k in range(available):
                    out[i, column + k] = words[row.network[first + k]]
            else:
                for k in range(available):
                    out[i, column + k] = words[scratch[first + k]]
            for k in range(available, length):
                out[i, column + k] = vacant


@numba.njit(cache=True)
def _fill_flow(octets, flow, i):
    """Write the `flow` header of packet `i` into `octets`, (FLOW_BYTES,) uint8."""
    level = level_of(flow.interarrival_ns[i])
    octets[DIRECTION] = 255 if flow.direction[i] else 0
    for k in range(3):
        octets[INTERARRIVAL + k] = CODE_BYTES[level, k]
    fill_state_bytes(octets, flow.state[i])


@numba.njit(cache=True)
def _zero_assigned(transport, length, header, direction):
    """Set to 0 what only repair can set: the client's ephemeral port (1024 and above,
    unless it is the server's too), and the values of TCP timestamp options (RFC 7323) and of SACK
    blocks (RFC 2018).

    Args:
        transport: (MAX_HEADER_BYTES,) uint8, `length` of them the header's.
        header: _TCP, _UDP or _ICMP.
        direction: 0 from the client, 1 to it.
    """
    if header != _ICMP and length >= DPORT + 2:
        sport, dport = u16(transport, SPORT), u16(transport, DPORT)
        client = dport if direction else sport
        if client >= FIRST_UNPRIVILEGED_PORT and sport != dport:
            at = DPORT if direction else SPORT
            transport[at] = 0
            transport[at + 1] = 0
    if header != _TCP:
        return
    at = np.int64(TCP_OPT)
    while at < length:
        option = transport[at]
        if option == TCP_OPTION_END:
            return
        if option == TCP_OPTION_NOP:
            at += 1
            continue
        if at + 1 >= length or transport[at + 1] < 2:
            return
        size = np.int64(transport[at + 1])
        has_values = option == TCP_OPTION_TIMESTAMPS and size == _TIMESTAMPS_BYTES
        if has_values or option == TCP_OPTION_SACK:
            for k in range(at + 2, min(at + size, length)):
                transport[k] = 0
        at += size


def decode(nprint: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the header bytes that an nprint holds.

    A header's length is what its length field says, cut at the first byte that is
    wholly vacant; bits that the layout lacks, and lone vacant bits, become 0. Of the IP
    versions, and of the transport headers, that with most of its first bytes present is
    taken. The protocol is that of the present transport header, else what the IP header
    names.

    Args:
        nprint: (P, B) int8 of 1, 0, -1.

    Returns:
        (P,) HEADER_ROW, a wholly vacant row having version 0; `wirelen` is the length
        that the IP header claims, `ts_ns` the running sum of the inter-arrival times (0
        if the layout has none), `fragment` LATER_FRAGMENT where that explains why the
        transport header is vacant.
        (P,) uint8 direction and (P,) int64 inter-arrival time in ns, 0 if not in the layout.

    Raises:
        NprintError: the matrix has another width than the layout, or other values.
    """
    nprint = check_nprint(nprint, layout)
    num_packets = len(nprint)
    rows = np.zeros(num_packets, HEADER_ROW)
    direction = np.zeros(num_packets, np.uint8)
    level = np.zeros(num_packets, np.uint8)
    _decode(nprint, layout.segments, rows, direction, level)
    interarrival_ns = nanoseconds_of(level)
    rows["ts_ns"] = np.cumsum(interarrival_ns)
    return rows, direction, interarrival_ns


def check_nprint(nprint: np.ndarray, layout: Layout) -> np.ndarray:
    """Return `nprint` as C-contiguous int8.

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
def _decode(nprint, segments, rows, direction, level):
    headers = _Headers(
        np.zeros((len(HEADERS), MAX_HEADER_BYTES), np.uint8),
        np.empty(len(HEADERS), np.int64),
        np.empty(len(HEADERS), np.int64),
    )
    for i in range(len(nprint)):
        _read_headers(nprint[i], segments, headers)
        flow = headers.octets[_FLOW]
        direction[i] = is_mostly_ones(flow[DIRECTION])
        level[i] = level_of_bytes(
            flow[INTERARRIVAL], flow[INTERARRIVAL + 1], flow[INTERARRIVAL + 2]
        )
        if headers.present[_IPV4] or headers.present[_IPV6]:
            row = rows[i]
            claimed = _fill_network(row, headers)
            _fill_transport(row, headers)
            captured = np.int64(row.network_len) + np.int64(row.transport_len)
            row.wirelen = max(claimed, captured)


@numba.njit(cache=True)
def _read_headers(cells, segments, headers):
    """Gather the headers' bytes from the cells (B,) of a packet."""
    octets, first_vacant, present = headers
    octets[:] = 0
    first_vacant[:] = MAX_HEADER_BYTES
    present[:] = 0
    for s in range(len(segments)):
        header = segments[s, 0]
        first = segments[s, 1]
        column = segments[s, 3] * 8
        for k in range(segments[s, 2]):
            byte = 0
            vacant = 0
            for b in range(8):
                cell = cells[column + 8 * k + b]
                byte = (byte << 1) | (cell == 1)
                vacant += cell == VACANT
            if vacant == 8:
                first_vacant[header] = min(first_vacant[header], first + k)
            else:
                octets[header, first + k] = byte
                if first + k < _DECIDING_BYTES:
                    present[header] += 8 - vacant


@numba.njit(cache=True)
def _fill_network(row, headers):
    """Write version, IP header and the protocol that it names into `row`; return the length
    that it claims for the packet, in bytes."""
    if headers.present[_IPV4] >= headers.present[_IPV6]:
        header = _IPV4
        octets = headers.octets[_IPV4]
        row.version = 4
        whole = np.int64(octets[IPV4_HL] & 15) * 4
        row.protocol = octets[IPV4_PROTO]
        claimed = u16(octets, IPV4_TL)
    else:
        header = _IPV6
        octets = headers.octets[_IPV6]
        row.version = 6
        whole = np.int64(IPV6_HEADER_BYTES)
        row.protocol = octets[IPV6_NH]
        claimed = u16(octets, IPV6_LEN) + IPV6_HEADER_BYTES
    row.network_len = min(whole, headers.first_vacant[header])
    for j in range(row.network_len):
        row.network[j] = octets[j]
    return claimed


@numba.njit(cache=True)
def _fill_transport(row, headers):
    """Write the transport header and its protocol into `row`, whose IP header is filled."""
    header = _TCP
    for other in (_UDP, _ICMP):
        if headers.present[other] > headers.present[header]:
            header = other
    octets = headers.octets[header]
    if headers.present[header] == 0:
        if row.version == 4:
            flags = u16(headers.octets[_IPV4], IPV4_FLAGS)
            if flags & IPV4_FRAGMENT_OFFSET:
                row.fragment = LATER_FRAGMENT
        return
    if header == _TCP:
        row.protocol = IPPROTO_TCP
        whole = np.int64(TCP_HEADER_BYTES)
        if headers.first_vacant[header] > TCP_DOFF:
            whole = np.int64(octets[TCP_DOFF] >> 4) * 4
    elif header == _UDP:
        row.protocol = IPPROTO_UDP
        whole = np.int64(UDP_HEADER_BYTES)
    else:
        if row.version == 4 or row.protocol == IPPROTO_ICMP:
            row.protocol = IPPROTO_ICMP
        else:
            row.protocol = IPPROTO_ICMPV6
        whole = np.int64(ICMP_HEADER_BYTES)
    row.transport_len = min(whole, headers.first_vacant[header])
    for j in range(row.transport_len):
        row.transport[j] = octets[j]
