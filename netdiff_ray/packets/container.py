"""The decompressed byte stream of a capture file.

The compression is recognised by the first bytes, never by the name. Streams are read
piece by piece, so that a small file that unpacks to a large one costs no memory.
"""

import bz2
import gzip
import io
import lzma
import os
import select
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from backports import zstd

from netdiff_ray.errors import CaptureError
from netdiff_ray.packets.salvage import DECOMPRESSION_ERRORS, content_before_damage

COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bz2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
    b"\x28\xb5\x2f\xfd": ("zstd", zstd.open),
}
"""First bytes of a compressed file -> (its name, the function that opens it)."""

_MAGIC_BYTES = max(map(len, COMPRESSIONS))

MAX_NESTED = 4
"""Compressions of one another that are read through."""
_PIECE_BYTES = 256 << 10
WRITER_WAIT_S = 10
"""How long a FIFO without a writer is waited for."""

CAPTURE_SUFFIXES = (".pcap", ".pcapng", ".cap", ".dmp", ".trace")
COMPRESSED_SUFFIXES = (".gz", ".zst", ".xz", ".bz2")


def has_capture_suffix(name: str) -> bool:
    """Return whether a file name ends as captures' do, a compression's suffix after it or not."""
    name = name.lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.endswith(CAPTURE_SUFFIXES)


def _opened(path: Path, name: str) -> BinaryIO:
    """Open a path; return a file that can be sought in.

    Raises:
        CaptureError: it cannot be opened or copied.
    """
    try:
        if not stat.S_ISFIFO(path.stat().st_mode):
            file = open(path, "rb", buffering=0)  # noqa: SIM115 - the caller closes it
            return file if file.seekable() else _spooled(file, b"")
        file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)  # noqa: SIM115
        return _spooled(file, _first_byte(file, name))
    except OSError as error:
        raise CaptureError(name, f"cannot be opened: {error.strerror}") from None


def _first_byte(fifo: BinaryIO, name: str) -> bytes:
    """Wait until a FIFO has a writer; return the byte that this has cost, if any.

    Raises:
        CaptureError: nothing writes to it.
    """
    waiter = select.poll()
    waiter.register(fifo, select.POLLIN | select.POLLHUP)
    first = b""
    if not waiter.poll(WRITER_WAIT_S * 1000):
        first = fifo.read(1)  # None where there is a writer that has not written
        if first == b"":
            fifo.close()
            raise CaptureError(
                name, f"a FIFO that nothing has written to for {WRITER_WAIT_S} s; start its writer"
            )
    os.set_blocking(fifo.fileno(), True)
    return first or b""


def _spooled(file: BinaryIO, first: bytes) -> BinaryIO:
    """Return a temporary file that holds `first` and what the file holds; close the file."""
    spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the caller closes it
    with file:
        spool.write(first)
        shutil.copyfileobj(file, spool, _PIECE_BYTES)
    spool.seek(0)
    return spool


class ByteSource:
    """The decompressed bytes of a capture, in order, into a caller's buffer.

    Args:
        source: a path, or a seekable binary file that the caller closes. The content of a path
            that cannot be sought in, as a pipe's, is written to a temporary file first.
        name: its name in errors; the path if not given.

    Raises:
        CaptureError: the file cannot be opened, or nothing writes to the FIFO that it is.
    """

    def __init__(self, source: str | Path | BinaryIO, name: str | None = None):
        self.name = name or os.fsencode(str(source)).decode(errors="backslashreplace")
        self._owned = None
        if isinstance(source, (str, Path)):
            source = self._owned = _opened(Path(source), self.name)
        try:
            first = source.read(_MAGIC_BYTES)
            source.seek(0)
        except OSError as error:
            raise CaptureError(self.name, f"cannot be read: {error.strerror}") from None
        self.fault: str | None = None
        """Why the stream could not be read to its end, None if it could."""
        self._damage = ""
        self._salvaged: Iterator[bytes] | None = None
        self._rest = b""  # of what was salvaged
        self._num_read = 0  # bytes of content before the damage
        self._file = source
        self._compressed = io.BufferedReader(source) if self._owned else source
        self._compressions: list[str] = []
        for _ in range(MAX_NESTED):
            if not self._open_compressed(first):
                break
            first = self._peek()

    @property
    def compression(self) -> str | None:
        """gzip, bz2, xz, zstd, these in one another (`gzip in xz`), or None."""
        return " in ".join(reversed(self._compressions)) or None

    def _open_compressed(self, first: bytes) -> bool:
        """Decompress from here on if `first`, the first bytes, are those of a compression;
        return whether they are."""
        for magic, (compression, opener) in COMPRESSIONS.items():
            if first.startswith(magic):
                if self._compressions:
                    self._compressed = self._file
                self._file = opener(self._compressed)
                self._compressions.append(compression)
                return True
        return False

    def _peek(self) -> bytes:
        try:
            return self._file.peek(_MAGIC_BYTES)[:_MAGIC_BYTES]
        except DECOMPRESSION_ERRORS as error:
            self._begin_salvage(error)
            return b""

    def read_into(self, view: memoryview) -> int:
        """Read into `view`; return how many bytes, fewer than its length only at the end.

        A damaged or cut stream ends at the damage and leaves the reason in `fault`.
        """
        filled = 0
        while filled < len(view) and self.fault is None:
            if self._compressions:
                piece = self._next_piece(min(len(view) - filled, _PIECE_BYTES))
                got = len(piece)
                view[filled : filled + got] = piece
            else:
                got = self._read_plain(view[filled:])
            if not got:
                break
            filled += got
        return filled

    def _read_plain(self, view: memoryview) -> int:
        try:
            return self._file.readinto(view)
        except OSError as error:
            self.fault = f"the file stream is damaged or cut ({error})"
            return 0

    def _next_piece(self, size: int) -> bytes:
        """Return the next bytes of the content, at most `size`; none at its end."""
        if self._salvaged is None:
            try:
                piece = self._file.read1(size)
            except DECOMPRESSION_ERRORS as error:
                self._begin_salvage(error)
            else:
                self._num_read += len(piece)
                return piece
        if not self._rest:
            self._rest = next(self._salvaged, b"")
        if not self._rest:
            self.fault = self._damage
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def _begin_salvage(self, error: Exception) -> None:
        """Read what precedes the damage from here on; a stream that is only cut lost nothing."""
        self._damage = f"the {self.compression} stream is damaged or cut ({error})"
        self._salvaged = iter(())
        if not isinstance(error, EOFError):
            self._salvaged = content_before_damage(
                self._compressed, self._compressions[-1], self._num_read
            )

    def seek(self, offset: int) -> None:
        """Continue at a byte offset of a stream that is not compressed."""
        assert not self._compressions
        self._file.seek(offset)

    def close(self) -> None:
        """Close the file if this object opened it."""
        if self._compressions:
            self._file.close()
        if self._owned is not None:
            self._owned.close()
