"""HTTP/1.1 (RFC 9112): requests, and responses whose heads and bodies fill the drawn lengths."""

import time
from functools import lru_cache
from random import Random
from typing import NamedTuple

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import hex_digits, noise, words
from netdiff_ray.dialogue.turns import Turn, fill_turns, turns

LEAST_REQUEST = len(b"GET / HTTP/1.0\r\n\r\n")
LEAST_RESPONSE = len(b"HTTP/1.1 204 \r\n\r\n")
_LEAST = (LEAST_REQUEST, LEAST_RESPONSE)
_CROWDED = 60
"""Bytes of a response below which it has a status line alone."""
_MOST_HEAD = 700
_END = b"\r\n\r\n"

HOSTS = (
    b"example.com", b"www.example.com", b"api.example.com", b"static.example.net",
    b"cdn.example.net", b"shop.example.org", b"news.example.org", b"device.example",
)  # fmt: skip
"""Names that nobody has (RFC 2606)."""
USER_AGENTS = (
    b"curl/8.5.0",
    b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    b"Chrome/126.0.0.0 Safari/537.36",
    b"python-requests/2.32.3",
    b"okhttp/4.12.0",
)
_SERVERS = (b"nginx/1.24.0", b"Apache/2.4.58 (Ubuntu)", b"lighttpd/1.4.71", b"envoy")
_PATHS = {
    b"/": b"text/html", b"/index.html": b"text/html", b"/about/": b"text/html",
    b"/static/site.css": b"text/css", b"/static/app.js": b"text/javascript",
    b"/api/v1/status": b"application/json", b"/api/v1/items": b"application/json",
    b"/download/data.bin": b"application/octet-stream", b"/fonts/text.woff2": b"font/woff2",
}  # fmt: skip
"""Paths and the types of what they hold."""
_PATH_NAMES = tuple(_PATHS)
_REQUEST_HEADERS = (
    b"Accept: */*\r\n", b"Accept-Encoding: gzip, deflate\r\n", b"Connection: keep-alive\r\n",
    b"Accept-Language: en-US,en;q=0.5\r\n", b"Cache-Control: no-cache\r\n",
)  # fmt: skip
_RESPONSE_HEADERS = (
    b"Connection: keep-alive\r\n", b"Vary: Accept-Encoding\r\n", b"Accept-Ranges: bytes\r\n",
    b"Cache-Control: max-age=3600\r\n", b"X-Content-Type-Options: nosniff\r\n",
)  # fmt: skip
_ANY_DATE, _ANY_TAG = b"Thu, 01 Jan 1970 00:00:00 GMT", b"0" * 16
"""Stand for those of a response."""
_EMPTY_REASONS = {12: (b"304", b"Not Modified"), 10: (b"204", b"No Content")}
_REDIRECTS = (b"301 Moved Permanently", b"302 Found", b"307 Temporary Redirect")
_ERRORS = (b"404 Not Found", b"403 Forbidden", b"500 Internal Server Error")


