"""Rules of TCP options: those of each segment, agreed between the sides.

A row whose options are well formed and allowed, as planned ones are, keeps them as they stand. Any
other gets the nearest well-formed set: a SYN by Hamming distance to the layouts that stacks send,
an ordinary segment timestamps or nothing, as is planned or as most of its flow drew.

Shape letters: N flows, P packets, T templates.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    IPPROTO_TCP,
    MAX_HEADER_BYTES,
    ONES,
    RST,
    TCP_DOFF,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_OPT,
    get16,
    put16,
)
from netdiff_ray.header_bytes import TCP_OPTION_END as EOL
from netdiff_ray.header_bytes import TCP_OPTION_MSS as MSS
from netdiff_ray.header_bytes import TCP_OPTION_NOP as NOP
from netdiff_ray.header_bytes import TCP_OPTION_SACK_PERMITTED as SACK_PERMITTED
from netdiff_ray.header_bytes import TCP_OPTION_TIMESTAMPS as TIMESTAMPS
from netdiff_ray.header_bytes import TCP_OPTION_WINDOW_SCALE as WSCALE
from netdiff_ray.labels.stack import LEAST_MSS, UNKNOWN
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import UNANSWERED, Batch
from netdiff_ray.repair.context import RepairContext

HAS_MSS, HAS_WSCALE, HAS_SACK, HAS_STAMP, MALFORMED = 1, 2, 4, 8, 128
"""Bits of an option set."""

_SYN_LAYOUTS = (
    (),
    (MSS,),
    (MSS, NOP, NOP, SACK_PERMITTED),
    (MSS, SACK_PERMITTED, NOP, NOP),
    (MSS, NOP, WSCALE),
    (MSS, NOP, WSCALE, NOP, NOP, SACK_PERMITTED),
    (MSS, NOP, NOP, SACK_PERMITTED, NOP, WSCALE),
    (MSS, SACK_PERMITTED, TIMESTAMPS, NOP, WSCALE),
    (MSS, NOP, WSCALE, SACK_PERMITTED, TIMESTAMPS),
    (MSS, NOP, WSCALE, NOP, NOP, TIMESTAMPS, SACK_PERMITTED, EOL, EOL),
    (MSS, NOP, WSCALE, NOP, NOP, TIMESTAMPS),
    (MSS, NOP, NOP, TIMESTAMPS, NOP, WSCALE),
    (MSS, NOP, NOP, TIMESTAMPS),
    (MSS, SACK_PERMITTED, TIMESTAMPS),
)
"""Orders in which common stacks write a SYN's options."""
_LENGTH = {MSS: 4, WSCALE: 3, SACK_PERMITTED: 2, TIMESTAMPS: 10}
_SET_BIT = {MSS: HAS_MSS, WSCALE: HAS_WSCALE, SACK_PERMITTED: HAS_SACK, TIMESTAMPS: HAS_STAMP}


_LEAST_DRAWN_MSS = 536
"""What every IPv4 host takes (RFC 9293 section 3.7.1); less is more likely drawn wrong."""


class _Allowed(NamedTuple):
    """What a SYN's options have to be, for the kernel."""

    must: int
    """Option set that it has."""
    may: int
    """Option set that it may have."""
    least_mss: int
    """The least MSS."""


class Templates(NamedTuple):
    """The layouts of a SYN's options, for kernels."""

    content: np.ndarray
    """(T, 40) uint8: the bytes."""
    fixed: np.ndarray
    """(T, 40) bool: which of them are not values."""
    length: np.ndarray
    """(T,) int64: bytes."""
    kinds: np.ndarray
    """(T,) int64: the option set."""


def _templates() -> Templates:
    """Return the templates of _SYN_LAYOUTS."""
    count = len(_SYN_LAYOUTS)
    content = np.zeros((count, MAX_HEADER_BYTES - TCP_HEADER_BYTES), np.uint8)
    fixed = np.zeros(content.shape, np.bool_)
    length = np.zeros(count, np.int64)
    kinds = np.zeros(count, np.int64)
    for t, layout in enumerate(_SYN_LAYOUTS):
        at = 0
        for kind in layout:
            size = _LENGTH.get(kind, 1)
            content[t, at] = kind
            fixed[t, at] = True
            if size > 1:
                content[t, at + 1] = size
                fixed[t, at + 1] = True
            kinds[t] |= _SET_BIT.get(kind, 0)
            at += size
        assert at % 4 == 0
        length[t] = at
    return Templates(content, fixed, length, kinds)


TEMPLATES = _templates()


