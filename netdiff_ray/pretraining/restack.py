"""Give the packets of a captured window the stacks and the path of another plan.

What a plan says is rewritten, and what follows from it: lengths from options, later windows from
scales and first windows, gaps that wait for the other side from the round trips. All other cells
stay.

Shape letters: P packets, W columns.
"""

import numpy as np

from netdiff_ray.fields import FIELD_NAMED
from netdiff_ray.header_bytes import (
    IPPROTO_TCP,
    TCP_HEADER_BYTES,
    TCP_OPTION_END,
    TCP_OPTION_NOP,
    TCP_OPTION_SACK,
    TCP_OPTION_TIMESTAMPS,
    TCP_OPTION_WINDOW_SCALE,
)
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.labels.path import UNPLANNED_PATH
from netdiff_ray.labels.stack import (
    MAX_OPTION_BYTES,
    NO_SYN,
    OPTION_BYTES,
    UNKNOWN,
    UNKNOWN_OPTIONS,
    FlowStack,
    option_places,
    options_text,
)
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import CODE_BYTES, level_of_bytes, levels_of, nanoseconds_of

TIMESTAMPS = bytes(
    [TCP_OPTION_NOP, TCP_OPTION_NOP, TCP_OPTION_TIMESTAMPS, OPTION_BYTES[TCP_OPTION_TIMESTAMPS]]
) + bytes(OPTION_BYTES[TCP_OPTION_TIMESTAMPS] - 2)
"""The option of packets after the handshake, as RFC 7323 appendix A recommends it."""
_MOST_WORD = 65_535
_MOST_LIFETIME = 255
_WAITED = 0.7
"""A gap of at least so much of the round trip to a side before its packet is one that waited for
it."""
_SAME_GAP_PARTS = 8
"""Gaps are the same if they differ by at most this part of the longer."""


def restack(
    nprint: np.ndarray, layout: Layout, before: PlannedWindow, after: PlannedWindow
) -> np.ndarray:
    """Return a window's nprint as it would have been captured between other hosts.

    Args:
        nprint: (P, W) int8.
        layout: of W columns, direction and time among them.
        before: the window's plan.
        after: the same but for hosts' lifetimes, DF bits, traffic classes, options and windows,
            headers that follow from these, and path. UNKNOWN in either leaves what stands.

    Returns:
        (P, W) int8.
    """
    out = nprint.copy()
    sender = field_values(nprint, layout, "flow_direction") > 0
    version, protocol = before.stack.protocols
    for side in range(2):
        _rewrite_network(out, layout, version, sender == side, before, after, side)
    if protocol == IPPROTO_TCP:
        _rewrite_options(out, layout, sender, before.stack, after.stack)
        _rewrite_windows(out, layout, sender, before.stack, after.stack)
    if UNPLANNED_PATH not in (before.path, after.path) and before.path != after.path:
        _rewrite_times(out, layout, sender, before, after)
    _rewrite_repeats(nprint, out, layout, sender)
    return out


def field_values(nprint: np.ndarray, layout: Layout, field: str) -> np.ndarray:
    """Return the values of a field, (P,) int64, UNKNOWN where it is vacant."""
    bits = nprint[:, layout.columns(field)]
    weights = 1 << np.arange(bits.shape[1], dtype=np.int64)[::-1]
    return np.where((bits == VACANT).any(1), UNKNOWN, (bits == 1) @ weights)


def put_field(
    nprint: np.ndarray, layout: Layout, field: str, rows: np.ndarray, values: np.ndarray
) -> None:
    """Write values into a field of chosen rows.

    Args:
        nprint: (P, W) int8, changed in place.
        layout: of W columns.
        field: its name.
        rows: (P,) bool, n of which are chosen.
        values: (n,) int64.
    """
    places = np.arange(FIELD_NAMED[field].width)[::-1]
    nprint[rows, layout.columns(field)] = np.asarray(values)[:, None] >> places & 1


def packet_options(nprint: np.ndarray, layout: Layout) -> list[bytes]:
    """Return the TCP options of each packet."""
    cells = nprint[:, layout.columns("tcp_opt")]
    octets = np.packbits(cells == 1, axis=1)
    sizes = (cells != VACANT).sum(1) // 8
    return [row[:size].tobytes() for row, size in zip(octets, sizes.tolist(), strict=True)]


def answered(stack: FlowStack) -> bool:
    """Return whether both sides' options are known, so that it is too what they agree on."""
    return not {stack.client_options, stack.server_options} & {NO_SYN, UNKNOWN_OPTIONS}


