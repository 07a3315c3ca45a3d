"""The times of segments that are sent again, by the label's profile.

Shape letters: P packets, K copies in a row, O octaves of time.
"""

import numba
import numpy as np

from netdiff_ray.flow_state import AGAIN
from netdiff_ray.header_bytes import FIN, IPPROTO_TCP, TCP_FLAGS
from netdiff_ray.labels.copies import MOST_COPIES, NUM_OCTAVES
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import LEVELS_PER_OCTAVE, MOST_LEVEL
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.flow import time
from netdiff_ray.repair.rules.profile_sampling import index_at, uniform
from netdiff_ray.repair.splitmix import FOR_COPY


def copy_times(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Give segments that are sent again after a time that none of the label's has, a time that
    they have: by how many their side has sent again since it last sent new data (RFC 6298 section
    5: a timer waits twice as long each time)."""
    if not context.profile.copy_times or not layout.has_state:
        return
    counts = np.zeros((MOST_COPIES, NUM_OCTAVES))
    for row in context.profile.copy_times:
        counts[row.copy, row.octave] = row.segments
    if _settle(batch.flows, batch.packets, counts):
        time(batch, context, layout)


@numba.njit(cache=True)
def _settle(flows, packets, counts):
    """Settle `level` and `state.same_gap`; `counts` is (K, O) float64. Return how many changed."""
    copies = np.zeros(2, np.int64)
    changed = 0
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin = flows.starts[f]
        copies[:] = 0
        for i in range(begin, flows.starts[f + 1]):
            side = packets.direction[i]
            has_fin = packets.rows["transport"][i, TCP_FLAGS] & FIN
            if not packets.payload_bytes[i] and not has_fin:
                continue
            if packets.state[i].sequence != AGAIN:
                copies[side] = 0
                continue
            of_copy = counts[min(copies[side], MOST_COPIES - 1)]
            copies[side] += 1
            if i == begin or of_copy[packets.level[i] // LEVELS_PER_OCTAVE] > 0:
                continue
            at = 2 * (i - begin)
            octave = index_at(of_copy, NUM_OCTAVES, uniform(flows.seed[f], FOR_COPY, at))
            if octave >= 0:
                within = uniform(flows.seed[f], FOR_COPY, at + 1) * LEVELS_PER_OCTAVE
                packets.level[i] = min(octave * LEVELS_PER_OCTAVE + np.int64(within), MOST_LEVEL)
                packets.state[i].same_gap = 0
                changed += 1
    return changed
