"""Paths: how long handshakes take on both sides of the point of capture.

From SYN to SYN-ACK a packet goes to the server and back, from SYN-ACK to ACK to the client and
back. Times are levels of `nprint.timecode`.

Shape letters: P packets, W windows.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from netdiff_ray.header_bytes import ACK, IPPROTO_TCP, RST, SYN, TCP_FLAGS, TCP_HEADER_BYTES
from netdiff_ray.labels.stack import UNKNOWN
from netdiff_ray.nprint.timecode import LEVELS_PER_OCTAVE, MOST_LEVEL, nanoseconds_of

HANDSHAKE_PACKETS = 3
"""Packets of a handshake."""
_BIN_LEVELS = LEVELS_PER_OCTAVE // 2
_WIDEST_BIN_LEVELS = 2 * LEVELS_PER_OCTAVE
"""A path that is known no better than this is not known: a flow would wait for minutes."""


class FlowPath(NamedTuple):
    """The path of a flow, as levels; UNKNOWN where it is not planned."""

    client_level: int
    """Of the time before the third packet of the handshake."""
    server_level: int
    """Of the time before the second."""


UNPLANNED_PATH = FlowPath(UNKNOWN, UNKNOWN)


class PathCount(NamedTuple):
    """How many flows have a path within bounds, which are levels, inclusive."""

    client_least: int
    client_most: int
    server_least: int
    server_most: int
    flows: int


def check_path_count(row: PathCount, min_flows: int) -> None:
    """Raise ValueError unless the bounds are levels in order, of at least `min_flows` flows."""
    pairs = (row.client_least, row.client_most), (row.server_least, row.server_most)
    if not all(0 <= least <= most <= MOST_LEVEL for least, most in pairs):
        raise ValueError(f"paths cannot have {row}; levels are 0 to {MOST_LEVEL}, the least first")
    if row.flows < min_flows:
        raise ValueError(f"paths has {row}; a path is of at least {min_flows} flows")


def window_paths(
    rows: np.ndarray, direction: np.ndarray, level: np.ndarray, window: np.ndarray
) -> list[FlowPath]:
    """Return the path of each window that begins with a handshake; of others UNPLANNED_PATH.

    Args:
        rows: (P,) HEADER_ROW, window by window.
        direction: (P,) uint8, 0 from the client.
        level: (P,) of the time before each packet.
        window: (P,) int64, which of the W windows each packet is of, ascending from 0.
    """
    num_windows = int(window[-1]) + 1 if len(window) else 0
    begin, end = (
        np.searchsorted(window, np.arange(num_windows), side) for side in ("left", "right")
    )
    is_tcp = (rows["protocol"] == IPPROTO_TCP) & (rows["transport_len"] >= TCP_HEADER_BYTES)
    flags = np.where(is_tcp, rows["transport"][:, TCP_FLAGS] & (SYN | ACK | RST), 0)
    wanted = ((SYN, 0), (SYN | ACK, 1), (ACK, 0))
    whole = end - begin >= HANDSHAKE_PACKETS
    for k, (of_packet, side) in enumerate(wanted):
        at = np.minimum(begin + k, len(rows) - 1)
        whole &= (flags[at] == of_packet) & (direction[at] == side)
    return [
        FlowPath(int(level[first + 2]), int(level[first + 1])) if is_whole else UNPLANNED_PATH
        for first, is_whole in zip(begin.tolist(), whole.tolist(), strict=True)
    ]


def disclosed_paths(paths: Iterable[FlowPath], min_flows: int) -> list[PathCount]:
    """Return the paths that several flows share, in bins of half an octave, or else of one or two;
    those of other flows count as the nearest.

    Returns:
        sorted; each of at least `min_flows` flows.
    """
    known = [path for path in paths if path != UNPLANNED_PATH]
    width = _BIN_LEVELS
    while len(known) >= min_flows and width <= _WIDEST_BIN_LEVELS:
        bins = Counter((client // width, server // width) for client, server in known)
        shared = Counter({bin: flows for bin, flows in bins.items() if flows >= min_flows})
        if shared:
            kept = sorted(shared)
            for bin, flows in sorted(bins.items()):
                if bin not in kept:
                    shared[min(kept, key=lambda other: _distance(bin, other))] += flows
            return [_path_count(bin, width, shared[bin]) for bin in kept]
        width *= 2
    return []


def _distance(bin: tuple[int, int], other: tuple[int, int]) -> int:
    return abs(bin[0] - other[0]) + abs(bin[1] - other[1])


def _path_count(bin: tuple[int, int], width: int, flows: int) -> PathCount:
    (client, server), most = bin, width - 1
    return PathCount(client * width, client * width + most, server * width, server * width + most,
                     flows)  # fmt: skip


def round_trip_ns(client_level: int, server_level: int, within: float) -> int:
    """Return the time of a round trip whose halves are at a place within the spans of levels, 0 to
    1."""
    return int(nanoseconds_of(np.array([client_level, server_level]), within).sum())


def paths_between(paths: Sequence[PathCount], low_ns: int, high_ns: int) -> list[PathCount]:
    """Return the parts of paths whose round trips are within bounds, whatever their places within
    levels. Each keeps its proportion to the others."""
    starts = nanoseconds_of(np.arange(MOST_LEVEL + 1), 0.0)
    ends = nanoseconds_of(np.arange(MOST_LEVEL + 1), 1.0)
    cut = []
    for row in paths:
        for server in range(row.server_least, row.server_most + 1):
            client = np.arange(row.client_least, row.client_most + 1)
            fits = starts[client] + starts[server] >= low_ns
            fits &= ends[client] + ends[server] <= high_ns
            if fits.any():
                least, most = int(client[fits][0]), int(client[fits][-1])
                flows = row.flows * (most - least + 1)
                cut.append(PathCount(least, most, server, server, flows))
    return cut
