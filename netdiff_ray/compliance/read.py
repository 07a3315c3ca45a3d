"""Read the records of a capture, without any code of the packets room.

pcap, pcapng and compressions are recognised by their magic numbers; an error gives the number
of the record. Files are read once, from begin to end, so that pipes can be read too.
"""

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from backports import zstd

from netdiff_ray.errors import CaptureError

COMPRESSIONS = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": zstd.open,
}
"""First bytes of a compressed file -> the function that opens it: gzip, bz2, xz and zstd."""
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zstd.ZstdError)
"""Errors of reading a compressed file that is cut or damaged."""

PCAP_UNITS_NS = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION, OBSOLETE_PACKET, SIMPLE_PACKET, ENHANCED_PACKET = 1, 2, 3, 6
"""Types of pcapng blocks (draft-ietf-opsawg-pcapng); the section header's reads alike in
either byte order."""
BYTE_ORDER_MAGIC = b"\x4d\x3c\x2b\x1a"
LINK_TYPE_BITS = 0xFFFF
"""The link type in the last word of a pcap header; the other bits are about the frame check
sequence (draft-ietf-opsawg-pcap, 4)."""
MAX_RECORD_BYTES = 1 << 28
IF_TSRESOL, IF_TSOFFSET = 9, 14
BLOCKS_READ = (INTERFACE_DESCRIPTION, OBSOLETE_PACKET, SIMPLE_PACKET, ENHANCED_PACKET)


class Record(NamedTuple):
    """A record: its number from 1, time in ns, length on the wire, and captured bytes.

    Simple packet blocks of pcapng have no time: None.
    """

    number: int
    ts_ns: int | None
    wire_bytes: int
    link_type: int
    data: bytes


def read_records(path: Path | str, name: str | None = None) -> Iterator[Record]:
    """Yield the records of a capture in order.

    Args:
        path: of the capture.
        name: what errors call it; the path if not given.

    Raises:
        CaptureError: the file is no capture, or cannot be read past a record.
    """
    name = name or str(path)
    number = 0
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise CaptureError(name, f"cannot be opened: {error.strerror}") from error
    with file:
        stream, is_compressed = open_compressed(file)
        try:
            for record in _records(stream, name):
                number = record.number
                yield record
        except DAMAGED as error:
            kind = "compressed stream" if is_compressed else "file"
            what = f"the {kind} cannot be read after record {number:,}: {error}"
            raise CaptureError(name, what) from error


def open_compressed(file: BinaryIO) -> tuple[BinaryIO, bool]:
    """Return the content of a file, and whether the file is compressed."""
    opener = _decompressor(file.peek(8))
    return (opener(file), True) if opener else (file, False)


def _decompressor(first: bytes) -> Callable[[BinaryIO], BinaryIO] | None:
    """Return what opens files that begin with these bytes, None if they are not compressed."""
    return next((opener for magic, opener in COMPRESSIONS.items() if first.startswith(magic)), None)


def _records(stream: BinaryIO, name: str) -> Iterator[Record]:
    magic = stream.read(4)
    if len(magic) < 4:
        raise CaptureError(name, f"no capture: {len(magic)} bytes where a magic number of 4 starts")
    for order in "<>":
        (value,) = struct.unpack(order + "I", magic)
        if value in PCAP_UNITS_NS:
            return _pcap(stream, name, order, PCAP_UNITS_NS[value])
        if value == SECTION_HEADER:
            return _pcapng(stream, name)
    if _decompressor(magic + stream.read(2)):
        raise CaptureError(name, "no capture: it is compressed twice; decompress it once")
    raise CaptureError(name, f"no capture: it starts with {magic.hex()}, neither pcap nor pcapng")


def _take(stream: BinaryIO, count: int, name: str, number: int) -> bytes:
    """Read `count` bytes of record `number`; raise CaptureError if the file ends before."""
    if count > MAX_RECORD_BYTES:
        raise CaptureError(name, f"record {number:,} claims {count:,} bytes")
    data = stream.read(count)
    if len(data) < count:
        raise CaptureError(name, f"the file ends inside record {number:,}")
    return data


