"""What a classifier sees of a flow's first packets: their sizes and times, or their header values.

Both are numbers, not bits, and hold no addresses, ports, identifiers, checksums or sequence
numbers. Shape letters: N flows, K packets, P packets of all flows, X columns.
"""

import numba
import numpy as np

from netdiff_ray.evaluate.flow_arrays import rank_in_flow
from netdiff_ray.evaluate.flow_view import VIEW, field_values, packet_sizes
from netdiff_ray.evaluate.summary import Sample
from netdiff_ray.header_bytes import (
    TCP_HEADER_BYTES,
    TCP_OPTION_END,
    TCP_OPTION_MSS,
    TCP_OPTION_NOP,
    TCP_OPTION_SACK,
    TCP_OPTION_SACK_PERMITTED,
    TCP_OPTION_TIMESTAMPS,
    TCP_OPTION_WINDOW_SCALE,
)
from netdiff_ray.nprint import VACANT
from netdiff_ray.nprint.timecode import nanoseconds_of

SIZED_PACKETS = 20
"""Packets whose sizes, directions and times are seen."""
HEADER_PACKETS = 8
"""Packets whose header values are seen."""
_NO_TIME = -9.0
_NO_VALUE = -2.0
_OPTIONS = ("mss", "window_scale", "sack", "timestamps", "num_options", "order")
_HEADER_FIELDS = (
    "ipv4_ttl", "ipv6_hl", "ipv4_tl", "ipv6_len", "ipv4_tos", "ipv6_tc", "ipv4_dfbit",
    "tcp_doff", "tcp_wsize", "tcp_fin", "tcp_syn", "tcp_rst", "tcp_psh", "tcp_ackf", "tcp_urg",
    "tcp_ece", "tcp_cwr", "udp_len", "icmp_type", "icmp_code",
)  # fmt: skip


def directions(bits: np.ndarray) -> np.ndarray:
    """Return (P,) float64: 1 for packets from the client, -1 for packets to it."""
    columns = bits[:, VIEW.columns("flow_direction")] == 1
    return np.where(columns.sum(axis=1) * 2 > columns.shape[1], -1.0, 1.0)


def interarrival_s(bits: np.ndarray) -> np.ndarray:
    """Return the (P,) float64 inter-arrival times of packets in seconds, from their time code."""
    cells = bits[:, VIEW.columns("flow_interarrival")] == 1
    gray = cells.reshape(len(bits), 8, 3).sum(axis=2) >= 2
    binary = np.bitwise_xor.accumulate(gray.astype(np.int64), axis=1)
    return nanoseconds_of(binary @ (1 << np.arange(7, -1, -1))) / 1e9


def sizes_and_times(sample: Sample) -> np.ndarray:
    """Return (N, 2 * SIZED_PACKETS) float32 of each flow's first packets.

    Columns are the sizes in bytes, negative to the client, 0 past the end, and log10 of the
    inter-arrival times in seconds.
    """
    values = np.stack(
        [
            packet_sizes(sample.bits) * directions(sample.bits),
            np.log10(interarrival_s(sample.bits) + 1e-6),
        ],
        axis=1,
    )
    values[sample.first[:-1], 1] = 0.0
    return _by_packet(sample, values, SIZED_PACKETS, np.array([0.0, _NO_TIME]))


def header_values(sample: Sample) -> np.ndarray:
    """Return (N, X) float32: values of header fields of each flow's first HEADER_PACKETS.

    What a packet has not is -1, a packet that a flow has not -2.
    """
    near = rank_in_flow(sample.first) < HEADER_PACKETS
    bits = sample.bits[near]
    columns = [directions(bits)]
    for name in _HEADER_FIELDS:
        vacant = bits[:, VIEW.offsets[name]] == VACANT
        columns.append(np.where(vacant, -1.0, field_values(bits, name)))
    values = np.full((len(sample.bits), len(columns) + len(_OPTIONS)), _NO_VALUE)
    options = np.packbits(bits[:, VIEW.columns("tcp_opt")] == 1, axis=1)
    data_offset = field_values(bits, "tcp_doff").astype(np.int64)
    values[near] = np.concatenate(
        [np.stack(columns, axis=1), _option_values(options, 4 * data_offset - TCP_HEADER_BYTES)],
        axis=1,
    )
    empty = np.full(values.shape[1], _NO_VALUE)
    return _by_packet(sample, values, HEADER_PACKETS, empty)


def _by_packet(
    sample: Sample, values: np.ndarray, num_packets: int, empty: np.ndarray
) -> np.ndarray:
    """Return (N, K * columns) float32 of (P, columns) values, `empty` past the end of a flow."""
    rank = rank_in_flow(sample.first)
    near = rank < num_packets
    of_flow = np.repeat(np.arange(len(sample)), np.diff(sample.first))
    matrix = np.tile(empty.astype(np.float32), (len(sample), num_packets, 1))
    matrix[of_flow[near], rank[near]] = values[near]
    return matrix.reshape(len(sample), num_packets * values.shape[1])


@numba.njit(cache=True)
def _option_values(options, lengths):
    """Return (P, 6) float64 of _OPTIONS: values of TCP options, -1 for what is not there.

    Args:
        options: (P, bytes) uint8, the option bytes of TCP headers.
        lengths: (P,) int64 bytes of them that each header has, negative without a header.
    """
    out = np.full((len(options), 6), -1.0)
    for i in range(len(options)):
        at = 0
        end = min(lengths[i], options.shape[1])
        count = 0
        order = 0
        while at < end:
            kind = options[i, at]
            count += 1
            order = (order * 31 + np.int64(kind) + 1) % 9973
            if kind == TCP_OPTION_END:
                break
            if kind == TCP_OPTION_NOP:
                at += 1
                continue
            size = np.int64(options[i, at + 1]) if at + 1 < end else 0
            if size < 2 or at + size > end:
                break
            if kind == TCP_OPTION_MSS and size == 4:
                out[i, 0] = np.int64(options[i, at + 2]) << 8 | np.int64(options[i, at + 3])
            elif kind == TCP_OPTION_WINDOW_SCALE and size == 3:
                out[i, 1] = options[i, at + 2]
            elif kind == TCP_OPTION_SACK_PERMITTED:
                out[i, 2] = 1
            elif kind == TCP_OPTION_SACK:
                out[i, 2] = 2 + size // 8
            elif kind == TCP_OPTION_TIMESTAMPS:
                out[i, 3] = 1
            at += size
        if end >= 0:
            out[i, 4] = count
            out[i, 5] = order
    return out
