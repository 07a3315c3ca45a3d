"""The packets of many captures in time order, with bounded memory.

Each capture is read in chunks, and only while its packets are due: memory grows with the captures
that overlap in time, down to a chunk of 4 KiB for each, not with their number or length.

Shape letters: K captures.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.errors import DatasetError, StorageError
from netdiff_ray.packets.scan import MAX_CAPLEN
from netdiff_ray.packets.writer import copy_bytes, pcap_header
from netdiff_ray.storage.shards import CAPTURE_SUFFIXES, PCAP
from netdiff_ray.storage.store import Store

MEMORY_BYTES = 64 << 20
"""What the chunks of all captures take together, unless more than 16,384 of them overlap."""
_LEAST_CHUNK, _MOST_CHUNK = 4 << 10, 2 << 20
_OUT_BYTES = 4 << 20
_RECORD_HEADER_BYTES = 16
_NS_PER_S = 1_000_000_000

_FULL, _LATER, _DRY, _DONE = range(4)
"""Why `_merge` returned: the next record does not fit, or is not due; its capture has to be read
on; there is no further record."""


class _Chunks(NamedTuple):
    """What is read of each capture."""

    memory: np.ndarray
    """(rows, chunk) uint8."""
    row: np.ndarray
    """(K,) int64: the row of each capture in `memory`, -1 if nothing is read of it."""
    begin: np.ndarray
    """(K,) int64: the first of its bytes there that are not merged yet."""
    end: np.ndarray
    """(K,) int64: the end of its bytes there."""


class _Heap(NamedTuple):
    """Captures, a heap by the time of their next record."""

    captures: np.ndarray
    """(K,) int64, of which the first `size` count."""
    next_ns: np.ndarray
    """(K,) int64: time of each capture's next record."""
    size: np.ndarray
    """(1,) int64."""


class CaptureSpan(NamedTuple):
    """A capture of a dataset and when its packets are."""

    name: str
    num_bytes: int
    first_ns: int
    last_ns: int


class Piece(NamedTuple):
    """Records of a merged capture, in time order."""

    records: memoryview
    """Valid until the next piece."""
    begins_part: bool
    """Whether they begin another file."""

    @property
    def first_ns(self) -> int:
        """Time of the first record."""
        seconds, fraction = struct.unpack_from("<II", self.records)
        return seconds * _NS_PER_S + fraction


