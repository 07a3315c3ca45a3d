"""Distances between flows by the cells that differ.

The distance of two flows is the share of cells (three states) that differ in their first
packets, among those that are not vacant in both: 0 for copies, 1 where nothing is shared,
whatever the flows' lengths. Packets behind the end of the shorter flow differ in all
their cells.

Shape letters: N and M flows, K packets, Q 64-bit words of a packet.
"""

from dataclasses import dataclass

import numba
import numpy as np

from netdiff_ray.evaluate.flow_view import VIEW
from netdiff_ray.evaluate.models import first_packets
from netdiff_ray.evaluate.summary import SAMPLE_PACKETS, Sample
from netdiff_ray.nprint import VACANT

_WORDS = -(-VIEW.width // 64)


@dataclass(frozen=True)
class Packed:
    """Flows as bit planes."""

    planes: np.ndarray
    """(N, K, 2, Q) uint64: where cells are 1, and where they are not vacant."""
    num_packets: np.ndarray
    """(N,) int64, at most K."""

    def __len__(self) -> int:
        return len(self.planes)

    def take(self, chosen: np.ndarray) -> "Packed":
        """Return the flows `chosen` (numbers or a mask)."""
        return Packed(self.planes[chosen], self.num_packets[chosen])


def pack(sample: Sample) -> Packed:
    """Return the flows of a sample as bit planes of their first SAMPLE_PACKETS packets."""
    bits = first_packets(sample, SAMPLE_PACKETS).reshape(len(sample), SAMPLE_PACKETS, -1)
    packed = np.zeros((len(sample), SAMPLE_PACKETS, 2, _WORDS * 8), np.uint8)
    size = -(-VIEW.width // 8)
    packed[:, :, 0, :size] = np.packbits(bits == 1, axis=2)
    packed[:, :, 1, :size] = np.packbits(bits != VACANT, axis=2)
    return Packed(packed.view(np.uint64), np.minimum(np.diff(sample.first), SAMPLE_PACKETS))


def distances(a: Packed, b: Packed) -> np.ndarray:
    """Return the (N, M) float32 distances of each flow of `a` to each of `b`."""
    out = np.empty((len(a), len(b)), np.float32)
    _distances(a.planes, a.num_packets, b.planes, b.num_packets, out)
    return out


@numba.njit(cache=True, inline="always")
def _ones(word):
    """Return the number of bits set in a uint64."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@numba.njit(cache=True, nogil=True)
def _distances(a, a_packets, b, b_packets, out):
    num_words = a.shape[3]
    for i in range(len(a)):
        for j in range(len(b)):
            differing = 0
            occupied = 0
            for k in range(max(a_packets[i], b_packets[j])):
                for q in range(num_words):
                    ours = a[i, k, 1, q]
                    theirs = b[j, k, 1, q]
                    differing += _ones((a[i, k, 0, q] ^ b[j, k, 0, q]) | (ours ^ theirs))
                    occupied += _ones(ours | theirs)
            out[i, j] = differing / occupied if occupied else 0.0