def _of_side(stack: FlowStack, side: int, name: str) -> int | str:
    return getattr(stack, f"{('client', 'server')[side]}_{name}")


def _rewrite_network(
    out: np.ndarray,
    layout: Layout,
    version: int,
    sent: np.ndarray,
    before: PlannedWindow,
    after: PlannedWindow,
    side: int,
) -> None:
    """Rewrite lifetime, DF bit and traffic class in the packets that a side sent, (P,) bool."""
    lifetime, traffic_class = ("ipv4_ttl", "ipv4_tos") if version == 4 else ("ipv6_hl", "ipv6_tc")
    for field, name in (
        (lifetime, "lifetime"), (traffic_class, "traffic_class"), ("ipv4_dfbit", "dont_fragment"),
    ):  # fmt: skip
        old, new = (_of_side(sample.stack, side, name) for sample in (before, after))
        if old == new or UNKNOWN in (old, new):
            continue
        stands = field_values(out, layout, field)
        rows = sent & (stands != UNKNOWN)
        values = np.full(rows.sum(), new)
        if field == lifetime:  # a route that changes while the flow lasts changes likewise
            values = np.clip(stands[rows] + new - old, 1, _MOST_LIFETIME)
        put_field(out, layout, field, rows, values)


def _rewrite_options(
    out: np.ndarray, layout: Layout, sender: np.ndarray, before: FlowStack, after: FlowStack
) -> None:
    """Rewrite the options of SYNs, and put timestamps into later packets or take them out."""
    is_syn = field_values(out, layout, "tcp_syn") == 1
    is_reset = field_values(out, layout, "tcp_rst") == 1
    has_header = field_values(out, layout, "tcp_doff") != UNKNOWN
    had, has = before.has_timestamps, after.has_timestamps
    for row in np.flatnonzero(has_header & (is_syn | (had != has))).tolist():
        (options,) = packet_options(out[row : row + 1], layout)
        rewritten = options
        if is_syn[row]:
            old, new = (_of_side(stack, int(sender[row]), "options") for stack in (before, after))
            if options_text(options) == old and new not in (NO_SYN, UNKNOWN_OPTIONS):
                rewritten = bytes.fromhex(new)
        elif (had, has) == (1, 0):
            rewritten = without_timestamps(options)
        elif (had, has) == (0, 1) and not is_reset[row]:
            rewritten = TIMESTAMPS + options
        if rewritten != options:
            _put_options(out, layout, row, rewritten, len(rewritten) - len(options))


def without_timestamps(options: bytes) -> bytes:
    """Return the options of a packet after the handshake without timestamps: whole words of what
    else there is, NOPs first."""
    kept = b""
    at = 0
    while at < len(options) and options[at] != TCP_OPTION_END:
        if options[at] == TCP_OPTION_NOP:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2:
            return options
        if options[at] != TCP_OPTION_TIMESTAMPS:
            kept += options[at : at + size]
        at += size
    return bytes([TCP_OPTION_NOP]) * (-len(kept) % 4) + kept


def has_sack_blocks(options: bytes) -> bool:
    """Return whether the options of a packet after the handshake have SACK blocks (RFC 2018)."""
    rest = without_timestamps(options).lstrip(bytes([TCP_OPTION_NOP]))
    return rest[:1] == bytes([TCP_OPTION_SACK])


