"""Sample the payloads of a flow's packets from its label's profile.

The packets of a flow's opening are a hidden Markov chain: its states are the payloads, with side,
FIN, RST and PSH, that the profile has of each packet number, its transitions their successions,
and what is seen of them the drawn length bits, direction and flags. A path is sampled from its
posterior (forward filtering, backward sampling: Rabiner, Proc. IEEE 77(2), 1989; Carter and Kohn,
Biometrika 81(3), 1994). So are those of a TCP flow's ending, whose states also say which side has
closed the connection (RFC 9293 section 3.6); the packets before it are made to agree.

Shape letters: N flows, P packets, S states (payloads of a packet number), T successions.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.flow_state import AGAIN
from netdiff_ray.header_bytes import (
    FIN,
    IPPROTO_TCP,
    IPPROTO_UDP,
    ONES,
    RST,
    SYN,
    TCP_FLAGS,
    UDP_HEADER_BYTES,
)
from netdiff_ray.labels.profile import (
    CLOSED,
    DISCLOSED_FLAGS,
    ENDING_PACKETS,
    LATER,
    OPENING_PACKETS,
    SUPPRESSED,
)
from netdiff_ray.labels.stack import UNKNOWN
from netdiff_ray.repair.rules.idle_segments import (
    HANDSHAKE_PACKETS,
    FlowSpan,
    Said,
    Segment,
    begin_said,
    drawn_packet,
    follows_all,
    is_idle,
    note_segment,
    pass_packet,
    settled_segment,
)
from netdiff_ray.repair.rules.later_payloads import sample_later
from netdiff_ray.repair.rules.profile_sampling import (
    LIKELIHOOD,
    SUPPRESSED_BITS,
    bits_apart,
    index_at,
    uniform,
)
from netdiff_ray.repair.rules.profile_tables import NUM_NUMBERS
from netdiff_ray.repair.splitmix import FOR_PAYLOAD_LENGTH

_SIDE_BITS = 3
"""Bits by which the other direction counts as wrong: most of its eight cells were drawn wrong."""
_CLOSED_BITS = 2
"""Bits by which a state counts as wrong for each side that it has as closed, or not closed, before
the ending, other than was drawn."""
_SURPRISE = 0.02
"""Share of what follows a payload that is as after any other."""
_MOST_PATHS = 16
"""Paths that are sampled of an opening or ending."""
_AS_DRAWN = -1
"""Stands in a path for the state that a packet was drawn in."""
_CLIENT_CLOSED, _SERVER_CLOSED = CLOSED


class _Chain(NamedTuple):
    """Packets whose states are sampled together."""

    begin: int
    """The first packet."""
    end: int
    """The packet after the last."""
    number: int
    """The first packet's number in the profile."""
    row: int
    """The first packet's row in the table."""
    closed: int
    """Sides that have closed before the first packet, as in CLOSED."""


class _Scratch(NamedTuple):
    """Memory for the states of a packet number."""

    weight: np.ndarray
    """(S,) float64."""
    before: np.ndarray
    """(S,) float64."""
    filtered: np.ndarray
    """(OPENING_PACKETS, S) float64: of each packet of a chain, given those up to it."""
    path: np.ndarray
    """(OPENING_PACKETS,) int64: a state of each packet of a chain."""
    best: np.ndarray
    """(OPENING_PACKETS,) int64: those of the path that was best so far."""


