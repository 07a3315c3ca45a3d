"""The rule of TCP windows: a receiver's buffer that fills and drains.

Shape letters: P packets, S steps of windows.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ACK,
    FIN,
    IPPROTO_TCP,
    RST,
    SYN,
    TCP_FLAGS,
    TCP_WSIZE,
    get16,
    put16,
)
from netdiff_ray.labels.profile import OPENING_PACKETS
from netdiff_ray.labels.window_kinds import ANY_OCTAVE, UNOPENED, window_kind, window_octave
from netdiff_ray.labels.window_steps import window_step
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import MAX_ROWS, NOTHING_NEW, REPEATED_ACK, UNANSWERED, Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.lengths import scales
from netdiff_ray.repair.rules.profile import is_planned
from netdiff_ray.repair.rules.profile_sampling import bits_apart, sample_word, uniform
from netdiff_ray.repair.rules.profile_tables import window_row, window_table
from netdiff_ray.repair.splitmix import FOR_WINDOW

_LARGEST = 65_535


def tcp_window(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle windows that hold what is sent into them and never take back what they offered
    (RFC 9293 section 3.8.6), scaled after the handshake (RFC 7323), and never 0.

    A window smaller than these allow is the smallest that they allow: it shrinks by what
    arrived. An acknowledgement that is stuck and no keep-alive updates the window by the least
    there is. A packet that is drawn with the window of its side's packet before has it, if these
    allow. A RST advertises as drawn, but where a lone byte is sent after one without ACK, its
    window is not 0 either: readers would take the byte for a probe of a shut window (section
    3.8.6.1).

    Where the label's profile says how windows of a side go on after the handshake, the drawn bits
    are evidence: unless it is drawn which windows repeat, of whether the side keeps the window,
    which is then one of its windows in the profile; and, if it does not, of each step. Windows of
    the profile are those of hosts with the same scale and as large a first window (see
    `labels.window_kinds`).
    """
    table = window_table(context.profile)
    _tcp_window(batch.flows, batch.packets, batch.plans.window, table, layout.has_state)


class _Buffer(NamedTuple):
    """The receive buffers of both sides; each (2,)."""

    shift: np.ndarray
    """int64: of the side's windows after the handshake."""
    edge: np.ndarray
    """int64: bytes of the other side that it has offered to take, where it has a window before."""
    before: np.ndarray
    """int64: the last window after the handshake, as in the header; -1 before the first."""
    last: np.ndarray
    """int64: the window of the last packet, whatever it is; -1 before the first."""
    steady: np.ndarray
    """int64: the window that the side keeps, but for updates; -1 if it does not."""
    kind: np.ndarray
    """int64: the kind of host, see `window_kind`."""


class _Room(NamedTuple):
    """What bounds the windows of a flow's packets."""

    updates: np.ndarray
    """(MAX_ROWS,) int64: how many window updates follow a packet before its side acknowledges
    anything new."""
    lone: np.ndarray
    """(MAX_ROWS,) bool: a lone byte follows a RST without ACK."""


@numba.njit(cache=True)
def _tcp_window(flows, packets, planned, table, has_state):
    transport, transport_len = packets.rows["transport"], packets.rows["transport_len"]
    buffers = _Buffer(
        np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64),
        np.empty(2, np.int64), np.empty(2, np.int64),
    )  # fmt: skip
    room = _Room(np.empty(MAX_ROWS, np.int64), np.empty(MAX_ROWS, np.bool_))
    weight = np.empty(max(len(table.opening.values), 1))
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin, end, seed = flows.starts[f], flows.starts[f + 1], flows.seed[f]
        scales(begin, end, flows.opens[f], transport, transport_len, buffers.shift)
        _look_ahead(begin, end, packets, room)
        _settle_syns(flows, f, packets, planned, buffers, table.opening, weight)
        for side in range(2):
            buffers.steady[side] = -1
            if not has_state:
                buffers.steady[side] = _steady_window(
                    (begin, end, side), seed, packets, buffers, table, weight
                )
        _sample_opening(flows, f, packets, buffers, table.opening, weight)
        _advertise(begin, end, packets, buffers, room, table)


@numba.njit(cache=True)
def _advertises(flags):
    """Return whether a segment's window is that of its sender's buffer after the handshake."""
    return flags & ACK != 0 and flags & (SYN | RST) == 0


