"""POP3 (RFC 1939): a mailbox is opened, listed and read."""

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.lines import END, PEOPLE, line, mail, text_lines
from netdiff_ray.dialogue.upgrade import hello_at, write_session

_OK, _LINES, _MAIL, _BYE = range(4)
_LEAST_GREETING = 5
_LEAST_LINES = 24
_SECURE = b"STLS\r\n"
_DATA_END = b".\r\n"
_SHORT_LINES = (b"LIST", b"UIDL", b"CAPA")


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a session; None where the client speaks first."""
    if exchange.sides[0] == 0 or exchange.lengths[0] < _LEAST_GREETING:
        return None
    session = _Session(exchange)
    return write_session(
        exchange, session.command, session.reply, hello=session.hello, random=session.random
    )


class _Session:
    """A client and a server."""

    def __init__(self, exchange: Exchange):
        """Begin before the server's greeting."""
        self.random = exchange.random()
        at = hello_at(exchange, 3)
        self.hello = at if at and exchange.lengths[at - 2] == len(_SECURE) else None
        """Number of the message that begins TLS."""
        self.state = 0
        """0 before the name, 1 before the password, 2 after it."""
        self.mail = 0

    def command(self, rest: int, answer: int, ahead: int, k: int) -> tuple[bytes, object]:
        """Return a command, and what answers it."""
        random = self.random
        if self.hello is not None and k == self.hello - 2:
            return _SECURE, _OK
        has_lines = answer >= 60
        if rest == 6 and not (self.state == 2 and has_lines):
            if not ahead:
                return b"QUIT" + END, _BYE
            return random.choice((b"NOOP", b"STAT") if self.state == 2 else (b"CAPA",)) + END, (
                _LINES if self.state < 2 and has_lines else _OK
            )
        if rest <= 6:
            return (
                (random.choice(_SHORT_LINES) + END, _LINES) if has_lines else (b"NOOP" + END, _OK)
            )
        if self.state == 0 and rest >= 8:
            self.state = 1
            return self._with_argument(b"USER ", random.choice(PEOPLE), rest), _OK
        if self.state == 1 and rest >= 8:
            self.state = 2
            return self._with_argument(b"PASS ", b"secret", rest), _OK
        self.mail += 1
        if has_lines:
            number = b"%d" % self.mail
            begin = b"RETR " if rest < 9 + len(number) else b"TOP "
            return self._with_argument(begin, number, rest), _MAIL
        return self._with_argument(b"DELE ", b"%d" % self.mail, rest), _OK

    def _with_argument(self, begin: bytes, argument: bytes, rest: int) -> bytes:
        room = rest - len(begin) - len(END)
        if begin == b"TOP ":
            return begin + argument + b" " + b"9" * max(room - len(argument) - 1, 1) + END
        digits = b"1" if argument.isdigit() else b"x"
        return (
            begin
            + (argument.ljust(room, digits) if begin != b"RETR " else argument.rjust(room, b"0"))[
                : max(room, 1)
            ]
            + END
        )

    def reply(self, rest: int, kind: object) -> bytes:
        """Return a reply; of several lines where mail is listed or read."""
        if kind in (_LINES, _MAIL) and rest >= _LEAST_LINES:
            head = b"+OK %d octets\r\n" % rest
            room = rest - len(head) - len(_DATA_END)
            if room >= 2:
                text = mail if kind == _MAIL else text_lines
                return head + text(self.random, room) + _DATA_END
        begin = {None: b"+OK POP3 ready", _BYE: b"+OK Bye"}.get(kind, b"+OK")
        return line(self.random, begin if rest >= len(begin) + 2 else b"+OK", rest)
