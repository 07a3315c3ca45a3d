"""Count the steps of conversations, flow by flow.

Sequence numbers of a side are counted from its first, as int64 without end. A kernel adds to
counts (M, 2) int64: steps judged, and those of which the measure is true.

Shape letters: P packets, F flows, M measures, E ends of segments.
"""

import numba
import numpy as np

from netdiff_ray.evaluate.conversation_measures import (
    ACK_INSIDE,
    ACKS_MORE,
    ACKS_ONE,
    BEYOND_WINDOW,
    BURST,
    CLIENT_ACK_EARLY,
    CLIENT_ANSWER_EARLY,
    CLIENT_FIRST,
    COMMONEST_GAP,
    COMMONEST_SIZE,
    COUNT_CLASSES,
    DUPLICATE_ACK,
    EDGE_BACK,
    GAP,
    GAP_DECADES,
    OUT_OF_ORDER,
    RETRANSMITTED,
    RUN,
    SERVER_ACK_EARLY,
    SERVER_ANSWER_EARLY,
    WINDOW_JUMP,
    WINDOW_UPDATE,
)
from netdiff_ray.header_bytes import (
    ACK,
    FIN,
    RST,
    SYN,
    TCP_HEADER_BYTES,
    TCP_OPTION_END,
    TCP_OPTION_NOP,
    TCP_OPTION_WINDOW_SCALE,
)

BURST_GAP_NS = 10_000_000
"""Packets of a burst follow each other within it."""
MIN_REPEATS = 8
"""Fewest payloads, or gaps, of a sender that can show what repeats."""
_MAX_SCALE = 14
_GAP_BINS = 10

SIDE = np.dtype(
    [
        ("first_seq", "i8"), ("highest", "i8"), ("num_ends", "i8"), ("scale", "i8"),
        ("edge", "i8"), ("window", "i8"), ("acked", "i8"), ("half_ns", "i8"),
        ("is_known", "?"), ("has_acked", "?"),
    ]
)  # fmt: skip
"""What is known of a side: its first and highest sequence number, the right edge, the window and
the number of its last ACK, and the time from this capture to it and back (0 if unknown)."""


@numba.njit(cache=True)
def window_scales(rows, scales):
    """Write the window scale option of each of (P,) rows into scales (P,) int64, -1 without."""
    for i in range(len(rows)):
        options = rows[i].transport
        end = min(np.int64(rows[i].transport_len), len(options))
        at = TCP_HEADER_BYTES
        scales[i] = -1
        while at < end and options[at] != TCP_OPTION_END:
            if options[at] == TCP_OPTION_NOP:
                at += 1
                continue
            if at + 1 >= end or options[at + 1] < 2:
                break
            if options[at] == TCP_OPTION_WINDOW_SCALE and at + 2 < end:
                scales[i] = min(np.int64(options[at + 2]), _MAX_SCALE)
            at += np.int64(options[at + 1])


@numba.njit(cache=True)
def count_flows(steps, first, counts):
    """Count the steps of flows into counts (F, M, 2).

    Args:
        steps: Steps of (P,) packets.
        first: (F + 1,) int64 first packet of each flow.
        counts: as in the head of this module, for each flow.
    """
    most = 1
    for f in range(len(first) - 1):
        most = max(most, first[f + 1] - first[f])
    ends = np.zeros((2, most), np.int64)
    sent_ns = np.zeros((2, most), np.int64)
    has_data = np.zeros((2, most), np.bool_)
    scratch = np.zeros(most, np.int64)
    for f in range(len(first) - 1):
        begin, end = first[f], first[f + 1]
        if steps.is_tcp[begin]:
            _count_tcp(steps, begin, end, (ends, sent_ns, has_data), counts[f])
        _count_runs(steps, begin, end, counts[f])
        _count_gaps(steps, begin, end, counts[f])
        for side in range(2):
            _count_repeats(steps, (begin, end, side), scratch, counts[f])


@numba.njit(cache=True)
def _add(counts, measure, is_true):
    counts[measure, 0] += 1
    if is_true:
        counts[measure, 1] += 1


@numba.njit(cache=True)
def _class_of(count):
    """Return the class of a number of packets: 1; 2 or 3; 4 to 9; more."""
    return (count > 1) + (count > 3) + (count > 9)


@numba.njit(cache=True)
def _add_class(counts, first_measure, num_classes, value):
    """Count a step that is of the class `value`, and of no other, of some measures."""
    for k in range(num_classes):
        _add(counts, first_measure + k, k == value)


