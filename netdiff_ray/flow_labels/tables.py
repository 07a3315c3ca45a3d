"""Label tables: rows of label files as arrays, and what could not be read of them.

Shape letters: L label rows, N rows of a batch.
"""

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from netdiff_ray.flow_labels.filters import FlowFilter
from netdiff_ray.flow_labels.formats import LabelFormat
from netdiff_ray.flow_labels.keys import Endpoints, KeyParts, endpoint_keys
from netdiff_ray.flow_labels.times import NO_TIME, read_times
from netdiff_ray.header_bytes import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

MOST_LABEL_CHARACTERS = 200
_PROTOCOLS = {
    "tcp": IPPROTO_TCP, "udp": IPPROTO_UDP, "icmp": IPPROTO_ICMP, "icmp6": IPPROTO_ICMPV6,
    "icmpv6": IPPROTO_ICMPV6, "ipv6icmp": IPPROTO_ICMPV6,
    "rtp": IPPROTO_UDP, "rtcp": IPPROTO_UDP, "udt": IPPROTO_UDP,
}  # fmt: skip
"""Protocols that flows may have, by the names that tools give them; Argus names what it finds in
UDP."""
_MOST_CACHED = 1 << 20
_UNKNOWN = -1


class RawRows(NamedTuple):
    """Rows of a label file as they stand there."""

    columns: Mapping[str, pa.Array]
    """Field to its (N,) binary or string texts."""
    lines: np.ndarray
    """(N,) int64: where each row stands in its file, from 1."""


@dataclass
class Problem:
    """Rows of a file that are of no use, or read in another way, for the same reason."""

    file: str
    what: str
    line: int
    """Of the first."""
    rows: int = 0

    def __str__(self) -> str:
        more = f" (and {self.rows - 1:,} rows more)" if self.rows > 1 else ""
        return f"{self.file}, line {self.line:,}: {self.what}{more}"


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The rows of label files, sorted by key; times as the files have them."""

    key: np.ndarray
    """(L,) uint64, see `endpoint_keys`."""
    start_ns: np.ndarray
    """(L,) int64: ns since 1970 if the file's clock is UTC and the day stands before the month."""
    month_first_ns: np.ndarray | None
    """(L,) int64: the same with the month before the day; None where the data tell the order, or
    it makes no difference."""
    lasts_ns: np.ndarray
    """(L,) int64: from the start to the end, the rest of the last digit's unit included."""
    label: np.ndarray
    """(L,) int32: element of `labels`, -1 for none."""
    line: np.ndarray
    """(L,) int32: of its file."""
    labels: list[str]
    parts: KeyParts
    is_plain: bool
    """Whether every hour is from 1 to 12, without AM or PM."""
    is_calendar: bool
    """Whether times of day are without a zone."""
    precision_ns: int
    """The coarsest unit of the starts' last digits."""
    problems: list[Problem]
    filters: Sequence[FlowFilter] = ()
    """Of the L rows, in the order of their files, if they name flows by filters and not by keys."""

    def __len__(self) -> int:
        return len(self.key)


