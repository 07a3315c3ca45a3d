"""Packets, bytes, times and TCP flags of each direction of flows.

Shape letters: N flows, P packets, D directions of flows that have packets.
"""

from typing import NamedTuple

import numpy as np

from netdiff_ray.header_bytes import (
    IPPROTO_TCP,
    IPV4_TL,
    IPV6_HEADER_BYTES,
    IPV6_LEN,
    TCP_FLAGS,
    words16,
)


class Directions(NamedTuple):
    """The directions of flows that have packets, flow after flow, that of the client first."""

    flow: np.ndarray
    """(D,) int64: number of the flow."""
    side: np.ndarray
    """(D,) int64: 0 from the client, 1 to it."""
    first: np.ndarray
    """(D,) int64: row of its first packet."""
    packets: np.ndarray
    """(D,) int64."""
    ip_bytes: np.ndarray
    """(D,) int64: bytes of IP packets, by their headers."""
    start_ns: np.ndarray
    """(D,) int64: time of the first packet."""
    end_ns: np.ndarray
    """(D,) int64: time of the last packet."""
    tcp_flags: np.ndarray
    """(D,) uint8: flags of all its TCP segments together."""


def directions_of(rows: np.ndarray, direction: np.ndarray, first: np.ndarray) -> Directions:
    """Return the directions of flows.

    Args:
        rows: (P,) HEADER_ROW, flow after flow, each in time order.
        direction: (P,) uint8, 0 from the client and 1 to it.
        first: (N + 1,) int64 first packet of each flow, the last element P.
    """
    key = 2 * np.repeat(np.arange(len(first) - 1), np.diff(first)) + (direction != 0)
    order = np.argsort(key, kind="stable")
    begins = np.flatnonzero(np.diff(key[order], prepend=-1))
    packets = np.diff(begins, append=len(order))
    is_tcp = rows["protocol"] == IPPROTO_TCP
    flags = np.where(is_tcp, rows["transport"][:, TCP_FLAGS], 0).astype(np.uint8)[order]
    size = ip_bytes(rows)[order]
    ts_ns = rows["ts_ns"][order]
    return Directions(
        flow=key[order[begins]] // 2,
        side=key[order[begins]] % 2,
        first=order[begins],
        packets=packets,
        ip_bytes=np.add.reduceat(size, begins) if len(begins) else size,
        start_ns=ts_ns[begins],
        end_ns=ts_ns[begins + packets - 1],
        tcp_flags=np.bitwise_or.reduceat(flags, begins) if len(begins) else flags,
    )


def ip_bytes(rows: np.ndarray) -> np.ndarray:
    """Return the (P,) int64 bytes of IP packets, as their headers say."""
    of_4 = words16(rows["network"], IPV4_TL)
    return np.where(
        rows["version"] == 4, of_4, words16(rows["network"], IPV6_LEN) + IPV6_HEADER_BYTES
    )
