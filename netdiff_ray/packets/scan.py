"""The record scan: where each record of a classic pcap lies, and what is odd about it."""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.packets.table import Reason

MAX_CAPLEN = 262_144
"""Largest captured length that is accepted (libpcap's MAXIMUM_SNAPLEN)."""

NOTE_WORDS = (
    "records of no bytes",
    "records longer than the snap length",
    "records with more bytes captured than were on the wire",
    "times that go back",
)
"""The oddities that `note` counts, by kind."""


class PcapForm(NamedTuple):
    """What a pcap file header says of the records that follow."""

    big_endian: bool
    unit_ns: int
    """Nanoseconds in one unit of the fraction field."""
    record_header_bytes: int
    link_type: int
    """LINKTYPE_ number."""


@numba.njit(cache=True)
def unsigned(data, at, size, big_endian):
    """Return the unsigned integer of `size` bytes (at most 7) at `data[at]`, as int64."""
    value = np.int64(0)
    for k in range(size):
        j = k if big_endian else size - 1 - k
        value = (value << 8) | np.int64(data[at + j])
    return value


@numba.njit(cache=True)
def scan_pcap(data, begin, end, form, base, columns):
    """Fill record columns from pcap records in data[begin:end].

    Args:
        data: (bytes,) uint8.
        form: PcapForm.
        base: byte offset in the capture of data[0].
        columns: RecordColumns.

    Returns:
        (records read, position after the last of them, whether the record there claims
        more than MAX_CAPLEN bytes). It ends early where the bytes or the columns do.
    """
    header_bytes = form.record_header_bytes
    count = 0
    room = len(columns.start)
    while count < room:
        if begin + header_bytes > end:
            return count, begin, False
        length = unsigned(data, begin + 8, 4, form.big_endian)
        if length > MAX_CAPLEN:
            return count, begin, True
        if begin + header_bytes + length > end:
            return count, begin, False
        seconds = unsigned(data, begin, 4, form.big_endian)
        fraction = unsigned(data, begin + 4, 4, form.big_endian)
        columns.start[count] = begin + header_bytes
        columns.caplen[count] = length
        columns.wirelen[count] = unsigned(data, begin + 12, 4, form.big_endian)
        columns.offset[count] = base + begin
        columns.ts_ns[count] = seconds * 1_000_000_000 + fraction * form.unit_ns
        columns.link_type[count] = form.link_type
        columns.reason[count] = Reason.OK.value
        begin += header_bytes + length
        count += 1
    return count, begin, False


_CHAIN = 64
_MOST_WIRELEN = 1 << 24
_MOST_GAP_S = 10 * 365 * 86_400


@numba.njit(cache=True)
def resynchronise(data, begin, end, at_eof, form):
    """Return the position of the first record header at or after data[begin], -1 if none is.

    A header is accepted if a chain of 64 plausible headers begins with it, or a chain that
    runs out of data[begin:end]; `at_eof` tells that the capture ends at `end`, where a chain must
    then end too. Plausible: captured bytes at most those on the wire, a fraction below a
    second, at most ten years between neighbours.
    """
    header_bytes = form.record_header_bytes
    for position in range(begin, end - header_bytes + 1):
        at = position
        last_s = np.int64(-1)
        is_header = True
        for _ in range(_CHAIN):
            if at + header_bytes > end:
                is_header = not at_eof or at == end
                break
            seconds = unsigned(data, at, 4, form.big_endian)
            fraction = unsigned(data, at + 4, 4, form.big_endian)
            caplen = unsigned(data, at + 8, 4, form.big_endian)
            wirelen = unsigned(data, at + 12, 4, form.big_endian)
            if (
                caplen > MAX_CAPLEN
                or caplen > wirelen
                or wirelen > _MOST_WIRELEN
                or fraction * form.unit_ns >= 1_000_000_000
                or (last_s >= 0 and abs(seconds - last_s) > _MOST_GAP_S)
            ):
                is_header = False
                break
            last_s = seconds
            at += header_bytes + caplen
        if is_header:
            return position
    return -1


@numba.njit(cache=True)
def note(columns, snaplen, last_ts_ns):
    """Count the oddities of a run of records.

    Args:
        columns: RecordColumns.
        snaplen: the capture's snap length in bytes, 0 for none.
        last_ts_ns: time of the record before the first.

    Returns:
        (time of the last record, counts by kind of NOTE_WORDS, offset of each kind's first).
    """
    caplen, wirelen, ts_ns = columns.caplen, columns.wirelen, columns.ts_ns
    counts = np.zeros(4, np.int64)
    firsts = np.zeros(4, np.int64)
    for i in range(len(caplen)):
        for kind in range(4):
            if kind == 0:
                odd = caplen[i] == 0
            elif kind == 1:
                odd = snaplen > 0 and caplen[i] > snaplen
            elif kind == 2:
                odd = caplen[i] > wirelen[i]
            else:
                odd = ts_ns[i] < last_ts_ns
            if odd:
                if counts[kind] == 0:
                    firsts[kind] = columns.offset[i]
                counts[kind] += 1
        last_ts_ns = ts_ns[i]
    return last_ts_ns, counts, firsts