@dataclass
class TableBuilder:
    """A label table in the making."""

    parts: KeyParts | None = None
    labels: dict[str, int] = field(default_factory=dict)
    problems: dict[tuple[str, str], Problem] = field(default_factory=dict)
    batches: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    month_first: list[np.ndarray | None] = field(default_factory=list)
    is_plain: bool = True
    is_calendar: bool = False
    precision_ns: int = 1
    caches: dict[str, dict] = field(default_factory=dict)
    filters: list[FlowFilter] = field(default_factory=list)

    def note(self, file: str, what: str, line: int, rows: int = 1, example: str = "") -> None:
        """Note rows of a file that are of no use, or read in another way."""
        problem = self.problems.setdefault((file, what), Problem(file, what + example, line))
        problem.line = min(problem.line, line)
        problem.rows += rows

    def add(self, file: str, form: LabelFormat, rows: RawRows) -> None:
        """Add rows of a file; those that cannot be read are noted."""
        given = rows.columns
        usable = np.ones(len(rows.lines), np.bool_)

        def leave_out(wrong: np.ndarray, what: str, name: str = "") -> None:
            wrong = wrong & usable
            if wrong.any():
                first = int(np.flatnonzero(wrong)[0])
                example = f": {_decoded(given[name][first].as_py())[0][:40]!r}" if name else ""
                self.note(file, what, int(rows.lines[first]), int(wrong.sum()), example)
                usable[wrong] = False

        src, dst = (self._mapped("address", given[name], _address_words) for name in ("src", "dst"))
        leave_out(_is_empty(given["src"]) & _is_empty(given["dst"]), "no addresses")
        leave_out(~src.known, "an address that is none", "src")
        leave_out(~dst.known, "an address that is none", "dst")
        protocol = np.zeros(len(usable), np.uint64)
        if "protocol" in given:
            numbers = self._mapped("protocol", given["protocol"], _protocol_number)
            leave_out(~numbers.known, "a protocol other than TCP, UDP, ICMP, ICMPv6", "protocol")
            protocol = numbers.low
        ports = [np.zeros(len(usable), np.uint64)] * 2
        if "sport" in given:
            has_ports = (protocol != IPPROTO_ICMP) & (protocol != IPPROTO_ICMPV6)
            read = [self._mapped("port", given[name], _port) for name in ("sport", "dport")]
            for name, port in zip(("sport", "dport"), read, strict=True):
                leave_out(has_ports & ~port.known, "a port that is none", name)
            ports = [np.where(has_ports, port.low, np.uint64(0)) for port in read]
        times, lasts_ns = self._times(given, form)
        readable = (times.day_first != NO_TIME) | (times.month_first != NO_TIME)
        leave_out(~readable, "a time that cannot be read", "start")
        label = self._labels(file, form, rows, leave_out)
        ends = Endpoints(src.high, src.low, dst.high, dst.low, *ports, protocol)
        key = endpoint_keys(ends, self.parts)
        self._keep(usable, key, times, lasts_ns, label, rows.lines)

    def _keep(self, usable, key, times, lasts_ns, label, lines) -> None:
        """Keep the usable rows of a batch."""
        if not usable.any():
            return
        self.is_plain &= bool(times.is_plain[usable].all())
        self.is_calendar |= bool(times.is_calendar[usable].any())
        self.precision_ns = max(self.precision_ns, int(times.precision_ns[usable].max()))
        day_first, month_first = times.day_first[usable], times.month_first[usable]
        self.month_first.append(None if (day_first == month_first).all() else month_first)
        lines = lines.astype(np.int32)
        self.batches.append(
            (key[usable], day_first, lasts_ns[usable], label[usable], lines[usable])
        )

    def _times(self, given: Mapping[str, pa.Array], form: LabelFormat):
        """Return the starts of rows and how long they last, 0 or more, with the precision."""
        starts, inverse = _distinct(given["start"])
        times = read_times(starts)
        times = type(times)(*(column[inverse] for column in times))
        lasts = np.zeros(len(inverse), np.int64)
        if "end" in given:
            texts, inverse = _distinct(given["end"])
            ends = read_times(texts)
            end = ends.day_first[inverse]
            both = (times.day_first != NO_TIME) & (end != NO_TIME)
            lasts[both] = end[both] - times.day_first[both]
        elif "duration" in given:
            texts, inverse = _distinct(given["duration"])
            lasts = _durations(texts, form.duration_ns)[inverse]
        return times, np.maximum(lasts, 0) + times.precision_ns - 1

    def _labels(
        self, file: str, form: LabelFormat, rows: RawRows, leave_out: Callable
    ) -> np.ndarray:
        """Return (N,) int32 labels of a batch, -1 for none."""
        coded = pc.dictionary_encode(rows.columns["label"])
        codes = coded.indices.to_numpy(zero_copy_only=False)
        numbers = np.full(max(len(coded.dictionary), 1), -1, np.int32)
        for k, value in enumerate(coded.dictionary.to_pylist()):
            text, is_utf8 = _decoded(value)
            text = text.strip() or form.empty_label
            if not is_utf8:
                of_label = codes == k
                what = f"not UTF-8, read as Windows-1252: {text!r}"
                self.note(file, what, int(rows.lines[of_label][0]), int(of_label.sum()))
            wrong = why_no_label(text)
            if wrong:
                leave_out(codes == k, f"the label {text[:60]!r} {wrong}")
            elif text:
                numbers[k] = self.labels.setdefault(text, len(self.labels))
        return numbers[codes]

    def _mapped(self, kind: str, texts: pa.Array, read: Callable) -> "_Words":
        """Return what each text is read as, each distinct text once."""
        cache = self.caches.setdefault(kind, {})
        if len(cache) > _MOST_CACHED:
            cache.clear()
        coded = pc.dictionary_encode(texts)
        values = []
        for text in coded.dictionary.to_pylist():
            value = cache.get(text)
            if value is None:
                value = cache[text] = read(_decoded(text)[0].strip())
            values.append(value)
        if not values:
            values = [(0, 0, False)]
        high, low, known = zip(*values, strict=True)
        codes = coded.indices.to_numpy(zero_copy_only=False)
        return _Words(
            np.array(high, np.uint64)[codes], np.array(low, np.uint64)[codes],
            np.array(known, np.bool_)[codes],
        )  # fmt: skip

    def finish(self) -> LabelTable:
        """Return the table."""
        empty = (np.empty(0, t) for t in (np.uint64, np.int64, np.int64, np.int32, np.int32))
        columns = [[column] for column in empty]
        month_first = None
        if any(part is not None for part in self.month_first):
            parts = [
                b[1] if part is None else part
                for part, b in zip(self.month_first, self.batches, strict=True)
            ]
            month_first = np.concatenate(parts)
        while self.batches:
            for column, part in zip(columns, self.batches.pop(0), strict=True):
                column.append(part)
        joined = []
        while columns:
            joined.append(np.concatenate(columns.pop(0)))
        key, start_ns, lasts_ns, label, line = joined
        start_ns, month_first = _decided(start_ns, month_first)
        order = np.argsort(key, kind="stable")
        return LabelTable(
            key=key[order], start_ns=start_ns[order],
            month_first_ns=None if month_first is None else month_first[order],
            lasts_ns=lasts_ns[order], label=label[order], line=line[order],
            labels=list(self.labels), parts=self.parts or KeyParts(True, True),
            is_plain=self.is_plain and self.is_calendar, is_calendar=self.is_calendar,
            precision_ns=self.precision_ns, problems=list(self.problems.values()),
            filters=self.filters,
        )  # fmt: skip


