"""What packets do in their flows as bits of the `flow` header, each over several columns.

A yes or no stands in four or eight columns, of which the majority counts. The level of segments
newly acknowledged is Gray-coded, so that neighbouring levels differ in one bit, and each of its
four bits stands in four columns. A wrong cell is no error, and no error reaches another packet.

Shape letters: P packets, B bits.
"""

import numba
import numpy as np

from netdiff_ray.fields import BIT_IN_HEADER, FIELDS, HEADER_BITS
from netdiff_ray.flow_state import AFTER_HOLE, AGAIN, IN_ORDER, NUM_ACK_LEVELS, PACKET_STATE
from netdiff_ray.header_bytes import ONES, byte_of
from netdiff_ray.nprint.layouts import FLOW_FIELDS, Layout

FLOW_BYTES = HEADER_BITS["flow"] // 8
"""Bytes of the `flow` header."""
DIRECTION, INTERARRIVAL = byte_of("flow_direction"), byte_of("flow_interarrival")
_SEQUENCE, _ACKNOWLEDGED = byte_of("flow_retransmission"), byte_of("flow_acknowledged")
_SAME_LENGTH, _SAME_WINDOW, _SAME_GAP = (
    byte_of(f"flow_same_{what}") for what in ("length", "window", "gap")
)
_AGAIN_BYTE, _HOLE_BYTE = 0xF0, 0x0F
_COPIES = 4
"""Columns of each bit of a level."""


def _needs_tcp() -> np.ndarray:
    """Return (FLOW_BYTES,) bool: the bytes that are vacant unless a packet is of TCP."""
    needs = np.zeros(FLOW_BYTES, np.bool_)
    for field in FIELDS:
        if field.header == "flow" and field.needs == "tcp":
            at = BIT_IN_HEADER[field.name]
            needs[at // 8 : (at + field.width) // 8] = True
            needs[at // 8] = True
    return needs


NEEDS_TCP = _needs_tcp()


def _ack_bytes() -> np.ndarray:
    """Return (NUM_ACK_LEVELS, 2) uint8: the bytes of each level."""
    levels = np.arange(NUM_ACK_LEVELS)
    gray = levels ^ (levels >> 1)
    bits = (gray[:, None] >> np.arange(3, -1, -1)) & 1
    return np.packbits(np.repeat(bits, _COPIES, axis=1).astype(np.uint8), axis=1)


_ACK_BYTES = _ack_bytes()


@numba.njit(cache=True)
def fill_state_bytes(octets, state):
    """Write what a packet does, of PACKET_STATE, into the `flow` header, (FLOW_BYTES,) uint8."""
    octets[_SEQUENCE] = 0
    if state.sequence == AGAIN:
        octets[_SEQUENCE] = _AGAIN_BYTE
    elif state.sequence == AFTER_HOLE:
        octets[_SEQUENCE] = _HOLE_BYTE
    octets[_ACKNOWLEDGED] = _ACK_BYTES[state.acknowledged, 0]
    octets[_ACKNOWLEDGED + 1] = _ACK_BYTES[state.acknowledged, 1]
    octets[_SAME_LENGTH] = 255 if state.same_length else 0
    octets[_SAME_WINDOW] = 255 if state.same_window else 0
    octets[_SAME_GAP] = 255 if state.same_gap else 0


@numba.njit(cache=True)
def read_state_bytes(octets, state):
    """Read what a packet does from its `flow` header into `state`; of bits whose columns disagree,
    what most columns hold."""
    again = ONES[octets[_SEQUENCE] & _AGAIN_BYTE]
    hole = ONES[octets[_SEQUENCE] & _HOLE_BYTE]
    state.sequence = IN_ORDER
    if 2 * max(again, hole) > _COPIES:
        state.sequence = AGAIN if again >= hole else AFTER_HOLE
    word = np.int64(octets[_ACKNOWLEDGED]) << 8 | np.int64(octets[_ACKNOWLEDGED + 1])
    level = np.int64(0)
    bit = np.int64(0)
    for k in range(4):
        copies = ONES[word >> (4 * (3 - k)) & 15]
        bit ^= np.int64(2 * copies > _COPIES)
        level = level << 1 | bit
    state.acknowledged = level
    state.same_length = is_mostly_ones(octets[_SAME_LENGTH])
    state.same_window = is_mostly_ones(octets[_SAME_WINDOW])
    state.same_gap = is_mostly_ones(octets[_SAME_GAP])


def decode_states(nprint: np.ndarray, layout: Layout) -> np.ndarray:
    """Return what packets do in their flows, (P,) PACKET_STATE, from their cells, (P, B) int8.

    All is 0 where the layout does not have it.
    """
    bits = np.zeros((len(nprint), 8 * FLOW_BYTES), np.bool_)
    for name in set(FLOW_FIELDS) & set(layout.fields):
        columns = layout.columns(name)
        at = BIT_IN_HEADER[name]
        bits[:, at : at + columns.stop - columns.start] = nprint[:, columns] == 1
    states = np.zeros(len(nprint), PACKET_STATE)
    if layout.has_state:
        _read_states(np.packbits(bits, axis=1), states)
    return states


@numba.njit(cache=True)
def _read_states(octets, states):
    for i in range(len(states)):
        read_state_bytes(octets[i], states[i])


@numba.njit(cache=True)
def is_mostly_ones(byte):
    """Return 1 if more than half of the eight bits are, else 0."""
    return 1 if ONES[byte] > 4 else 0