@numba.njit(cache=True)
def _count_tcp(steps, begin, end, segments, counts):
    """Count the steps of a TCP flow whose SYN was seen.

    Args:
        steps: Steps.
        begin: its first packet.
        end: after its last.
        segments: ends (2, E) int64, sorted, times (2, E) int64 of the first packet that ended
            there and whether it had data (2, E) bool: room for those of both sides.
        counts: (M, 2).
    """
    sides = np.zeros(2, SIDE)
    if not _opening(steps, begin, end, sides):
        return
    last_data = np.full(3, -1, np.int64)  # side, end and time of the last packet with data
    for i in range(begin, end):
        if not steps.is_tcp[i]:
            continue
        me = np.int64(steps.side[i])
        flags, payload_bytes = steps.flags[i], steps.payload_bytes[i]
        if not sides[me].is_known:
            sides[me].is_known = True
            sides[me].first_seq = steps.seq[i]
        ends = payload_bytes + ((flags & SYN) > 0) + ((flags & FIN) > 0)
        stop = _counted(steps.seq[i], sides[me]) + ends
        if flags & ACK and not flags & (SYN | RST) and sides[1 - me].is_known:
            _count_ack(steps, i, sides, segments, counts)
        if payload_bytes > 0:
            _count_data(steps, i, (me, stop), sides, segments, last_data, counts)
        _insert(segments, sides, me, stop, steps.ts_ns[i], payload_bytes > 0)
        if not flags & RST:
            sides[me].highest = max(sides[me].highest, stop)


@numba.njit(cache=True)
def _opening(steps, begin, end, sides):
    """Write window scales and half paths of both sides; return whether a SYN was seen."""
    syn, answer = -1, -1
    third = -1
    for i in range(begin, end):
        kind = steps.flags[i] & (SYN | ACK | RST)
        if kind == SYN and syn < 0:
            syn = i
        elif kind == SYN | ACK and answer < 0:
            answer = i
        elif kind == ACK and answer >= 0 and third < 0 and steps.side[i] != steps.side[answer]:
            third = i
    if syn < 0:
        return False
    if answer >= 0 and steps.scale[syn] >= 0 and steps.scale[answer] >= 0:
        sides[steps.side[syn]].scale = steps.scale[syn]
        sides[steps.side[answer]].scale = steps.scale[answer]
    if answer > syn and syn == begin:
        sides[steps.side[answer]].half_ns = steps.ts_ns[answer] - steps.ts_ns[syn]
        if third >= 0:
            sides[steps.side[syn]].half_ns = steps.ts_ns[third] - steps.ts_ns[answer]
    return True


@numba.njit(cache=True)
def _counted(number, side):
    """Return a sequence number counted from the side's first, near its highest so far."""
    ahead = (number - side.first_seq - side.highest) & 0xFFFFFFFF
    if ahead >= 1 << 31:
        ahead -= 1 << 32
    return side.highest + ahead


@numba.njit(cache=True)
def _place(segments, sides, side, stop):
    """Return where a segment that stops at `stop` stands in the sorted ends, or belongs."""
    return np.searchsorted(segments[0][side, : sides[side].num_ends], stop)


@numba.njit(cache=True)
def _is_end(segments, sides, side, stop):
    at = _place(segments, sides, side, stop)
    return at < sides[side].num_ends and segments[0][side, at] == stop


@numba.njit(cache=True)
def _insert(segments, sides, side, stop, ts_ns, is_data):
    """Add the end of a segment."""
    ends, sent_ns, has_data = segments
    at = _place(segments, sides, side, stop)
    if at < sides[side].num_ends and ends[side, at] == stop:
        if is_data and not has_data[side, at]:
            has_data[side, at], sent_ns[side, at] = True, ts_ns
        return
    for k in range(sides[side].num_ends, at, -1):
        ends[side, k], sent_ns[side, k] = ends[side, k - 1], sent_ns[side, k - 1]
        has_data[side, k] = has_data[side, k - 1]
    ends[side, at], sent_ns[side, at], has_data[side, at] = stop, ts_ns, is_data
    sides[side].num_ends += 1


@numba.njit(cache=True)
def _count_ack(steps, i, sides, segments, counts):
    """Count what the ACK of packet i shows, and note its window."""
    me = np.int64(steps.side[i])
    mine, peer = sides[me], sides[1 - me]
    ack = _counted(steps.ack[i], peer)
    window = steps.window[i] << mine.scale
    at = _place(segments, sides, 1 - me, ack)
    on_end = at < peer.num_ends and segments[0][1 - me, at] == ack
    _add(counts, ACK_INSIDE, not on_end)
    is_new = not mine.has_acked or ack != mine.acked
    is_pure = steps.payload_bytes[i] == 0 and not steps.flags[i] & FIN
    if mine.has_acked:
        _add(counts, EDGE_BACK, ack + window < mine.edge)
        if mine.window > 0:
            jumps = window + 1 > 2 * (mine.window + 1) or 2 * (window + 1) < mine.window + 1
            _add(counts, WINDOW_JUMP, jumps)
        if is_pure:
            repeats = not is_new and window == mine.window and peer.highest > ack
            _add(counts, DUPLICATE_ACK, repeats)
            _add(counts, WINDOW_UPDATE, not is_new and window != mine.window)
    if is_pure and ack > mine.acked:
        _count_acknowledged(segments, sides, 1 - me, (mine.acked, ack), counts)
    if on_end and segments[2][1 - me, at] and is_new and mine.half_ns > 0:
        elapsed_ns = steps.ts_ns[i] - segments[1][1 - me, at]
        early = SERVER_ACK_EARLY if me else CLIENT_ACK_EARLY
        _add(counts, early, 2 * elapsed_ns < mine.half_ns)
    mine.edge, mine.window, mine.acked, mine.has_acked = ack + window, window, ack, True


