"""Packets of encoded windows as they were captured: those of flows that were captured twice stand
once in an encoded dataset, and twice in captures, with which it is compared.

Shape letters: W windows, P packets, Q packets with duplicates, C columns of WIDE.
"""

import numpy as np
import pyarrow as pa

from netdiff_ray.evaluate.flow_view import WIDE
from netdiff_ray.nprint.timecode import CODE_BYTES, levels_of

_NEVER_NS = np.iinfo(np.int64).max


def with_duplicates(
    chunk: pa.Table, cells: np.ndarray, direction: np.ndarray, interarrival_ns: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the packets of windows with each packet of those that were captured twice followed by
    itself.

    Args:
        chunk: W rows of an encoded dataset, each flow's after each other.
        cells: (P, C) int8 of layout WIDE, window after window.
        direction: (P,) uint8.
        interarrival_ns: (P,) int64.

    Returns:
        cells, directions and times of Q packets; and (P + 1,) int64 places of the P packets among
        them, the last element Q.
    """
    counts = chunk["num_packets"].to_numpy().astype(np.int64)
    columns = (chunk[name].to_pylist() for name in ("duplicate_hops", "duplicate_ns"))
    duplicates = [own if own[0] is not None else (0, -1) for own in zip(*columns, strict=True)]
    hops, later_ns = np.repeat(np.array(duplicates, np.int64).reshape(-1, 2), counts, axis=0).T
    is_twice = later_ns >= 0
    place = np.append(0, np.cumsum(1 + is_twice))
    if not is_twice.any():
        return cells, direction, interarrival_ns, place
    of_packet = np.repeat(np.arange(len(cells)), 1 + is_twice)
    is_again = np.append(False, of_packet[1:] == of_packet[:-1])
    cells, direction = cells[of_packet], direction[of_packet]
    # The next packet comes so much sooner after what was captured again.
    next_ns = np.append(interarrival_ns[1:], _NEVER_NS)
    begins = (np.cumsum(counts) - counts)[chunk["window"].to_numpy() == 0]
    next_ns[begins[begins > 0] - 1] = _NEVER_NS
    shown_ns = np.minimum(np.where(is_twice, later_ns, 0), next_ns)
    before_ns = np.append(0, shown_ns[:-1])
    times = np.maximum(interarrival_ns - before_ns, 0)[of_packet]
    times[is_again] = shown_ns[of_packet[is_again]]
    _age(cells, is_again, hops[of_packet])
    at = WIDE.columns("flow_interarrival")
    changed = np.flatnonzero(is_twice[of_packet] | np.append(False, is_again[:-1]))
    codes = CODE_BYTES[levels_of(times[changed])]
    cells[changed, at] = np.unpackbits(codes, axis=1)
    return cells, direction, times, place


def _age(cells: np.ndarray, is_again: np.ndarray, hops: np.ndarray) -> None:
    """Take (Q,) int64 hops from the lifetimes in cells (Q, C) where (Q,) bool is true, to 1 at
    least."""
    for field in ("ipv4_ttl", "ipv6_hl"):
        at = WIDE.columns(field)
        chosen = np.flatnonzero(is_again & (cells[:, at.start] >= 0))
        bits = (cells[chosen, at] == 1).astype(np.uint8)
        lifetime = np.packbits(bits, axis=1)[:, 0].astype(np.int64)
        aged = np.clip(lifetime - hops[chosen], 1, 255).astype(np.uint8)
        cells[chosen, at] = np.unpackbits(aged[:, None], axis=1)
