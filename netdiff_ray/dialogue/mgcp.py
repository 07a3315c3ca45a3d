"""MGCP (RFC 3435): a gateway that restarts and notifies, an agent that has it listen and connect,
and the answers of both.
"""

from random import Random

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, hex_digits, label, words

_LEAST_ANSWER = 9
"""Bytes of a code, a number of three digits and the end of a line."""
_LEAST_COMMAND = 24
_VERSION = b" MGCP 1.0\r\n"
_FILLER = b"X-NOTE: "
_LEAST_FILLER = len(_FILLER) + 3
_LONGEST_LINE = 76
_VERBS = ((b"NTFY",), (b"RQNT", b"AUEP", b"CRCX", b"MDCX"))
"""Commands of the gateway, which is the client, behind its first, and of the agent."""
_PARAMETERS = {
    b"RSIP": (b"RM: restart",),
    b"NTFY": (b"X: %s", b"O: L/hd"),
    b"RQNT": (b"X: %s", b"R: L/hu(N), L/hd(N)", b"S: L/dl"),
    b"AUEP": (b"F: A, R, S, X, N",),
    b"CRCX": (b"C: %s", b"L: p:20, a:PCMU", b"M: sendrecv"),
    b"MDCX": (b"C: %s", b"I: 1", b"M: sendrecv"),
}


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow; None where one is too short for what it has to be."""
    if max(exchange.lengths) > LARGEST_DATAGRAM:
        return None
    random = exchange.random()
    numbers = [random.randrange(100, 900), random.randrange(100, 900)]
    gateway = b"gw%d" % random.randrange(10)
    last: list[tuple[int, bool]] = [(0, False), (0, False)]
    """Number of each side's last command, 0 for none, and whether it waits for an answer."""
    written: list[bytes] = []
    for k, (side, length) in enumerate(zip(exchange.sides, exchange.lengths, strict=True)):
        asked, waits = last[1 - side]
        if k and exchange.sides[k - 1] == side and exchange.lengths[k - 1] == length:
            written.append(written[-1])  # sent again
        elif (waits or (asked and length < _LEAST_COMMAND)) and length >= _LEAST_ANSWER:
            written.append(_answer(random, asked, length))
            last[1 - side] = asked, False
        elif length >= _LEAST_COMMAND:
            numbers[side] += 1
            verb = random.choice(_VERBS[side]) if side or last[0][0] else b"RSIP"
            written.append(_command(random, verb, numbers[side], gateway, length))
            last[side] = numbers[side], True
        else:
            return None
    return written


def _answer(random: Random, number: int, length: int) -> bytes:
    """Return the answer to a command."""
    head = b"200 %d" % number
    room = length - len(head) - 2
    if room < 2:
        return head + b" " * room + b"\r\n"
    size = min(room - 1, _LONGEST_LINE)
    rest = room - 1 - size
    if 0 < rest < _LEAST_FILLER:
        size, rest = size + rest - _LEAST_FILLER, _LEAST_FILLER
    return _padded(random, head + b" " + words(random, size) + b"\r\n", rest)


def _command(random: Random, verb: bytes, number: int, gateway: bytes, length: int) -> bytes:
    """Return a command, with as many of its parameters as there is room for."""
    parameters = []
    room = length - len(verb) - len(b" %d *@" % number) - len(gateway[:2]) - len(_VERSION)
    for text in _PARAMETERS[verb]:
        line = (text % hex_digits(random, 8) if b"%s" in text else text) + b"\r\n"
        if room - len(line) >= 0:
            parameters.append(line)
            room -= len(line)
    endpoint = gateway[:2]
    if room < _LEAST_FILLER:
        endpoint += label(random, room) if room else b""
        room = 0
    text = b"".join((verb, b" %d *@" % number, endpoint, _VERSION, *parameters))
    return _padded(random, text, room)


def _padded(random: Random, text: bytes, room: int) -> bytes:
    """Return the text with lines of an extension parameter behind it that take up the room, none or
    enough for a line."""
    lines = []
    while room:
        size = min(room, _LONGEST_LINE)
        if 0 < room - size < _LEAST_FILLER:
            size = room - _LEAST_FILLER
        lines.append(_FILLER + words(random, size - len(_FILLER) - 2) + b"\r\n")
        room -= size
    return text + b"".join(lines)