@numba.njit(cache=True)
def sample_payloads(flows, packets, plans, table, has_state):
    """Write `profile_payload`, directions and flags, sampled from a PayloadTable.

    Where the layout `has_state`, openings and endings are sampled so that no segment without data
    has nothing to acknowledge, if that can be; between them such segments get data, if the profile
    has some. What is left is sent by the other side, if that has something to acknowledge.
    """
    most = 1
    for row in range(len(table.starts) - 1):
        most = max(most, table.starts[row + 1] - table.starts[row])
    said = Said(np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64))
    scratch = _Scratch(
        np.empty(most), np.empty(most), np.zeros((OPENING_PACKETS, most)),
        np.zeros(OPENING_PACKETS, np.int64), np.zeros(OPENING_PACKETS, np.int64),
    )  # fmt: skip
    for f in range(len(flows.seed)):
        flow = FlowSpan(
            flows.starts[f], flows.starts[f + 1], flows.seed[f], flows.version[f],
            flows.protocol[f], flows.opens[f], plans.one_way[f] == 1,
            plans.first_side[f] != UNKNOWN, has_state and flows.protocol[f] == IPPROTO_TCP,
        )  # fmt: skip
        is_tcp = flow.protocol == IPPROTO_TCP
        base = NUM_NUMBERS * (0 if is_tcp else 1 if flow.protocol == IPPROTO_UDP else 2)
        opening_end = min(flow.end, flow.begin + OPENING_PACKETS)
        begin_said(said)
        chain = _Chain(flow.begin, opening_end, 0, base, 0)
        _sample_chain(flow, chain, packets, table, scratch, said.waiting)
        ending = max(flow.end - ENDING_PACKETS, opening_end) if is_tcp else flow.end
        for i in range(flow.begin, opening_end):
            pass_packet(flow, i, packets, said)
        for i in range(opening_end, ending):
            sample_later(flow, i, base + LATER, packets, table, scratch.weight, said)
            pass_packet(flow, i, packets, said)
        _sample_ending(flow, ending, base, packets, table, scratch, said.waiting)
        for i in range(ending, flow.end):
            pass_packet(flow, i, packets, said)


@numba.njit(cache=True)
def _sample_ending(flow, ending, base, packets, table, scratch, waiting):
    """Sample the packets from `ending` on, and make those before them agree."""
    begin = ending
    row = base + LATER - (flow.end - ending)
    while begin < flow.end and table.starts[row] == table.starts[row + 1]:
        begin, row = begin + 1, row + 1  # the profile has nothing of this number
    closed = _closed_in(flow.begin, begin, packets)
    chain = _Chain(begin, flow.end, row - base, row, closed)
    first = _sample_chain(flow, chain, packets, table, scratch, waiting)
    if first >= 0:
        _close_before(flow.begin, begin, closed, table.states[first, 2], packets)


@numba.njit(cache=True)
def _sample_chain(flow, chain, packets, table, scratch, waiting):
    """Sample the states of a chain, and give its packets their values.

    Return the first packet's state, -1 if all packets stay as drawn: the profile has none, or those
    of all packets as they are. Of a flow that `follows_all`, paths are sampled until one has no
    segment that says nothing.

    Args:
        waiting: see `is_idle`; before the chain.
    """
    num_filtered, all_match = _filter(flow, chain, packets, table, scratch)
    path, best = scratch.path, scratch.best
    fewest = num_filtered + 1
    if all_match:
        path[:num_filtered] = _AS_DRAWN
        fewest = _count_idle(flow, chain, path[:num_filtered], packets, table, waiting)
    if fewest == 0 or num_filtered == 0:
        return -1
    best[0] = _AS_DRAWN
    for attempt in range(_MOST_PATHS if follows_all(flow) else 1):
        _sample_path(flow, chain, num_filtered, attempt, table, scratch)
        num_idle = _count_idle(flow, chain, path[:num_filtered], packets, table, waiting)
        if num_idle < fewest:
            fewest = num_idle
            best[:num_filtered] = path[:num_filtered]
        if num_idle == 0:
            break
    if best[0] == _AS_DRAWN:
        return -1
    for k in range(num_filtered):
        _assign(table.states[best[k]], chain.begin + k, flow, packets)
    return best[0]


