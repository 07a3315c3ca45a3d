"""IMAP (RFC 9051): a mailbox is chosen, and its messages are fetched."""

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import words
from netdiff_ray.dialogue.lines import END, PEOPLE, line, mail
from netdiff_ray.dialogue.upgrade import hello_at, write_session

_LEAST_GREETING = 8
_LITERAL_BYTES = 200
_SECURE = b"STARTTLS"
_LEAST_SECURE = len(_SECURE) + 8
_LOGIN, _LIST, _SELECT, _FETCH, _LOGOUT, _CAPABILITY, _OTHER = (
    b"LOGIN", b"LIST", b"SELECT", b"FETCH", b"LOGOUT", b"CAPABILITY", b"NOOP",
)  # fmt: skip
_CAPABILITIES = b"* CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID ENABLE IDLE NAMESPACE"
_UNTAGGED = {
    _LOGIN: (b"* OK Welcome",), _LOGOUT: (b"* BYE Logging out",), _CAPABILITY: (_CAPABILITIES,),
    _LIST: (b'* LIST (\\HasNoChildren) "/" INBOX', b'* LIST (\\HasNoChildren) "/" Sent',
            b'* LIST (\\HasNoChildren) "/" Drafts', b'* LIST (\\HasNoChildren) "/" Archive'),
    _SELECT: (b"* 18 EXISTS", b"* 0 RECENT", b"* FLAGS (\\Answered \\Flagged \\Deleted \\Seen)",
              b"* OK [UIDVALIDITY 1735689600] Ok", b"* OK [UIDNEXT 19] Ok"),
}  # fmt: skip
"""Lines before the end of what a command is answered."""


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
        self.hello = at if at and exchange.lengths[at - 2] >= _LEAST_SECURE else None
        """Number of the message that begins TLS."""
        self.letter = self.random.choice((b"a", b"A00", b"t"))
        self.number = self.random.choice((0, 0, 9))
        self.fetched = self.random.randrange(1, 18)
        self.state = 0
        """0 before the login, 1 after it, 2 in a mailbox."""

    def command(self, rest: int, answer: int, ahead: int, k: int) -> tuple[bytes, object]:
        """Return a command with its tag, and what answers it."""
        self.number += 1
        tag = self.letter + b"%d" % self.number
        room = rest - len(tag) - 1 - len(END)
        verb, argument = self._verb(room, answer, ahead)
        if self.hello is not None and k == self.hello - 2:
            verb, argument = _SECURE, None
        gap = room - len(verb)
        if argument is None or gap < 2:
            # a tag may be longer where a command is what it is
            tag = tag + b"0" * max(gap, 0)
            return tag + b" " + verb + END, (tag, verb)
        return tag + b" " + verb + b" " + self._argument(verb, argument, gap - 1) + END, (tag, verb)

    def _verb(self, room: int, answer: int, ahead: int) -> tuple[bytes, bytes | None]:
        """Return a command, and its argument, None if it has none."""
        if not ahead and room <= 12:
            return _LOGOUT, None
        if self.state == 0 and room >= 11:
            if room == len(_CAPABILITY):
                return _CAPABILITY, None
            self.state = 1
            return _LOGIN, self.random.choice(PEOPLE) + b" "
        if self.state >= 1 and room >= 9:
            if self.state == 1 and room >= 12 and answer >= 150:
                self.state = 2
                return _SELECT, b"INBOX"
            if self.state == 1 or room < 13:
                return _LIST, b'"" '
            return _FETCH, b"%d BODY[" % self.fetched
        return _OTHER, None

    def _argument(self, verb: bytes, begin: bytes, size: int) -> bytes:
        if verb == _LOGIN:
            user = begin.rstrip()[: size - 3]
            return user + b" " + b"s" * (size - len(user) - 1)
        if verb == _LIST:
            return begin + b"%" + b"*" * (size - len(begin) - 1) if size > 3 else b'""'.ljust(size)
        if verb == _SELECT:
            return (begin + b"/archive" * (size // 8 + 1))[:size]
        fields = begin[:-5] + b"BODY.PEEK[HEADER.FIELDS ()]"
        if size >= len(fields) + 8:
            return fields[:-2] + words(self.random, size - len(fields)) + fields[-2:]
        text = begin + b"]" if size > len(begin) else b"1 FLAGS"
        gap = size - len(text)
        if gap >= 2:
            return b"1:" + b"1" * (gap - 2) + text
        return text + b" " * gap if gap >= 0 else b"1 FLAGS"

    def reply(self, rest: int, kind: object) -> bytes:
        """Return the lines of a reply, the last of which repeats the command's tag."""
        if kind is None:
            begin = b"* OK [CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID ENABLE IDLE] ready"
            return line(self.random, begin if rest > len(begin) + 2 else b"* OK", rest)
        tag, verb = kind
        end = tag + b" OK " + verb.capitalize() + b" completed"
        if rest < len(end) + len(END):
            return line(self.random, tag + b" OK", rest)
        room = rest - len(end) - len(END)
        if verb == _FETCH and room >= _LITERAL_BYTES:
            return self._literal(room) + end + END
        lines = []
        for untagged in _UNTAGGED.get(verb, ()):
            if len(untagged) + 2 <= room:
                lines.append(untagged + END)
                room -= len(lines[-1])
        if room >= 12:
            lines.append(line(self.random, b"* OK", room))
            room = 0
        elif room == 1:
            end += b"."
        if room > 1:
            end += b"." * room
        return b"".join((*lines, end, END))

    def _literal(self, room: int) -> bytes:
        """Return a message with its length before it, in `room` bytes."""
        begin = b"* %d FETCH (BODY[] {" % self.fetched
        for digits in range(1, 12):
            size = room - len(begin) - len(b"}\r\n)\r\n") - digits
            if len(b"%d" % size) == digits:
                break
        head = begin + b"%d}\r\n" % size
        body = mail(self.random, room - len(head) - 3)
        return head + body + b")" + END