def tcp_options(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle data offset and options of each segment.

    MSS, window scale and SACK-permitted stand on SYNs only (RFC 9293 section 3.7.1, RFC
    7323 section 2.2, RFC 2018 section 2); the answer holds the last two only if the SYN does.
    Timestamps are on every segment but RSTs, or on none (RFC 7323 section 3.2). Nothing is lost
    on the way, so no segment reports SACK blocks. At most three NOPs follow each other. The scale
    is at most 14.
    """
    _tcp_options(batch.flows, batch.packets, batch.plans, TEMPLATES)


@numba.njit(cache=True)
def parse(transport, i, length):
    """Return the set of options in `length` bytes of row `i`, and the bytes of two of them.

    Returns:
        (set, byte of the window scale's kind or 0, byte of the timestamps' kind or 0). The
        set has MALFORMED if any option is unknown, repeated or of a wrong length, more than
        three NOPs follow each other, or bytes after the end of options are not 0.
    """
    kinds = 0
    scale_at, stamp_at = 0, 0
    at = TCP_OPT
    end = TCP_OPT + length
    nops = 0
    while at < end:
        kind = transport[i, at]
        if kind == EOL:
            for k in range(at, end):
                if transport[i, k]:
                    kinds |= MALFORMED
            break
        if kind == NOP:
            nops += 1
            at += 1
            if nops > 3:
                return kinds | MALFORMED, scale_at, stamp_at
            continue
        nops = 0
        bit = 0
        size = 0
        if kind == MSS:
            bit, size = HAS_MSS, 4
        elif kind == WSCALE:
            bit, size = HAS_WSCALE, 3
            scale_at = at
        elif kind == SACK_PERMITTED:
            bit, size = HAS_SACK, 2
        elif kind == TIMESTAMPS:
            bit, size = HAS_STAMP, 10
            stamp_at = at
        if bit == 0 or kinds & bit or at + size > end or transport[i, at + 1] != size:
            return kinds | MALFORMED, scale_at, stamp_at
        kinds |= bit
        at += size
    return kinds, scale_at, stamp_at


@numba.njit(cache=True)
def _stamp_votes(transport, i, option_bytes):
    """Return whether an ordinary segment was drawn with timestamps: most bits of their fixed bytes,
    NOP NOP 8 10, and most of their length."""
    if option_bytes[i] < 8:
        return False
    apart = 0
    for k in range(4):
        want = NOP if k < 2 else (TIMESTAMPS if k == 2 else 10)
        apart += ONES[transport[i, TCP_OPT + k] ^ want]
    if apart <= 6:
        return True
    kinds, _, stamp_at = parse(transport, i, _options_length(transport, i))
    return stamp_at > 0 and kinds & HAS_STAMP != 0


@numba.njit(cache=True)
def _nearest(transport, i, option_bytes, templates):
    """Return the template nearest to the options of row `i` in bits."""
    best, least = 0, 1 << 30
    for t in range(len(templates.content)):
        apart = 8 * abs(templates.length[t] - np.int64(option_bytes[i]))
        for k in range(templates.length[t]):
            if templates.fixed[t, k]:
                apart += ONES[transport[i, TCP_OPT + k] ^ templates.content[t, k]]
        if apart < least:
            best, least = t, apart
    return best


@numba.njit(cache=True)
def values(transport, i, length):
    """Return MSS and scale in well-formed options of row `i`, 0 where an option is missing."""
    mss, scale = 0, 0
    at = TCP_OPT
    while at < TCP_OPT + length and transport[i, at] != EOL:
        if transport[i, at] == NOP:
            at += 1
            continue
        if transport[i, at] == MSS:
            mss = get16(transport, i, at + 2)
        elif transport[i, at] == WSCALE:
            scale = np.int64(transport[i, at + 2])
        at += np.int64(transport[i, at + 1])
    return mss, scale


@numba.njit(cache=True)
def _write(transport, i, kinds, mss, scale):
    """Write a set of options in Linux's order; return their length in bytes."""
    at = TCP_OPT
    if kinds & HAS_MSS:
        transport[i, at], transport[i, at + 1] = MSS, 4
        put16(transport, i, at + 2, mss)
        at += 4
    if kinds & HAS_STAMP:
        if kinds & HAS_SACK:
            transport[i, at], transport[i, at + 1] = SACK_PERMITTED, 2
        else:
            transport[i, at], transport[i, at + 1] = NOP, NOP
        transport[i, at + 2], transport[i, at + 3] = TIMESTAMPS, 10
        for k in range(at + 4, at + 12):
            transport[i, k] = 0
        at += 12
    elif kinds & HAS_SACK:
        transport[i, at], transport[i, at + 1] = NOP, NOP
        transport[i, at + 2], transport[i, at + 3] = SACK_PERMITTED, 2
        at += 4
    if kinds & HAS_WSCALE:
        transport[i, at], transport[i, at + 1] = NOP, WSCALE
        transport[i, at + 2], transport[i, at + 3] = 3, scale
        at += 4
    return at - TCP_OPT


@numba.njit(cache=True)
def _settle(transport, i, transport_len, length):
    """Set the data offset and clear what lies past the options."""
    header_bytes = TCP_HEADER_BYTES + length
    transport_len[i] = header_bytes
    transport[i, TCP_DOFF] = (header_bytes // 4) << 4
    for k in range(header_bytes, MAX_HEADER_BYTES):
        transport[i, k] = 0


@numba.njit(cache=True)
def _options_length(transport, i):
    """Return the bytes of options that the data offset of row `i` leaves room for."""
    return np.int64(transport[i, TCP_DOFF] >> 4) * 4 - TCP_HEADER_BYTES


@numba.njit(cache=True)
def _syn_options(packets, i, allowed, templates):
    """Settle a SYN's options: as they stand if well formed, else the nearest layout; with all that
    `allowed` demands, and none that it forbids. Return the set."""
    transport, option_bytes = packets.rows["transport"], packets.option_bytes
    length = _options_length(transport, i)
    kinds = MALFORMED
    if length >= 0 and length == option_bytes[i]:
        kinds, _, _ = parse(transport, i, length)
    if kinds & MALFORMED:
        t = _nearest(transport, i, option_bytes, templates)
        length = templates.length[t]
        kinds = templates.kinds[t]
        for k in range(length):
            if templates.fixed[t, k]:
                transport[i, TCP_OPT + k] = templates.content[t, k]
    mss, scale = values(transport, i, length)
    wanted = (kinds | allowed.must) & allowed.may
    if wanted != kinds:
        length = _write(transport, i, wanted, mss, scale)
    mss, scale = values(transport, i, length)
    if wanted & HAS_MSS and mss < allowed.least_mss:
        mss |= 1024
    if wanted & HAS_WSCALE:
        scale &= 15
        scale = min(scale, 14)
    at = TCP_OPT
    while at < TCP_OPT + length and transport[i, at] != EOL:
        if transport[i, at] == NOP:
            at += 1
            continue
        if transport[i, at] == MSS:
            put16(transport, i, at + 2, mss)
        elif transport[i, at] == WSCALE:
            transport[i, at + 2] = scale
        at += np.int64(transport[i, at + 1])
    _settle(transport, i, packets.rows["transport_len"], length)
    return wanted


@numba.njit(cache=True)
def _num_syns(flows, f, transport):
    """Return how many of the first packets of flow `f` are SYNs."""
    begin, end = flows.starts[f], flows.starts[f + 1]
    if flows.half[f]:
        return end - begin if flows.half[f] == UNANSWERED else 1
    if not flows.opens[f]:
        return 0
    if end == begin + 1 or transport[begin + 1, TCP_FLAGS] & RST:
        return 1
    return 2


@numba.njit(cache=True)
def _tcp_options(flows, packets, plans, templates):
    transport, option_bytes = packets.rows["transport"], packets.option_bytes
    every = HAS_MSS | HAS_WSCALE | HAS_SACK | HAS_STAMP
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin, end = flows.starts[f], flows.starts[f + 1]
        num_syns = _num_syns(flows, f, transport)
        first_plain = begin + num_syns
        votes, voters = 0, 0
        for i in range(first_plain, end):
            if not transport[i, TCP_FLAGS] & RST:
                voters += 1
                votes += _stamp_votes(transport, i, option_bytes)
        stamped = 2 * votes > voters and not (flows.half[f] and voters == 0)
        if plans.has_timestamps[f] != UNKNOWN:
            stamped = plans.has_timestamps[f] == 1
        if num_syns:
            must = HAS_STAMP if stamped else 0
            least_mss = LEAST_MSS if plans.option_bytes[f, 0] != UNKNOWN else _LEAST_DRAWN_MSS
            allowed = _Allowed(must, every, least_mss)
            offered = _syn_options(packets, begin, allowed, templates)
            if flows.half[f]:
                for i in range(begin + 1, first_plain):
                    _syn_options(packets, i, allowed, templates)
            elif num_syns == 2:
                may = offered | HAS_MSS
                if (voters or plans.has_timestamps[f] != UNKNOWN) and not stamped:
                    may &= ~HAS_STAMP
                least_mss = LEAST_MSS if plans.option_bytes[f, 1] != UNKNOWN else _LEAST_DRAWN_MSS
                allowed = _Allowed(must, may, least_mss)
                answered = _syn_options(packets, begin + 1, allowed, templates)
                if not voters and plans.has_timestamps[f] == UNKNOWN:
                    stamped = answered & HAS_STAMP != 0
        _plain_options(first_plain, end, stamped, packets)


@numba.njit(cache=True)
def _plain_options(begin, end, stamped, packets):
    """Settle the options of segments that are no SYNs: timestamps or none."""
    transport, option_bytes = packets.rows["transport"], packets.option_bytes
    transport_len = packets.rows["transport_len"]
    for i in range(begin, end):
        length = _options_length(transport, i)
        agree = length >= 0 and length == option_bytes[i]
        kinds = MALFORMED
        if agree:
            kinds, _, _ = parse(transport, i, length)
        want = HAS_STAMP if stamped else 0
        if transport[i, TCP_FLAGS] & RST:
            want &= kinds
        if kinds != want:
            length = _write(transport, i, want, 0, 0)
        _settle(transport, i, transport_len, length)
        if not agree:
            option_bytes[i] = length
