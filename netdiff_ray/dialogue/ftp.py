"""FTP (RFC 959), the connection of commands: a login, and files that are listed and moved."""

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import label
from netdiff_ray.dialogue.lines import END, PEOPLE, line, write_lines

_LEAST_GREETING = 5
_REPLIES = {
    None: b"220 FTP server ready.", b"USER": b"331 Please specify the password.",
    b"PASS": b"230 Login successful.", b"TYPE": b"200 Switching to Binary mode.",
    b"CWD": b"250 Directory changed.", b"SIZE": b"213 ", b"QUIT": b"221 Goodbye.",
    b"RETR": b"150 Opening BINARY mode data connection", b"STOR": b"150 Ok to send data.",
    b"LIST": b"150 Here comes", b"SYST": b"215 UNIX Type: L8", b"NOOP": b"200 Ok",
    b"PASV": b"227 Entering Passive Mode (", b"PWD": b'257 "/" is the current directory',
    b"EPSV": b"229 Entering Extended Passive Mode (|||",
}  # fmt: skip
_PASSIVE_BYTES = 40


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a session; None where the client speaks first."""
    if exchange.sides[0] == 0 or exchange.lengths[0] < _LEAST_GREETING:
        return None
    session = _Session(exchange)
    return write_lines(exchange, session.command, session.reply)


class _Session:
    """A client and a server."""

    def __init__(self, exchange: Exchange):
        """Begin before the server's greeting."""
        self.random = exchange.random()
        self.server = b"%d,%d,%d,%d" % tuple(exchange.server[-4:])
        self.state = 0
        """0 before the name, 1 before the password, 2 after it."""

    def command(self, rest: int, answer: int, ahead: int, k: int) -> tuple[bytes, object]:
        """Return a command, which also says what answers it."""
        random = self.random
        if rest <= 6:
            if not ahead:
                verb = b"QUIT"
            elif answer >= _PASSIVE_BYTES:
                verb = b"EPSV" if answer < 50 and random.random() < 0.5 else b"PASV"
            else:
                verb = b"PWD" if rest == 5 else random.choice((b"SYST", b"NOOP"))
            return verb + END, verb
        room = rest - 5 - len(END)
        if self.state < 2 and room >= 1:
            verb = b"PASS" if self.state else b"USER"
            self.state += 1
            value = (random.choice(PEOPLE) + label(random, 40))[:room]
            return verb + b" " + value.ljust(room, b"x") + END, verb
        if room == 1:
            return b"TYPE I" + END, b"TYPE"
        if room < 1:
            return b"CWD /" + END, b"CWD"
        verb = b"SIZE" if answer <= 12 else random.choice((b"RETR", b"STOR", b"LIST"))
        name = (label(random, max(room - 4, 0)) + b".bin")[-room:]
        return verb + b" " + name + END, verb

    def reply(self, rest: int, kind: object) -> bytes:
        """Return a reply, with an address where the client asked for it."""
        begin = _REPLIES[kind]
        if kind == b"SIZE" and rest >= 7:
            return begin + b"1" * (rest - 6) + END
        if kind == b"PASV":
            port = b",%d,%d" % (self.random.randrange(130, 250), self.random.randrange(256))
            text = begin + self.server + port + b")."
            if rest >= len(text) + 2:
                return line(self.random, text, rest)
        if kind == b"EPSV":
            text = begin + b"%d|)" % self.random.randrange(33_000, 60_000)
            if rest >= len(text) + 2:
                return line(self.random, text, rest)
        if rest < len(begin) + len(END):
            begin = b"550" if kind == b"PWD" else begin[:3]
        return line(self.random, begin, rest)
