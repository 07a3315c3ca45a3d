"""Draw random hosts and paths for captured windows, so that a base learns to follow plans.

A base that is pretrained on a few hosts otherwise knows their lifetimes, options and windows by
heart, and puts them into flows of labels whose hosts are others. What a window shows sets limits:
a host whose packets have SACK blocks has permitted them, and an MSS is not less than the segments
that were sent.

Shape letters: P packets, W columns.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from netdiff_ray.header_bytes import (
    IPPROTO_ICMPV6,
    TCP_HEADER_BYTES,
    TCP_OPTION_END,
    TCP_OPTION_MSS,
    TCP_OPTION_NOP,
    TCP_OPTION_SACK_PERMITTED,
    TCP_OPTION_TIMESTAMPS,
    TCP_OPTION_WINDOW_SCALE,
)
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.labels.path import UNPLANNED_PATH, FlowPath
from netdiff_ray.labels.stack import (
    MAX_OPTION_BYTES,
    OPTION_BYTES,
    TIMESTAMPED,
    UNKNOWN,
    FlowStack,
    option_places,
)
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import levels_of
from netdiff_ray.pretraining.restack import (
    TIMESTAMPS,
    answered,
    field_values,
    has_sack_blocks,
    packet_options,
    restack,
)

_CHANGED = 0.75
"""Share of a window's attributes that are drawn anew, each by itself."""
_SYSTEM_SHARE = 0.6
"""Share of the SYNs whose options are in the order of a widespread system."""
_INITIAL_LIFETIMES, _LIFETIME_SHARES = (64, 128, 255, 32), (0.5, 0.3, 0.15, 0.05)
_MOST_HOPS = 24
_LEAST_ROUTED = 5
"""Lifetimes below it, as of multicast, are those of a protocol and not of a system."""
_DSCP_SHIFT, _ECN = 2, 3
_DSCP = (0, 0, 0, 0, 0, 2, 4, 8, 10, 18, 26, 34, 40, 46, 48)
"""Code points, best effort half as often as all else (RFC 2474, RFC 2597, RFC 3246)."""
_MSS = (
    536, 1220, 1240, 1300, 1340, 1350, 1360, 1380, 1388, 1400, 1410, 1412, 1420, 1424, 1428, 1430,
    1432, 1440, 1440, 1448, 1452, 1452, 1460, 1460, 1460, 1460, 8960, 65_495,
)  # fmt: skip
"""Of Ethernet, its tunnels and access networks, jumbo frames and the loopback interface."""
_WINDOWS = (
    4128, 5720, 5840, 8192, 8760, 14_600, 16_384, 17_520, 26_847, 26_883, 28_960, 29_200, 32_120,
    32_768, 42_340, 43_440, 43_690, 60_720, 62_727, 64_240, 64_240, 65_160, 65_392, 65_535, 65_535,
)  # fmt: skip
_MOST_WINDOW_SEGMENTS = 44
_SCALES = (0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 7, 8, 8, 9, 10)
_LONGEST_TIMED_SEGMENT = 1448
"""Payload of a full Ethernet frame with timestamps."""
_MOST_SEGMENT = 65_000
"""Longer ones, which network cards made of several, have no room for more options."""
_M, _N, _E = TCP_OPTION_MSS, TCP_OPTION_NOP, TCP_OPTION_END
_S, _T, _W = TCP_OPTION_SACK_PERMITTED, TCP_OPTION_TIMESTAMPS, TCP_OPTION_WINDOW_SCALE
_ORDERS = (
    (_M, _S, _T, _N, _W), (_M, _N, _W, _S, _T), (_M, _N, _W, _N, _N, _T, _S, _E, _E),
    (_M, _N, _W, _N, _N, _S), (_M, _N, _N, _S, _N, _W), (_M, _N, _N, _S), (_M,),
    (_M, _N, _W), (_M, _N, _N, _T), (_N, _N, _T, _M, _N, _W, _N, _N, _S), (_S, _T, _M, _N, _W),
)  # fmt: skip
"""Kinds of the options of SYNs of widespread systems, in their orders."""
_RANDOM_KINDS = ((_M, 0.97), (_S, 0.85), (_T, 0.6), (_W, 0.85))
_SHORTEST_NS, _LONGEST_NS = 20e3, 300e6
"""Round trips to a host on the same link, and around the world."""
_KNOWN_WINDOW = 0.9
"""Share of stacks with windows; those of rare stacks are not planned."""


