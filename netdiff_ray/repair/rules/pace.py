"""The rule that gives a flow its planned pace.

Shape letters: N flows, L levels.
"""

import numba
import numpy as np

from netdiff_ray.labels.pace import UNPACED, pace_of
from netdiff_ray.labels.profile import OPENING_PACKETS
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import MOST_LEVEL
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.profile_sampling import uniform
from netdiff_ray.repair.rules.profile_tables import pace_tables
from netdiff_ray.repair.splitmix import FOR_PACE


def pace(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Move the times of flows that lack their planned pace to times of flows with that pace.

    A drawn time keeps its rank (quantile mapping): its level is replaced by the level that as large
    a share of packets does not exceed, in flows of the planned pace, among packets of the same
    number and side. So the drawn flow says which of its silences are long, and the plan how long
    they are. A flow of its planned pace stands as drawn; so does a time of which the profile knows
    nothing.

    The fields belong to the rule `time`.
    """
    if not layout.needs_flow or not context.profile.paced_times:
        return
    shares, paced = pace_tables(context.profile)
    _pace(batch.flows, batch.packets, batch.plans.pace, shares, paced)


@numba.njit(cache=True)
def _pace(flows, packets, planned, shares, paced):
    """Map the levels of each flow; `planned` is (N,), `shares` (R, L) and `paced` (paces, R, L) as
    of `pace_tables`."""
    direction, level = packets.direction, packets.level
    for f in range(len(flows.seed)):
        begin, end = flows.starts[f], flows.starts[f + 1]
        if planned[f] == UNPACED or pace_of(level[begin:end]) in (UNPACED, planned[f]):
            continue
        for i in range(begin + 1, end):
            side = np.int64(direction[i])
            row = 2 * min(i - begin, OPENING_PACKETS) + side
            later = 2 * OPENING_PACKETS + side
            if paced[planned[f], row, MOST_LEVEL] == 0:
                row = later
            of_pace = paced[planned[f], row]
            if of_pace[MOST_LEVEL] == 0 or shares[row, MOST_LEVEL] == 0:
                continue
            shorter = shares[row, level[i] - 1] if level[i] > 0 else 0.0
            rank = shorter + uniform(flows.seed[f], FOR_PACE, i - begin) * (
                shares[row, level[i]] - shorter
            )
            level[i] = min(np.searchsorted(of_pace, rank, "right"), _longest(of_pace))


@numba.njit(cache=True)
def _longest(shares):
    """Return the longest level that has a share in (L,) cumulative shares."""
    return np.searchsorted(shares, shares[MOST_LEVEL], "left")
