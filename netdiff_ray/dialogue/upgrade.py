"""Connections that turn to TLS after some messages in the clear."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.lines import write_lines
from netdiff_ray.dialogue.tls import Connection

_LEAST_HELLO, _LARGEST_HELLO = 150, 2_000
_LEAST_FLIGHT = 500
"""Bytes of a server's answer to a hello, which has certificates."""
_LARGEST_COMMAND, _LARGEST_CONSENT = 24, 90
"""Bytes of the message that asks for TLS, and of the one that agrees."""


def hello_at(exchange: Exchange, first: int) -> int | None:
    """Return the number of the message that has the lengths of a hello: between a short question
    with its answer and a server's certificates; None if there is none.

    Args:
        first: number of the earliest message that can be one, at least 2.
    """
    sides, lengths = exchange.sides, exchange.lengths
    for k in range(first, len(sides) - 1):
        if (
            _LEAST_HELLO <= lengths[k] <= _LARGEST_HELLO
            and sides[k - 2 : k + 2] == (0, 1, 0, 1)
            and lengths[k + 1] >= _LEAST_FLIGHT
            and lengths[k - 2] <= _LARGEST_COMMAND
            and lengths[k - 1] <= _LARGEST_CONSENT
        ):
            return k
    return None


def before(exchange: Exchange, k: int) -> Exchange:
    """Return the exchange of the messages before the k-th."""
    return replace(
        exchange, sides=exchange.sides[:k], lengths=exchange.lengths[:k], ts_ns=exchange.ts_ns[:k]
    )


def secured(exchange: Exchange, k: int, random: Random) -> list[bytes]:
    """Return the messages from the k-th on, over TLS that begins with it."""
    connection = Connection(random, exchange.named)
    sides, lengths = exchange.sides, exchange.lengths
    last = {side: j for j, side in enumerate(sides)}
    return [
        connection.message(sides[j], lengths[j], j == last[sides[j]]) for j in range(k, len(sides))
    ]


def write_session(
    exchange: Exchange,
    command: Callable[[int, int, int, int], tuple[bytes, object]],
    reply: Callable[[int, object], bytes],
    *,
    hello: int | None,
    random: Random,
) -> list[bytes]:
    """Return the messages of a session in lines that may turn to TLS.

    Args:
        command, reply: see `write_lines`.
        hello: number of the message that begins TLS; None if none does.
    """
    if hello is None:
        return write_lines(exchange, command, reply)
    clear = write_lines(before(exchange, hello), command, reply)
    return [*clear, *secured(exchange, hello, random)]