class _Words(NamedTuple):
    """(N,) values of up to 128 bits, and whether each could be read."""

    high: np.ndarray
    low: np.ndarray
    known: np.ndarray


def _decided(
    day_first: np.ndarray, month_first: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the times in the order that they must be in, and those in the other order if they
    may be in either. A time that makes no date in the order of most others is read in the other."""
    if month_first is None:
        return day_first, None
    bad_day_first, bad_month_first = day_first == NO_TIME, month_first == NO_TIME
    if not bad_day_first.any() and not bad_month_first.any():
        return day_first, month_first
    if bad_day_first.sum() <= bad_month_first.sum():
        return np.where(bad_day_first, month_first, day_first), None
    return np.where(bad_month_first, day_first, month_first), None


def why_no_label(text: str) -> str:
    """Return why a text cannot be a label, which names folders; empty if it can be one."""
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text):
        return "holds control characters"
    if re.match(r"^([A-Za-z]:)?[/\\]", text) or {"..", "."} & set(re.split(r"[/\\]", text)):
        return "is a path, not a name"
    if len(text) > MOST_LABEL_CHARACTERS:
        return f"has {len(text):,} characters, more than {MOST_LABEL_CHARACTERS}"
    return ""


def _decoded(value: bytes | str | None) -> tuple[str, bool]:
    """Return a text, and whether it is UTF-8; else it is read as Windows-1252."""
    if value is None or isinstance(value, str):
        return value or "", True
    try:
        return value.decode(), True
    except UnicodeDecodeError:
        return value.decode("cp1252", errors="replace"), False


def _distinct(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct texts, trimmed, and which of them each text is."""
    coded = pc.dictionary_encode(texts)
    distinct = [_decoded(value)[0].strip() for value in coded.dictionary.to_pylist()]
    return pa.array(distinct, pa.string()), coded.indices.to_numpy(zero_copy_only=False)


def _is_empty(texts: pa.Array) -> np.ndarray:
    return pc.equal(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)


def _address_words(text: str) -> tuple[int, int, bool]:
    """Return the two words of an address, and whether it is one."""
    try:
        if ":" in text:
            packed = socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
            return int.from_bytes(packed[:8]), int.from_bytes(packed[8:]), True
        return 0, int.from_bytes(socket.inet_pton(socket.AF_INET, text)), True
    except (OSError, ValueError):
        return 0, 0, False


def _protocol_number(text: str) -> tuple[int, int, bool]:
    """Return 0, the number of a protocol, and whether flows can have it."""
    name = re.sub(r"[^a-z0-9.]", "", text.lower())
    number = _PROTOCOLS.get(name, _UNKNOWN)
    if re.fullmatch(r"\d{1,3}(\.0*)?", name):
        number = int(name.split(".")[0])
    return 0, max(number, 0), number in _PROTOCOLS.values()


def _port(text: str) -> tuple[int, int, bool]:
    """Return 0, a port, and whether it is one."""
    match = re.fullmatch(r"(\d{1,5})(\.0*)?|0x([0-9a-fA-F]{1,4})", text)
    if match is None:
        return 0, 0, False
    number = int(match[1]) if match[1] else int(match[3], 16)
    return 0, number & 0xFFFF, number <= 0xFFFF


def _durations(texts: pa.Array, unit_ns: int) -> np.ndarray:
    """Return durations in ns, 0 where none can be read; a day's in ns fits a float to 0.1 us."""
    is_number = pc.match_substring_regex(texts, r"^\d{1,18}(\.\d*)?([eE][+-]?\d{1,2})?$")
    numbers = pc.cast(pc.if_else(is_number, texts, "0"), pa.float64())
    return np.minimum(numbers.to_numpy(zero_copy_only=False) * unit_ns, 1e18).astype(np.int64)
