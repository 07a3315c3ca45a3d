"""SMTP (RFC 5321): a client says who it is, from whom and to whom, and sends a mail."""

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.lines import END, HOSTS, line, mail, mailbox
from netdiff_ray.dialogue.upgrade import hello_at, write_session

_GREETING, _EXTENSIONS, _OK, _GO_AHEAD, _QUEUED, _BYE, _READY = range(7)
_SECURE = b"STARTTLS\r\n"
_LEAST_GREETING, _LEAST_COMMAND = 8, 6
_MAIL, _RECIPIENT = b"MAIL FROM:<", b"RCPT TO:<"
_LEAST_CHUNK = 150
_EHLO_LINES = (b"250-PIPELINING", b"250-8BITMIME", b"250-SIZE 10240000", b"250-DSN")
_CODES = {
    _GREETING: b"220 ", _OK: b"250 2.1.0 Ok", _GO_AHEAD: b"354 End data with <CR><LF>.<CR><LF>",
    _QUEUED: b"250 2.0.0 Ok: queued as", _BYE: b"221 2.0.0 Bye",
    _READY: b"220 2.0.0 Ready to start TLS",
}  # fmt: skip
_DATA_END = b".\r\n"


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
        self.host = self.random.choice(HOSTS)
        self.state = b""
        """The last command that counted."""

    def command(self, rest: int, answer: int, ahead: int, k: int) -> tuple[bytes, object]:
        """Return a command, or the mail, and what answers it."""
        random = self.random
        if self.hello is not None and k == self.hello - 2:
            return _SECURE, _READY
        if self.state == b"DATA":
            self.state = b"SENT"
            body = rest - len(_DATA_END)
            if body < 4:
                return END + _DATA_END, _QUEUED
            return mail(self.random, body) + _DATA_END, _QUEUED
        if rest < _LEAST_COMMAND:
            return b"NOOP" + END, _OK
        if rest == _LEAST_COMMAND:
            if self.state in (_MAIL, _RECIPIENT) and ahead:
                self.state = b"DATA"
                return b"DATA" + END, _GO_AHEAD
            return (b"NOOP" + END, _OK) if ahead else (b"QUIT" + END, _BYE)
        if not self.state:
            self.state = b"EHLO"
            return self._hello(rest), _EXTENSIONS
        if self.state in (_MAIL, _RECIPIENT) and rest >= _LEAST_CHUNK:
            self.state = b"SENT"
            return self._chunk(rest), _QUEUED
        begin = _RECIPIENT if self.state in (_MAIL, _RECIPIENT) else _MAIL
        room = rest - len(begin) - 1 - len(END)
        if room < 1:
            return line(random, b"NOOP", rest), _OK
        self.state = begin
        return begin + mailbox(random, room) + b">" + END, _OK

    def _hello(self, rest: int) -> bytes:
        room = rest - 5 - len(END)
        host = (b"client-host-of-a-long-name." * (room // 26 + 1) + b"example.net")[-max(room, 1) :]
        return b"EHLO " + host.lstrip(b".-").rjust(len(host), b"x") + END

    def _chunk(self, rest: int) -> bytes:
        """Return a mail without DATA (RFC 3030)."""
        for digits in range(2, 12):
            size = rest - len(b"BDAT  LAST\r\n") - digits
            if len(b"%d" % size) == digits:
                break
        head = b"BDAT %d LAST\r\n" % size
        return head + mail(self.random, rest - len(head))

    def reply(self, rest: int, kind: object) -> bytes:
        """Return a reply; of several lines where extensions are listed."""
        if kind is None:
            kind = _GREETING if not self.state else _OK
        if kind == _GREETING:
            begin = b"220 " + self.host + b" ESMTP"
            return line(self.random, begin if rest > len(begin) + 2 else b"220 ", rest)
        if kind == _EXTENSIONS:
            lines = []
            for extension in (b"250-" + self.host, *_EHLO_LINES):
                if rest - len(extension) - 2 >= 20:
                    lines.append(extension + END)
                    rest -= len(lines[-1])
            return b"".join((*lines, line(self.random, b"250 HELP", rest)))
        begin = _CODES[kind]
        return line(self.random, begin if rest >= len(begin) + 2 else begin[:4], rest)
