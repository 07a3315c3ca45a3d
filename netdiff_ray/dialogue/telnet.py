"""Telnet (RFC 854): options are agreed on, a user logs in, and lines go both ways."""

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import fill_streams, words
from netdiff_ray.dialogue.segments import segments_by_message

_COMMAND, _DO, _DONT, _WILL, _WONT = 255, 253, 254, 251, 252
_OPTIONS = (24, 32, 35, 39, 3, 1, 31, 5, 33)
"""Terminal type and speed, X display, environment, no go-ahead, echo, window size, status, flow."""
_OPTION_BYTES = 3
_END = b"\r\n"
_PROMPT = b"$ "


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a session: options first while they come in threes of bytes, which no
    segment divides."""
    random = exchange.random()
    takes_options = [
        all(size % _OPTION_BYTES == 0 for size in part) for part in segments_by_message(exchange)
    ]
    offered: list[int] = []
    is_talking = [False, False]
    state = 0

    def frame(k: int, side: int, rest: int) -> bytes:
        nonlocal state
        if not is_talking[side] and takes_options[k] and rest <= 36 and k < 8:
            count = rest // _OPTION_BYTES
            verb = (_DO, _WILL)[side] if not offered else (_WILL, _DO)[side]
            options = [_OPTIONS[j % len(_OPTIONS)] for j in range(count)]
            offered.extend(options)
            return b"".join(bytes((_COMMAND, verb, option)) for option in options)
        is_talking[side] = True
        if side == 0:
            return words(random, rest - 2) + _END if rest > 2 else (words(random, 1) + _END)[-rest:]
        state += 1
        prompt = {1: b"login: ", 2: b"Password: "}.get(state, _PROMPT)
        if rest <= len(prompt) + len(_END):
            return prompt[-rest:] if rest <= len(prompt) else (_END + prompt)[-rest:]
        return words(random, rest - len(prompt) - len(_END)) + _END + prompt

    return fill_streams(exchange, frame)