@numba.njit(cache=True)
def _look_ahead(begin, end, packets, room):
    """Fill `room`."""
    transport = packets.rows["transport"]
    updates = np.zeros(2, np.int64)
    lone = np.zeros(2, np.bool_)
    for i in range(end - 1, begin - 1, -1):
        side = np.int64(packets.direction[i])
        flags = transport[i, TCP_FLAGS]
        room.lone[i - begin] = lone[side] and not flags & (ACK | SYN)
        room.updates[i - begin] = 0
        if _advertises(flags):
            room.updates[i - begin] = updates[side]
            updates[side] = updates[side] + 1 if packets.stuck[i] == NOTHING_NEW else 0
        lone[side] = False
        lone[1 - side] |= packets.payload_bytes[i] == 1


@numba.njit(cache=True)
def _least(i, packets, shift):
    """Return the smallest window that holds what is sent into packet `i`'s."""
    needed = packets.promised[i] - max(packets.acknowledged[i], 0)
    return min((needed >> shift) + 1, _LARGEST) if needed > 0 else np.int64(0)


@numba.njit(cache=True)
def _settle_syns(flows, f, packets, planned, buffers, table, weight):
    """Settle the windows of the SYNs of flow `f`, and the kinds of its hosts.

    A window that is `planned` (N, 2) stands, and so does one of the WordTable.
    """
    transport = packets.rows["transport"]
    begin = flows.starts[f]
    buffers.kind[:] = window_kind(UNOPENED, ANY_OCTAVE)
    if flows.half[f] == UNANSWERED:
        for i in range(begin + 1, flows.starts[f + 1]):
            put16(transport, i, TCP_WSIZE, get16(transport, begin, TCP_WSIZE))
    if not flows.opens[f]:
        return
    for i in range(begin, min(begin + 2, flows.starts[f + 1])):
        if not transport[i, TCP_FLAGS] & SYN:
            continue
        side = i - begin
        window = np.int64(get16(transport, i, TCP_WSIZE))
        row = window_row(side, side, window_kind(0, ANY_OCTAVE), table)
        values = table.values[table.starts[row] : table.starts[row + 1]]
        if not is_planned(flows, f, i, planned) and not (values == window).any():
            u = uniform(flows.seed[f], FOR_WINDOW, side)
            window = np.int64(sample_word(window, row, table, weight, u))
        window = max(window, _least(i, packets, 0))
        put16(transport, i, TCP_WSIZE, window)
        buffers.kind[side] = window_kind(buffers.shift[side], window_octave(window))


@numba.njit(cache=True)
def _steady_window(span, seed, packets, buffers, table, weight):
    """Return the window that a side keeps after the handshake; -1 if it keeps none.

    Args:
        span: first packet, packet after the last, side.
    """
    begin, end, side = span
    shift, kind = buffers.shift[side], buffers.kind[side]
    transport = packets.rows["transport"]
    if not table.is_known[side]:
        return np.int64(-1)
    votes = np.zeros(16, np.int64)
    number, least, updates, count = np.int64(-1), np.int64(1), np.int64(0), 0
    for i in range(begin, end):
        if packets.direction[i] != side or not _advertises(transport[i, TCP_FLAGS]):
            continue
        updates += packets.stuck[i] == NOTHING_NEW
        window = (get16(transport, i, TCP_WSIZE) - updates) & _LARGEST
        for b in range(16):
            votes[b] += (window >> b) & 1
        least = max(least, _least(i, packets, shift))
        if number < 0:
            number = min(i - begin, OPENING_PACKETS - 1)
        count += 1
    if count == 0:
        return np.int64(-1)
    kept = np.int64(0)
    for b in range(16):
        kept |= np.int64(2 * votes[b] > count) << b
    if not _is_steady(span, packets, kept, table):
        return np.int64(-1)
    kept = max(kept, least)
    if not _is_known(kept, side, kind, table.opening):
        row = window_row(number, side, kind, table.opening)
        u = uniform(seed, FOR_WINDOW, OPENING_PACKETS + side)
        sampled = sample_word(kept, row, table.opening, weight, u)
        kept = sampled if sampled >= least else kept
    return min(kept, _LARGEST - updates)


