"""DNS over TCP: messages behind their length (RFC 1035 section 4.2.2)."""

from netdiff_ray.dialogue import dns
from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.turns import Turn, fill_turns, turns

_LENGTH_BYTES = 2
_LEAST = _LENGTH_BYTES + 17
_MOST = 16_384
"""Bytes of the longest message; an answer that is longer comes in several."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages: a question in each of the client's, answered by the server's next.

    A message that is too short goes on with its sender's last. None if the server speaks first.
    """
    if exchange.sides[0] == 1:
        return None
    parts = turns(exchange, (_LEAST, _LEAST))
    pieces = [piece for turn in parts for piece in _pieces(turn)]
    written = dns.write(
        Exchange(
            tuple(side for side, _ in pieces), tuple(length for _, length in pieces),
            exchange.ts_ns[:1] * len(pieces), exchange.seed, exchange.client, exchange.server,
            exchange.client_port, exchange.server_port,
        )
    )  # fmt: skip
    framed = iter([len(data).to_bytes(_LENGTH_BYTES) + data for data in written or ()])

    def fill(number: int, turn: Turn) -> bytes:
        return b"".join(next(framed) for _ in _pieces(turn))[: turn.total]

    return fill_turns(exchange, parts, fill)


def _pieces(turn: Turn) -> list[tuple[int, int]]:
    """Return the side and the bytes of each DNS message of a turn."""
    pieces = []
    rest = turn.total
    while rest > 0:
        size = min(rest, _MOST)
        if 0 < rest - size < _LEAST:
            size -= _LEAST
        pieces.append((turn.side, max(size - _LENGTH_BYTES, 1)))
        rest -= size
    return pieces
