"""What a label's flows are known to begin and end with, against what was drawn.

A model draws the bits of a length or a window one by one and gets some wrong, so that many
drawn values are none that the label has. Here the drawn bits are evidence: a packet's values
are drawn from those known of its place in the flow, each as likely as it is frequent and as
near to what was drawn.

Shape letters: N flows, P packets, S states (payloads known of a place), T successions.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    FIN,
    IPV4_TL,
    IPV6_LEN,
    ONES,
    PSH,
    RST,
    SYN,
    TCP_FLAGS,
    TCP_OPT,
    TCP_WSIZE,
    UDP_LEN,
    get16,
    put16,
)
from netdiff_ray.labels.profile import (
    CLOSED,
    DISCLOSED_FLAGS,
    ENDING_PACKETS,
    LATER,
    OPENING_PACKETS,
    SUPPRESSED,
    Profile,
)
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import MOST_LEVEL
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.profile_tables import PLACES, key_of, tables_of
from netdiff_ray.repair.splitmix import FOR_LEVEL, FOR_MSS, FOR_PAYLOAD_LENGTH, FOR_WINDOW, draw

_LIKELIHOOD = np.exp(-np.arange(64.0))
"""Of a value, by the bits that were drawn otherwise: as if each is wrong in one case of four."""
_UNLISTED_BITS = 2
"""Bits that an untold value counts as being away, in each length or window field."""
_SIDE_BITS = 3
"""Bits that the other direction counts as being away: most of its eight cells were drawn wrong."""
_CLOSED_BITS = 2
"""Bits that a side counts as being away that has, or has not, sent a FIN or RST before the ending,
other than was drawn."""
_SURPRISE = 0.02
"""Of what follows a payload, the share that is as after any other."""
_CLASS_BITS = 4
"""Bits that a packet without payload counts as being away from one with payload, between opening
and ending, where no neighbours tell."""
_STRAY = 0.001
"""Share of later times that are drawn as any one level whatever the label has: a level that the
label has less often than that is more likely a wrong one."""
_CLIENT_CLOSED, _SERVER_CLOSED = CLOSED
_LEVELS_APART = 24
_NEARNESS = np.exp(-np.arange(_LEVELS_APART + 1.0) / 4)
"""Likelihood of a time, by levels between it and the drawn one."""


def profile(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Payload lengths, directions, flags, windows and times as the label is known to have them.

    The packets of the opening are a hidden Markov chain: its states are the payloads, with side,
    FIN, RST and PSH, known of each place, its transitions their successions, and the drawn length
    bits, direction and flags what is seen of them. A path is drawn from its posterior (forward
    filtering, backward sampling: Rabiner, Proc. IEEE 77(2), 1989; Carter and Kohn, Biometrika
    81(3), 1994). So are those of a TCP flow's ending, whose states know besides which side has
    closed the connection (RFC 9293 section 3.6); the packets before them are made to agree.
    Payloads between the two, windows, the MSS of SYNs and, where the layout has them, levels of
    time are drawn each by itself; later times only if they are rarer than stray ones. What is drawn
    as untold, or has nothing known, stands, but for what is larger than any known payload. In a
    flow that opens the first three packets keep their direction.

    What the label is known to have passes unchanged: the payloads of an opening or ending, the
    windows or the first times of a flow that are all known of their places, and any payload
    between that is known.

    The fields belong to the rules that settle them, with what else must hold.
    """
    if context.profile == Profile():
        return
    tables = tables_of(context.profile)
    _payloads(
        batch.flow_starts, batch.seed, batch.version, batch.protocol, batch.opens,
        batch.option_bytes, batch.rows["network"], batch.rows["transport"], batch.direction,
        batch.known_payload, tables.starts, tables.states, tables.keys, tables.share,
        tables.last_share, tables.follow_starts, tables.follows, tables.follow_share,
    )  # fmt: skip
    _windows(
        batch.flow_starts, batch.seed, batch.protocol, batch.direction, batch.rows["transport"],
        tables.window_starts, tables.windows, tables.window_share,
    )  # fmt: skip
    _mss(
        batch.flow_starts, batch.seed, batch.protocol, batch.opens, batch.option_bytes,
        batch.rows["transport"], tables.mss_starts, tables.mss, tables.mss_share,
    )  # fmt: skip
    if layout.needs_flow:
        _levels(batch.flow_starts, batch.seed, batch.direction, batch.level, tables.levels)
        _later_levels(batch.flow_starts, batch.seed, batch.direction, batch.level, tables.levels)


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
def _drawn_payload(i, version, protocol, option_bytes, network):
    """What the IP length leaves for the payload; below 0 if it is too short."""
    length = get16(network, i, IPV4_TL if version == 4 else IPV6_LEN)
    return length - _header_bytes(i, version, protocol, option_bytes)


