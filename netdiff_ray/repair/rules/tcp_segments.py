"""Which TCP segments go on, which are sent again, and which leave a hole before them.

Shape letters: P packets.
"""

import numba
import numpy as np

from netdiff_ray.flow_state import AFTER_HOLE, AGAIN, IN_ORDER
from netdiff_ray.header_bytes import FIN, PSH, RST, SYN, TCP_FLAGS
from netdiff_ray.labels.loss import (
    KEEP_ALIVE_BYTES,
    LOSSLESS,
    MOST_LOSS,
    UNPLANNED_LOSS,
    loss_of,
)
from netdiff_ray.repair.batch import KEEP_ALIVE
from netdiff_ray.repair.rules.profile_sampling import uniform
from netdiff_ray.repair.splitmix import FOR_LOSS

FILLS = 3
"""In `PacketColumns.state`, beside those of `flow_state`: a segment that fills the oldest hole."""
_NEW_COPY = 4
_MOST_ROUNDS = 4
"""How often copies are changed: a copy that goes may have filled a hole, on which others rest."""


@numba.njit(cache=True)
def settle_segments(begin, end, packets):
    """Settle `state.sequence` and `hole_bytes` of the packets of a TCP flow, and which are
    keep-alives.

    A hole is as long as the next segment of its side that is sent again, which fills it, and at
    most as long as `hole_bytes` says before; without such there is none. Another segment without
    data that is sent again is a keep-alive (RFC 9293 section 3.8.4) of data that its side has sent,
    or has the FIN once more. A segment of more data than was sent cannot be sent again and goes on.
    """
    sequence, hole_bytes = packets.state["sequence"], packets.hole_bytes
    payload_bytes, transport = packets.payload_bytes, packets.rows["transport"]
    last_new = np.full(2, -1)
    for i in range(begin, end):
        if transport[i, TCP_FLAGS] & (SYN | RST):
            sequence[i] = IN_ORDER
        if payload_bytes[i] and sequence[i] != AGAIN:
            last_new[packets.direction[i]] = i
        elif sequence[i] == AFTER_HOLE:
            sequence[i] = IN_ORDER
    next_again = np.full(2, begin)
    sent = np.zeros(2, np.int64)
    moved = np.zeros(2, np.bool_)
    finished = np.zeros(2, np.bool_)
    for i in range(begin, end):
        side = np.int64(packets.direction[i])
        flags = transport[i, TCP_FLAGS]
        if sequence[i] == AFTER_HOLE:
            filler = _next_again(max(next_again[side], i + 1), end, side, packets)
            next_again[side] = filler
            if filler < end and payload_bytes[filler] <= hole_bytes[i] and moved[side]:
                next_again[side] = filler + 1
                sequence[filler] = FILLS
                hole_bytes[i] = payload_bytes[filler]
            else:
                sequence[i] = IN_ORDER
        if sequence[i] == AGAIN:
            _settle_again(i, packets, sent[side], finished[side])
        if sequence[i] != AFTER_HOLE:
            hole_bytes[i] = 0
        if sequence[i] in (IN_ORDER, AFTER_HOLE):
            grown = payload_bytes[i] + hole_bytes[i]
            sent[side] += grown
            moved[side] |= grown > 0 or flags & (SYN | FIN) != 0
        finished[side] |= (
            flags & FIN != 0 and i >= last_new[side] and sequence[i] in (IN_ORDER, AFTER_HOLE)
        )


@numba.njit(cache=True)
def _next_again(begin, end, side, packets):
    """Return the first segment with data that a side sends again; `end` if there is none."""
    for i in range(begin, end):
        again = packets.state["sequence"][i] == AGAIN and packets.payload_bytes[i] > 0
        if again and packets.direction[i] == side:
            return i
    return end


@numba.njit(cache=True)
def _settle_again(i, packets, sent, finished):
    """Settle packet `i`, which fills no hole but is drawn to be sent again.

    Args:
        sent: bytes of data that its side has sent.
        finished: whether it has sent a FIN.
    """
    sequence, payload_bytes = packets.state["sequence"], packets.payload_bytes
    flags = packets.rows["transport"][i, TCP_FLAGS]
    if payload_bytes[i] == 0:
        if flags & FIN:
            sequence[i] = AGAIN if finished else IN_ORDER
        elif sent and not finished:
            packets.stuck[i] = KEEP_ALIVE
        else:
            sequence[i] = IN_ORDER
    elif payload_bytes[i] > sent or (flags & FIN and not finished):
        sequence[i] = IN_ORDER
        if finished:
            payload_bytes[i] = 0
    elif payload_bytes[i] == 1 and not flags & (PSH | FIN) and not finished:
        packets.stuck[i] = KEEP_ALIVE