def _pcap(stream: BinaryIO, name: str, order: str, unit_ns: int) -> Iterator[Record]:
    head = stream.read(20)
    if len(head) < 20:
        raise CaptureError(name, "the file ends inside its header of 24 bytes")
    link_type = struct.unpack(order + "HHiIII", head)[5] & LINK_TYPE_BITS
    fields = struct.Struct(order + "IIII")
    number = 0
    while head := stream.read(16):
        number += 1
        if len(head) < 16:
            raise CaptureError(name, f"the file ends inside the header of record {number:,}")
        seconds, fraction, captured, wire = fields.unpack(head)
        data = _take(stream, captured, name, number)
        yield Record(number, seconds * 10**9 + fraction * unit_ns, wire, link_type, data)


def _pcapng(stream: BinaryIO, name: str) -> Iterator[Record]:
    order, number = "<", 0
    interfaces: list[tuple[int, int, int, int]] = []
    # The first four bytes have been read, to know that this is pcapng.
    head = SECTION_HEADER.to_bytes(4, "big") + stream.read(4)
    while head:
        if len(head) < 8:
            raise CaptureError(name, f"the file ends inside a block after record {number:,}")
        if head[:4] == SECTION_HEADER.to_bytes(4, "big"):
            magic = stream.read(4)
            order = "<" if magic == BYTE_ORDER_MAGIC else ">"
            head += magic
            interfaces = []
        kind, length = struct.unpack(order + "II", head[:8])
        if length < 12 or length % 4:
            raise CaptureError(
                name, f"a block after record {number:,} has the impossible length {length:,}"
            )
        body = head[8:] + _take(stream, length - len(head), name, number + 1)[:-4]
        head = stream.read(8)
        if kind not in BLOCKS_READ:
            continue
        try:
            if kind == INTERFACE_DESCRIPTION:
                interfaces.append(_interface(body, order))
                continue
            number += 1
            yield _packet_block(kind, body, order, number, interfaces)
        except (struct.error, IndexError) as error:
            raise CaptureError(
                name, f"record {number:,} is shorter than its block type, or names no interface"
            ) from error


def _interface(body: bytes, order: str) -> tuple[int, int, int, int]:
    """Return (link type, snap length, units a second, offset in s) of an interface block."""
    link_type, _, snap = struct.unpack_from(order + "HHI", body)
    units, offset, at = 10**6, 0, 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from(order + "HH", body, at)
        if code == 0:
            break
        if code == IF_TSRESOL and length:
            power = body[at + 4]
            units = 2 ** (power & 0x7F) if power & 0x80 else 10**power
        elif code == IF_TSOFFSET and length == 8:
            (offset,) = struct.unpack_from(order + "q", body, at + 4)
        at += 4 + (length + 3) // 4 * 4
    return link_type, snap, units, offset


def _packet_block(
    kind: int, body: bytes, order: str, number: int, interfaces: list[tuple[int, int, int, int]]
) -> Record:
    if kind == SIMPLE_PACKET:
        (wire,) = struct.unpack_from(order + "I", body)
        link_type, snap, *_ = interfaces[0]
        captured = min(wire, snap or wire, len(body) - 4)
        return Record(number, None, wire, link_type, body[4 : 4 + captured])
    form = "IIIII" if kind == ENHANCED_PACKET else "HHIIII"
    fields = struct.unpack_from(order + form, body)
    high, low, captured, wire = fields[-4:]
    link_type, _, units, offset = interfaces[fields[0]]
    if captured > len(body) - 20:
        raise IndexError
    ticks = high << 32 | low
    ts_ns = offset * 10**9 + ticks * 10**9 // units
    return Record(number, ts_ns, wire, link_type, body[20 : 20 + captured])
