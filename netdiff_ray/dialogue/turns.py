"""Requests and their answers in the messages of a connection."""

from collections.abc import Callable
from typing import NamedTuple

from netdiff_ray.dialogue.exchange import Exchange


class Turn(NamedTuple):
    """A request or an answer: the messages of one side that it fills, one after another."""

    side: int
    messages: list[int]
    """Numbers of the messages."""
    first: int
    """Bytes of the first of them."""
    total: int
    """Bytes of all of them."""


def turns(exchange: Exchange, least: tuple[int, int]) -> list[Turn]:
    """Return the requests and answers of a connection, in order, each answer after its request.

    A message that is too short to begin with goes on with its sender's last; so does a server's
    when nothing is unanswered, but for the first.

    Args:
        least: fewest bytes of a request, and of an answer.
    """
    parts: list[tuple[int, list[int]]] = []
    totals: list[int] = []
    current = [-1, -1]
    unanswered = 0
    for k, (side, length) in enumerate(zip(exchange.sides, exchange.lengths, strict=True)):
        part = current[side]
        may_begin = part < 0 or (
            totals[part] >= least[side] <= length and (side == 0 or unanswered > 0)
        )
        if may_begin:
            part = current[side] = len(parts)
            parts.append((side, []))
            totals.append(0)
            unanswered = max(unanswered + (1 if side == 0 else -1), 0)
        parts[part][1].append(k)
        totals[part] += length
    lengths = exchange.lengths
    return [
        Turn(side, members, lengths[members[0]], total)
        for (side, members), total in zip(parts, totals, strict=True)
    ]


def fill_turns(
    exchange: Exchange, parts: list[Turn], fill: Callable[[int, Turn], bytes]
) -> list[bytes]:
    """Return the messages of a connection.

    Args:
        fill: gives the bytes of a turn, as many as it has in all, from its number and itself; it is
            called in order.
    """
    messages = [b""] * len(exchange.lengths)
    for number, turn in enumerate(parts):
        data = fill(number, turn)
        at = 0
        for k in turn.messages:
            messages[k] = data[at : at + exchange.lengths[k]]
            at += exchange.lengths[k]
    return messages