class Peers(NamedTuple):
    """What holds for a connection."""

    random: Random
    host: bytes
    agent: bytes
    server: bytes
    token: bytes
    """Of the session, 32 hexadecimal digits."""
    target: bytes
    """What follows the path of each request: the version and the host."""
    fields: tuple[bytes, ...]
    """Header fields of requests, the agent first."""


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the messages: a request in each of the client's, answered by the server's next.

    A message that is too short for a request or a response of its own goes on with its sender's
    last. None if the server speaks first; alone, in a flow whose other half took another way, it
    answers.
    """
    if exchange.sides[0] == 1 and 0 in exchange.sides:
        return None
    peers = peers_of(exchange)
    asked: list[bytes] = []

    def fill(number: int, turn: Turn) -> bytes:
        room = turn.first if turn.first >= _LEAST[turn.side] else turn.total
        if turn.side == 0:
            asked.append(peers.random.choice(_PATH_NAMES))
            return request(peers, asked[-1], turn.total, room)
        path = asked.pop(0) if asked else b"/"
        return _response(peers, path, turn.total, room, exchange.ts_ns[turn.messages[0]])

    return fill_turns(exchange, turns(exchange, _LEAST), fill)


def peers_of(exchange: Exchange) -> Peers:
    """Draw what holds for a connection."""
    random = exchange.random()
    host, agent = exchange.host(random, HOSTS), random.choice(USER_AGENTS)
    return Peers(
        random, host, agent, random.choice(_SERVERS), hex_digits(random, 32),
        b" HTTP/1.1\r\nHost: " + host + b"\r\n",
        (b"User-Agent: " + agent + b"\r\n", *_REQUEST_HEADERS),
    )  # fmt: skip


def request(peers: Peers, path: bytes, total: int, room: int) -> bytes:
    """Return a request of `total` bytes, whose head has at most `room`."""
    least = _head_bytes(peers, path)
    if total < least:
        blank = max(total - LEAST_REQUEST, 0)
        path = b"/" + words(peers.random, blank).replace(b" ", b"-")
        return (b"GET " + path + b" HTTP/1.0" + _END)[:total]
    has_body = total > max(room, 1200) or (total > least + 200 and peers.random.random() < 0.15)
    if not has_body:
        return plain_request(peers, path, total)
    kind = b"Content-Type: application/x-www-form-urlencoded\r\n"
    most = min(room, total) - least - 1 - 24
    fields = _fitting(min(most, _MOST_HEAD), (kind, *peers.fields))
    head = b"POST " + path + peers.target + fields
    line, num_bytes = _sized(total - len(head))
    content = b"data=" + words(peers.random, max(num_bytes - 5, 0)).replace(b" ", b"+")
    return head + line + content[:num_bytes]


def plain_request(peers: Peers, path: bytes, total: int, fields: bytes = b"") -> bytes:
    """Return a request without a body, of `total` bytes, or the shortest possible.

    Args:
        fields: header fields that it has before others.
    """
    rest = max(total - _head_bytes(peers, path) - len(fields), 0)
    more = _fitting(rest, peers.fields)
    rest -= len(more)
    if rest >= 40:
        cookie = b"Cookie: session=" + peers.token[: rest - 18]
        rest -= len(cookie) + 2
        if rest > 8:
            cookie += b"; id=" + hex_digits(peers.random, rest - 5)
            rest = 0
        more += cookie + b"\r\n"
    if rest:
        path += b"?" + hex_digits(peers.random, rest - 1)
    return b"GET " + path + peers.target + fields + more + b"\r\n"


def _head_bytes(peers: Peers, path: bytes) -> int:
    """Return the bytes of the shortest request for a path."""
    return len(b"GET ") + len(path) + len(peers.target) + len(b"\r\n")


@lru_cache(1 << 14)
def _fitting(room: int, fields: tuple[bytes, ...]) -> bytes:
    """Return those of header fields that fit, in order."""
    chosen = b""
    for field in fields:
        if len(chosen) + len(field) <= room:
            chosen += field
    return chosen


def _sized(room: int) -> tuple[bytes, int]:
    """Return the end of a head with the length of the body that fills `room` bytes with it, and
    that length."""
    rest = room - len(b"Content-Length: ") - len(_END)
    digits = len(str(rest))
    if len(str(rest - digits)) < digits and rest - digits == 10 ** (digits - 1) - 1:
        num_bytes = rest - digits
    else:
        digits = len(str(rest - digits))
        num_bytes = rest - digits
    return b"Content-Length: " + str(num_bytes).rjust(digits).encode() + _END, num_bytes


def _response(peers: Peers, path: bytes, total: int, room: int, ts_ns: int) -> bytes:
    """Return a response of `total` bytes, whose head has at most `room`."""
    if total < _CROWDED or room < _CROWDED:
        return _bodiless(peers.random, total, room)
    random = peers.random
    kind = _PATHS[path]
    draw = random.random()
    status, first = b"200 OK", b""
    if total < 600 and draw < 0.15:
        status, kind = random.choice(_REDIRECTS), b"text/html"
        first = b"Location: http://" + peers.host + b"/\r\n"
    elif total < 1200 and draw < 0.25:
        status, kind = random.choice(_ERRORS), b"text/html"
    head = b"HTTP/1.1 " + status + b"\r\n"
    is_chunked = draw > 0.8 and total > 200
    end = len(b"Transfer-Encoding: chunked") + len(_END)
    most = min(room, total - (40 if is_chunked else 0), _MOST_HEAD) - len(head) - end
    most = min(most, total // 2)
    if first and len(first) <= most:
        head += first
        most -= len(first)
    fields = _response_fields(most, kind, peers.server)
    head += fields.replace(_ANY_DATE, http_date(ts_ns // 10**9)).replace(_ANY_TAG, peers.token[:16])
    if is_chunked:
        head += b"Transfer-Encoding: chunked" + _END
        return head + _chunks(random, kind, total - len(head))
    line, num_bytes = _sized(total - len(head))
    return head + line + body(random, kind, num_bytes)


@lru_cache(1 << 14)
def _response_fields(room: int, kind: bytes, server: bytes) -> bytes:
    """Return header fields of a response in at most `room` bytes, with _ANY_DATE and _ANY_TAG."""
    return _fitting(
        room,
        (
            b"Content-Type: " + kind + b"\r\n", b"Server: " + server + b"\r\n",
            b"Date: " + _ANY_DATE + b"\r\n", *_RESPONSE_HEADERS, b'ETag: "' + _ANY_TAG + b'"\r\n',
        ),
    )  # fmt: skip


def _bodiless(random: Random, total: int, room: int) -> bytes:
    """Return a response of a status line, and behind it a body that ends with the connection."""
    length = max(min(total, room, _CROWDED) - LEAST_RESPONSE, 0)
    if total > room:
        length = max(min(room, _CROWDED) - LEAST_RESPONSE, 0)
        head = b"HTTP/1.1 200 " + words(random, length) + _END
        return (head + words(random, max(total - len(head), 0)))[:total]
    code, reason = _EMPTY_REASONS.get(length, (b"204", b""))
    return (b"HTTP/1.1 " + code + b" " + (reason or words(random, length)) + _END)[:total]


def _chunks(random: Random, kind: bytes, room: int) -> bytes:
    """Return a chunked body (RFC 9112 section 7.1) of `room` bytes, at least 12."""
    size_digits = len(f"{room:x}")
    num_bytes = room - size_digits - len(b"\r\n\r\n0\r\n\r\n")
    size = f"{num_bytes:0{size_digits}x}".encode()
    return size + b"\r\n" + body(random, kind, num_bytes) + b"\r\n0" + _END


def body(random: Random, kind: bytes, length: int) -> bytes:
    """Return content of a type."""
    if kind == b"text/html" and length > 40:
        return b"<html><body><p>" + words(random, length - 33) + b"</p></body></html>"
    if kind == b"application/json" and length >= 12:
        return b'{"text":"' + words(random, length - 11) + b'"}'
    if kind.startswith((b"text/", b"application/json")):
        return words(random, length)
    return noise(random, length)


@lru_cache(4096)
def http_date(seconds: int) -> bytes:
    """Return a time as RFC 9110 section 5.6.7 has it."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds)).encode()
