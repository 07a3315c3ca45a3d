"""The content of a damaged compressed stream up to the damage, to the last byte.

A decompressor that meets damage drops what it has decompressed since its last call. So the
stream is decompressed again, byte by byte where the damage is.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from backports import zstd

DECOMPRESSION_ERRORS = (EOFError, OSError, zlib.error, lzma.LZMAError, zstd.ZstdError)

_CHUNK_BYTES = 64 << 10
_PIECE_BYTES = 256 << 10


class _GzipDecompressor:
    """zlib's decompressor of gzip members, with the interface of bz2's and lzma's."""

    def __init__(self):
        self._zlib = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return at most `max_length` bytes of the content."""
        content = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = len(content) < max_length and not self._zlib.unconsumed_tail
        return content

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        """Input after the end of the member."""
        return self._zlib.unused_data


_DECOMPRESSORS = {
    "gzip": _GzipDecompressor,
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
    "zstd": zstd.ZstdDecompressor,
}


def content_before_damage(file: BinaryIO, compression: str, skip: int) -> Iterator[bytes]:
    """Yield the content of a damaged stream from byte `skip` up to the damage.

    Args:
        file: the compressed stream, seekable.
        compression: gzip, bz2, xz or zstd.
    """
    new = _DECOMPRESSORS[compression]
    intact = 0
    try:
        for intact, _ in _pieces(file, new, None):  # noqa: B007 - the last is used
            pass
    except DECOMPRESSION_ERRORS:
        pass
    position = 0
    try:
        for _, piece in _pieces(file, new, intact):
            if position + len(piece) > skip:
                yield piece[max(0, skip - position) :]
            position += len(piece)
    except DECOMPRESSION_ERRORS:
        return


def _pieces(file: BinaryIO, new: Callable, intact: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield (compressed bytes before the chunk, piece of content), chunk by chunk up to byte
    `intact` of the stream (its end if None), byte by byte after it.

    Args:
        new: makes a decompressor.
    """
    file.seek(0)
    decompressor = new()
    begin = 0
    while True:
        size = _CHUNK_BYTES if intact is None else max(1, min(_CHUNK_BYTES, intact - begin))
        chunk = data = file.read(size)
        if not chunk:
            return
        while True:
            piece = decompressor.decompress(data, _PIECE_BYTES)
            if piece:
                yield begin, piece
            data = b""
            if decompressor.eof:
                data = decompressor.unused_data
                decompressor = new()
                if not data:
                    break
            elif decompressor.needs_input:
                break
        begin += len(chunk)
