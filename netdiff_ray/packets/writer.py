"""Capture files to write: nanosecond pcap, and pcapng where link types differ.

Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.

Shape letters: P packets, C comments.
"""

import struct
from typing import BinaryIO, NamedTuple

import numba
import numpy as np

from netdiff_ray.packets.linktypes import ETHERNET
from netdiff_ray.packets.scan import MAX_CAPLEN

_NANOSECOND_MAGIC = 0xA1B23C4D
_COMMENT = 1
"""Code of the option opt_comment."""


def pcap_header(link_type: int = ETHERNET) -> bytes:
    """Return the 24 bytes that begin a little-endian pcap with nanosecond times."""
    return struct.pack("<IHHiIII", _NANOSECOND_MAGIC, 2, 4, 0, 0, MAX_CAPLEN, link_type)


def pcap_records(
    data: np.ndarray,
    start: np.ndarray,
    caplen: np.ndarray,
    wirelen: np.ndarray,
    ts_ns: np.ndarray,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return packets as pcap records.

    Args:
        data: uint8 that holds the packets' bytes.
        start: (P,) int64 index of each packet in `data`.
        caplen: (P,) int64 bytes of each in `data`.
        wirelen: (P,) int64 bytes of each on the wire; at least `caplen` is written.
        ts_ns: (P,) int64 nanoseconds since 1970-01-01 UTC, at least 0; whole seconds from
            2^32 on do not fit the format and wrap.
        out: uint8 of `pcap_record_bytes(caplen)` or more, to write into.

    Returns:
        uint8 of 16 bytes and the packet for each, to follow `pcap_header`.
    """
    size = pcap_record_bytes(caplen)
    out = np.empty(size, np.uint8) if out is None else out[:size]
    _fill_pcap(data, start, caplen, wirelen, ts_ns, out)
    return out


def pcap_record_bytes(caplen: np.ndarray) -> int:
    """Return the size in bytes of the records of packets with (P,) captured lengths."""
    return int(caplen.sum()) + 16 * len(caplen)


@numba.njit(cache=True)
def copy_bytes(source, begin, size, out, at):
    """Copy source[begin : begin + size] to out[at:]; return the position after it.

    Several times faster in a kernel than assigning one slice to another.
    """
    piece = source[begin : begin + size]
    target = out[at : at + size]
    for k in range(size):
        target[k] = piece[k]
    return at + size


@numba.njit(cache=True)
def _put_u32(out, at, value):
    for k in range(4):
        out[at + k] = (value >> (8 * k)) & 255


@numba.njit(cache=True)
def _fill_pcap(data, start, caplen, wirelen, ts_ns, out):
    at = 0
    for i in range(len(start)):
        _put_u32(out, at, ts_ns[i] // 1_000_000_000)
        _put_u32(out, at + 4, ts_ns[i] % 1_000_000_000)
        _put_u32(out, at + 8, caplen[i])
        _put_u32(out, at + 12, max(wirelen[i], caplen[i]))
        at += 16
        at = copy_bytes(data, start[i], caplen[i], out, at)


class Comments(NamedTuple):
    """Comments of P packets, of which C differ."""

    data: np.ndarray
    """uint8: the comments in UTF-8, one after another."""
    first: np.ndarray
    """(C + 1,) int64: where each begins in `data`, the last element its end. One of no bytes is
    not written."""
    of_packet: np.ndarray
    """(P,) int64: the comment of each packet."""


def no_comments(num_packets: int) -> Comments:
    """Return the comments of packets that have none."""
    return Comments(np.empty(0, np.uint8), np.zeros(2, np.int64), np.zeros(num_packets, np.int64))


class CaptureWriter:
    """Writer of records to a binary file as pcap or pcapng.

    Args:
        file: a binary file open for writing.
        form: "pcap" (one link type) or "pcapng" (an interface for each link type).
    """

    def __init__(self, file: BinaryIO, form: str):
        assert form in ("pcap", "pcapng")
        self._file = file
        self._form = form
        self._interfaces: dict[int, int] = {}
        if form == "pcapng":
            file.write(struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28))

    def write(
        self, data, start, caplen, wirelen, ts_ns, link_type: int, comments: Comments | None = None
    ) -> None:
        """Append packets of one link type; the arrays are those of `pcap_records`.

        Args:
            comments: of the packets; a pcap has no place for them.

        Raises:
            ValueError: a second link type for a pcap, which holds one.
        """
        if link_type not in self._interfaces:
            if self._form == "pcap" and self._interfaces:
                raise ValueError(f"a pcap holds one link type, not {link_type} too; use .pcapng")
            self._interfaces[link_type] = len(self._interfaces)
            if self._form == "pcap":
                self._file.write(pcap_header(link_type))
            else:
                # Option 9 is if_tsresol: times count 10^-9 seconds.
                self._file.write(
                    struct.pack(
                        "<IIHHIHHB3xHHI", 1, 32, link_type, 0, MAX_CAPLEN, 9, 1, 9, 0, 0, 32
                    )
                )
        if self._form == "pcap":
            records = pcap_records(data, start, caplen, wirelen, ts_ns)
        else:
            comments = comments or no_comments(len(start))
            size = comments.first[comments.of_packet + 1] - comments.first[comments.of_packet]
            options = np.where(size > 0, ((size + 3) & ~3) + 8, 0)
            num_bytes = int((((caplen + 3) & ~3) + options).sum()) + 32 * len(start)
            records = np.zeros(num_bytes, np.uint8)
            packets = (data, start, caplen, wirelen, ts_ns)
            _fill_pcapng(*packets, self._interfaces[link_type], comments, records)
        self._file.write(records.data)

    def finish(self) -> None:
        """Write the file header of a pcap that got no packets."""
        if self._form == "pcap" and not self._interfaces:
            self._file.write(pcap_header())


@numba.njit(cache=True)
def _fill_pcapng(data, start, caplen, wirelen, ts_ns, interface, comments, out):
    at = 0
    for i in range(len(start)):
        begin = comments.first[comments.of_packet[i]]
        size = comments.first[comments.of_packet[i] + 1] - begin
        length = 32 + ((caplen[i] + 3) & ~3)
        if size:  # the option, and the end of the options
            options = at + length - 4
            _put_u32(out, options, _COMMENT | size << 16)
            copy_bytes(comments.data, begin, size, out, options + 4)
            length += ((size + 3) & ~3) + 8
        _put_u32(out, at, 6)
        _put_u32(out, at + 4, length)
        _put_u32(out, at + 8, interface)
        _put_u32(out, at + 12, ts_ns[i] >> 32)
        _put_u32(out, at + 16, ts_ns[i] & 0xFFFFFFFF)
        _put_u32(out, at + 20, caplen[i])
        _put_u32(out, at + 24, max(wirelen[i], caplen[i]))
        at += 28
        copy_bytes(data, start[i], caplen[i], out, at)
        _put_u32(out, at + length - 32, length)
        at += length - 28