@numba.njit(cache=True)
def _header_bytes(i, version, protocol, option_bytes):
    """Of what the IP length counts before the payload."""
    network = 20 if version == 4 else 0
    return network + (20 + np.int64(option_bytes[i]) if protocol == 6 else 8)


@numba.njit(cache=True)
def _weigh(weight, first, end, states, share, i, version, protocol, option_bytes, network,
           transport, direction, may_turn, closed):  # fmt: skip
    """Fill `weight` for packet `i`: of each state its share times the likelihood of what was
    drawn. Returns whether it was drawn just as one of them, after the sides that are `closed`."""
    fields = 2 if protocol == 17 else 1
    length = get16(network, i, IPV4_TL if version == 4 else IPV6_LEN)
    headers = _header_bytes(i, version, protocol, option_bytes)
    flags = np.int64(transport[i, TCP_FLAGS]) if protocol == 6 else 0
    is_known = False
    for k in range(first, end):
        payload = states[k, 1]
        bits = np.int64(ONES[(states[k, 2] ^ flags) & DISCLOSED_FLAGS])
        if states[k, 0] != direction[i]:
            if payload == SUPPRESSED or not may_turn:
                weight[k - first] = 0.0
                continue
            bits += _SIDE_BITS
        if payload == SUPPRESSED:
            bits += _UNLISTED_BITS * fields
        else:
            bits += _apart(length, payload + headers)
            if protocol == 17:
                bits += _apart(get16(transport, i, UDP_LEN), payload + 8)
            is_known |= bits == 0 and states[k, 2] & ~DISCLOSED_FLAGS == closed
        weight[k - first] = share[k] * _LIKELIHOOD[bits]
    return is_known


@numba.njit(cache=True)
def _take(state, i, protocol, transport, direction, known_payload):
    """Give packet `i` the values of a state."""
    told = np.int64(DISCLOSED_FLAGS)
    if state[1] == SUPPRESSED:
        told &= FIN | RST
    else:
        direction[i] = state[0]
        known_payload[i] = state[1]
    if protocol == 6:
        transport[i, TCP_FLAGS] = (transport[i, TCP_FLAGS] & ~told) | (state[2] & told)


@numba.njit(cache=True)
def _closed_before(begin, end, transport, direction):
    """Which sides have sent a FIN or RST, as in CLOSED."""
    closed = 0
    for i in range(begin, end):
        if transport[i, TCP_FLAGS] & (FIN | RST):
            closed |= _SERVER_CLOSED if direction[i] else _CLIENT_CLOSED
    return closed


@numba.njit(cache=True)
def _payloads(
    flow_starts, seed, version, protocol, opens, option_bytes, network, transport, direction,
    known_payload, starts, states, keys, share, last_share, follow_starts, follows, follow_share,
):  # fmt: skip
    most = 1
    for place in range(len(starts) - 1):
        most = max(most, starts[place + 1] - starts[place])
    weight = np.empty(most)
    before = np.empty(most)
    filtered = np.zeros((OPENING_PACKETS, most))
    for f in range(len(seed)):
        begin, end = flow_starts[f], flow_starts[f + 1]
        base = PLACES * (0 if protocol[f] == 6 else 1 if protocol[f] == 17 else 2)
        ending = end
        if protocol[f] == 6:
            ending = max(end - ENDING_PACKETS, min(begin + OPENING_PACKETS, end))
        for part in range(2):
            start, stop = (ending, end) if part else (begin, min(end, begin + OPENING_PACKETS))
            number = LATER - (end - ending) if part else 0
            while part and start < end and starts[base + number] == starts[base + number + 1]:
                start, number = start + 1, number + 1  # of which nothing is known
            closed = _closed_before(begin, start, transport, direction) if part else 0
            chosen = _draw_chain(
                start, stop, base + number, number, closed, end <= begin + OPENING_PACKETS,
                opens[f], seed[f], version[f], protocol[f], option_bytes, network, transport,
                direction, known_payload, starts, states, share, last_share, follow_starts,
                follows, follow_share, weight, before, filtered,
            )  # fmt: skip
            if part and chosen >= 0:
                _close(begin, start, closed, states[chosen, 2], transport, direction)
        place = base + LATER
        for i in range(begin + OPENING_PACKETS, ending):
            _draw_later(
                i, starts[place], starts[place + 1], seed[f], LATER + i - begin, version[f],
                protocol[f], option_bytes, network, transport, direction, known_payload, states,
                keys, share, weight,
            )  # fmt: skip


