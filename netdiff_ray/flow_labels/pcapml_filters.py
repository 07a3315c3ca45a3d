"""Labels of pcapML's label files: filters on traffic with a label, the first that fits counts.

Source: github.com/nprint/pcapml. A line of `cmd/label.go` is `FILTERS,label[,key]`, its filters
`BPF:...`, `TS_START:...` and `TS_END:...` joined by `|`; the key groups lines to samples and does
not concern labels. A line of `src/label/labeler.cpp` is `label,BPF[,start[,end]]`. Times are whole
seconds since 1970-01-01 UTC, the last one included; lines that begin with # are comments.
"""

import re
from typing import NamedTuple

import numpy as np

from netdiff_ray.errors import DataError
from netdiff_ray.flow_labels.filters import parse_filter
from netdiff_ray.flow_labels.tables import TableBuilder, why_no_label
from netdiff_ray.flow_labels.times import S_NS
from netdiff_ray.storage.store import Store

_MARK = re.compile(r"(BPF|TS_START|TS_END):")
_PARTS = re.compile(r"\|(?=BPF:|TS_START:|TS_END:)")
_LAST_S = np.iinfo(np.int64).max // S_NS - 1


class FilterLine(NamedTuple):
    """What a line says."""

    bpf: str
    start_s: int
    end_s: int
    """The last second."""
    label: str


def is_filter_file(head: bytes) -> bool:
    """Return whether a file that begins so is a label file of pcapML with marked filters."""
    lines = head.decode("utf-8", errors="replace").splitlines()
    first = next((text for line in lines if (text := line.strip()) and text[0] != "#"), "")
    return bool(_MARK.match(first))


def add_filters(builder: TableBuilder, store: Store, name: str) -> None:
    """Add the lines of a label file. One that cannot be read leaves none of them: what follows
    would label what it was to label.

    Raises:
        DataError: a line is none of a label file, or its filter is not one on flows.
    """
    with store.filesystem.open_input_stream(store.path(name)) as stream:
        text = stream.read().decode("utf-8-sig", errors="replace")
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            read = read_line(stripped)
            builder.filters.append(parse_filter(read.bpf))
        except DataError as error:
            raise DataError(f"{name}, line {number:,}: {error}") from None
        label = builder.labels.setdefault(read.label, len(builder.labels))
        rows.append(
            (read.start_s * S_NS, (read.end_s - read.start_s + 1) * S_NS - 1, label, number)
        )
    start_ns, lasts_ns, label, line = np.array(rows, np.int64).reshape(-1, 4).T
    no_key = np.zeros(len(rows), np.uint64)
    builder.batches.append(
        (no_key, start_ns, lasts_ns, label.astype(np.int32), line.astype(np.int32))
    )
    builder.month_first.append(None)
    builder.is_plain = False


def read_line(line: str) -> FilterLine:
    """Return what a line says, of either form.

    Raises:
        DataError: it says nothing of the kind.
    """
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) < 2:
        raise DataError("a filter and a label are needed, as in BPF:tcp port 80,web")
    if _MARK.match(cells[0]):
        parts = dict(part.split(":", 1) for part in _PARTS.split(cells[0]))
        values = [parts.get(key, "") for key in ("BPF", "TS_START", "TS_END")]
        label = cells[1]
    else:
        label, *values = [*cells, "", ""][:4]
    wrong = why_no_label(label) if label else "is empty"
    if wrong:
        raise DataError(f"the label {label[:60]!r} {wrong}")
    start_s, end_s = _second(values[1], 0), _second(values[2], _LAST_S)
    if end_s < start_s:
        raise DataError(f"it ends at {end_s:,} s, before it begins at {start_s:,} s")
    return FilterLine(values[0].strip(), start_s, end_s, label)


def _second(text: str, otherwise: int) -> int:
    """Return a number of seconds, `otherwise` for an empty text; far ones are the last possible."""
    text = text.strip()
    if not text:
        return otherwise
    if not text.isdecimal():
        raise DataError(f"the time {text[:40]!r} is no whole number of seconds since 1970 (UTC)")
    return min(int(text), _LAST_S)