@numba.njit(cache=True)
def settle_loss(begin, end, packets, planned, seed):
    """Give a TCP flow, whose segments are settled, as many that are sent again as its planned loss
    asks for.

    A flow of the planned loss stands as drawn. If too many are sent again, or too few, those to
    change are drawn from the seed; a segment that becomes a copy is as long as its side's new
    segment before.

    Args:
        begin, end: first packet of the flow, and the one after its last.
        packets: PacketColumns; `state`, `payload_bytes`, `hole_bytes` and `stuck` are changed.
        planned: a class of `labels.loss`, or UNPLANNED_LOSS.
        seed: uint64, of the flow.
    """
    if planned == UNPLANNED_LOSS:
        return
    for _ in range(_MOST_ROUNDS):
        num_segments, num_again = 0, 0
        for i in range(begin, end):
            num_segments += packets.payload_bytes[i] > 0
            num_again += _is_copy(i, packets)
        if loss_of(num_again, num_segments) == planned:
            return
        wanted = _num_copies(planned, num_segments, seed)
        removes = num_again > wanted
        if not _change_copies(begin, end, packets, seed, abs(wanted - num_again), removes):
            return
        for i in range(begin, end):
            if packets.state["sequence"][i] == FILLS:
                packets.state["sequence"][i] = AGAIN
            if packets.stuck[i] == KEEP_ALIVE:
                packets.stuck[i] = 0
        settle_segments(begin, end, packets)


@numba.njit(cache=True)
def _is_copy(i, packets):
    """Return whether a segment with data is sent again, and is no keep-alive."""
    sequence = packets.state["sequence"][i]
    return (
        sequence in (AGAIN, FILLS)
        and packets.payload_bytes[i] > KEEP_ALIVE_BYTES
        and packets.stuck[i] != KEEP_ALIVE
    )


@numba.njit(cache=True)
def _num_copies(planned, num_segments, seed):
    """Return how many segments are sent again: a share drawn within the octave of the loss."""
    if planned == LOSSLESS:
        return 0
    share = 2.0 ** (planned - MOST_LOSS - 1 + uniform(seed, FOR_LOSS, 0))
    return max(1, int(np.floor(share * num_segments + uniform(seed, FOR_LOSS, 1))))


@numba.njit(cache=True)
def _change_copies(begin, end, packets, seed, number, removes):
    """Make `number` copies go on in order if `removes`, else as many segments copies, as far as
    there are such, and return how many.

    A segment can become a copy if it goes on with data alone and its side has sent data before.
    """
    sequence, payload_bytes = packets.state["sequence"], packets.payload_bytes
    flags = packets.rows["transport"][:, TCP_FLAGS]
    before = np.full(2, -1)
    places = np.full(end - begin, 2.0)
    for i in range(begin, end):
        side = np.int64(packets.direction[i])
        goes_on = sequence[i] in (IN_ORDER, AFTER_HOLE) and payload_bytes[i] > 0
        fits = sequence[i] == IN_ORDER and min(payload_bytes[i], before[side]) > KEEP_ALIVE_BYTES
        fits = fits and not flags[i] & (SYN | FIN | RST)
        if _is_copy(i, packets) if removes else fits:
            places[i - begin] = uniform(seed, FOR_LOSS, 2 + i - begin)
        if goes_on:
            before[side] = payload_bytes[i]
    chosen = 0
    for k in np.argsort(places)[:number]:
        if places[k] < 1.0:
            sequence[begin + k] = IN_ORDER if removes else _NEW_COPY
            chosen += 1
    before[:] = -1
    for i in range(begin, end):
        side = np.int64(packets.direction[i])
        if sequence[i] == _NEW_COPY:
            sequence[i] = AGAIN
            payload_bytes[i] = before[side]
        elif sequence[i] in (IN_ORDER, AFTER_HOLE) and payload_bytes[i] > 0:
            before[side] = payload_bytes[i]
    return chosen