def _put_options(out: np.ndarray, layout: Layout, row: int, options: bytes, more: int) -> None:
    """Write a packet's options, their length and that of the packet, which has `more` bytes more
    than it had."""
    assert len(options) <= MAX_OPTION_BYTES
    assert len(options) % 4 == 0
    columns = layout.columns("tcp_opt")
    out[row, columns] = VACANT
    bits = np.unpackbits(np.frombuffer(options, np.uint8))
    out[row, columns.start : columns.start + len(bits)] = bits
    chosen = np.arange(len(out)) == row
    put_field(out, layout, "tcp_doff", chosen, [(TCP_HEADER_BYTES + len(options)) // 4])
    for field in ("ipv4_tl", "ipv6_len"):
        length = field_values(out[row : row + 1], layout, field)
        if length[0] != UNKNOWN:
            put_field(out, layout, field, chosen, length + more)


def _scale(stack: FlowStack, side: int) -> int:
    """Return the window scale that a side uses: 0 unless both offer scales (RFC 7323 section
    2.2)."""
    texts = stack.client_options, stack.server_options
    places = [option_places(text).get(TCP_OPTION_WINDOW_SCALE) for text in texts]
    if None in places:
        return 0
    return bytes.fromhex(texts[side])[places[side] + 2]


def _rewrite_windows(
    out: np.ndarray, layout: Layout, sender: np.ndarray, before: FlowStack, after: FlowStack
) -> None:
    """Rewrite the windows of SYNs; and of later packets, so that a side's windows keep their
    proportion to its first one, in bytes."""
    stands = field_values(out, layout, "tcp_wsize")
    is_syn = field_values(out, layout, "tcp_syn") == 1
    knows_scales = answered(before) and answered(after)
    for side in range(2):
        sent = (sender == side) & (stands != UNKNOWN)
        first, other = (_of_side(stack, side, "window") for stack in (before, after))
        if UNKNOWN in (first, other) or not first:
            first = other = 1
        rows = sent & is_syn & (stands == first)
        put_field(out, layout, "tcp_wsize", rows, np.full(rows.sum(), other))
        scales = [_scale(stack, side) if knows_scales else 0 for stack in (before, after)]
        if first == other and scales[0] == scales[1]:
            continue
        rows = sent & ~is_syn & (stands > 0)
        values = ((stands[rows] << scales[0]) * other // first) >> scales[1]
        put_field(out, layout, "tcp_wsize", rows, np.clip(values, 1, _MOST_WORD))


def _rewrite_times(
    out: np.ndarray,
    layout: Layout,
    sender: np.ndarray,
    before: PlannedWindow,
    after: PlannedWindow,
) -> None:
    """Rewrite the times of a handshake, and gaps that waited for a round trip to the side that
    sends next."""
    columns = layout.columns("flow_interarrival")
    level = _time_levels(out, layout)
    gap_ns = nanoseconds_of(level)
    old_ns, new_ns = (
        nanoseconds_of(np.array([sample.path.client_level, sample.path.server_level]))
        for sample in (before, after)
    )
    side = sender.astype(np.int64)
    turns = np.zeros(len(out), bool)
    turns[1:] = sender[1:] != sender[:-1]
    waited = turns & (gap_ns >= _WAITED * old_ns[side])
    spent_ns = np.maximum(gap_ns - old_ns[side], 0)
    changed = levels_of(np.where(waited, new_ns[side] + spent_ns, gap_ns))
    changed = np.where(waited & (old_ns[side] != new_ns[side]), changed, level)
    if before.window == 0:
        changed[1:3] = [after.path.server_level, after.path.client_level][: len(changed) - 1]
    out[:, columns] = np.unpackbits(CODE_BYTES[changed], axis=1)


def _time_levels(nprint: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the level of the time before each packet, (P,) int64."""
    code = np.packbits(nprint[:, layout.columns("flow_interarrival")] == 1, axis=1)
    return np.array([level_of_bytes(*row) for row in code], np.int64)


def _rewrite_repeats(
    nprint: np.ndarray, out: np.ndarray, layout: Layout, sender: np.ndarray
) -> None:
    """Rewrite whether packets repeat the window, or the gap, of their side's packet before, where
    the layout says so and windows or gaps have changed."""
    repeats = {"flow_same_window": _same_windows, "flow_same_gap": _same_gaps}
    for field in repeats.keys() & set(layout.fields):
        for side in range(2):
            rows = np.flatnonzero((sender == side) & (field_values(out, layout, field) != UNKNOWN))
            old, new = (repeats[field](cells, layout, rows) for cells in (nprint, out))
            changed = np.zeros(len(out), bool)
            changed[rows[len(rows) - len(new) :][old != new]] = True
            ones = (1 << FIELD_NAMED[field].width) - 1
            put_field(out, layout, field, changed, ones * new[old != new])


def _same_windows(nprint: np.ndarray, layout: Layout, rows: np.ndarray) -> np.ndarray:
    """Return whether a side's packets but the first, in `rows`, have the window of the one
    before."""
    windows = field_values(nprint, layout, "tcp_wsize")[rows]
    return windows[1:] == windows[:-1]


def _same_gaps(nprint: np.ndarray, layout: Layout, rows: np.ndarray) -> np.ndarray:
    """Return whether a side's packets but the first two, in `rows`, come as long after the one
    before as that after its own."""
    times_ns = np.cumsum(nanoseconds_of(_time_levels(nprint, layout)))[rows]
    gaps = np.diff(times_ns)
    difference, longer = np.abs(np.diff(gaps)), np.maximum(gaps[1:], gaps[:-1])
    return (gaps[:-1] > 0) & (_SAME_GAP_PARTS * difference <= longer)
