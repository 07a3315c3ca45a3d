"""SIP (RFC 3261) with SDP (RFC 8866): calls, registrations and queries, and what answers them.

Headers that a message can have or not, and blanks before a length, take up the rest of a message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import hex_digits, next_of_sender, words

_SMALLEST = 200
"""Fewest bytes of a message in its short form; less are line ends that keep a flow alive."""
_WITH_SDP = 560
"""Fewest bytes of a message that describes media."""
_FILLER = b"User-Agent: "
_LEAST_FILLER = len(_FILLER) + 3
_USERS = (
    b"alice",
    b"bob",
    b"carol",
    b"dave",
    b"erin",
    b"frank",
    b"grace",
    b"heidi",
    b"1001",
    b"2002",
)
_DOMAIN = b"example.net"
_SHORT = {
    b"Via": b"v", b"From": b"f", b"To": b"t", b"Call-ID": b"i", b"Content-Length": b"l",
}  # fmt: skip
_OPTIONAL = (
    b"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS\r\n",
    b"Supported: replaces, timer\r\n",
    b"Accept: application/sdp\r\n",
    b"Allow-Events: talk, hold, conference\r\n",
    b"Accept-Language: en\r\n",
    b"Session-Expires: 1800;refresher=uac\r\n",
    b"Min-SE: 90\r\n",
    b"Privacy: none\r\n",
    b"Date: Sat, 01 Feb 2025 10:20:30 GMT\r\n",
)
_MEDIA = (
    b"a=rtpmap:0 PCMU/8000\r\n", b"a=rtpmap:8 PCMA/8000\r\n", b"a=rtpmap:18 G729/8000\r\n",
    b"a=rtpmap:101 telephone-event/8000\r\n", b"a=fmtp:101 0-16\r\n", b"a=ptime:20\r\n",
    b"a=sendrecv\r\n",
)  # fmt: skip
_SDP_TYPE = b"Content-Type: application/sdp\r\n"
_TRYING, _RINGING, _OK = b"100 Trying", b"180 Ringing", b"200 OK"
_PROGRESS, _UNAUTHORIZED, _PROXY, _BUSY = (
    b"183 Session Progress", b"401 Unauthorized", b"407 Proxy Authentication Required",
    b"486 Busy Here",
)  # fmt: skip


@dataclass(slots=True)
class _Request:
    """A request that has not been answered finally."""

    method: bytes
    number: int
    via: bytes
    begin: bytes
    call: bytes
    is_rung: bool = False


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages of a flow; a short first one keeps a connection alive."""
    if max(exchange.lengths) < _SMALLEST:
        return None
    session = _Session(exchange)
    ahead = next_of_sender(exchange)
    sides, lengths = exchange.sides, exchange.lengths
    written = []
    for k, (side, length) in enumerate(zip(sides, lengths, strict=True)):
        if length < _SMALLEST:
            written.append((b"\r\n" * (length // 2 + 1))[:length])
            continue
        if k and sides[k - 1] == side and lengths[k - 1] == length:
            written.append(written[-1])  # sent again
            continue
        does_go_on = k + 1 < len(sides) and sides[k + 1] == side and lengths[k + 1] >= _SMALLEST
        written.append(session.message(side, length, does_go_on, ahead[k], lengths[k + 1 :]))
    return written


class _Session:
    """Two user agents."""

    def __init__(self, exchange: Exchange):
        """Draw the names and addresses of both."""
        self.random = exchange.random()
        self.users = self.random.sample(_USERS, 2)
        self.transport = b"TCP" if exchange.is_tcp else b"UDP"
        self.hosts = [_host(exchange.client), _host(exchange.server)]
        self.ports = [b"%d" % exchange.client_port, b"%d" % exchange.server_port]
        self.media = [2 * self.random.randrange(5_000, 16_000) for _ in range(2)]
        self.tags = [hex_digits(self.random, 8), hex_digits(self.random, 8)]
        self.call = hex_digits(self.random, 16)
        self.number = self.random.randrange(1, 400)
        self.open: list[_Request | None] = [None, None]
        self.acknowledge: list[_Request | None] = [None, None]
        """Invitations of each side that were answered, for it to acknowledge."""
        self.is_talking = self.is_registered = self.is_challenged = False

    def message(
        self, side: int, length: int, does_go_on: bool, ahead: int, rest: Sequence[int]
    ) -> bytes:
        """Return the next message.

        Args:
            side: that sends it.
            length: of it.
            does_go_on: whether the same side sends the message after it.
            ahead: bytes of the side's next message.
            rest: bytes of the messages after it.
        """
        if self.acknowledge[side]:
            return self._acknowledge(side, length)
        asked = self.open[1 - side]
        if asked:
            return self._answer(side, length, asked, does_go_on, rest)
        return self._ask(side, length, ahead)

    def _ask(self, side: int, length: int, ahead: int) -> bytes:
        self.number += 1
        body = b""
        other = 1 - side
        if self.is_talking:
            method = b"BYE" if ahead < _WITH_SDP or length < _WITH_SDP else b"INVITE"
        elif length >= _WITH_SDP or self.is_challenged:
            method = b"INVITE"
        else:
            method = b"OPTIONS" if self.is_registered or side else b"REGISTER"
        if not self.is_talking and not self.is_challenged:
            self.call = hex_digits(self.random, 16)
            self.tags = [hex_digits(self.random, 8), hex_digits(self.random, 8)]
        target = self._address(other) if method != b"REGISTER" else b"sip:" + _DOMAIN
        via = self._via(side)
        start = method + b" " + target + b" SIP/2.0\r\n"
        to = self.users[side] if method == b"REGISTER" else self.users[other]
        begin = self._parties(side, to, self.is_talking)
        headers = [b"Max-Forwards: 70\r\n"]
        if method in (b"INVITE", b"REGISTER", b"OPTIONS"):
            headers.append(b"Contact: <" + self._contact(side) + b">\r\n")
        if method == b"REGISTER":
            headers.append(b"Expires: 3600\r\n")
            self.is_registered = True
        if method == b"INVITE" and length >= _WITH_SDP:
            body = self._sdp(side, length)
        if self.is_challenged:
            headers.append(self._credentials(side, method, target))
        self.is_challenged = False
        self.is_talking = self.is_talking and method != b"BYE"
        request = _Request(method, self.number, via, begin, self.call)
        self.open[side] = request
        return self._build(start, request, headers, body, length)

    def _answer(
        self, side: int, length: int, asked: _Request, does_go_on: bool, rest: Sequence[int]
    ) -> bytes:
        headers, body = [], b""
        is_call = asked.method == b"INVITE"
        if is_call and does_go_on:
            status = _RINGING if asked.is_rung else _TRYING
            if asked.is_rung and length >= _WITH_SDP:
                status, body = _PROGRESS, self._sdp(side, length)
            asked.is_rung = True
        else:
            self.open[1 - side] = None
            status = _OK
            if is_call:
                self.acknowledge[1 - side] = asked
                if length >= _WITH_SDP:
                    body = self._sdp(side, length)
                    self.is_talking = True
                else:
                    does_retry = len(rest) > 1 and rest[1] >= _WITH_SDP
                    status = _PROXY if does_retry else _BUSY
            elif asked.method == b"REGISTER" and rest and rest[0] > length + 100:
                status = _UNAUTHORIZED
            if status in (_PROXY, _UNAUTHORIZED):
                name = b"Proxy" if status == _PROXY else b"WWW"
                nonce = hex_digits(self.random, 16)
                headers.append(
                    name + b'-Authenticate: Digest realm="' + _DOMAIN + b'", nonce="' + nonce
                    + b'"\r\n'
                )  # fmt: skip
                self.is_challenged = is_call
        if status in (_RINGING, _PROGRESS, _OK):
            headers.append(b"Contact: <" + self._contact(side) + b">\r\n")
        if status not in (_TRYING,) and b";tag=" not in asked.begin.rpartition(b"To")[2]:
            at = asked.begin.index(b"\r\n", asked.begin.index(b"To: "))
            asked.begin = asked.begin[:at] + b";tag=" + self.tags[side] + asked.begin[at:]
        start = b"SIP/2.0 " + status + b"\r\n"
        return self._build(start, asked, headers, body, length)

    def _acknowledge(self, side: int, length: int) -> bytes:
        asked = self.acknowledge[side]
        self.acknowledge[side] = None
        target = self._address(1 - side)
        start = b"ACK " + target + b" SIP/2.0\r\n"
        request = _Request(b"ACK", asked.number, asked.via, asked.begin, asked.call)
        return self._build(start, request, [b"Max-Forwards: 70\r\n"], b"", length)

    def _build(
        self, start: bytes, request: _Request, headers: list[bytes], body: bytes, length: int
    ) -> bytes:
        """Return a message of a length."""
        fixed = (
            start + request.via + request.begin + b"Call-ID: " + request.call
            + b"\r\nCSeq: %d " % request.number + request.method + b"\r\n"
        )  # fmt: skip
        size = b"%d\r\n\r\n" % len(body)
        end = b"Content-Length: "
        if body:
            headers = [*headers, _SDP_TYPE]
        rest = length - len(fixed) - len(end) - len(size) - len(body)
        chosen = []
        for header in (*headers, *_OPTIONAL):
            left = rest - len(header)
            if left == 0 or left >= _LEAST_FILLER or (header in headers and left >= 0):
                chosen.append(header)
                rest = left
        if rest >= _LEAST_FILLER:
            chosen.append(self._filler(rest))
            rest = 0
        if rest < 0:
            return self._shorten(fixed, end, size, body, length)
        return b"".join((fixed, *chosen, end, b" " * rest, size, body))

    def _shorten(self, fixed: bytes, end: bytes, size: bytes, body: bytes, length: int) -> bytes:
        """Return a message in the short form of headers (RFC 3261 section 7.3.3); line ends where
        that is still too long."""
        text = fixed + end
        for name, letter in _SHORT.items():
            text = text.replace(b"\r\n" + name + b": ", b"\r\n" + letter + b": ")
        rest = length - len(text) - len(size) - len(body)
        if rest < 0:
            return (b"\r\n" * (length // 2 + 1))[:length]
        return b"".join((text, b" " * rest, size, body))

    def _filler(self, size: int) -> bytes:
        parts = []
        while size > 200 + _LEAST_FILLER:
            parts.append(b"X-Note: " + words(self.random, 190) + b"\r\n")
            size -= 200
        agent = (b"ExamplePhone/2.4 " + words(self.random, 200))[: size - len(_FILLER) - 2]
        return b"".join(
            (*parts, _FILLER, agent[:-1], b"x" if agent[-1:] == b" " else agent[-1:], b"\r\n")
        )

    def _sdp(self, side: int, length: int) -> bytes:
        """Return a description of the audio that a side receives."""
        host = self.hosts[side].strip(b"[]")
        family = b"IP6 " if b":" in host else b"IP4 "
        head = (
            b"v=0\r\no=- %d 1 IN " % (1_000_000 + self.number) + family + host
            + b"\r\ns=call\r\nc=IN " + family + host + b"\r\nt=0 0\r\n"
            + b"m=audio %d RTP/AVP 0 8 18 101\r\n" % self.media[side]
        )  # fmt: skip
        room = length - 480
        for line in _MEDIA:
            if len(line) <= room:
                head += line
                room -= len(line)
        return head

    def _address(self, side: int) -> bytes:
        return b"sip:" + self.users[side] + b"@" + _DOMAIN

    def _contact(self, side: int) -> bytes:
        return b"sip:" + self.users[side] + b"@" + self.hosts[side] + b":" + self.ports[side]

    def _via(self, side: int) -> bytes:
        branch = b"z9hG4bK" + hex_digits(self.random, 8)
        place = self.hosts[side] + b":" + self.ports[side]
        return b"Via: SIP/2.0/" + self.transport + b" " + place + b";branch=" + branch + b"\r\n"

    def _parties(self, side: int, to: bytes, is_known: bool) -> bytes:
        tag = b";tag=" + self.tags[1 - side] if is_known else b""
        return (
            b"From: <" + self._address(side) + b">;tag=" + self.tags[side] + b"\r\nTo: <sip:" + to
            + b"@" + _DOMAIN + b">" + tag + b"\r\n"
        )  # fmt: skip

    def _credentials(self, side: int, method: bytes, target: bytes) -> bytes:
        user = self.users[side]
        return (
            b'Proxy-Authorization: Digest username="' + user + b'", realm="' + _DOMAIN
            + b'", nonce="' + hex_digits(self.random, 16) + b'", uri="' + target
            + b'", response="' + hex_digits(self.random, 32) + b'"\r\n'
        )  # fmt: skip


def _host(address: bytes) -> bytes:
    """Return an address as text, in brackets if it is IPv6."""
    text = str(ip_address(address)).encode()
    return b"[" + text + b"]" if len(address) > 4 else text
