"""The basic encoding of ASN.1 (ITU-T X.690): tags, lengths and the values that writers need."""

from collections.abc import Callable
from functools import cache

BOOLEAN, INTEGER, BIT_STRING, OCTETS, NULL, OBJECT, ENUMERATED = 1, 2, 3, 4, 5, 6, 10
UTF8, PRINTABLE, IA5, UTC_TIME = 12, 19, 22, 23
SEQUENCE, SET = 0x30, 0x31


def tlv(tag: int, *contents: bytes) -> bytes:
    """Return an element of definite length in the shortest form."""
    content = b"".join(contents)
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 128 + len(octets))) + octets + content


def integer(value: int, tag: int = INTEGER) -> bytes:
    """Return an integer in the fewest bytes."""
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=value < 0))


@cache
def oid(dotted: str) -> bytes:
    """Return an object identifier."""
    first, second, *rest = map(int, dotted.split("."))
    content = b""
    for arc in (40 * first + second, *rest):
        octets = bytes((arc & 127,))
        while arc := arc >> 7:
            octets = bytes((128 | arc & 127,)) + octets
        content += octets
    return tlv(OBJECT, content)


def fit(size: int, build: Callable[[int, int, Callable[..., bytes]], bytes]) -> bytes | None:
    """Return an element of `size` bytes in all, None if there is none.

    Args:
        build: makes one with so many bytes of filler, with so many bytes less (0 to 3) in an
            element that can do without them, and with the outermost element made by a function:
            elements of 130 bytes, for one, have a length of two bytes, which is not the shortest.
    """
    for outermost in (tlv, _longer_tlv):
        for less in range(4):
            filler = max(size - len(build(0, less, outermost)), 0)
            for _ in range(3):
                data = build(filler, less, outermost)
                if len(data) == size:
                    return data
                filler -= len(data) - size
                if filler < 0:
                    break
    return None


def _longer_tlv(tag: int, *contents: bytes) -> bytes:
    """Return an element whose length has a byte more than the shortest form."""
    short = tlv(tag, *contents)
    if short[1] < 128:
        return short[:1] + b"\x81" + short[1:]
    return short[:1] + bytes((short[1] + 1,)) + b"\0" + short[2:]
