"""The rule that moves drawn values to those of the label's profile.

A model draws the bits of a length or a window one by one and gets some wrong, so that many drawn
values are none that the label has. Here the drawn bits are evidence: a packet's values are sampled
from those of its number in the flow, each as likely as it is frequent and near to the drawn bits.

Shape letters: N flows, P packets.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import IPPROTO_TCP, TCP_OPT, get16, put16
from netdiff_ray.labels.profile import OPENING_PACKETS, Profile
from netdiff_ray.labels.stack import UNKNOWN
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import MOST_LEVEL
from netdiff_ray.repair.batch import UNANSWERED, Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.profile_payloads import sample_payloads
from netdiff_ray.repair.rules.profile_sampling import index_at, sample_word, uniform
from netdiff_ray.repair.rules.profile_tables import tables_of
from netdiff_ray.repair.splitmix import FOR_LEVEL, FOR_MSS

_STRAY = 0.001
"""Share of later times that are drawn as any one level whatever the label has: a level that the
label has less often than that is more likely a wrong one."""
_LEVELS_APART = 24
_NEARNESS = np.exp(-np.arange(_LEVELS_APART + 1.0) / 4)
"""Likelihood of a time, by levels between it and the drawn one."""


def profile(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Move payload lengths, directions, flags and times to values of the label's profile.

    Payloads of a flow's opening and, of TCP, of its ending are sampled together (see
    `sample_payloads`). Payloads between the two, the MSS of SYNs and, where the layout has them,
    levels of time are sampled independently; later times only if they are rarer than stray ones.
    Drawn values stand where the suppressed value is sampled or the profile has none, but for
    payloads larger than any of the profile, and segments without data that have nothing to
    acknowledge. In a flow that opens the first three packets keep their direction. Windows wait
    until acknowledgements are settled (see `tcp_window`); options of SYNs that are planned are left
    to the rule `plan`.

    What the profile has passes unchanged: the payloads of an opening or ending, the first times of
    a flow that all are in it, and any payload between that is.

    The fields belong to the rules that settle them.
    """
    if context.profile == Profile():
        return
    tables = tables_of(context.profile)
    sample_payloads(batch.flows, batch.packets, batch.plans, tables.payloads, layout.has_state)
    _mss(batch.flows, batch.packets, batch.plans.option_bytes, tables.mss)
    if layout.needs_flow:
        _levels(batch.flows, batch.packets, tables.levels)
        _later_levels(batch.flows, batch.packets, tables.levels)


@numba.njit(cache=True)
def is_planned(flows, f, i, planned):
    """Return whether packet `i` of flow `f` is a SYN of which `planned`, (N, 2) int64, has
    something."""
    side = i - flows.starts[f]
    if flows.half[f]:
        return (side == 0 or flows.half[f] == UNANSWERED) and planned[f, 0] != UNKNOWN
    return flows.opens[f] and side < 2 and planned[f, side] != UNKNOWN


@numba.njit(cache=True)
def _mss(flows, packets, planned, table):
    transport = packets.rows["transport"]
    weight = np.empty(max(len(table.values), 1))
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP or not flows.opens[f]:
            continue
        begin = flows.starts[f]
        for side in range(min(2, flows.starts[f + 1] - begin)):
            i = begin + side
            if is_planned(flows, f, i, planned):
                continue
            drawn = get16(transport, i, TCP_OPT + 2)
            values = table.values[table.starts[side] : table.starts[side + 1]]
            if packets.option_bytes[i] < 4 or (values == drawn).any():
                continue
            u = uniform(flows.seed[f], FOR_MSS, side)
            put16(transport, i, TCP_OPT + 2, sample_word(drawn, side, table, weight, u))


@numba.njit(cache=True)
def _levels(flows, packets, levels):
    direction, level = packets.direction, packets.level
    weight = np.empty(2 * _LEVELS_APART + 1)
    for f in range(len(flows.seed)):
        begin = flows.starts[f]
        end = min(flows.starts[f + 1], begin + OPENING_PACKETS)
        stand = True
        for i in range(begin, end):
            stand &= levels[2 * (i - begin) + np.int64(direction[i]), level[i]] > 0
        if stand:
            continue
        for i in range(begin, end):
            row = 2 * (i - begin) + np.int64(direction[i])
            drawn = np.int64(level[i])
            least = max(drawn - _LEVELS_APART, 0)
            count = min(drawn + _LEVELS_APART, MOST_LEVEL) + 1 - least
            for k in range(count):
                weight[k] = levels[row, least + k] * _NEARNESS[abs(least + k - drawn)]
            k = index_at(weight, count, uniform(flows.seed[f], FOR_LEVEL, i - begin))
            if k >= 0:
                level[i] = least + k


@numba.njit(cache=True)
def _later_levels(flows, packets, levels):
    """Sample later times that are likely stray from all later times of their side."""
    level = packets.level
    total = levels[2 * OPENING_PACKETS :].sum(axis=1)
    for f in range(len(flows.seed)):
        begin = flows.starts[f]
        for i in range(begin + OPENING_PACKETS, flows.starts[f + 1]):
            side = np.int64(packets.direction[i])
            if total[side] == 0:
                continue
            later = levels[2 * OPENING_PACKETS + side]
            wrong = _STRAY / (_STRAY + later[level[i]] / total[side])
            u = uniform(flows.seed[f], FOR_LEVEL, i - begin)
            if u < wrong:
                level[i] = index_at(later, len(later), u / wrong)
