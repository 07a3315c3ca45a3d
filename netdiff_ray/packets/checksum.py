"""The Internet checksum (RFC 1071), for kernels."""

import numba
import numpy as np


@numba.njit(cache=True)
def ones_sum(data, begin, end, total):
    """`total` plus the 16-bit big-endian words of data[begin:end], an odd byte padded with 0.

    `data` is uint8; the sum is an int64 not yet folded.
    """
    at = begin
    while at + 1 < end:
        total += (np.int64(data[at]) << 8) | np.int64(data[at + 1])
        at += 2
    if at < end:
        total += np.int64(data[at]) << 8
    return total


@numba.njit(cache=True)
def fold(total):
    """The checksum field for a sum of words: folded to 16 bits and complemented."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
