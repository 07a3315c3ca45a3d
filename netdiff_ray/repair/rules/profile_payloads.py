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

from netdiff_ray.flow_state import AGAIN, COUNT_STARTS, DUPLICATE
from netdiff_ray.header_bytes import (
    ACK,
    FIN,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_HEADER_BYTES,
    IPV4_TL,
    IPV6_LEN,
    ONES,
    PSH,
    RST,
    SYN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    UDP_HEADER_BYTES,
    UDP_LEN,
    get16,
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
from netdiff_ray.repair.rules.profile_sampling import (
    LIKELIHOOD,
    SUPPRESSED_BITS,
    bits_apart,
    index_at,
    uniform,
)
from netdiff_ray.repair.rules.profile_tables import NUM_NUMBERS, key_of
from netdiff_ray.repair.splitmix import FOR_PAYLOAD_LENGTH

_SIDE_BITS = 3
"""Bits by which the other direction counts as wrong: most of its eight cells were drawn wrong."""
_CLOSED_BITS = 2
"""Bits by which a state counts as wrong for each side that it has as closed, or not closed, before
the ending, other than was drawn."""
_SURPRISE = 0.02
"""Share of what follows a payload that is as after any other."""
_CLASS_BITS = 4
"""Bits by which a packet without payload counts as wrong for a packet with payload, and the other
way round, between opening and ending, where no neighbours help."""
_IDLE_BITS = 8
"""Bits by which a segment without data counts as wrong where the other side has sent nothing that
it could acknowledge: of real ones one of 200 is so."""
_CLIENT_CLOSED, _SERVER_CLOSED = CLOSED


class FlowSpan(NamedTuple):
    """One flow of a batch."""

    begin: int
    """Its first packet."""
    end: int
    """The packet after its last."""
    seed: int
    version: int
    protocol: int
    opens: bool
    one_way: bool
    """Whether it is planned that only the client sends."""
    first_side_known: bool
    """Whether it is planned who sends first."""


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


class _DrawnPacket(NamedTuple):
    """What was drawn of a packet."""

    side: int
    length: int
    """Of the IP header's length field."""
    header_bytes: int
    """Bytes that the IP header's length counts before the payload."""
    udp_length: int
    """Of the UDP header, -1 without one."""
    flags: int
    """Of TCP, else 0."""


@numba.njit(cache=True)
def sample_payloads(flows, packets, plans, table, has_state):
    """Write `profile_payload`, directions and flags, sampled from a PayloadTable.

    Where the layout `has_state`, segments without data that have nothing to acknowledge get some
    between opening and ending, if the profile has such.
    """
    most = 1
    for row in range(len(table.starts) - 1):
        most = max(most, table.starts[row + 1] - table.starts[row])
    waiting = np.zeros(2, np.int64)
    scratch = _Scratch(np.empty(most), np.empty(most), np.zeros((OPENING_PACKETS, most)))
    for f in range(len(flows.seed)):
        flow = FlowSpan(
            flows.starts[f], flows.starts[f + 1], flows.seed[f], flows.version[f],
            flows.protocol[f], flows.opens[f], plans.one_way[f] == 1,
            plans.first_side[f] != UNKNOWN,
        )  # fmt: skip
        is_tcp = flow.protocol == IPPROTO_TCP
        base = NUM_NUMBERS * (0 if is_tcp else 1 if flow.protocol == IPPROTO_UDP else 2)
        opening_end = min(flow.end, flow.begin + OPENING_PACKETS)
        _sample_chain(flow, _Chain(flow.begin, opening_end, 0, base, 0), packets, table, scratch)
        ending = max(flow.end - ENDING_PACKETS, opening_end) if is_tcp else flow.end
        _sample_ending(flow, ending, base, packets, table, scratch)
        waiting[:] = 0
        for i in range(flow.begin, ending):
            if i >= flow.begin + OPENING_PACKETS:
                is_idle = is_tcp and has_state and _is_idle(i, packets, waiting)
                _sample_later(flow, i, base + LATER, is_idle, packets, table, scratch.weight)
            if is_tcp:
                _wait(flow, i, packets, waiting)


@numba.njit(cache=True)
def _is_idle(i, packets, waiting):
    """Return whether packet `i` is a segment without SYN, FIN or RST that goes on in order, repeats
    no acknowledgement, and has none of the other side's segments to acknowledge.

    Args:
        waiting: (2,) segments of the other side that each side has not acknowledged.
    """
    state, flags = packets.state[i], packets.rows["transport"][i, TCP_FLAGS]
    goes_on = state.sequence != AGAIN and state.acknowledged != DUPLICATE
    return goes_on and not flags & (SYN | FIN | RST) and waiting[packets.direction[i]] == 0


@numba.njit(cache=True)
def _wait(flow, i, packets, waiting):
    """Follow in `waiting` what packet `i` of a TCP flow sends and acknowledges."""
    side = np.int64(packets.direction[i])
    state, flags = packets.state[i], packets.rows["transport"][i, TCP_FLAGS]
    payload = packets.profile_payload[i]
    if payload < 0:
        drawn = _drawn_packet(flow, i, packets)
        payload = max(drawn.length - drawn.header_bytes, 0)
    sends = payload > 0 or flags & (SYN | FIN) != 0
    if flags & ACK:
        level = np.int64(state.acknowledged)
        count = COUNT_STARTS[level - 2] if level > DUPLICATE else np.int64(not sends)
        waiting[side] = max(waiting[side] - count, 0)
    if sends and state.sequence != AGAIN:
        waiting[1 - side] += 1


@numba.njit(cache=True)
def _sample_ending(flow, ending, base, packets, table, scratch):
    """Sample the packets from `ending` on, and make those before them agree."""
    begin = ending
    row = base + LATER - (flow.end - ending)
    while begin < flow.end and table.starts[row] == table.starts[row + 1]:
        begin, row = begin + 1, row + 1  # the profile has nothing of this number
    closed = _closed_in(flow.begin, begin, packets)
    chain = _Chain(begin, flow.end, row - base, row, closed)
    first = _sample_chain(flow, chain, packets, table, scratch)
    if first >= 0:
        _close_before(flow.begin, begin, closed, table.states[first, 2], packets)


@numba.njit(cache=True)
def _sample_chain(flow, chain, packets, table, scratch):
    """Sample the states of a chain, and give its packets their values.

    Return the first packet's state, -1 if the profile has none or all packets were drawn as in
    the profile.
    """
    num_filtered, all_match = _filter(flow, chain, packets, table, scratch)
    before, filtered = scratch.before, scratch.filtered
    state = -1
    for k in range(-1 if all_match else num_filtered - 1, -1, -1):
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
        u = uniform(flow.seed, FOR_PAYLOAD_LENGTH, chain.number + k)
        state = first + index_at(before, count, u)
        _assign(table.states[state], chain.begin + k, flow.protocol, packets)
    return state


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
        drawn = _drawn_packet(flow, i, packets)
        number = chain.number + k
        may_turn = not (flow.one_way or (flow.opens and number < 3))
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
def _drawn_packet(flow, i, packets):
    """Return what was drawn of packet `i`."""
    transport = packets.rows["transport"]
    length = get16(packets.rows["network"], i, IPV4_TL if flow.version == 4 else IPV6_LEN)
    header_bytes = IPV4_HEADER_BYTES if flow.version == 4 else 0
    udp_length, flags = np.int64(-1), np.int64(0)
    if flow.protocol == IPPROTO_TCP:
        header_bytes += TCP_HEADER_BYTES + np.int64(packets.option_bytes[i])
        flags = np.int64(transport[i, TCP_FLAGS])
    else:
        header_bytes += UDP_HEADER_BYTES  # as many as of ICMP
        if flow.protocol == IPPROTO_UDP:
            udp_length = get16(transport, i, UDP_LEN)
    return _DrawnPacket(np.int64(packets.direction[i]), length, header_bytes, udp_length, flags)


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
def _assign(state, i, protocol, packets):
    """Give packet `i` the values of a state."""
    transport = packets.rows["transport"]
    settled = np.int64(DISCLOSED_FLAGS)
    if state[1] == SUPPRESSED:
        settled &= FIN | RST
    else:
        packets.direction[i] = state[0]
        packets.profile_payload[i] = state[1]
    if protocol == IPPROTO_TCP:
        flags = transport[i, TCP_FLAGS]
        transport[i, TCP_FLAGS] = (flags & ~settled) | (state[2] & settled)


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


@numba.njit(cache=True)
def _sample_later(flow, i, row, is_idle, packets, table, weight):
    """Sample the payload of packet `i`, between opening and ending, with PSH, from those of its
    side, unless it was drawn as one of them; not to be without if it `is_idle`."""
    drawn = _drawn_packet(flow, i, packets)
    drawn_payload = drawn.length - drawn.header_bytes
    flags = drawn.flags & PSH
    first, end = table.starts[row], table.starts[row + 1]
    keys = table.keys[first:end]
    is_idle &= drawn_payload <= 0
    at = np.searchsorted(keys, key_of(drawn.side, drawn_payload, flags))
    is_known = at < len(keys) and keys[at] == key_of(drawn.side, drawn_payload, flags)
    if is_known and not is_idle:
        return
    end = first + np.searchsorted(keys, key_of(drawn.side + 1, np.int64(-1), 0))
    first += np.searchsorted(keys, key_of(drawn.side, np.int64(-1), 0))
    if first == end:
        return
    largest = table.states[end - 1, 1]
    for k in range(first, end):
        payload = table.states[k, 1]
        weight[k - first] = 0.0
        bits = np.int64(table.states[k, 2] != flags)
        if payload == SUPPRESSED:
            bits += SUPPRESSED_BITS
        else:
            bits += bits_apart(drawn.length, payload + drawn.header_bytes)
            if is_idle:
                bits += _IDLE_BITS * (payload == 0)
            elif (payload == 0) != (drawn_payload <= 0):
                bits += _CLASS_BITS
        if payload != SUPPRESSED or 0 < drawn_payload <= largest:
            weight[k - first] = table.share[k] * LIKELIHOOD[bits]
    u = uniform(flow.seed, FOR_PAYLOAD_LENGTH, LATER + i - flow.begin)
    k = index_at(weight, end - first, u)
    if k >= 0 and table.states[first + k, 1] != SUPPRESSED:
        packets.profile_payload[i] = table.states[first + k, 1]
        if is_idle and packets.profile_payload[i]:
            packets.state[i].same_length = 0
        if flow.protocol == IPPROTO_TCP:
            transport = packets.rows["transport"]
            pushed = table.states[first + k, 2]
            transport[i, TCP_FLAGS] = (transport[i, TCP_FLAGS] & ~PSH) | pushed
