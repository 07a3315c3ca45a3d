"""Sample the payloads of a flow's packets between its opening and its ending from its label's
profile.

Shape letters: S states (payloads of a packet number).
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import IPPROTO_TCP, PSH, TCP_FLAGS
from netdiff_ray.labels.profile import LATER, SUPPRESSED
from netdiff_ray.repair.rules.idle_segments import (
    drawn_packet,
    follows_all,
    is_idle,
    settled_segment,
)
from netdiff_ray.repair.rules.profile_sampling import (
    LIKELIHOOD,
    SUPPRESSED_BITS,
    bits_apart,
    index_at,
    uniform,
)
from netdiff_ray.repair.rules.profile_tables import key_of
from netdiff_ray.repair.splitmix import FOR_PAYLOAD_LENGTH

_CLASS_BITS = 4
"""Bits by which a packet without payload counts as wrong for a packet with payload, and the other
way round, between opening and ending, where no neighbours help."""
_IDLE_BITS = 8
"""Bits by which a segment without data counts as wrong where the other side has sent nothing that
it could acknowledge: of real ones one of 200 is so."""


@numba.njit(cache=True)
def sample_later(flow, i, row, packets, table, weight, said):
    """Settle the payload of packet `i`, between opening and ending.

    A segment without data that has nothing to acknowledge gets some of the profile; if that has
    none and neither side has anything to acknowledge, as much as its side's last.

    Args:
        row: of the PayloadTable.
        weight: (S,) scratch.
        said: before the packet.
    """
    segment = settled_segment(flow, i, packets)
    says_nothing = flow.has_state and is_idle(segment, packets.state[i], said.waiting)
    if says_nothing and follows_all(flow) and not said.last_bytes[segment.side]:
        packets.state[i].same_length = 0
    _sample(flow, i, row, says_nothing, packets, table, weight)
    if flow.has_state and packets.state[i].same_length:
        packets.profile_payload[i] = said.last_bytes[packets.direction[i]]
    if says_nothing and follows_all(flow) and not said.waiting[1 - segment.side]:
        _repeat_data(flow, i, packets, said.last_data)


@numba.njit(cache=True)
def _repeat_data(flow, i, packets, last_data):
    """Give packet `i`, if it is without data, as much as its side's last segment with data has."""
    segment = settled_segment(flow, i, packets)
    if segment.payload_bytes == 0 and last_data[segment.side]:
        packets.profile_payload[i] = last_data[segment.side]


@numba.njit(cache=True)
def _sample(flow, i, row, says_nothing, packets, table, weight):
    """Sample the payload of packet `i`, between opening and ending, with PSH, from those of its
    side, unless it was drawn as one of them; not to be without if it `says_nothing` else."""
    drawn = drawn_packet(flow, i, packets)
    drawn_payload = drawn.length - drawn.header_bytes
    flags = drawn.flags & PSH
    first, end = table.starts[row], table.starts[row + 1]
    keys = table.keys[first:end]
    says_nothing &= drawn_payload <= 0
    at = np.searchsorted(keys, key_of(drawn.side, drawn_payload, flags))
    is_known = at < len(keys) and keys[at] == key_of(drawn.side, drawn_payload, flags)
    if is_known and not says_nothing:
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
            if says_nothing:
                bits += _IDLE_BITS * (payload == 0)
            elif (payload == 0) != (drawn_payload <= 0):
                bits += _CLASS_BITS
        if payload != SUPPRESSED or 0 < drawn_payload <= largest:
            weight[k - first] = table.share[k] * LIKELIHOOD[bits]
    u = uniform(flow.seed, FOR_PAYLOAD_LENGTH, LATER + i - flow.begin)
    k = index_at(weight, end - first, u)
    if k >= 0 and table.states[first + k, 1] != SUPPRESSED:
        packets.profile_payload[i] = table.states[first + k, 1]
        if says_nothing and packets.profile_payload[i]:
            packets.state[i].same_length = 0
        if flow.protocol == IPPROTO_TCP:
            transport = packets.rows["transport"]
            pushed = table.states[first + k, 2]
            transport[i, TCP_FLAGS] = (transport[i, TCP_FLAGS] & ~PSH) | pushed