@numba.njit(cache=True)
def _draw_chain(
    begin, end, first_place, first_number, closed, ends, opens, seed, version, protocol,
    option_bytes, network, transport, direction, known_payload, starts, states, share, last_share,
    follow_starts, follows, follow_share, weight, before, filtered,
):  # fmt: skip
    """Draw states of packets one after another, the first of which is at `first_place`, after the
    sides that are `closed`; `ends`: the last is that of a flow that is all opening. Returns the
    first's state, -1 if nothing is known or all of them were drawn as they are known."""
    filtered_to, all_known, told = 0, True, closed
    for k in range(end - begin):
        i, place = begin + k, first_place + k
        first, count = starts[place], starts[place + 1] - starts[place]
        may_turn = not (opens and first_number + k < 3)
        all_known &= _weigh(
            weight, first, first + count, states, share, i, version, protocol, option_bytes,
            network, transport, direction, may_turn, told,
        )  # fmt: skip
        if protocol == 6:
            told |= _closed_before(i, i + 1, transport, direction)
        if k == 0:
            filtered[0, :count] = 1.0
            for n in range(count):
                apart = (states[first + n, 2] ^ closed) & ~DISCLOSED_FLAGS
                sides = (apart & _CLIENT_CLOSED != 0) + (apart & _SERVER_CLOSED != 0)
                filtered[0, n] = _LIKELIHOOD[_CLOSED_BITS * sides]
        else:
            filtered[k, :count] = _SURPRISE
            ahead = starts[place - 1]
            for t in range(follow_starts[place], follow_starts[place + 1]):
                into = follows[t, 1] - first
                passed = filtered[k - 1, follows[t, 0] - ahead] * follow_share[t]
                filtered[k, into] += (1 - _SURPRISE) * passed / share[follows[t, 1]]
        total = 0.0
        for n in range(count):
            if first_number == 0:
                is_last = ends and i == end - 1
                last = last_share[first + n] if is_last else 1 - last_share[first + n]
                filtered[k, n] *= _SURPRISE + (1 - _SURPRISE) * last
            filtered[k, n] *= weight[n]
            total += filtered[k, n]
        if not total > 0:
            break
        filtered[k, :count] /= total
        filtered_to += 1
    chosen = -1
    for k in range(-1 if all_known else filtered_to - 1, -1, -1):
        place = first_place + k
        first, count = starts[place], starts[place + 1] - starts[place]
        before[:count] = filtered[k, :count]
        if chosen >= 0:
            before[:count] *= _SURPRISE * share[chosen]
            for t in range(follow_starts[place + 1], follow_starts[place + 2]):
                if follows[t, 1] == chosen:
                    at = follows[t, 0] - first
                    through = (1 - _SURPRISE) * follow_share[t]
                    before[at] += filtered[k, at] * through
        u = _uniform(seed, FOR_PAYLOAD_LENGTH, first_number + k)
        chosen = first + _chosen(before, count, u)
        _take(states[chosen], begin + k, protocol, transport, direction, known_payload)
    return chosen


@numba.njit(cache=True)
def _close(begin, end, closed, told, transport, direction):
    """Make the packets before an ending close the sides that it says are closed, and no others:
    the last packet of such a side has a FIN."""
    for side in range(2):
        bit = _SERVER_CLOSED if side else _CLIENT_CLOSED
        if (told ^ closed) & bit == 0:
            continue
        for i in range(end - 1, begin - 1, -1):
            if direction[i] != side or transport[i, TCP_FLAGS] & SYN:
                continue
            if not told & bit:
                transport[i, TCP_FLAGS] &= 255 - (FIN | RST)
            else:
                transport[i, TCP_FLAGS] |= FIN
                break


