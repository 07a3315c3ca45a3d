"""What a label's flows are known to begin with, against what was drawn.

A model draws the bits of a length or a window one by one and gets some wrong, so that many
drawn values are none that the label has. Here the drawn bits are evidence: a packet's values
are drawn from those known of its place in the flow, each as likely as it is frequent and as
near to what was drawn.

Shape letters: N flows, P packets, S states (payloads known of a place), T successions.
"""

from dataclasses import dataclass

import numba
import numpy as np

from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.opening import OPENING_PACKETS, UNLISTED, Opening
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.bits import (
    FOR_LEVEL,
    FOR_PAYLOAD_LENGTH,
    FOR_WINDOW,
    IPV4_TL,
    IPV6_LEN,
    ONES,
    PSH,
    TCP_FLAGS,
    TCP_WSIZE,
    UDP_LEN,
    draw,
    get16,
    put16,
)
from netdiff_ray.repair.context import RepairContext

_LIKELIHOOD = np.exp(-np.arange(64.0))
"""Of a value, by the bits that were drawn otherwise: as if each is wrong in one case of four."""
_UNLISTED_BITS = 2
"""Bits that an untold value counts as being away, in each length or window field."""
_SIDE_BITS = 3
"""Bits that the other direction counts as being away: most of its eight cells were drawn wrong."""
_SURPRISE = 0.02
"""Of what follows a payload, the share that is as after any other."""
_LEVELS_APART = 24
_NEARNESS = np.exp(-np.arange(_LEVELS_APART + 1.0) / 4)
"""Likelihood of a time, by levels between it and the drawn one."""


@dataclass(frozen=True)
class _Tables:
    """The aggregates, by place: transport (TCP, UDP, ICMP) times OPENING_PACKETS plus number."""

    starts: np.ndarray
    """(3 * OPENING_PACKETS + 1,) int64: first state of each place."""
    states: np.ndarray
    """(S, 3) int64: side, bytes of payload, PSH."""
    share: np.ndarray
    """(S,) float64 of its place."""
    follow_starts: np.ndarray
    """(3 * OPENING_PACKETS + 1,) int64: first succession into each place."""
    follows: np.ndarray
    """(T, 2) int64: states before and after."""
    follow_share: np.ndarray
    """(T,) float64 of what follows the state before."""
    window_starts: np.ndarray
    """(2 * OPENING_PACKETS + 1,) int64, by number and side."""
    windows: np.ndarray
    """(W,) int64."""
    window_share: np.ndarray
    """(W,) float64."""
    levels: np.ndarray
    """(2 * OPENING_PACKETS, 256) float64 packets."""


def _tables(opening: Opening) -> _Tables:
    of_transport = {6: 0, 17: 1, 1: 2}
    payloads = [
        ((of_transport[transport] * OPENING_PACKETS + number, *state), packets)
        for transport, number, *state, packets in opening.payloads
    ]
    payloads.sort()
    position = {state: k for k, (state, _) in enumerate(payloads)}
    place = np.array([state[0] for state, _ in payloads], np.int64)
    share = np.array([packets for _, packets in payloads], np.float64)
    share /= np.bincount(place, share, 3 * OPENING_PACKETS)[place]
    follows = []
    for transport, number, *states, flows in opening.successions:
        before = of_transport[transport] * OPENING_PACKETS + number
        pair = position[before, *states[:3]], position[before + 1, *states[3:]]
        follows.append((before + 1, *pair, flows))
    follows.sort()
    follow = np.array(follows, np.int64).reshape(-1, 4)
    follow_share = (
        follow[:, 3] / np.bincount(follow[:, 1], follow[:, 3], len(payloads))[follow[:, 1]]
    )
    windows = sorted((2 * number + side, window, n) for number, side, window, n in opening.windows)
    window = np.array(windows, np.int64).reshape(-1, 3)
    levels = np.zeros((2 * OPENING_PACKETS, 256))
    for number, side, level, packets in opening.levels:
        if number < OPENING_PACKETS:
            levels[2 * number + side, level] += packets
    return _Tables(
        starts=np.searchsorted(place, np.arange(3 * OPENING_PACKETS + 1)),
        states=np.array([state[1:] for state, _ in payloads], np.int64).reshape(-1, 3),
        share=share,
        follow_starts=np.searchsorted(follow[:, 0], np.arange(3 * OPENING_PACKETS + 1)),
        follows=np.ascontiguousarray(follow[:, 1:3]),
        follow_share=follow_share,
        window_starts=np.searchsorted(window[:, 0], np.arange(2 * OPENING_PACKETS + 1)),
        windows=np.ascontiguousarray(window[:, 1]),
        window_share=window[:, 2].astype(np.float64),
        levels=levels,
    )


