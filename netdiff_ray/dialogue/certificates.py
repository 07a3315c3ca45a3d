"""X.509 certificates (RFC 5280) of given lengths for made-up hosts; nobody signed them."""

from functools import lru_cache
from random import Random

from netdiff_ray.dialogue.ber import (
    BIT_STRING,
    BOOLEAN,
    IA5,
    OCTETS,
    SEQUENCE,
    SET,
    UTC_TIME,
    UTF8,
    integer,
    oid,
    tlv,
)  # fmt: skip

SMALLEST_CERTIFICATE = 360
"""Bytes that a certificate has at least; every length from it on can be had."""
_KEY, _SIGNATURE = b"\x5a" * 64, b"\x3c" * 32
_SERIAL = b"\x41\x29"


def certificate(random: Random, length: int, host: bytes = b"host.example.net") -> bytes:
    """Return the DER of a certificate of a P-256 key, made longer by a comment, with a key, serial
    number and signature drawn for it."""
    der, key_at, serial_at, first_at, second_at = _template(length, host)
    drawn = random.randbytes(64 + 7 + 2 * 31)
    parts = sorted(
        ((serial_at + 1, drawn[64:71]), (key_at, drawn[:64]), (first_at + 1, drawn[71:102]),
         (second_at + 1, drawn[102:]))
    )  # fmt: skip
    out, at = [], 0
    for place, data in parts:
        out += [der[at:place], data]
        at = place + len(data)
    return b"".join((*out, der[at:]))


@lru_cache(1 << 12)
def _template(length: int, host: bytes) -> tuple[bytes, int, int, int, int]:
    for serial_bytes in range(8, 21):
        without = len(_build(serial_bytes, 0, host))
        comment = length - without
        for _ in range(3):  # until it fits: lengths have more bytes in longer elements
            comment = max(comment, 0)
            der = _build(serial_bytes, comment, host)
            comment -= len(der) - length
            if len(der) == length:
                first = der.index(_SIGNATURE)
                return (
                    der, der.index(_KEY), der.index(_SERIAL), first,
                    der.index(_SIGNATURE, first + 32),
                )  # fmt: skip
    raise ValueError(f"no certificate has {length} bytes; {SMALLEST_CERTIFICATE} and more can be")


def _build(serial_bytes: int, comment_bytes: int, host: bytes) -> bytes:
    algorithm = tlv(SEQUENCE, oid("1.2.840.10045.4.3.2"))  # ECDSA with SHA-256
    serial = tlv(2, _SERIAL + b"\x41" * (serial_bytes - 2))
    name = tlv(SEQUENCE, tlv(SET, tlv(SEQUENCE, oid("2.5.4.3"), tlv(UTF8, host))))
    validity = tlv(SEQUENCE, tlv(UTC_TIME, b"250101000000Z"), tlv(UTC_TIME, b"350101000000Z"))
    key = tlv(
        SEQUENCE, tlv(SEQUENCE, oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")),
        tlv(BIT_STRING, b"\0\4", _KEY),
    )  # fmt: skip
    extensions = tlv(SEQUENCE, oid("2.5.29.19"), tlv(BOOLEAN, b"\xff"), tlv(OCTETS, tlv(SEQUENCE)))
    if comment_bytes:
        comment = tlv(OCTETS, tlv(IA5, b"e" * comment_bytes))  # of Netscape, which all ignore
        extensions += tlv(SEQUENCE, oid("2.16.840.1.113730.1.13"), comment)
    body = tlv(
        SEQUENCE, tlv(0xA0, integer(2)), serial, algorithm, name, validity, name, key,
        tlv(0xA3, tlv(SEQUENCE, extensions)),
    )  # fmt: skip
    signature = tlv(SEQUENCE, tlv(2, _SIGNATURE), tlv(2, _SIGNATURE))
    return tlv(SEQUENCE, body, algorithm, tlv(BIT_STRING, b"\0", signature))