@numba.njit(cache=True)
def _draw_later(
    i, first, end, seed, number, version, protocol, option_bytes, network, transport, direction,
    known_payload, states, keys, share, weight,
):  # fmt: skip
    """Draw the payload of a packet between opening and ending, with PSH, from those known of its
    side, unless it is one of them."""
    drawn = _drawn_payload(i, version, protocol, option_bytes, network)
    flags = np.int64(transport[i, TCP_FLAGS]) & PSH if protocol == 6 else 0
    side = np.int64(direction[i])
    known = keys[first:end]
    at = np.searchsorted(known, key_of(side, drawn, flags))
    if at < len(known) and known[at] == key_of(side, drawn, flags):
        return
    end = first + np.searchsorted(known, key_of(side + 1, np.int64(-1), 0))
    first += np.searchsorted(known, key_of(side, np.int64(-1), 0))
    if first == end:
        return
    largest = states[end - 1, 1]
    headers = _header_bytes(i, version, protocol, option_bytes)
    length = get16(network, i, IPV4_TL if version == 4 else IPV6_LEN)
    for k in range(first, end):
        payload = states[k, 1]
        weight[k - first] = 0.0
        bits = np.int64(states[k, 2] != flags)
        if payload == SUPPRESSED:
            bits += _UNLISTED_BITS
        else:
            bits += _apart(length, payload + headers)
            if (payload == 0) != (drawn <= 0):
                bits += _CLASS_BITS
        if payload != SUPPRESSED or 0 < drawn <= largest:
            weight[k - first] = share[k] * _LIKELIHOOD[bits]
    k = _chosen(weight, end - first, _uniform(seed, FOR_PAYLOAD_LENGTH, number))
    if k >= 0 and states[first + k, 1] != SUPPRESSED:
        known_payload[i] = states[first + k, 1]
        if protocol == 6:
            transport[i, TCP_FLAGS] = (transport[i, TCP_FLAGS] & ~PSH) | states[first + k, 2]


@numba.njit(cache=True)
def _draw_word(drawn, first, end, values, share, weight, u):
    """The word that is drawn from known ones given 16 drawn bits, which stand if none is or an
    untold one."""
    for k in range(first, end):
        untold = values[k] == SUPPRESSED
        bits = _UNLISTED_BITS if untold else _apart(drawn, values[k])
        weight[k - first] = share[k] * _LIKELIHOOD[bits]
    k = _chosen(weight, end - first, u)
    return drawn if k < 0 or values[first + k] == SUPPRESSED else values[first + k]


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
            drawn = _draw_word(
                get16(transport, i, TCP_WSIZE), window_starts[place], window_starts[place + 1],
                windows, share, weight, _uniform(seed[f], FOR_WINDOW, i - begin),
            )  # fmt: skip
            put16(transport, i, TCP_WSIZE, drawn)


@numba.njit(cache=True)
def _mss(flow_starts, seed, protocol, opens, option_bytes, transport, mss_starts, mss, share):
    weight = np.empty(max(len(mss), 1))
    for f in range(len(seed)):
        if protocol[f] != 6 or not opens[f]:
            continue
        begin = flow_starts[f]
        for side in range(min(2, flow_starts[f + 1] - begin)):
            i = begin + side
            first, end = mss_starts[side], mss_starts[side + 1]
            drawn = get16(transport, i, TCP_OPT + 2)
            if option_bytes[i] < 4 or (mss[first:end] == drawn).any():
                continue
            drawn = _draw_word(
                drawn, first, end, mss, share, weight, _uniform(seed[f], FOR_MSS, side)
            )
            put16(transport, i, TCP_OPT + 2, drawn)


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
            count = min(drawn + _LEVELS_APART, MOST_LEVEL) + 1 - least
            for k in range(count):
                weight[k] = levels[place, least + k] * _NEARNESS[abs(least + k - drawn)]
            k = _chosen(weight, count, _uniform(seed[f], FOR_LEVEL, i - begin))
            if k >= 0:
                level[i] = least + k


@numba.njit(cache=True)
def _later_levels(flow_starts, seed, direction, level, levels):
    """Draw later times that are likely stray ones from all later times of their side."""
    total = levels[2 * OPENING_PACKETS :].sum(axis=1)
    for f in range(len(seed)):
        begin = flow_starts[f]
        for i in range(begin + OPENING_PACKETS, flow_starts[f + 1]):
            side = np.int64(direction[i])
            if total[side] == 0:
                continue
            known = levels[2 * OPENING_PACKETS + side]
            wrong = _STRAY / (_STRAY + known[level[i]] / total[side])
            u = _uniform(seed[f], FOR_LEVEL, i - begin)
            if u < wrong:
                level[i] = _chosen(known, len(known), u / wrong)