class _Limits(NamedTuple):
    """What a window says of the options that its hosts may have."""

    segments: tuple[int, int]
    """Bytes of the longest segment that each side sent, options counted as data."""
    has_sack: bool
    takes_timestamps: bool
    """Whether packets have room for timestamps."""


def with_random_stack(
    nprint: np.ndarray, sample: PlannedWindow, layout: Layout, rng: np.random.Generator
) -> tuple[np.ndarray, PlannedWindow]:
    """Return a window and its plan with random hosts and a random path.

    Args:
        nprint: (P, W) int8, of one window.
        sample: its plan.
        layout: of W columns, direction and time among them.
        rng: draws; its state alone decides the result.
    """
    stack = _network(sample.stack, rng)
    if stack.opens == 1 and answered(stack):
        stack = _options(stack, _limits(nprint, layout), rng)
    after = replace(
        sample, stack=stack, headers=tuple(stack.headers.split()), path=_path(sample.path, rng)
    )
    rewritten = restack(nprint, layout, sample, after)
    if rng.random() >= _KNOWN_WINDOW:
        unknown = stack._replace(client_window=UNKNOWN, server_window=UNKNOWN)
        after = replace(after, stack=unknown)
    return rewritten, after


def _changes(rng: np.random.Generator) -> bool:
    return bool(rng.random() < _CHANGED)


def _choice(rng: np.random.Generator, values: Sequence[int]) -> int:
    return values[rng.integers(len(values))]


def _network(stack: FlowStack, rng: np.random.Generator) -> FlowStack:
    """Draw lifetimes, DF bits and traffic classes, as far as they are known."""
    drawn = {}
    for side in ("client", "server"):
        lifetime = getattr(stack, f"{side}_lifetime")
        is_neighbours = stack.protocols[1] == IPPROTO_ICMPV6  # hop limits have a meaning there
        if _changes(rng) and lifetime >= _LEAST_ROUTED and not is_neighbours:
            initial = int(rng.choice(_INITIAL_LIFETIMES, p=_LIFETIME_SHARES))
            hops = 0 if rng.random() < 0.3 else int(rng.integers(1, _MOST_HOPS + 1))
            drawn[f"{side}_lifetime"] = initial - hops
        if _changes(rng) and getattr(stack, f"{side}_dont_fragment") != UNKNOWN:
            drawn[f"{side}_dont_fragment"] = int(rng.random() < 0.6)
        traffic_class = getattr(stack, f"{side}_traffic_class")
        if _changes(rng) and traffic_class != UNKNOWN:
            drawn[f"{side}_traffic_class"] = (
                _choice(rng, _DSCP) << _DSCP_SHIFT | traffic_class & _ECN
            )
    return stack._replace(**drawn)


def _limits(nprint: np.ndarray, layout: Layout) -> _Limits:
    options = packet_options(nprint, layout)
    sizes = np.array([len(of_packet) for of_packet in options])
    doff = field_values(nprint, layout, "tcp_doff")
    later = field_values(nprint, layout, "tcp_syn") == 0
    is_server = field_values(nprint, layout, "flow_direction") > 0
    header = {"ipv4_tl": field_values(nprint, layout, "ipv4_hl") * 4, "ipv6_len": 0}
    segment = np.zeros(len(nprint), np.int64)
    for field, header_bytes in header.items():
        length = field_values(nprint, layout, field)
        in_segment = length - header_bytes - TCP_HEADER_BYTES
        segment = np.where((length != UNKNOWN) & (doff != UNKNOWN), in_segment, segment)
    return _Limits(
        tuple(int(segment[later & (is_server == side)].max(initial=0)) for side in (0, 1)),
        any(has_sack_blocks(of_packet) for of_packet in np.array(options, object)[later]),
        int(sizes[later].max(initial=0)) + len(TIMESTAMPS) <= MAX_OPTION_BYTES
        and int(segment.max()) < _MOST_SEGMENT,
    )


def _mss(text: str) -> int:
    """Return the MSS of a SYN's options, UNKNOWN without it."""
    at = option_places(text).get(TCP_OPTION_MSS)
    return UNKNOWN if at is None else int.from_bytes(bytes.fromhex(text)[at + 2 : at + 4])