@numba.njit(cache=True)
def _is_steady(span, packets, kept, table):
    """Return whether a side that keeps a window is likelier than a side that changes it, given
    the drawn windows of a span (first packet, packet after the last, side)."""
    begin, end, side = span
    transport = packets.rows["transport"]
    keeps, changes = table.steady_cost[side], table.changing_cost[side]
    before, updates = np.int64(-1), np.int64(0)
    for i in range(begin, end):
        if packets.direction[i] != side or not _advertises(transport[i, TCP_FLAGS]):
            continue
        updates += packets.stuck[i] == NOTHING_NEW
        window = (get16(transport, i, TCP_WSIZE) - updates) & _LARGEST
        keeps += bits_apart(window, kept)
        if before >= 0:
            same = table.step_cost[side, 0] + bits_apart(window, before)
            changes += min(same, table.step_cost[side, window_step(before, window)])
        before = window
    return keeps <= changes


@numba.njit(cache=True)
def _is_known(window, side, kind, table):
    """Return whether any packet of a side has a window, of hosts of a kind in a WordTable."""
    for number in range(OPENING_PACKETS):
        row = window_row(number, side, kind, table)
        for k in range(table.starts[row], table.starts[row + 1]):
            if table.values[k] == window:
                return True
    return False


@numba.njit(cache=True)
def _sample_opening(flows, f, packets, buffers, table, weight):
    """Sample the windows of the opening of flow `f` unless all are in the WordTable; those of a
    side that keeps a window, and those of SYNs, are settled."""
    transport, direction = packets.rows["transport"], packets.direction
    begin = flows.starts[f]
    end = min(flows.starts[f + 1], begin + OPENING_PACKETS)
    stand = True
    for i in range(begin, end):
        side = np.int64(direction[i])
        row = window_row(i - begin, side, buffers.kind[side], table)
        values = table.values[table.starts[row] : table.starts[row + 1]]
        settled = transport[i, TCP_FLAGS] & SYN != 0
        settled |= buffers.steady[side] >= 0 and _advertises(transport[i, TCP_FLAGS])
        stand &= settled or (values == get16(transport, i, TCP_WSIZE)).any()
    if stand:
        return
    for i in range(begin, end):
        if transport[i, TCP_FLAGS] & SYN:
            continue
        side = np.int64(direction[i])
        row = window_row(i - begin, side, buffers.kind[side], table)
        u = uniform(flows.seed[f], FOR_WINDOW, i - begin)
        window = sample_word(get16(transport, i, TCP_WSIZE), row, table, weight, u)
        put16(transport, i, TCP_WSIZE, window)


@numba.njit(cache=True)
def _advertise(begin, end, packets, buffers, room, table):
    """Write the windows of a flow."""
    transport = packets.rows["transport"]
    buffers.edge[:] = 0
    buffers.before[:] = -1
    buffers.last[:] = -1
    for i in range(begin, end):
        side = np.int64(packets.direction[i])
        flags = transport[i, TCP_FLAGS]
        window = get16(transport, i, TCP_WSIZE)
        last = buffers.last[side]
        repeats = packets.state[i].same_window or packets.stuck[i] == REPEATED_ACK
        repeats = repeats and last >= 0 and not flags & SYN
        if repeats:
            window = last
        if not _advertises(flags):
            least = _least(i, packets, buffers.shift[side] if not flags & SYN else 0)
            window = max(window, least, np.int64(room.lone[i - begin]))
            put16(transport, i, TCP_WSIZE, window)
            buffers.last[side] = window
            continue
        shift, acknowledged = buffers.shift[side], packets.acknowledged[i]
        before = buffers.before[side]
        least = max(_least(i, packets, shift), np.int64(flags & FIN == 0))
        if buffers.steady[side] < 0:
            window = min(window, _LARGEST - room.updates[i - begin])
        if before >= 0:
            # A window is rounded down to what its scale can say (RFC 7323 section 2.3).
            held = buffers.edge[side] - acknowledged
            if window < held >> shift:
                least = max(least, -((-held) >> shift))
        if buffers.steady[side] >= 0:
            if packets.stuck[i] == NOTHING_NEW:
                buffers.steady[side] += 1
            window = max(buffers.steady[side], least)
        else:
            window = max(window, least)
            if before >= 0 and table.is_known[side] and not repeats:
                same = max(before, least)
                stays = table.step_cost[side, 0] + bits_apart(window, same)
                if stays < table.step_cost[side, window_step(before, window)]:
                    window = same
            if packets.stuck[i] == NOTHING_NEW and window == last:
                window = last + 1 if last < _LARGEST else last - 1
        window = min(window, _LARGEST)
        put16(transport, i, TCP_WSIZE, window)
        buffers.before[side] = window
        buffers.last[side] = window
        buffers.edge[side] = acknowledged + (window << shift)
