"""When the flows of a capture begin, and so in which order their packets stand.

Shape letters: N flows, P packets.
"""

from typing import NamedTuple

import numpy as np

ORDERS = ("sequential", "interleaved")
SEQUENTIAL_GAP_NS = 1_000_000


class FlowTimes(NamedTuple):
    """When flows are, as a scene has them; each (N,) int64."""

    start_ns: np.ndarray
    most_ns: np.ndarray
    """Longest time from the first to the last packet of each."""


class FlowStarts:
    """The start times of a capture's flows, one after another.

    `sequential`: each flow begins 1 ms after the last packet of the previous one. `interleaved`:
    flows after the first begin by a Poisson process, which makes the capture a plausible mix.

    Args:
        order: one of ORDERS.
        start_ns: nanoseconds since 1970-01-01 UTC when the first begins.
        flows_per_second: mean rate of the Poisson process.
        seed: of the Poisson process.
    """

    def __init__(self, *, order: str, start_ns: int, flows_per_second: float, seed: int):
        assert order in ORDERS
        self._gap_ns = 1e9 / flows_per_second if order == "interleaved" else None
        self._random = np.random.default_rng(seed)
        self._next_ns = start_ns

    def take(self, durations_ns: np.ndarray) -> np.ndarray:
        """Return the (N,) int64 start times of the next N flows, given their (N,) int64 durations.

        Times do not depend on how many flows are taken at once.
        """
        if self._gap_ns is None:
            steps_ns = durations_ns + SEQUENTIAL_GAP_NS
            starts_ns = self._next_ns + np.cumsum(steps_ns) - steps_ns
            self._next_ns += int(steps_ns.sum())
            return starts_ns
        gaps_ns = self._random.exponential(self._gap_ns, len(durations_ns)).astype(np.int64)
        starts_ns = self._next_ns + np.cumsum(gaps_ns) - gaps_ns
        self._next_ns += int(gaps_ns.sum())
        return starts_ns


def separate(ts_ns: np.ndarray, after_ns: int) -> np.ndarray:
    """Return sorted times (P,) int64 made strictly increasing and later than `after_ns`.

    Packets of two flows may fall in the same nanosecond: the later packet is delayed.
    """
    step = np.arange(len(ts_ns))
    return np.maximum.accumulate(np.maximum(ts_ns, after_ns + 1) - step) + step


def schedule_packets(
    relative_ns: np.ndarray,
    first: np.ndarray,
    *,
    order: str,
    start_ns: int | FlowTimes,
    flows_per_second: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return absolute times of packets and the order in which to write them.

    Args:
        relative_ns: (P,) int64 times since their flow's first packet, increasing in a flow.
        first: (N + 1,) int64 first packet of each flow, the last element P.
        order, start_ns, flows_per_second, seed: see `FlowStarts`. If `start_ns` is of a scene,
            the others have no effect; flows that last too long go faster.

    Returns:
        (P,) int64 times and a (P,) int64 permutation that sorts them, strictly increasing.
    """
    counts = np.diff(first)
    durations_ns = np.zeros(len(counts), np.int64)
    durations_ns[counts > 0] = relative_ns[first[1:][counts > 0] - 1]
    if isinstance(start_ns, FlowTimes):
        pace = np.minimum(start_ns.most_ns / np.maximum(durations_ns, 1), 1.0)
        relative_ns = np.where(
            np.repeat(pace < 1, counts), relative_ns * np.repeat(pace, counts), relative_ns
        ).astype(np.int64)
        return _separated(np.repeat(start_ns.start_ns, counts) + relative_ns, 0)
    starts = FlowStarts(
        order=order, start_ns=start_ns, flows_per_second=flows_per_second, seed=seed
    )
    ts_ns = np.repeat(starts.take(durations_ns), counts) + relative_ns
    if order == "sequential":
        return ts_ns, np.arange(len(ts_ns))
    return _separated(ts_ns, start_ns)


def _separated(ts_ns: np.ndarray, start_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (P,) times made different, the first at `start_ns`, and what sorts them."""
    permutation = np.argsort(ts_ns, kind="stable")
    ts_ns[permutation] = separate(ts_ns[permutation], start_ns - 1)
    return ts_ns, permutation
