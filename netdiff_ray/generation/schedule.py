"""When flows of a shard begin, and so in which order their packets stand.

Shape letters: N flows, P packets.
"""

import numpy as np

ORDERS = ("sequential", "interleaved")


def arrange(
    relative_ns: np.ndarray,
    first: np.ndarray,
    *,
    order: str,
    start_ns: int,
    flows_per_second: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Absolute times of packets and the order in which to write them.

    `sequential`: each flow begins 1 ms after the one before has ended. `interleaved`: flows
    begin by a Poisson process, which makes of a shard one plausible mixed capture.

    Args:
        relative_ns: (P,) int64 times since their flow's first packet, increasing in a flow.
        first: (N + 1,) int64 first packet of each flow, the last element P.
        order: one of ORDERS.
        start_ns: nanoseconds since 1970-01-01 UTC of the first flow's begin.
        flows_per_second: mean rate of the Poisson process.
        seed: of the Poisson process.

    Returns:
        (P,) int64 times and a (P,) int64 permutation that sorts them, strictly increasing.
    """
    assert order in ORDERS
    num_flows = len(first) - 1
    counts = np.diff(first)
    if order == "sequential":
        duration_ns = np.zeros(num_flows, np.int64)
        some = counts > 0
        duration_ns[some] = relative_ns[first[1:][some] - 1]
        steps_ns = duration_ns + 1_000_000
        begin_ns = start_ns + np.cumsum(steps_ns) - steps_ns
        return np.repeat(begin_ns, counts) + relative_ns, np.arange(len(relative_ns))
    random = np.random.default_rng(seed)
    gaps_ns = random.exponential(1e9 / flows_per_second, num_flows).astype(np.int64)
    ts_ns = np.repeat(start_ns + np.cumsum(gaps_ns), counts) + relative_ns
    permutation = np.argsort(ts_ns, kind="stable")
    ordered = ts_ns[permutation]
    # Packets of two flows may meet in one nanosecond: the later one waits.
    step = np.arange(len(ordered))
    ordered = np.maximum.accumulate(ordered - step) + step
    ts_ns[permutation] = ordered
    return ts_ns, permutation
