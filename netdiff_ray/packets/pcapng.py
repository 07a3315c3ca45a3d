"""pcapng blocks: sections, interfaces and the three kinds of packet block.

Format: draft-ietf-opsawg-pcapng. Unknown blocks are skipped. pcapML (github.com/nprint/pcapml) has
seconds and microseconds in the two halves of a time; as one number they would be after 2262.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.packets.scan import unsigned
from netdiff_ray.packets.table import Reason, RecordColumns

_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE_DESCRIPTION = 1
_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET = 2, 3, 6
_IF_TSRESOL, _IF_TSOFFSET = 9, 14
MAX_BLOCK_BYTES = 64 << 20
_MAX_OFFSET_S = np.iinfo(np.int64).max // 1_000_000_000

_STOP, _HANDOVER, _BAD_BLOCK, _BAD_TRAILER, _ODD = range(5)

ODDITY_WORDS = {
    1: "packet blocks that claim more captured bytes than they hold",
    2: "times before 1970 or after 2262, read as the first or the last of these years",
}
"""What is noted of packet blocks, by the bit that stands for it beside _ODD."""
_CLIPPED, _SATURATED = ODDITY_WORDS
_MICRO, _LEAST_SECONDS, _MICROSECONDS = 6, np.uint64(10**8), np.uint64(10**6)
"""if_tsresol of microseconds; times whose upper half is this number of seconds at least, from 1973,
and whose lower half are fewer microseconds than a second has, are after 2262 as one number."""
_NO_TIME = np.iinfo(np.int64).min
"""Stands for the time of packets before any that has one."""


class _Section(NamedTuple):
    """What the blocks before say of the packet blocks that follow."""

    seen: bool
    """Whether a section header has been read."""
    big_endian: bool
    interfaces: np.ndarray
    """(interfaces, 4) int64: link type, snap length, if_tsresol, if_tsoffset in seconds."""
    last_ts_ns: int
    """Time of the packet before, or _NO_TIME."""


class Sections:
    """Section and interface state of a pcapng file while it is scanned."""

    def __init__(self, name: str):
        self.name = name
        self.big_endian = False
        self.snaplen = 0  # each interface has its own; records are clipped to none
        self._seen_section = False
        self._interfaces = np.zeros((8, 4), np.int64)  # as _Section has them
        self.num_interfaces = 0
        """Interfaces described so far in the present section."""
        self._last_ts_ns = _NO_TIME
        self.oddities: list[tuple[str, int]] = []
        """(words, byte offset) of packet blocks that are read, but not as they stand."""

    def scan(
        self, data: np.ndarray, begin: int, end: int, base: int, columns: RecordColumns
    ) -> tuple[int, int, str | None]:
        """Fill record columns from the blocks in data[begin:end].

        Packets before any that has a time get the first time of these blocks.

        Args:
            data: (bytes,) uint8.
            base: byte offset in the capture of data[0].

        Returns:
            (records read, position after the last block read, None or what is wrong there).
        """
        count, begin, fault = self._scan(data, begin, end, base, columns)
        times = columns.ts_ns[:count]
        without = times == _NO_TIME
        if without.any():
            times[without] = 0 if without.all() else times[~without][0]
        return count, begin, fault

    def _scan(
        self, data: np.ndarray, begin: int, end: int, base: int, columns: RecordColumns
    ) -> tuple[int, int, str | None]:
        """Do what `scan` does, with _NO_TIME for times that are not known yet."""
        count = 0
        while True:
            section = _Section(
                self._seen_section,
                self.big_endian,
                self._interfaces[: self.num_interfaces],
                self._last_ts_ns,
            )
            count, begin, state, self._last_ts_ns = _scan_blocks(
                data, begin, end, section, base, columns, count
            )
            if state == _STOP:
                return count, begin, None
            if state > _ODD:
                offset = int(columns.offset[count - 1])
                bits = [bit for bit in ODDITY_WORDS if (state - _ODD) & bit]
                self.oddities += [(ODDITY_WORDS[bit], offset) for bit in bits]
                continue
            if state == _BAD_TRAILER:
                return count, begin, "the two lengths of a block differ"
            if state == _BAD_BLOCK:
                length = unsigned(data, begin + 4, 4, self.big_endian)
                fault = (
                    f"a block claims {length:,} bytes; a block has at least 12, at most "
                    f"{MAX_BLOCK_BYTES:,}, and a multiple of 4"
                )
                return count, begin, fault
            fault, begin = self._take_block(data, begin, end)
            if fault == "":
                return count, begin, None
            if fault is not None:
                return count, begin, fault

    def _take_block(self, data, at, end) -> tuple[str | None, int]:
        """Read the section header or interface description at `at`.

        Returns (None, position after it), ("", `at`) if it is not read whole yet, or
        (what is wrong, `at`).
        """
        kind = int(unsigned(data, at, 4, self.big_endian))
        section = kind == _SECTION_HEADER or not self._seen_section
        if section:
            if end - at < 16:
                return "", at
            magic = bytes(data[at + 8 : at + 12])
            if magic not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
                return f"byte-order magic {magic.hex()} is neither 1a2b3c4d nor 4d3c2b1a", at
            self.big_endian = magic == b"\x1a\x2b\x3c\x4d"
        length = int(unsigned(data, at + 4, 4, self.big_endian))
        least = 28 if section else 20
        if length < least or length % 4 or length > MAX_BLOCK_BYTES:
            word = "section header" if section else "interface description"
            return f"a {word} block claims {length:,} bytes; it has at least {least}", at
        if at + length > end:
            return "", at
        if section:
            major = int(unsigned(data, at + 12, 2, self.big_endian))
            minor = int(unsigned(data, at + 14, 2, self.big_endian))
            if major != 1:
                return f"pcapng version {major}.{minor}; only version 1 is read", at
            self._seen_section = True
            self.num_interfaces = 0
        else:
            if self.num_interfaces == len(self._interfaces):
                self._interfaces = np.concatenate([self._interfaces, self._interfaces])
            self._interfaces[self.num_interfaces] = self._interface(data, at, length)
            self.num_interfaces += 1
        return None, at + length

    def _interface(self, data, at, length) -> tuple[int, int, int, int]:
        """Return (link type, snap length, if_tsresol, if_tsoffset in seconds)."""
        link_type = int(unsigned(data, at + 8, 2, self.big_endian))
        snaplen = int(unsigned(data, at + 12, 4, self.big_endian))
        resolution, seconds = 6, 0
        option, end = at + 16, at + length - 4
        while option + 4 <= end:
            code = int(unsigned(data, option, 2, self.big_endian))
            size = int(unsigned(data, option + 2, 2, self.big_endian))
            option += 4
            if code == 0 or option + size > end:
                break
            if code == _IF_TSRESOL and size >= 1:
                resolution = int(data[option])
            elif code == _IF_TSOFFSET and size >= 8:
                order = "big" if self.big_endian else "little"
                seconds = int.from_bytes(bytes(data[option : option + 8]), order, signed=True)
            option += (size + 3) & ~3
        return link_type, snaplen, resolution, max(-_MAX_OFFSET_S, min(_MAX_OFFSET_S, seconds))


@numba.njit(cache=True)
def _nanoseconds(units, resolution, offset_s):
    """Return the nanoseconds of an unsigned 64-bit count of 10^-k or (top bit set) 2^-k seconds,
    and whether they saturate: at the largest int64, and at 0 from below.
    """
    largest = np.uint64(0x7FFFFFFFFFFFFFFF)
    billion = np.uint64(1_000_000_000)
    power = np.uint64(resolution & 127)
    if resolution & 128:
        if power >= 64:
            value = np.uint64(0)
        else:
            seconds = units >> power
            fraction = float(units & ((np.uint64(1) << power) - np.uint64(1)))
            if seconds > largest // billion - np.uint64(1):
                value = largest
            else:
                value = seconds * billion + np.uint64(fraction / 2.0 ** float(power) * 1e9)
    else:
        value = units
        for _ in range(np.int64(power), 9):
            value = largest if value > largest // np.uint64(10) else value * np.uint64(10)
        for _ in range(9, np.int64(power)):
            value //= np.uint64(10)
        value = min(value, largest)
    shifted = float(value) + float(offset_s) * 1e9
    if shifted >= 9.2e18:
        return np.int64(largest), True
    if shifted < 0:
        return np.int64(0), True
    return np.int64(value) + np.int64(offset_s) * 1_000_000_000, False


@numba.njit(cache=True)
def _scan_blocks(data, begin, end, section, base, columns, count):
    """Fill record columns from `count` on.

    Returns (records in the columns, position after the last block read, why it stopped,
    time of the last packet in ns).
    """
    big_endian, interfaces, last_ts_ns = section.big_endian, section.interfaces, section.last_ts_ns
    room = len(columns.start)
    while count < room:
        if begin + 12 > end:
            return count, begin, _STOP, last_ts_ns
        kind = unsigned(data, begin, 4, big_endian)
        if kind == _SECTION_HEADER or kind == _INTERFACE_DESCRIPTION or not section.seen:
            return count, begin, _HANDOVER, last_ts_ns
        length = unsigned(data, begin + 4, 4, big_endian)
        if length < 12 or length % 4 or length > MAX_BLOCK_BYTES:
            return count, begin, _BAD_BLOCK, last_ts_ns
        if begin + length > end:
            return count, begin, _STOP, last_ts_ns
        fixed = odd = 0
        if kind == _ENHANCED_PACKET or kind == _PACKET:
            fixed = 28
        elif kind == _SIMPLE_PACKET:
            fixed = 12
        if fixed:
            if length < fixed + 4:
                return count, begin, _BAD_BLOCK, last_ts_ns
            held = length - fixed - 4
            interface = np.int64(0)
            if kind == _SIMPLE_PACKET:
                claimed = unsigned(data, begin + 8, 4, big_endian)
                on_wire = claimed
                if len(interfaces) and interfaces[0, 1] > 0:
                    claimed = min(claimed, interfaces[0, 1])
            else:
                width = 4 if kind == _ENHANCED_PACKET else 2
                interface = unsigned(data, begin + 8, width, big_endian)
                claimed = unsigned(data, begin + 20, 4, big_endian)
                on_wire = unsigned(data, begin + 24, 4, big_endian)
            columns.start[count] = begin + fixed
            columns.caplen[count] = min(claimed, held)
            columns.wirelen[count] = on_wire
            columns.offset[count] = base + begin
            columns.reason[count] = Reason.OK.value
            columns.link_type[count] = 0
            odd = _CLIPPED if claimed > held else 0
            if interface >= len(interfaces):
                columns.reason[count] = Reason.BAD_INTERFACE.value
            else:
                columns.link_type[count] = interfaces[interface, 0]
                if kind != _SIMPLE_PACKET:
                    high = np.uint64(unsigned(data, begin + 12, 4, big_endian))
                    low = np.uint64(unsigned(data, begin + 16, 4, big_endian))
                    last_ts_ns, saturates = _nanoseconds(
                        (high << np.uint64(32)) | low,
                        interfaces[interface, 2],
                        interfaces[interface, 3],
                    )
                    in_halves = high >= _LEAST_SECONDS and low < _MICROSECONDS
                    if saturates and in_halves and interfaces[interface, 2] == _MICRO:
                        last_ts_ns = np.int64(high) * 1_000_000_000 + np.int64(low) * 1_000
                    elif saturates:
                        odd |= _SATURATED
            # A simple packet block has no time: it takes that of the record before it.
            columns.ts_ns[count] = last_ts_ns
            count += 1
            if odd & _CLIPPED:
                return count, begin + length, _ODD + odd, last_ts_ns
        if unsigned(data, begin + length - 4, 4, big_endian) != length:
            return count, begin, _BAD_TRAILER, last_ts_ns
        begin += length
        if fixed and odd:
            return count, begin, _ODD + odd, last_ts_ns
    return count, begin, _STOP, last_ts_ns
