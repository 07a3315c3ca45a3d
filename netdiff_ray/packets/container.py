"""The decompressed byte stream of a capture file.

The compression is recognised by the first bytes, never by the name. Streams are read
piece by piece, so that a small file that unpacks to a large one costs no memory.
"""

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO

from backports import zstd

from netdiff_ray.errors import CaptureError

COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bz2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
    b"\x28\xb5\x2f\xfd": ("zstd", zstd.open),
}
"""First bytes of a compressed file -> (its name, the function that opens it)."""

DECOMPRESSION_ERRORS = (EOFError, OSError, zlib.error, lzma.LZMAError, zstd.ZstdError)


CAPTURE_SUFFIXES = (".pcap", ".pcapng", ".cap", ".dmp", ".trace")
COMPRESSED_SUFFIXES = (".gz", ".zst", ".xz", ".bz2")


def has_capture_suffix(name: str) -> bool:
    """Return whether a file name ends as captures' do, a compression's suffix after it or not."""
    name = name.lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.endswith(CAPTURE_SUFFIXES)


class ByteSource:
    """The decompressed bytes of a capture, in order, into a caller's buffer.

    Args:
        source: a path, or a seekable binary file that the caller closes.
        name: its name in errors; the path if not given.

    Raises:
        CaptureError: the file cannot be opened.
    """

    def __init__(self, source: str | Path | BinaryIO, name: str | None = None):
        self.name = name or str(source)
        self._owned = None
        if isinstance(source, (str, Path)):
            try:
                source = self._owned = open(source, "rb", buffering=0)  # noqa: SIM115
            except OSError as error:
                raise CaptureError(self.name, f"cannot be opened: {error.strerror}") from None
        try:
            first = source.read(6)
            source.seek(0)
        except OSError as error:
            raise CaptureError(self.name, f"cannot be read: {error.strerror}") from None
        self.compression: str | None = None
        self._file = source
        for magic, (compression, opener) in COMPRESSIONS.items():
            if first.startswith(magic):
                self.compression = compression
                self._file = opener(io.BufferedReader(source) if self._owned else source)
        self.fault: str | None = None
        """Why the stream could not be read to its end, None if it could."""

    def read_into(self, view: memoryview) -> int:
        """Read into `view`; return how many bytes, fewer than its length only at the end.

        A damaged or cut stream ends at the damage and leaves the reason in `fault`; what was
        decompressed before it is returned.
        """
        filled = 0
        while filled < len(view) and self.fault is None:
            try:
                if self.compression is None:
                    got = self._file.readinto(view[filled:])
                else:
                    piece = self._file.read1(min(len(view) - filled, 1 << 18))
                    got = len(piece)
                    view[filled : filled + got] = piece
            except DECOMPRESSION_ERRORS as error:
                kind = self.compression or "file"
                self.fault = f"the {kind} stream is damaged or cut ({error})"
                break
            if not got:
                break
            filled += got
        return filled

    def seek(self, offset: int) -> None:
        """Continue at a byte offset of a stream that is not compressed."""
        assert self.compression is None
        self._file.seek(offset)

    def close(self) -> None:
        """Close the file if this object opened it."""
        if self.compression is not None:
            self._file.close()
        if self._owned is not None:
            self._owned.close()