@numba.njit(cache=True)
def _sample_path(flow, chain, num_filtered, attempt, table, scratch):
    """Fill `scratch.path` with states sampled backwards from their posterior."""
    before, filtered = scratch.before, scratch.filtered
    state = -1
    for k in range(num_filtered - 1, -1, -1):
        row = chain.row + k
        first, count = table.starts[row], table.starts[row + 1] - table.starts[row]
        before[:count] = filtered[k, :count]
        if state >= 0:
            before[:count] *= _SURPRISE * table.share[state]
            for t in range(table.follow_starts[row + 1], table.follow_starts[row + 2]):
                if table.follows[t, 1] == state:
                    at = table.follows[t, 0] - first
                    through = (1 - _SURPRISE) * table.follow_share[t]
                    before[at] += filtered[k, at] * through
        u = uniform(flow.seed, FOR_PAYLOAD_LENGTH, chain.number + k + (attempt << 32))
        state = first + index_at(before, count, u)
        scratch.path[k] = state


@numba.njit(cache=True)
def _count_idle(flow, chain, path, packets, table, waiting):
    """Return how many segments of a path of states say nothing, of a flow that `follows_all`."""
    num_idle = 0
    if not follows_all(flow):
        return num_idle
    waits = waiting.copy()
    for k in range(len(path)):
        i = chain.begin + k
        segment = settled_segment(flow, i, packets)
        if path[k] != _AS_DRAWN:
            segment = _segment_of(table.states[path[k]], flow, i, packets)
        in_handshake = i < flow.begin + HANDSHAKE_PACKETS
        if not in_handshake and segment.payload_bytes == 0:
            num_idle += is_idle(segment, packets.state[i], waits)
        note_segment(segment, packets.state[i], waits)
    return num_idle


@numba.njit(cache=True)
def _segment_of(state, flow, i, packets):
    """Return the Segment that packet `i` would be in a state."""
    drawn = drawn_packet(flow, i, packets)
    if state[1] == SUPPRESSED:
        settled = np.int64(FIN | RST)
        payload_bytes = max(drawn.length - drawn.header_bytes, np.int64(1))
        side = drawn.side
    else:
        settled = np.int64(DISCLOSED_FLAGS)
        side, payload_bytes = np.int64(state[0]), np.int64(state[1])
    return Segment(side, (drawn.flags & ~settled) | (np.int64(state[2]) & settled), payload_bytes)


@numba.njit(cache=True)
def _filter(flow, chain, packets, table, scratch):
    """Fill `scratch.filtered` with the probabilities of states given the packets up to each.

    Return how many packets have such, and whether all were drawn as in the profile.
    """
    weight, filtered = scratch.weight, scratch.filtered
    num_filtered, all_match, closed = 0, True, chain.closed
    ends_in_opening = flow.end <= flow.begin + OPENING_PACKETS
    for k in range(chain.end - chain.begin):
        i, row = chain.begin + k, chain.row + k
        first, count = table.starts[row], table.starts[row + 1] - table.starts[row]
        drawn = drawn_packet(flow, i, packets)
        number = chain.number + k
        may_turn = not (flow.one_way or (flow.opens and number < HANDSHAKE_PACKETS))
        may_turn &= number > 0 or not flow.first_side_known
        all_match &= _weigh(weight, row, table, drawn, may_turn, closed)
        if flow.protocol == IPPROTO_TCP:
            closed |= _closed_in(i, i + 1, packets)
        if k == 0:
            filtered[0, :count] = 1.0
            for n in range(count):
                apart = (table.states[first + n, 2] ^ chain.closed) & ~DISCLOSED_FLAGS
                sides = (apart & _CLIENT_CLOSED != 0) + (apart & _SERVER_CLOSED != 0)
                filtered[0, n] = LIKELIHOOD[_CLOSED_BITS * sides]
        else:
            filtered[k, :count] = _SURPRISE
            ahead = table.starts[row - 1]
            for t in range(table.follow_starts[row], table.follow_starts[row + 1]):
                state = table.follows[t, 1]
                passed = filtered[k - 1, table.follows[t, 0] - ahead] * table.follow_share[t]
                filtered[k, state - first] += (1 - _SURPRISE) * passed / table.share[state]
        total = 0.0
        for n in range(count):
            if chain.number == 0:
                is_last = ends_in_opening and i == chain.end - 1
                ends_with = table.last_share[first + n]
                last = ends_with if is_last else 1 - ends_with
                filtered[k, n] *= _SURPRISE + (1 - _SURPRISE) * last
            filtered[k, n] *= weight[n]
            total += filtered[k, n]
        if not total > 0:
            break
        filtered[k, :count] /= total
        num_filtered += 1
    return num_filtered, all_match


