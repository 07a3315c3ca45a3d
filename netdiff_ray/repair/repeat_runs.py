"""Settle which packets repeat the length, or the time, of their side's packet before.

Whether a packet does is drawn packet by packet and wrong now and then, which breaks the runs of a
codec or a download. A flow of which more packets, or fewer, go on as the packet before than the
label's flows lead to expect is sampled from the posterior of a chain of two states, forward and
backward (see `rules.profile_payloads`); others stand as drawn.

Shape letters: N flows, P packets, M packets of a side.
"""

from collections.abc import Sequence

import numba
import numpy as np

from netdiff_ray.header_bytes import IPPROTO_TCP, IPPROTO_UDP
from netdiff_ray.labels.profile import OPENING_PACKETS, TRANSPORTS
from netdiff_ray.labels.repeats import REPEATED_FIELDS, RepeatCount
from netdiff_ray.repair.batch import MAX_ROWS, Batch
from netdiff_ray.repair.rules.profile_sampling import uniform
from netdiff_ray.repair.splitmix import FOR_REPEAT

_WRONG = 0.1
"""Share of packets that are drawn wrong: the cells of one say the same, so that they err together.
"""
_MOST_SIGMAS = 2.0
"""Standard deviations within which a flow's changes are its label's; one packet more is none."""


def settle_repeats(batch: Batch, repeats: Sequence[RepeatCount]) -> None:
    """Settle `state.same_length` and `state.same_gap` behind the openings, by a profile's counts.

    Those of transports and sides that the profile does not have stand as drawn.
    """
    if not repeats:
        return
    counts = np.zeros((len(TRANSPORTS), len(REPEATED_FIELDS), 2, 2, 2))
    for row in repeats:
        at = TRANSPORTS.index(row.transport), row.field, row.side, row.before
        counts[at] = row.changing, row.repeating
    packets = batch.packets
    for k, name in enumerate(REPEATED_FIELDS):
        shares = (counts[:, k, ..., 1] + 0.5) / (counts[:, k].sum(axis=-1) + 1)
        known = counts[:, k].sum(axis=(-1, -2)) > 0
        _settle(batch.flows, packets.direction, packets.state[name], shares, known, k)


@numba.njit(cache=True)
def _settle(flows, direction, repeats, shares, known, field):
    """Settle `repeats` (P,) uint8.

    Args:
        shares: (3, 2, 2) float64 of packets that repeat, by transport, side and whether the packet
            before does.
        known: (3, 2) bool, of which transports and sides there are any.
        field: index in REPEATED_FIELDS.
    """
    members = np.empty(MAX_ROWS, np.int64)
    filtered = np.empty((MAX_ROWS, 2))
    for f in range(len(flows.seed)):
        transport = 2
        if flows.protocol[f] == IPPROTO_TCP:
            transport = 0
        elif flows.protocol[f] == IPPROTO_UDP:
            transport = 1
        begin, end = flows.starts[f], flows.starts[f + 1]
        for side in range(2):
            if not known[transport, side]:
                continue
            count, before = 0, np.int64(0)
            for i in range(begin, end):
                if direction[i] != side:
                    continue
                if i < begin + OPENING_PACKETS:
                    before = np.int64(repeats[i])
                else:
                    members[count] = i
                    count += 1
            chain = members[:count]
            share = shares[transport, side]
            if not _is_likely(chain, repeats, before, share):
                _sample(chain, repeats, before, share, filtered, (flows.seed[f], begin, field))


@numba.njit(cache=True)
def _is_likely(members, repeats, before, share):
    """Return whether about as many of a side's packets repeat as `share` says, after one that does
    and after one that does not."""
    count = np.zeros((2, 2))
    for i in members:
        count[before, np.int64(repeats[i])] += 1
        before = np.int64(repeats[i])
    for state in range(2):
        total = count[state].sum()
        sigma = np.sqrt(total * share[state] * (1 - share[state]))
        if abs(count[state, 1] - total * share[state]) > _MOST_SIGMAS * sigma + 1:
            return False
    return True


@numba.njit(cache=True)
def _sample(members, repeats, before, share, filtered, drawing):
    """Sample whether a side's packets repeat, given what was drawn.

    Args:
        before: whether the packet before the first does.
        filtered: (>= M, 2) scratch.
        drawing: seed of the flow, its first packet, and the field.
    """
    seed, begin, field = drawing
    past = np.zeros(2)
    past[before] = 1.0
    for k in range(len(members)):
        drawn = np.int64(repeats[members[k]])
        for state in range(2):
            ahead = 0.0
            for last in range(2):
                ahead += past[last] * (share[last] if state else 1 - share[last])
            filtered[k, state] = ahead * (1 - _WRONG if state == drawn else _WRONG)
        filtered[k] /= filtered[k].sum()
        past = filtered[k]
    after = -1
    for k in range(len(members) - 1, -1, -1):
        one, none = filtered[k, 1], filtered[k, 0]
        if after >= 0:
            one *= share[1] if after else 1 - share[1]
            none *= share[0] if after else 1 - share[0]
        u = uniform(seed, FOR_REPEAT, 2 * (members[k] - begin) + field)
        after = np.int64(u * (one + none) < one)
        repeats[members[k]] = after