def _options(stack: FlowStack, limits: _Limits, rng: np.random.Generator) -> FlowStack:
    """Draw the options and windows of a handshake, and whether later packets have timestamps.

    The MSS of a side to which full segments go stays, and with it the timestamps; segments beyond
    it, which network cards cut and join, do not limit it.
    """
    old_mss = [_mss(text) for text in (stack.client_options, stack.server_options)]
    sent_to = limits.segments[::-1]
    is_full = [sent == mss for sent, mss in zip(sent_to, old_mss, strict=True)]
    limit = [
        0 if mss != UNKNOWN and sent > mss else sent
        for sent, mss in zip(sent_to, old_mss, strict=True)
    ]
    had_timestamps = stack.has_timestamps == 1
    allowed, needed = {_M, _S, _T, _W}, set()
    if limits.has_sack:
        needed.add(_S)
    if any(is_full):
        needed.add(_M)
    timestamps_stay = any(is_full) or max(limit) > _LONGEST_TIMED_SEGMENT
    if had_timestamps and timestamps_stay:
        needed.add(_T)
    if not had_timestamps and (timestamps_stay or not limits.takes_timestamps):
        allowed.discard(_T)
    texts = []
    for side in (0, 1):
        if side:  # an answer has what was offered
            allowed &= {*option_places(texts[0]), _M}
        values = {_M: old_mss[side], _W: _choice(rng, _SCALES)}
        if not is_full[side]:
            least = limit[side] + (len(TIMESTAMPS) if _T in allowed else 0)
            values[_M] = _choice(rng, [mss for mss in _MSS if mss >= least] or [_MSS[-1]])
        texts.append(_draw_syn(values, allowed, needed, rng).hex())
    drawn = stack._replace(client_options=texts[0], server_options=texts[1])
    if not _changes(rng):
        drawn = stack
    windows = {}
    for side, text in (("client", drawn.client_options), ("server", drawn.server_options)):
        if _changes(rng) and getattr(stack, f"{side}_window") != UNKNOWN:
            windows[f"{side}_window"] = _draw_window(max(_mss(text), 1), rng)
    drawn = drawn._replace(**windows)
    has_timestamps = drawn.has_timestamps == 1
    if has_timestamps == had_timestamps:
        return drawn
    bare = stack.headers.removesuffix(TIMESTAMPED)
    return drawn._replace(headers=bare + TIMESTAMPED if has_timestamps else bare)


def _draw_window(mss: int, rng: np.random.Generator) -> int:
    """Draw the window of a SYN: a widespread one, or some segments."""
    if rng.random() < 0.6:
        return _choice(rng, _WINDOWS)
    return min(mss * int(rng.integers(2, _MOST_WINDOW_SEGMENTS + 1)), _WINDOWS[-1])


def _draw_syn(
    values: dict[int, int], allowed: Collection[int], needed: Collection[int],
    rng: np.random.Generator,
) -> bytes:  # fmt: skip
    """Draw the options of a SYN: in the order of a widespread system, or in any.

    Args:
        values: of options by kind; of others 0.
        allowed: kinds that it may have.
        needed: kinds that it has if they are allowed.
        rng: draws.
    """
    needed = set(needed) & set(allowed)
    orders = [order for order in _ORDERS if needed <= set(order) <= {*allowed, _N, _E}]
    if orders and rng.random() < _SYSTEM_SHARE:
        order = orders[rng.integers(len(orders))]
    else:
        drawn = [
            kind
            for kind, share in _RANDOM_KINDS
            if (rng.random() < share or kind in needed) and kind in allowed
        ]
        order = _padded([drawn[k] for k in rng.permutation(len(drawn))], rng)
    options = b""
    for kind in order:
        size = OPTION_BYTES.get(kind, 1)
        value = values.get(kind, 0)
        options += bytes([kind, size]) + value.to_bytes(size - 2) if size > 1 else bytes([kind])
    return options


def _padded(kinds: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Return kinds with NOPs before each, so that it ends a word, or with NOPs or the end of
    options after them all."""
    order: list[int] = []
    size = 0
    aligns = rng.random() < 0.5
    for kind in kinds:
        size += OPTION_BYTES[kind]
        padding = -size % 4 if aligns else 0
        order += [_N] * padding + [kind]
        size += padding
    return order + [_choice(rng, (_N, _E))] * (-size % 4)


def _path(path: FlowPath, rng: np.random.Generator) -> FlowPath:
    """Draw the times of a path, if they are planned."""
    if path == UNPLANNED_PATH or not _changes(rng):
        return path
    span = np.log([_SHORTEST_NS, _LONGEST_NS])
    client, server = levels_of(np.exp(rng.uniform(*span, size=2)).astype(np.int64)).tolist()
    return FlowPath(client, server)


def most_option_octets(nprints: Sequence[np.ndarray], layout: Layout) -> int:
    """Return the bytes of the longest TCP options of packets of windows."""
    options = layout.columns("tcp_opt")
    return max(int((nprint[:, options] != VACANT).sum(1).max()) for nprint in nprints) // 8