@numba.njit(cache=True)
def _weigh(weight, row, table, drawn, may_turn, closed):
    """Fill `weight` with each state's share times the likelihood of what was drawn.

    Return whether it was drawn just as one of the states, after the sides that are `closed`.
    """
    first, end = table.starts[row], table.starts[row + 1]
    fields = 2 if drawn.udp_length >= 0 else 1
    matches = False
    for k in range(first, end):
        side, payload, flags = table.states[k, 0], table.states[k, 1], table.states[k, 2]
        bits = np.int64(ONES[(flags ^ drawn.flags) & DISCLOSED_FLAGS])
        if side != drawn.side:
            if payload == SUPPRESSED or not may_turn:
                weight[k - first] = 0.0
                continue
            bits += _SIDE_BITS
        if payload == SUPPRESSED:
            bits += SUPPRESSED_BITS * fields
        else:
            bits += bits_apart(drawn.length, payload + drawn.header_bytes)
            if drawn.udp_length >= 0:
                bits += bits_apart(drawn.udp_length, payload + UDP_HEADER_BYTES)
            matches |= bits == 0 and flags & ~DISCLOSED_FLAGS == closed
        weight[k - first] = table.share[k] * LIKELIHOOD[bits]
    return matches


@numba.njit(cache=True)
def _assign(state, i, flow, packets):
    """Give packet `i` the values of a state. A FIN of a side that has closed is sent again."""
    transport = packets.rows["transport"]
    settled = np.int64(DISCLOSED_FLAGS)
    if state[1] == SUPPRESSED:
        settled &= FIN | RST
    else:
        packets.direction[i] = state[0]
        packets.profile_payload[i] = state[1]
    if flow.protocol == IPPROTO_TCP:
        flags = transport[i, TCP_FLAGS]
        transport[i, TCP_FLAGS] = (flags & ~settled) | (state[2] & settled)
        closed = _SERVER_CLOSED if packets.direction[i] else _CLIENT_CLOSED
        if flow.has_state and state[2] & FIN and state[2] & closed:
            packets.state[i].sequence = AGAIN


@numba.njit(cache=True)
def _closed_in(begin, end, packets):
    """Return which sides have a FIN or RST among packets `begin` to `end`, as in CLOSED."""
    transport = packets.rows["transport"]
    closed = 0
    for i in range(begin, end):
        if transport[i, TCP_FLAGS] & (FIN | RST):
            closed |= _SERVER_CLOSED if packets.direction[i] else _CLIENT_CLOSED
    return closed


@numba.njit(cache=True)
def _close_before(begin, end, closed, wanted, packets):
    """Make packets `begin` to `end` close the sides that are closed in `wanted`, and no others:
    the last packet of such a side gets a FIN."""
    transport = packets.rows["transport"]
    for side in range(2):
        bit = _SERVER_CLOSED if side else _CLIENT_CLOSED
        if (wanted ^ closed) & bit == 0:
            continue
        for i in range(end - 1, begin - 1, -1):
            if packets.direction[i] != side or transport[i, TCP_FLAGS] & SYN:
                continue
            if not wanted & bit:
                transport[i, TCP_FLAGS] &= 255 - (FIN | RST)
            else:
                transport[i, TCP_FLAGS] |= FIN
                break
