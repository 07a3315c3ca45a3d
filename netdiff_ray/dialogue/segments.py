"""Segments that divide messages, and heads of frames that none of them may divide.

A program hands its connection whole messages, so that segments seldom end within the first bytes
of one; readers that tell a message's length by these do without it there.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

from netdiff_ray.dialogue.exchange import Exchange

_ATTEMPTS = 3
"""Dialogues that are tried until no head is divided."""


def segments_by_message(exchange: Exchange) -> list[list[int]]:
    """Return the bytes of the segments of each message."""
    if not exchange.segments:
        return [[length] for length in exchange.lengths]
    sizes = iter(exchange.segments)
    parts: list[list[int]] = []
    for length in exchange.lengths:
        part: list[int] = []
        rest = length
        while rest > 0:
            part.append(next(sizes))
            rest -= part[-1]
        parts.append(part)
    return parts


def first_segments(exchange: Exchange) -> list[int]:
    """Return the bytes of the first segment of each message."""
    return [part[0] for part in segments_by_message(exchange)]


def rests_of_segments(exchange: Exchange) -> list[list[int]]:
    """Return how many bytes each message has behind each of its segments, the most first."""
    rests = []
    for part, length in zip(segments_by_message(exchange), exchange.lengths, strict=True):
        rests.append([length - end for end in accumulate(part)])
    return rests


def segment_ends(exchange: Exchange) -> tuple[list[int], list[int]]:
    """Return where segments end in the bytes of the client and of the server, sorted."""
    sizes: tuple[list[int], list[int]] = ([], [])
    for side, part in zip(exchange.sides, segments_by_message(exchange), strict=True):
        sizes[side].extend(part)
    return list(accumulate(sizes[0])), list(accumulate(sizes[1]))


def write_whole_heads(
    write: Callable[[Exchange], list[bytes] | None], exchange: Exchange, head_bytes: int
) -> list[bytes] | None:
    """Return the messages that `write` gives, with no segment's end within the first bytes of a
    frame; None if it gives none such.

    Shorter segments at the beginning of a message go on with their sender's last.

    Args:
        head_bytes: how many of a frame's first bytes are to be in one segment.
    """
    if len(exchange.segments) == len(exchange.lengths):
        return write(exchange)
    moved = replace(_with_long_begins(exchange, head_bytes), head_bytes=head_bytes)
    for attempt in range(_ATTEMPTS):
        written = write(replace(moved, seed=moved.seed ^ attempt))
        if written is not None:
            return _cut_again(written, exchange)
    return None


def _with_long_begins(exchange: Exchange, least: int) -> Exchange:
    """Return an exchange of the same bytes whose messages, but the first of each side and those of
    a single segment, begin with segments of at least `least` bytes."""
    parts = segments_by_message(exchange)
    last: list[list[int] | None] = [None, None]
    for side, part in zip(exchange.sides, parts, strict=True):
        before = last[side]
        while before is not None and len(part) > 1 and part[0] < least:
            before.append(part.pop(0))
        last[side] = part
    return replace(
        exchange,
        lengths=tuple(map(sum, parts)),
        segments=tuple(size for part in parts for size in part),
    )


def _cut_again(written: list[bytes], exchange: Exchange) -> list[bytes]:
    """Return the bytes of both sides in messages of an exchange's lengths."""
    sides = exchange.sides
    streams = [b"".join(m for m, s in zip(written, sides, strict=True) if s == k) for k in (0, 1)]
    at = [0, 0]
    messages = []
    for side, length in zip(sides, exchange.lengths, strict=True):
        messages.append(streams[side][at[side] : at[side] + length])
        at[side] += length
    return messages