@numba.njit(cache=True)
def _count_acknowledged(segments, sides, sender, span, counts):
    """Count how many segments with data end in a span of newly acknowledged numbers."""
    after, until = span
    num_segments = 0
    for k in range(_place(segments, sides, sender, after + 1), sides[sender].num_ends):
        if segments[0][sender, k] > until:
            break
        num_segments += segments[2][sender, k]
    if num_segments:
        _add_class(counts, ACKS_ONE, ACKS_MORE - ACKS_ONE + 1, min(num_segments, 3) - 1)


@numba.njit(cache=True)
def _count_data(steps, i, segment, sides, segments, last_data, counts):
    """Count what packet i, a segment (side, end) with data, shows.

    Args:
        steps: Steps.
        i: number of the packet.
        segment: its side and where it stops.
        sides: (2,) SIDE.
        segments: as in `_count_tcp`.
        last_data: side, end and time of the last packet with data, which this one then is.
        counts: (M, 2).
    """
    me, stop = segment
    mine, peer = sides[me], sides[1 - me]
    is_known_end = _is_end(segments, sides, me, stop)
    _add(counts, RETRANSMITTED, is_known_end)
    _add(counts, OUT_OF_ORDER, not is_known_end and stop < mine.highest)
    if peer.has_acked:
        _add(counts, BEYOND_WINDOW, stop > peer.edge)
    if last_data[0] < 0:
        _add(counts, CLIENT_FIRST, me == 0)
    elif last_data[0] != me and mine.half_ns > 0 and mine.acked >= last_data[1]:
        early = SERVER_ANSWER_EARLY if me else CLIENT_ANSWER_EARLY
        _add(counts, early, 2 * (steps.ts_ns[i] - last_data[2]) < mine.half_ns)
    last_data[0], last_data[1], last_data[2] = me, stop, steps.ts_ns[i]


@numba.njit(cache=True)
def _count_runs(steps, begin, end, counts):
    """Count runs of packets with payload of one side."""
    side, length = -1, 0
    for i in range(begin, end):
        if not steps.has_payload[i]:
            continue
        if side >= 0 and steps.side[i] != side:
            _add_class(counts, RUN + COUNT_CLASSES * side, COUNT_CLASSES, _class_of(length))
            length = 0
        side = np.int64(steps.side[i])
        length += 1
    if side >= 0:
        _add_class(counts, RUN + COUNT_CLASSES * side, COUNT_CLASSES, _class_of(length))


@numba.njit(cache=True)
def _count_gaps(steps, begin, end, counts):
    """Count gaps between packets, and bursts."""
    length = 1
    for i in range(begin + 1, end):
        gap_ns = steps.ts_ns[i] - steps.ts_ns[i - 1]
        decade = 0
        limit_ns = 1_000_000
        while decade < GAP_DECADES - 1 and gap_ns >= limit_ns:
            decade += 1
            limit_ns *= 10
        _add_class(counts, GAP, GAP_DECADES, decade)
        if gap_ns > BURST_GAP_NS:
            _add_class(counts, BURST, COUNT_CLASSES, _class_of(length))
            length = 0
        length += 1
    _add_class(counts, BURST, COUNT_CLASSES, _class_of(length))


@numba.njit(cache=True)
def _count_repeats(steps, sender, scratch, counts):
    """Count payloads and gaps of a sender (first packet, end, side) that are the commonest."""
    begin, end, side = sender
    num_sizes = 0
    for i in range(begin, end):
        if steps.has_payload[i] and steps.side[i] == side:
            scratch[num_sizes] = steps.payload_bytes[i]
            num_sizes += 1
    _add_commonest(scratch[:num_sizes], counts, COMMONEST_SIZE)
    num_gaps, last_ns = 0, np.int64(-1)
    for i in range(begin, end):
        if steps.has_payload[i] and steps.side[i] == side:
            if last_ns >= 0:
                gap_us = max((steps.ts_ns[i] - last_ns) / 1000, 1.0)
                scratch[num_gaps] = np.int64(np.log10(gap_us) * _GAP_BINS)
                num_gaps += 1
            last_ns = steps.ts_ns[i]
    _add_commonest(scratch[:num_gaps], counts, COMMONEST_GAP)


@numba.njit(cache=True)
def _add_commonest(values, counts, measure):
    """Count values, and those that are the commonest, unless they are fewer than MIN_REPEATS."""
    if len(values) < MIN_REPEATS:
        return
    values.sort()
    run, most = 1, 1
    for k in range(1, len(values)):
        run = run + 1 if values[k] == values[k - 1] else 1
        most = max(most, run)
    counts[measure, 0] += len(values)
    counts[measure, 1] += most
