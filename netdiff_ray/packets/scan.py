"""The record scan: where each record of a classic pcap lies, and what is odd about it."""

import numba
import numpy as np

MAX_CAPLEN = 262_144
"""Largest captured length that is believed (libpcap's MAXIMUM_SNAPLEN)."""

NOTE_WORDS = (
    "records of no bytes",
    "records longer than the snap length",
    "records with more bytes captured than were on the wire",
    "times that go back",
)
"""The oddities that `note` counts, by kind."""

_COLUMN_TYPES = {
    "start": np.int64, "caplen": np.int64, "wirelen": np.int64, "offset": np.int64,
    "ts_ns": np.int64, "link_type": np.uint16, "network": np.int32, "transport": np.int32,
    "version": np.uint8, "protocol": np.uint8, "fragment": np.uint8,
    "fragment_id": np.uint32, "ether_type": np.uint16, "reason": np.uint8,
}  # fmt: skip


def empty_columns(num_records: int) -> dict[str, np.ndarray]:
    """Columns of a `PacketTable` with room for `num_records`, values undefined."""
    return {name: np.empty(num_records, kind) for name, kind in _COLUMN_TYPES.items()}


@numba.njit(cache=True)
def unsigned(data, at, size, big_endian):
    """The unsigned integer of `size` bytes (at most 7) at `data[at]`, as int64."""
    value = np.int64(0)
    for k in range(size):
        j = k if big_endian else size - 1 - k
        value = (value << 8) | np.int64(data[at + j])
    return value


@numba.njit(cache=True)
def scan_pcap(
    data, begin, end, big_endian, unit_ns, header_bytes, link_type_number, base,
    start, caplen, wirelen, offset, ts_ns, link_type, reason,
):  # fmt: skip
    """Fill record columns from pcap records in data[begin:end].

    `unit_ns` is the time unit of the fraction field, `header_bytes` the size of a record
    header, `base` the capture's byte offset of data[0].

    Returns:
        (records found, position after the last of them, whether the record there claims
        more than MAX_CAPLEN bytes). It ends early where the bytes or the columns do.
    """
    count = 0
    room = len(start)
    while count < room:
        if begin + header_bytes > end:
            return count, begin, False
        length = unsigned(data, begin + 8, 4, big_endian)
        if length > MAX_CAPLEN:
            return count, begin, True
        if begin + header_bytes + length > end:
            return count, begin, False
        seconds = unsigned(data, begin, 4, big_endian)
        fraction = unsigned(data, begin + 4, 4, big_endian)
        start[count] = begin + header_bytes
        caplen[count] = length
        wirelen[count] = unsigned(data, begin + 12, 4, big_endian)
        offset[count] = base + begin
        ts_ns[count] = seconds * 1_000_000_000 + fraction * unit_ns
        link_type[count] = link_type_number
        reason[count] = 0
        begin += header_bytes + length
        count += 1
    return count, begin, False


_CHAIN = 64
_MOST_WIRELEN = 1 << 24
_MOST_GAP_S = 10 * 365 * 86_400


@numba.njit(cache=True)
def resynchronise(data, begin, end, at_eof, big_endian, unit_ns, header_bytes):
    """Position of the first record header at or after data[begin], -1 if there is none.

    A header is believed if a chain of 64 plausible ones begins with it, or one that runs
    out of data[begin:end]; `at_eof` says that the capture ends at `end`, where a chain must
    then end too. Plausible: captured bytes at most those on the wire, a fraction below a
    second, at most ten years between neighbours.
    """
    for position in range(begin, end - header_bytes + 1):
        at = position
        last_s = np.int64(-1)
        believed = True
        for _ in range(_CHAIN):
            if at + header_bytes > end:
                believed = not at_eof or at == end
                break
            seconds = unsigned(data, at, 4, big_endian)
            fraction = unsigned(data, at + 4, 4, big_endian)
            caplen = unsigned(data, at + 8, 4, big_endian)
            wirelen = unsigned(data, at + 12, 4, big_endian)
            if (
                caplen > MAX_CAPLEN
                or caplen > wirelen
                or wirelen > _MOST_WIRELEN
                or fraction * unit_ns >= 1_000_000_000
                or (last_s >= 0 and abs(seconds - last_s) > _MOST_GAP_S)
            ):
                believed = False
                break
            last_s = seconds
            at += header_bytes + caplen
        if believed:
            return position
    return -1


@numba.njit(cache=True)
def note(caplen, wirelen, ts_ns, offset, snaplen, last_ts_ns):
    """Count the oddities of a run of records.

    Args:
        snaplen: the capture's snap length in bytes, 0 for none.
        last_ts_ns: time of the record before the first.

    Returns:
        (time of the last record, counts by kind of NOTE_WORDS, offset of each kind's first).
    """
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
                    firsts[kind] = offset[i]
                counts[kind] += 1
        last_ts_ns = ts_ns[i]
    return last_ts_ns, counts, firsts
