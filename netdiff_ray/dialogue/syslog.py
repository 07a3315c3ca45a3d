"""Syslog (RFC 5424): messages of a host's programs."""

from datetime import UTC, datetime

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, words

_PROGRAMS = (b"sshd", b"cron", b"kernel", b"systemd", b"dhcpd", b"nginx")
_LEAST = 8


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow; None where they are too short for a priority and text."""
    if min(exchange.lengths) < _LEAST or max(exchange.lengths) > LARGEST_DATAGRAM:
        return None
    random = exchange.random()
    host = b"host%d.example.net" % random.randrange(1, 99)
    written = []
    for length, ts_ns in zip(exchange.lengths, exchange.ts_ns, strict=True):
        program = random.choice(_PROGRAMS)
        priority = 8 * random.choice((0, 3, 4, 9)) + random.randrange(3, 7)
        at = datetime.fromtimestamp(ts_ns // 10**9, UTC)
        head = b"<%d>%s %s %s[%d]: " % (
            priority, at.strftime("%b %e %H:%M:%S").encode(), host, program,
            random.randrange(300, 9_000),
        )  # fmt: skip
        if len(head) + 4 > length:
            head = b"<%d>" % priority
        written.append((head + words(random, max(length - len(head), 0)))[:length])
    return written
