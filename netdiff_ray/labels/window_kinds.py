"""Kinds of hosts by their TCP windows: the scale that a side uses, and how large its first window
is.

A header's window means other bytes with each scale (RFC 7323 section 2.3), so that windows of hosts
with different scales are counted and drawn apart.

Shape letters: P packets, W windows.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ACK,
    IPPROTO_TCP,
    SYN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_OPT,
    TCP_OPTION_WINDOW_SCALE,
    TCP_WSIZE,
    words16,
)
from netdiff_ray.labels.stack import MAX_SCALE, UNKNOWN_OPTIONS, option_places, options_text

UNOPENED = -1
"""Stands for the scale of a side whose SYN is not known."""
ANY_OCTAVE = -1
"""Stands for first windows of any size."""
MOST_OCTAVE = 16
_NUM_OCTAVES = MOST_OCTAVE + 2
NUM_KINDS = 1 + (MAX_SCALE + 1) * _NUM_OCTAVES


@numba.njit(cache=True)
def window_octave(window):
    """Return the bits that a window needs, 0 to MOST_OCTAVE."""
    octave = 0
    while window >> octave:
        octave += 1
    return octave


@numba.njit(cache=True)
def window_kind(scale, octave):
    """Return the number of a kind, below NUM_KINDS: 0 if `scale` is UNOPENED."""
    if scale == UNOPENED:
        return 0
    return 1 + min(scale, MAX_SCALE) * _NUM_OCTAVES + octave + 1


@numba.njit(cache=True)
def coarser_kind(kind):
    """Return the number of the kind with the same scale and any octave."""
    return kind - (kind - 1) % _NUM_OCTAVES if kind else 0


def window_kinds(
    rows: np.ndarray, direction: np.ndarray, begin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (P,) int64 scales and octaves of the sender of each packet.

    A SYN has the scale 0 and ANY_OCTAVE. The scale is 0 unless both SYNs have one; packets of flows
    that begin otherwise, and of sides whose first packet is no SYN, are UNOPENED, with ANY_OCTAVE.

    Args:
        rows: (P,) HEADER_ROW, window by window.
        direction: (P,) 0 from the client, 1 to it.
        begin: (P,) first packet of each packet's window.
    """
    scale = np.full((len(rows), 2), UNOPENED)
    octave = np.full((len(rows), 2), ANY_OCTAVE)
    is_tcp = (rows["protocol"] == IPPROTO_TCP) & (rows["transport_len"] >= TCP_HEADER_BYTES)
    flags = np.where(is_tcp, rows["transport"][:, TCP_FLAGS] & (SYN | ACK), 0)
    window = words16(rows["transport"], TCP_WSIZE)
    answers = np.flatnonzero(direction == 1)
    is_answer = np.diff(begin[answers], prepend=-1) != 0
    first_answer = dict(
        zip(begin[answers][is_answer].tolist(), answers[is_answer].tolist(), strict=True)
    )
    for first in np.flatnonzero(
        (flags == SYN) & (direction == 0) & (begin == np.arange(len(rows)))
    ):
        answer = first_answer.get(int(first))
        has_answer = answer is not None and flags[answer] == SYN | ACK
        sent = [int(first), answer] if has_answer else [int(first)]
        scales = [_scale(rows[i]) for i in sent]
        agreed = has_answer and None not in scales
        for side, i in enumerate(sent):
            scale[first, side] = scales[side] if agreed else 0
            octave[first, side] = window_octave(int(window[i]))
    scale, octave = scale[begin, direction], octave[begin, direction]
    is_syn = (flags & SYN != 0) & (scale != UNOPENED)
    return np.where(is_syn, 0, scale), np.where(is_syn, ANY_OCTAVE, octave)


def _scale(row: np.void) -> int | None:
    """Return the window scale in a SYN's options; None if it has none."""
    text = options_text(row["transport"][TCP_OPT : row["transport_len"]].tobytes())
    at = option_places(text).get(TCP_OPTION_WINDOW_SCALE) if text != UNKNOWN_OPTIONS else None
    return None if at is None else bytes.fromhex(text)[at + 2]
