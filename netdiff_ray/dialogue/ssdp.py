"""SSDP (UPnP Device Architecture 2.0): devices that are searched for, answer and announce."""

from ipaddress import ip_address

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.filling import LARGEST_DATAGRAM, hex_digits, label

_LEAST = 70
_TYPES = (
    b"ssdp:all", b"upnp:rootdevice", b"urn:schemas-upnp-org:device:MediaServer:1",
    b"urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    b"urn:dial-multiscreen-org:service:dial:1",
)  # fmt: skip
_NOTIFY_BYTES = 200
_FILLER = b"X-NOTE: "


def write(exchange: Exchange) -> list[bytes] | None:
    """Return the datagrams of a flow: long ones of the client's announce a device."""
    if min(exchange.lengths) < _LEAST or max(exchange.lengths) > LARGEST_DATAGRAM:
        return None
    random = exchange.random()
    device = b"uuid:" + hex_digits(random, 8) + b"-" + hex_digits(random, 4) + b"-4000"
    place = _url(exchange.client), _url(exchange.server)
    searched = random.choice(_TYPES)
    written = []
    for side, length in zip(exchange.sides, exchange.lengths, strict=True):
        if side == 1:
            start = b"HTTP/1.1 200 OK\r\n"
            headers = (
                b"ST: " + searched,
                b"USN: " + device,
                b"CACHE-CONTROL: max-age=1800",
                b"LOCATION: " + place[1],
                b"EXT:",
                b"SERVER: Linux UPnP/1.0 Example/2.1",
            )
        elif length < _NOTIFY_BYTES:
            start = b"M-SEARCH * HTTP/1.1\r\n"
            headers = (
                b"HOST: 239.255.255.250:1900",
                b'MAN: "ssdp:discover"',
                b"MX: 3",
                b"ST: " + searched,
                b"ST: ssdp:all",
            )
        else:
            start = b"NOTIFY * HTTP/1.1\r\n"
            headers = (
                b"HOST: 239.255.255.250:1900",
                b"NTS: ssdp:alive",
                b"NT: " + searched,
                b"USN: " + device,
                b"CACHE-CONTROL: max-age=1800",
                b"LOCATION: " + place[0],
                b"SERVER: Linux UPnP/1.0 Example/2.1",
            )
        written.append(_message(random, start, headers, length))
    return written


def _url(host: bytes) -> bytes:
    text = str(ip_address(host))
    return b"http://%s/d.xml" % (f"[{text}]" if ":" in text else text).encode()


def _message(random, start: bytes, headers: tuple[bytes, ...], length: int) -> bytes:
    room = length - len(start) - 2
    least = len(_FILLER) + 3
    chosen, seen = [], set()
    for header in headers:
        name = header.partition(b":")[0]
        left = room - len(header) - 2
        if name not in seen and (left == 0 or left >= least):
            chosen.append(header + b"\r\n")
            seen.add(name)
            room = left
    if room >= least:
        chosen.append(_FILLER + label(random, room - len(_FILLER) - 2) + b"\r\n")
    return b"".join((start, *chosen, b"\r\n")).ljust(length, b"\n")