class TimeGrid(NamedTuple):
    """Where files begin that each cover the same time."""

    origin_ns: int
    """When the first begins."""
    part_ns: int
    num_parts: int
    """The last has all that is later."""

    def part_at(self, ts_ns: int) -> int:
        """Return the number of the file that covers a time."""
        return min(max((ts_ns - self.origin_ns) // self.part_ns, 0), self.num_parts - 1)

    def end_ns(self, part: int) -> int:
        """Return when a file ends."""
        if part == self.num_parts - 1:
            return np.iinfo(np.int64).max
        return self.origin_ns + (part + 1) * self.part_ns


def merged_records(
    store: Store,
    captures: Sequence[CaptureSpan],
    *,
    part_bytes: int | None = None,
    part_ns: int | None = None,
    grid: TimeGrid | None = None,
) -> Iterator[Piece]:
    """Yield the records of captures in time order; records of the same time in the captures' order.

    Args:
        captures: nanosecond pcaps as the package writes them, each in time order.
        part_bytes: most bytes of a file, of which a file of a single record may have more.
        part_ns: time between a file's first packet and the next file.
        grid: where files begin whatever packets there are, in place of `part_ns`.

    Raises:
        DatasetError: a capture is missing, damaged, or is not what its index says.
    """
    sources = _Sources(store, captures)
    out = np.empty(_OUT_BYTES, np.uint8)
    left, stop_ns, begins = 0, np.iinfo(np.int64).max, True
    while True:
        if begins:
            left = part_bytes - len(pcap_header()) if part_bytes else np.iinfo(np.int64).max
            if part_ns and sources.next_ns is not None:
                stop_ns = sources.next_ns + part_ns
            if grid and sources.next_ns is not None:
                stop_ns = grid.end_ns(grid.part_at(sources.next_ns))
        room = min(max(left, 0), len(out))
        written, reason = sources.merge(out[:room], stop_ns)
        if not written and reason == _FULL and begins:  # a record larger than a file shall be
            written, reason = sources.merge(out, sources.next_ns + 1, most=1)
        if written:
            yield Piece(out[:written].data, begins)
            begins = False
        left -= written
        if reason == _DRY:
            sources.read_on()
        elif reason == _DONE:
            return
        else:
            begins = reason == _LATER or room < len(out)


class _Sources:
    """Captures, the chunks that are read of those that are due, and a heap of their next records.

    Args:
        captures: K.
    """

    def __init__(self, store: Store, captures: Sequence[CaptureSpan]):
        self._store = store
        self._captures = captures
        if any(not capture.name.endswith(CAPTURE_SUFFIXES[PCAP]) for capture in captures):
            raise DatasetError(
                f"{store.uri}: its captures are those of pcapML; packets in time order are taken "
                "of pcap, as generate writes it without format pcapml"
            )
        num = len(captures)
        first_ns = np.array([c.first_ns for c in captures], np.int64)
        overlap = _most_overlapping(first_ns, np.array([c.last_ns for c in captures], np.int64))
        self._chunk = int(np.clip(MEMORY_BYTES // max(overlap, 1), _LEAST_CHUNK, _MOST_CHUNK))
        self._chunks = _Chunks(
            memory=np.empty((max(overlap, 1), self._chunk), np.uint8),
            row=np.full(num, -1), begin=np.zeros(num, np.int64), end=np.zeros(num, np.int64),
        )  # fmt: skip
        self._free = list(range(max(overlap, 1)))
        self._offset = np.zeros(num, np.int64)
        by_time = np.lexsort((np.arange(num), first_ns))  # sorted, and so a heap
        self._heap = _Heap(by_time.astype(np.int64), first_ns.copy(), np.array([num]))

    @property
    def next_ns(self) -> int | None:
        """Time of the next record; None after the last."""
        heap = self._heap
        return int(heap.next_ns[heap.captures[0]]) if heap.size[0] else None

    def merge(self, out: np.ndarray, stop_ns: int, most: int = 1 << 62) -> tuple[int, int]:
        """Write at most `most` records before `stop_ns` to `out`; return the bytes and why not
        more."""
        return _merge(self._chunks, self._heap, out, stop_ns, most)

    def read_on(self) -> None:
        """Read the next chunk of the capture of the next record, or remove it at its end."""
        k = int(self._heap.captures[0])
        capture, chunks = self._captures[k], self._chunks
        if chunks.row[k] < 0:
            self._open(k)
        kept = chunks.memory[chunks.row[k], chunks.begin[k] : chunks.end[k]].copy()
        if len(kept) == self._chunk:  # a record larger than a chunk
            chunks = self._grow(capture)
        got = self._read(capture, int(self._offset[k]), self._chunk - len(kept))
        end = len(kept) + len(got)
        row = chunks.memory[chunks.row[k]]
        row[:end] = np.concatenate([kept, got])
        chunks.begin[k], chunks.end[k] = 0, end
        self._offset[k] += len(got)
        if not end:
            self._free.append(int(chunks.row[k]))
            _remove_first(self._heap)
        elif not len(got) or end < _RECORD_HEADER_BYTES or _time(row, 0) < self._heap.next_ns[k]:
            raise self._differs(capture)
        else:
            self._heap.next_ns[k] = _time(row, 0)
            _settle(self._heap)

    def _open(self, k: int) -> None:
        """Give a capture a row, after its header."""
        header = self._read(self._captures[k], 0, len(pcap_header()))
        if not self._free or header.tobytes() != pcap_header():
            raise self._differs(self._captures[k])
        self._chunks.row[k] = self._free.pop()
        self._offset[k] = len(header)

    def _grow(self, capture: CaptureSpan) -> _Chunks:
        """Double the chunks, for a capture whose next record is larger."""
        if self._chunk > MAX_CAPLEN + _RECORD_HEADER_BYTES:
            raise self._differs(capture)
        memory = np.empty((len(self._chunks.memory), 2 * self._chunk), np.uint8)
        memory[:, : self._chunk] = self._chunks.memory
        self._chunk *= 2
        self._chunks = self._chunks._replace(memory=memory)
        return self._chunks

    def _read(self, capture: CaptureSpan, offset: int, most: int) -> np.ndarray:
        """Return the (bytes,) uint8 of a capture from an offset on, at most `most`."""
        most = min(most, capture.num_bytes - offset)
        if most <= 0:
            return np.empty(0, np.uint8)
        try:
            with self._store.filesystem.open_input_file(self._store.path(capture.name)) as file:
                return np.frombuffer(file.read_at(most, offset), np.uint8)
        except FileNotFoundError:
            raise DatasetError(f"{self._store.uri}: {capture.name} is missing") from None
        except OSError as error:
            raise StorageError(
                f"cannot read {capture.name} in {self._store.uri}: {error}"
            ) from None

    def _differs(self, capture: CaptureSpan) -> DatasetError:
        return DatasetError(
            f"{self._store.uri}: {capture.name} is not the capture that its index describes; "
            "verify tells what differs"
        )


def _most_overlapping(first_ns: np.ndarray, last_ns: np.ndarray) -> int:
    """Return how many of (K,) spans of time, ends included, overlap at most."""
    times = np.concatenate([first_ns, last_ns])
    steps = np.repeat([1, -1], len(first_ns))
    return int(np.cumsum(steps[np.lexsort((-steps, times))]).max(initial=0))


@numba.njit(cache=True)
def _time(row, at):
    """Return the time in nanoseconds of the record at row[at]."""
    seconds = np.int64(0)
    fraction = np.int64(0)
    for k in range(3, -1, -1):
        seconds = (seconds << 8) | np.int64(row[at + k])
        fraction = (fraction << 8) | np.int64(row[at + 4 + k])
    return seconds * _NS_PER_S + fraction


@numba.njit(cache=True)
def _record_bytes(row, at):
    """Return the bytes of the record at row[at], its header included."""
    caplen = np.int64(0)
    for k in range(3, -1, -1):
        caplen = (caplen << 8) | np.int64(row[at + 8 + k])
    return caplen + _RECORD_HEADER_BYTES


@numba.njit(cache=True)
def _settle(heap):
    """Move the first of a heap down to where its next record belongs."""
    captures, size = heap.captures, heap.size[0]
    at = 0
    moved = captures[0]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _is_before(captures[child + 1], captures[child], heap.next_ns):
            child += 1
        if not _is_before(captures[child], moved, heap.next_ns):
            break
        captures[at] = captures[child]
        at = child
    captures[at] = moved


@numba.njit(cache=True)
def _is_before(one, other, next_ns):
    """Return whether the next record of a capture comes before that of another."""
    if next_ns[one] != next_ns[other]:
        return next_ns[one] < next_ns[other]
    return one < other


@numba.njit(cache=True)
def _remove_first(heap):
    """Remove the first of a heap."""
    heap.size[0] -= 1
    heap.captures[0] = heap.captures[heap.size[0]]
    _settle(heap)


@numba.njit(cache=True)
def _merge(chunks, heap, out, stop_ns, most):
    """Write at most `most` records before `stop_ns` to `out` (uint8) in time order.

    Returns:
        (bytes written, _FULL, _LATER, _DRY or _DONE).
    """
    written = 0
    while heap.size[0]:
        k = heap.captures[0]
        if heap.next_ns[k] >= stop_ns or most == 0:
            return written, _LATER
        begin, have = chunks.begin[k], chunks.end[k] - chunks.begin[k]
        row = chunks.memory[max(chunks.row[k], 0)]
        if have < _RECORD_HEADER_BYTES or have < _record_bytes(row, begin):
            return written, _DRY
        record_bytes = _record_bytes(row, begin)
        if written + record_bytes > len(out):
            return written, _FULL
        written = copy_bytes(row, begin, record_bytes, out, written)
        most -= 1
        chunks.begin[k] += record_bytes
        if have - record_bytes < _RECORD_HEADER_BYTES:
            return written, _DRY  # stays the first until it is read on
        heap.next_ns[k] = _time(row, chunks.begin[k])
        _settle(heap)
    return written, _DONE
