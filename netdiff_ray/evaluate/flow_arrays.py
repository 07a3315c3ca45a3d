"""Flows as arrays: one for each of their properties, and one for the bits of their packets.

Shape letters: N flows, P packets, C columns of the view, S statistics, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from netdiff_ray.evaluate.flow_statistics import features_of

SEQUENCE_PACKETS, LEAST_SEQUENCE = 20, 8


@dataclass(frozen=True, kw_only=True)
class FlowArrays:
    """Some flows."""

    label: np.ndarray
    """(N,) str."""
    key: np.ndarray
    """(N,) uint64: a hash of the flow id, from which random draws derive."""
    content: np.ndarray
    """(N,) uint64: a hash of its bits, equal for flows that are copies in the view."""
    first: np.ndarray
    """(N + 1,) int64: first packet of each flow in `bits`, the last element P."""
    bits: np.ndarray
    """(P, C) int8 of 1, 0, -1 (vacant): the first packets of each flow."""
    statistics: np.ndarray
    """(N, S) float64, over all packets of each flow."""
    sequence: np.ndarray
    """(N,) uint64: a hash of the sizes and directions of its first SEQUENCE_PACKETS packets; 0
    for flows of fewer than LEAST_SEQUENCE packets, which are alike by nature."""
    capture: np.ndarray
    """(N,) uint64: a hash of the capture that each flow is from."""
    server_port: np.ndarray
    """(N,) int64, -1 for flows without ports."""
    hosts: np.ndarray
    """(N, 2) uint64: hashes of the addresses of client and server, 0 where the source holds
    none."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def features(self) -> np.ndarray:
        """(N, F) float64, over all packets of each flow."""
        return features_of(self.statistics)

    def take(self, chosen: np.ndarray) -> Self:
        """Return the flows `chosen` (int64 numbers), in that order."""
        counts = np.diff(self.first)[chosen]
        bits = self.bits[ranges(self.first[:-1][chosen], counts)]
        by_flow = {name: getattr(self, name)[chosen] for name in _BY_FLOW}
        return replace(self, first=starts(counts), bits=bits, **by_flow)

    def shortened(self, most: int) -> Self:
        """Return the flows with at most `most` packets of each."""
        first = starts(np.minimum(np.diff(self.first), most))
        return replace(self, first=first, bits=self.bits[rank_in_flow(self.first) < most])


_BY_FLOW = tuple(f.name for f in fields(FlowArrays) if f.name not in ("first", "bits"))


def joined_arrays(flows: Sequence[FlowArrays]) -> dict[str, np.ndarray]:
    """Return the arrays of FlowArrays that hold the flows of all, one after another, by name."""
    before = starts(np.array([some.first[-1] for some in flows]))
    firsts = [some.first[:-1] + start for some, start in zip(flows, before[:-1], strict=True)]
    return {
        "first": np.concatenate([*firsts, before[-1:]]),
        **{
            name: np.concatenate([getattr(some, name) for some in flows])
            for name in ("bits", *_BY_FLOW)
        },
    }


def starts(counts: np.ndarray) -> np.ndarray:
    """Return (N + 1,) int64: where each of N runs of (N,) counts begins, and the sum."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def ranges(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return (sum of counts,) the numbers from each begin on, range after range."""
    before = np.cumsum(counts) - counts
    return np.repeat(begins - before, counts) + np.arange(counts.sum())


def rank_in_flow(first: np.ndarray) -> np.ndarray:
    """Return the (P,) number of each packet in its flow, from (N + 1,) first packets."""
    return np.arange(first[-1]) - np.repeat(first[:-1], np.diff(first))
