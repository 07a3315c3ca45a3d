"""Captures read in chunks: pcap and pcapng, any byte order, compressed or not.

Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng, and libpcap's "modified"
pcap (magic 0xa1b2cd34, record headers of 24 bytes).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from netdiff_ray.errors import CaptureError
from netdiff_ray.packets import pcapng
from netdiff_ray.packets.container import COMPRESSIONS, MAX_NESTED, ByteSource
from netdiff_ray.packets.linklayer import locate
from netdiff_ray.packets.scan import (
    MAX_CAPLEN,
    NOTE_WORDS,
    PcapForm,
    note,
    resynchronise,
    scan_pcap,
    unsigned,
)
from netdiff_ray.packets.table import PacketTable, RecordColumns
from netdiff_ray.packets.tunnels import follow_tunnels

CHUNK_BYTES = 2 << 20
FINGERPRINT_BYTES = 64 << 10
_MAX_RECORDS = 1 << 15

_MAGICS = {  # magic number: (nanoseconds in one unit of the fraction, bytes of a record header)
    0xA1B2C3D4: (1000, 16),
    0xA1B23C4D: (1, 16),
    0xA1B2CD34: (1000, 24),
}
_PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
_HEAD_BYTES = 512
_ARCHIVES = {  # kind: (byte offset, bytes there)
    "a zip archive": (0, b"PK\x03\x04"),
    "a 7z archive": (0, b"7z\xbc\xaf\x27\x1c"),
    "a rar archive": (0, b"Rar!\x1a\x07"),
    "a tar archive": (257, b"ustar"),
}


class CaptureReader:
    """A capture, iterated as `PacketTable` chunks; memory does not grow with its size.

    Args:
        source: a path, also of a pipe, or a seekable binary file.
        name: its name in errors; the path if not given.
        strict: locate headers as nPrint 1.2.1 does (see `linklayer`).
        decapsulate: follow tunnels to the packets in them (see `tunnels`).
        byte_range: of a classic pcap that is not compressed, read only the records that begin
            in it (begin, end); resynchronising finds the first.

    Raises:
        CaptureError: the file cannot be opened or is no capture. A fault further in
            ends the iteration and is left in `fault`: what was read before stays valid.
    """

    def __init__(
        self,
        source: str | Path | BinaryIO,
        *,
        name: str | None = None,
        strict: bool = False,
        decapsulate: bool = False,
        byte_range: tuple[int, int] | None = None,
    ):
        self._bytes = ByteSource(source, name)
        self.name = self._bytes.name
        self.strict = strict
        self.decapsulate = decapsulate
        self.fault: CaptureError | None = None
        """Why reading stopped before the end of the capture, None if it did not."""
        self.notes: dict[str, tuple[int, int]] = {}
        """Oddities that did not stop the reading: words -> (records, byte offset of the first)."""
        self._buffer = np.empty(CHUNK_BYTES, np.uint8)
        self._begin = 0  # of the bytes not yet scanned, in _buffer
        self._end = 0
        self._base = 0  # offset in the capture of _buffer[0]
        self._at_eof = False
        self._columns = RecordColumns.empty(_MAX_RECORDS)
        self._last_ts_ns = np.iinfo(np.int64).min
        try:
            self._fill()
            self.fingerprint: bytes = hashlib.blake2b(
                self._buffer[: min(self._end, FINGERPRINT_BYTES)], digest_size=16
            ).digest()
            """16 bytes that identify the capture's content: a hash of its first 64 KiB,
            decompressed."""
            self._open()
            self._limit = None
            if byte_range is not None:
                self._enter(byte_range)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "CaptureReader":
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> None:
        """Close the file if this reader opened it."""
        self._bytes.close()

    @property
    def compression(self) -> str | None:
        """gzip, bz2, xz, zstd, these in one another (`gzip in xz`), or None."""
        return self._bytes.compression

    def __iter__(self) -> Iterator[PacketTable]:
        """Yield chunks in file order; each is valid until the next."""
        try:
            while True:
                count, done = self._scan()
                if count:
                    yield self._table(count)
                if done:
                    return
        finally:
            self.close()

    # Opening

    def _open(self) -> None:
        head = bytes(self._buffer[: min(self._end, _HEAD_BYTES)])
        self._sections = None
        self.snaplen = 0
        if head[:4] == _PCAPNG_MAGIC:
            self.format = "pcapng"
            self._sections = pcapng.Sections(self.name)
            return
        self.format = "pcap"
        for order in ("little", "big"):
            unit = _MAGICS.get(int.from_bytes(head[:4], order))
            if len(head) >= 4 and unit:
                break
        else:
            raise CaptureError(self.name, _not_a_capture(head, self._bytes.fault), 0)
        if self._end < 24:
            raise CaptureError(self.name, f"pcap file header cut: {self._end} of 24 bytes", 0)

        def field(at: int, size: int) -> int:
            return int.from_bytes(head[at : at + size], order)

        major, minor = field(4, 2), field(6, 2)
        if major != 2:
            raise CaptureError(
                self.name, f"pcap version {major}.{minor}; only version 2 is read", 4
            )
        self.snaplen = field(16, 4)
        unit_ns, record_header_bytes = unit
        # The upper bits hold the length of a frame check sequence; the lower 16 the type.
        link_type = field(20, 4) & 0xFFFF
        self._form = PcapForm(order == "big", unit_ns, record_header_bytes, link_type)
        self._begin = 24

    def _enter(self, byte_range: tuple[int, int]) -> None:
        """Seek to the first record of a range."""
        begin, self._limit = byte_range
        self.first_offset: int | None = self._base + self._begin
        """With a byte range: the offset of its first record, None if it has none."""
        if not self.is_splittable:
            raise ValueError(f"{self.name}: only a pcap that is not compressed has byte ranges")
        if begin <= self.first_offset:
            return
        self._bytes.seek(begin)
        self._base, self._begin, self._end = begin, 0, 0
        self._fill()
        position = resynchronise(self._buffer, 0, self._end, self._at_eof, self._form)
        self.first_offset = self._base + position if position >= 0 else None
        self._begin = position if position >= 0 else self._end

    @property
    def is_splittable(self) -> bool:
        """Whether byte ranges of this capture can be read by themselves."""
        return self._sections is None and self.compression is None

    @property
    def next_offset(self) -> int:
        """Byte offset in the capture at which the next record begins, or would begin."""
        return self._base + self._begin

    # Scanning

    def _fill(self) -> None:
        """Move what is left to the front of the buffer and read as much as fits behind."""
        left = self._end - self._begin
        if left == len(self._buffer):  # one block is larger than the buffer
            self._buffer = np.concatenate([self._buffer, np.empty_like(self._buffer)])
        elif self._begin:
            self._buffer[:left] = self._buffer[self._begin : self._end].copy()
            self._base += self._begin
            self._begin, self._end = 0, left
        got = self._bytes.read_into(memoryview(self._buffer)[self._end :])
        self._at_eof = self._end + got < len(self._buffer)
        self._end += got

    def _scan(self) -> tuple[int, bool]:
        """Return the number of records scanned into the columns, and whether the capture has no
        more."""
        columns = self._columns
        while True:
            if self._sections is None:
                count, self._begin, fault = self._scan_pcap(columns)
            else:
                count, self._begin, fault = self._sections.scan(
                    self._buffer, self._begin, self._end, self._base, columns
                )
            if self._limit is not None and self.next_offset >= self._limit:
                inside = int(np.searchsorted(columns.offset[:count], self._limit))
                if inside < count:
                    self._begin = int(columns.offset[inside]) - self._base
                return inside, True
            if fault is not None:
                if self._bytes.fault:  # damage can pass unnoticed for some bytes
                    fault += f" ({self._bytes.fault} at byte {self._base + self._end:,})"
                self.fault = CaptureError(self.name, fault, self.next_offset)
                return count, True
            if count:
                return count, False
            if not self._at_eof:
                self._fill()
                continue
            left = self._end - self._begin
            if self._bytes.fault:
                self.fault = CaptureError(self.name, self._bytes.fault, self._base + self._end)
            elif left:
                what = self._cut_words(left)
                self.fault = CaptureError(self.name, what, self._base + self._begin)
            return 0, True

    def _scan_pcap(self, columns: RecordColumns) -> tuple[int, int, str | None]:
        count, position, bad_length = scan_pcap(
            self._buffer, self._begin, self._end, self._form, self._base, columns
        )
        if not bad_length:
            return count, position, None
        length = unsigned(self._buffer, position + 8, 4, self._form.big_endian)
        words = f"a record claims {length:,} captured bytes; no packet has over {MAX_CAPLEN:,}"
        return count, position, words

    def _cut_words(self, left: int) -> str:
        if self._sections is not None:
            return f"the file ends inside a block, {left:,} bytes into it"
        header_bytes = self._form.record_header_bytes
        if left < header_bytes:
            return f"the file ends inside a record header, {left} bytes into it"
        caplen = unsigned(self._buffer, self._begin + 8, 4, self._form.big_endian)
        present = left - header_bytes
        return f"the file ends inside a record, after {present:,} of its {caplen:,} bytes"

    def _table(self, count: int) -> PacketTable:
        columns = self._columns.first(count)
        self._last_ts_ns, counts, firsts = note(columns, self.snaplen, self._last_ts_ns)
        for words, num_records, first in zip(NOTE_WORDS, counts, firsts, strict=True):
            self._add_note(words, int(num_records), int(first))
        if self._sections is not None:
            for words, offset in self._sections.oddities:
                self._add_note(words, 1, offset)
            self._sections.oddities.clear()
        locate(self._buffer, columns, self.strict)
        if self.decapsulate:
            follow_tunnels(self._buffer, columns)
        return PacketTable(data=self._buffer, **columns._asdict())

    def _add_note(self, words: str, num_records: int, first_offset: int) -> None:
        if num_records:
            seen, first = self.notes.get(words, (0, first_offset))
            self.notes[words] = (seen + num_records, first)


def _not_a_capture(head: bytes, stream_fault: str | None) -> str:
    """Return why `head`, the first bytes of a file, begins no capture."""
    expected = "pcap or pcapng expected"
    if not head:
        return stream_fault or f"the file is empty; {expected}"
    if len(head) < 4:
        return f"the file has {len(head)} bytes, less than a magic number; {expected}"
    for kind, (at, magic) in _ARCHIVES.items():
        if head[at : at + len(magic)] == magic:
            return f"this is {kind}; unpack it and read the captures in it"
    if any(head.startswith(magic) for magic in COMPRESSIONS):
        return f"compressed more than {MAX_NESTED} times; decompress it first"
    head = head[:64]
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return f"this is text ({head[:16].decode()!r}...); {expected}"
    return f"magic number {head[:4].hex()} is that of no capture format; {expected}"
