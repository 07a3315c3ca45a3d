"""The basic encoding of ASN.1 (ITU-T X.690): tags, lengths and the values that writers need."""

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


def content_bytes(size: int) -> tuple[int, int]:
    """Return the content of the element of `size` bytes in all, and bytes that are left over.

    An element cannot have 130 bytes, for one: of 127 bytes of content the length has one byte,
    of 128 bytes it has two.
    """
    content = size - 2
    if content >= 128:
        content = size - 3
        if content < 128:
            return 127, 1
        if content > 255:
            content = size - 4
            if content < 256:
                return 255, 1
    return content, 0