def opening(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Payload lengths, directions and PSH, windows and times as the label is known to have them.

    The first packets are a hidden Markov chain: its states are the payloads, with side and PSH,
    known of each place, its transitions their successions, and the drawn length bits, direction
    and PSH what is seen of them. A path is drawn from its posterior (forward filtering, backward
    sampling: Rabiner, Proc. IEEE 77(2), 1989; Carter and Kohn, Biometrika 81(3), 1994). Windows
    and, where the layout has them, levels of time are drawn each by itself. What is drawn as
    untold, or has nothing known, stands. In a flow that opens the first three packets keep their
    direction.

    What the label is known to have passes unchanged: the payloads, the windows or the times of a
    flow that are all known of their places.

    The fields belong to the rules that settle them, with what else must hold.
    """
    if context.opening == Opening():
        return
    tables = _tables(context.opening)
    _opening(
        batch.flow_starts, batch.seed, batch.version, batch.protocol, batch.opens,
        batch.option_bytes, batch.rows["network"], batch.rows["transport"], batch.direction,
        batch.known_payload, tables.starts, tables.states, tables.share, tables.follow_starts,
        tables.follows, tables.follow_share,
    )  # fmt: skip
    _windows(
        batch.flow_starts, batch.seed, batch.protocol, batch.direction, batch.rows["transport"],
        tables.window_starts, tables.windows, tables.window_share,
    )  # fmt: skip
    if layout.needs_flow:
        _levels(batch.flow_starts, batch.seed, batch.direction, batch.level, tables.levels)


@numba.njit(cache=True)
def _uniform(seed, purpose, place):
    return np.float64(draw(seed, purpose, place) >> np.uint64(11)) * 2.0**-53


@numba.njit(cache=True)
def _chosen(weight, count, u):
    """Position in the first `count` weights at the share `u` of their sum; -1 without weight."""
    total = 0.0
    for k in range(count):
        total += weight[k]
    left = u * total
    last = -1
    for k in range(count):
        if weight[k] > 0:
            last = k
            if left < weight[k]:
                return k
            left -= weight[k]
    return last


@numba.njit(cache=True)
def _apart(drawn, value):
    """Bits in which 16 drawn bits differ from a value."""
    word = drawn ^ min(value, 65_535)
    return np.int64(ONES[word & 255]) + np.int64(ONES[word >> 8])


@numba.njit(cache=True)
def _weigh(weight, first, end, states, share, i, version, protocol, option_bytes, network,
           transport, direction, may_turn):  # fmt: skip
    """Fill `weight` for packet `i`: of each state its share times the likelihood of what was
    drawn. Returns whether it was drawn just as one of them."""
    fields = 2 if protocol == 17 else 1
    length = get16(network, i, IPV4_TL if version == 4 else IPV6_LEN)
    headers = 20 if version == 4 else 0
    headers += 20 + np.int64(option_bytes[i]) if protocol == 6 else 8
    is_known = False
    for k in range(first, end):
        payload = states[k, 1]
        bits = 0
        if states[k, 0] != direction[i]:
            if payload == UNLISTED or not may_turn:
                weight[k - first] = 0.0
                continue
            bits = _SIDE_BITS
        if payload == UNLISTED:
            bits += _UNLISTED_BITS * fields
        else:
            bits += _apart(length, payload + headers)
            if protocol == 17:
                bits += _apart(get16(transport, i, UDP_LEN), payload + 8)
            elif protocol == 6:
                bits += states[k, 2] != (transport[i, TCP_FLAGS] & PSH != 0)
            is_known |= bits == 0
        weight[k - first] = share[k] * _LIKELIHOOD[bits]
    return is_known


@numba.njit(cache=True)
def _take(state, i, protocol, transport, direction, known_payload):
    """Give packet `i` the values of a state."""
    if state[1] == UNLISTED:
        return
    direction[i] = state[0]
    known_payload[i] = state[1]
    if protocol == 6:
        transport[i, TCP_FLAGS] &= 255 - PSH
        if state[2]:
            transport[i, TCP_FLAGS] |= PSH


@numba.njit(cache=True)
def _opening(
    flow_starts, seed, version, protocol, opens, option_bytes, network, transport, direction,
    known_payload, starts, states, share, follow_starts, follows, follow_share,
):  # fmt: skip
    most = 1
    for place in range(len(starts) - 1):
        most = max(most, starts[place + 1] - starts[place])
    weight = np.empty(most)
    before = np.empty(most)
    filtered = np.zeros((OPENING_PACKETS, most))
    for f in range(len(seed)):
        begin, end = flow_starts[f], flow_starts[f + 1]
        base = OPENING_PACKETS * (0 if protocol[f] == 6 else 1 if protocol[f] == 17 else 2)
        filtered_to, all_known = 0, True
        for number in range(min(end - begin, OPENING_PACKETS)):
            place = base + number
            first, count = starts[place], starts[place + 1] - starts[place]
            all_known &= _weigh(
                weight, first, first + count, states, share, begin + number, version[f],
                protocol[f], option_bytes, network, transport, direction,
                not (opens[f] and number < 3),
            )  # fmt: skip
            total = 0.0
            if number == 0:
                for k in range(count):
                    filtered[0, k] = weight[k]
                    total += weight[k]
            else:
                filtered[number, :count] = _SURPRISE
                ahead = starts[place - 1]
                for t in range(follow_starts[place], follow_starts[place + 1]):
                    into = follows[t, 1] - first
                    passed = filtered[number - 1, follows[t, 0] - ahead] * follow_share[t]
                    filtered[number, into] += (1 - _SURPRISE) * passed / share[follows[t, 1]]
                for k in range(count):
                    filtered[number, k] *= weight[k]
                    total += filtered[number, k]
            if not total > 0:
                break
            filtered[number, :count] /= total
            filtered_to += 1
        chosen = -1
        for number in range(-1 if all_known else filtered_to - 1, -1, -1):
            place = base + number
            first, count = starts[place], starts[place + 1] - starts[place]
            before[:count] = filtered[number, :count]
            if chosen >= 0:
                before[:count] *= _SURPRISE * share[chosen]
                for t in range(follow_starts[place + 1], follow_starts[place + 2]):
                    if follows[t, 1] == chosen:
                        at = follows[t, 0] - first
                        through = (1 - _SURPRISE) * follow_share[t]
                        before[at] += filtered[number, at] * through
            chosen = first + _chosen(before, count, _uniform(seed[f], FOR_PAYLOAD_LENGTH, number))
            _take(states[chosen], begin + number, protocol[f], transport, direction, known_payload)


@numba.njit(cache=True)
def _windows(flow_starts, seed, protocol, direction, transport, window_starts, windows, share):
    weight = np.empty(max(len(windows), 1))
    for f in range(len(seed)):
        begin = flow_starts[f]
        end = min(flow_starts[f + 1], begin + OPENING_PACKETS)
        stand = True
        for i in range(begin, end):
            place = 2 * (i - begin) + np.int64(direction[i])
            known = windows[window_starts[place] : window_starts[place + 1]]
            stand &= (known == get16(transport, i, TCP_WSIZE)).any()
        if stand or protocol[f] != 6:
            continue
        for i in range(begin, end):
            place = 2 * (i - begin) + np.int64(direction[i])
            first, count = window_starts[place], window_starts[place + 1] - window_starts[place]
            drawn = get16(transport, i, TCP_WSIZE)
            for k in range(count):
                untold = windows[first + k] == UNLISTED
                bits = _UNLISTED_BITS if untold else _apart(drawn, windows[first + k])
                weight[k] = share[first + k] * _LIKELIHOOD[bits]
            k = _chosen(weight, count, _uniform(seed[f], FOR_WINDOW, i - begin))
            if k >= 0 and windows[first + k] != UNLISTED:
                put16(transport, i, TCP_WSIZE, windows[first + k])


@numba.njit(cache=True)
def _levels(flow_starts, seed, direction, level, levels):
    weight = np.empty(2 * _LEVELS_APART + 1)
    for f in range(len(seed)):
        begin = flow_starts[f]
        end = min(flow_starts[f + 1], begin + OPENING_PACKETS)
        stand = True
        for i in range(begin, end):
            stand &= levels[2 * (i - begin) + np.int64(direction[i]), level[i]] > 0
        if stand:
            continue
        for i in range(begin, end):
            place = 2 * (i - begin) + np.int64(direction[i])
            drawn = np.int64(level[i])
            least = max(drawn - _LEVELS_APART, 0)
            count = min(drawn + _LEVELS_APART, 255) + 1 - least
            for k in range(count):
                weight[k] = levels[place, least + k] * _NEARNESS[abs(least + k - drawn)]
            k = _chosen(weight, count, _uniform(seed[f], FOR_LEVEL, i - begin))
            if k >= 0:
                level[i] = least + k
