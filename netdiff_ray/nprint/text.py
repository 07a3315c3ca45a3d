"""`.nprint` text, as the nPrint tool writes it.

A header line names an index column and then a column for each bit; each further line is a
packet. Shape letters: P packets, B bits, A distinct addresses.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numba
import numpy as np

from netdiff_ray.errors import NprintError
from netdiff_ray.fields import HEADERS
from netdiff_ray.header_bytes import (
    IPV4_ADDRESS_BYTES,
    IPV4_DST,
    IPV4_SRC,
    IPV6_ADDRESS_BYTES,
    IPV6_DST,
    IPV6_SRC,
)
from netdiff_ray.nprint.codec import VACANT, VACANT_CELLS
from netdiff_ray.nprint.layouts import LAYOUTS, Layout
from netdiff_ray.packets.writer import copy_bytes

INDEX_NAME = "src_ip"
_ROWS_AT_A_TIME = 128  # text of so many rows stays in the cache
_READ_BYTES = 4 << 20
_MAX_ROW_BYTES = 1 << 20
_MAX_INDEX_BYTES = 48
_OTHER_BLOCKS = ("eth", "wlan", "radiotap", "payload", "rts")
"""What names of columns that the tool writes and no layout has begin with: `-e`, `-w`, `-r`,
`-p`, and `-R`, the relative time."""
_COMMA, _MINUS, _ZERO, _ONE, _NEWLINE, _RETURN = (ord(c) for c in ",-01\n\r")


def _cell_text() -> np.ndarray:
    """Return (257, 3) uint64: the text of the eight cells of each byte value, 16 bytes of the 24;
    the last of eight vacant cells, 24 bytes."""
    bits = [[f",{(byte >> k) & 1}" for k in range(7, -1, -1)] for byte in range(256)]
    texts = ["".join(cells).ljust(24) for cells in bits] + [",-1" * 8]
    return np.frombuffer("".join(texts).encode(), np.uint64).reshape(257, 3)


_CELL_TEXT = _cell_text()


class NprintWriter:
    """Writer of `.nprint` text to a binary file, the header line first."""

    def __init__(self, file: BinaryIO, layout: Layout):
        self._file = file
        row_bytes = layout.width * 3 + _MAX_INDEX_BYTES + 1
        self._buffer = np.empty(_ROWS_AT_A_TIME * row_bytes, np.uint8)
        file.write((",".join((INDEX_NAME, *layout.column_names)) + "\n").encode())

    def write(self, nprint: np.ndarray, rows: np.ndarray) -> None:
        """Append (P, B) int8 of 1, 0, -1; (P,) HEADER_ROW give the index column."""
        texts, lengths, which = _source_texts(rows)
        cells = np.ascontiguousarray(nprint).view(np.uint64)
        for at in range(0, len(nprint), _ROWS_AT_A_TIME):
            part = slice(at, at + _ROWS_AT_A_TIME)
            written = _write_rows(
                cells[part], texts, lengths, which[part], _CELL_TEXT, self._buffer
            )
            self._file.write(memoryview(self._buffer)[:written])


def _source_texts(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the texts (A, 48) uint8 of the distinct source addresses, their lengths (A,), and
    the index of each row's among them (P,) int64."""
    addresses = np.zeros((len(rows), 1 + IPV6_ADDRESS_BYTES), np.uint8)
    is_4 = rows["version"] == 4
    addresses[:, 0] = rows["version"]
    addresses[is_4, 1 : 1 + IPV4_ADDRESS_BYTES] = rows["network"][is_4, IPV4_SRC:IPV4_DST]
    addresses[~is_4, 1:] = rows["network"][~is_4, IPV6_SRC:IPV6_DST]
    keys = addresses.view(f"V{addresses.shape[1]}").ravel()
    distinct, which = np.unique(keys, return_inverse=True)
    texts = np.zeros((len(distinct), _MAX_INDEX_BYTES), np.uint8)
    lengths = np.empty(len(distinct), np.int64)
    for k, address in enumerate(distinct.tolist()):
        octets = address[1:] if address[0] == 6 else address[1 : 1 + IPV4_ADDRESS_BYTES]
        text = str(ipaddress.ip_address(octets)).encode()
        texts[k, : len(text)] = np.frombuffer(text, np.uint8)
        lengths[k] = len(text)
    return texts, lengths, which


@numba.njit(cache=True)
def _write_rows(cells, texts, lengths, which, cell_text, out):
    at = 0
    line = np.empty(cells.shape[1] * 3, np.uint64)
    line_bytes = line.view(np.uint8)
    gather = np.uint64(0x8040201008040201)  # moves the low bit of each byte into the top byte
    mixed = np.uint64(0x8080808080808080)
    for i in range(len(cells)):
        for k in range(lengths[which[i]]):
            out[at + k] = texts[which[i], k]
        at += lengths[which[i]]
        filled = 0
        for j in range(cells.shape[1]):
            word = cells[i, j]
            if word & mixed == 0:
                byte = (word * gather) >> np.uint64(56)
                line[filled] = cell_text[byte, 0]
                line[filled + 1] = cell_text[byte, 1]
                filled += 2
            elif word == VACANT_CELLS:
                for k in range(3):
                    line[filled + k] = cell_text[256, k]
                filled += 3
            else:  # vacant and other cells in one byte, as only a drawing has them
                at = copy_bytes(line_bytes, 0, filled * 8, out, at)
                filled = 0
                for k in range(8):
                    cell = (word >> np.uint64(8 * k)) & np.uint64(255)
                    out[at] = _COMMA
                    at += 1
                    if cell == 255:
                        out[at] = _MINUS
                        at += 1
                    out[at] = _ZERO if cell == 0 else _ONE
                    at += 1
        at = copy_bytes(line_bytes, 0, filled * 8, out, at)
        out[at] = _NEWLINE
        at += 1
    return at


class NprintFile(NamedTuple):
    """A `.nprint` file that is being read."""

    layout: Layout
    blocks: Iterator[np.ndarray]
    """(P, B) int8 of 1, 0, -1, none sharing memory."""
    left_out: dict[str, int]
    """Columns that no layout has, by what their names begin with (`eth`, `payload`)."""


class _Columns(NamedTuple):
    """What the header line says."""

    layout: Layout
    positions: np.ndarray
    """(columns of the file,) int64: the column in the layout, -1 for those that are left out."""
    left_out: dict[str, int]
    """As in NprintFile."""


def read_nprint(path: str | Path) -> NprintFile:
    """Open a `.nprint` file, whose rows come some thousand at a time.

    The layout is recognised by the column names. A file of some of the tool's headers alone
    is of layout `nprint`, its other columns vacant.

    Raises:
        NprintError: no such file; the header line is that of no layout; or, while
            iterating, a line has other columns or values (the error has its number).
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - the iterator closes it
    except OSError as error:
        raise NprintError(f"{path}: cannot be opened: {error.strerror}") from None
    with_header = file.readline(_MAX_ROW_BYTES)
    try:
        columns = _columns_of(with_header, str(path))
    except NprintError:
        file.close()
        raise
    return NprintFile(columns.layout, _blocks(file, columns, str(path)), columns.left_out)


def _columns_of(line: bytes, name: str) -> _Columns:
    names = tuple(line.decode("latin-1").strip().split(",")[1:])
    blocks = [column.split("_")[0] for column in names]
    kept = tuple(n for n, b in zip(names, blocks, strict=True) if b not in _OTHER_BLOCKS)
    left_out = Counter(block for block in blocks if block in _OTHER_BLOCKS)
    every = LAYOUTS["nprint"]
    headers = {block for block in blocks if block in HEADERS}
    if kept and kept == tuple(c for c in every.column_names if c.split("_")[0] in headers):
        layout = every
    else:
        layout = _layout_of(kept, names, name)
    position_of = {column: k for k, column in enumerate(layout.column_names)}
    positions = np.array([position_of.get(column, -1) for column in names], np.int64)
    return _Columns(layout, positions, dict(left_out))


def _layout_of(kept: tuple[str, ...], names: tuple[str, ...], name: str) -> Layout:
    """Return the layout whose columns are those that are kept of all `names`."""
    nearest, agree = LAYOUTS["nprint"], -1
    for layout in LAYOUTS.values():
        if kept == layout.column_names:
            return layout
        pairs = zip(kept, layout.column_names, strict=False)
        same = next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(kept), layout.width))
        if same > agree:
            nearest, agree = layout, same
    if not names:
        raise NprintError(f"{name}: the first line names no columns; a .nprint file begins with "
                          f"{INDEX_NAME},{nearest.column_names[0]},...")  # fmt: skip
    if agree < min(len(kept), nearest.width):
        raise NprintError(
            f"{name}: column {names.index(kept[agree]) + 2} is {kept[agree][:40]!r}; layout "
            f"{nearest.name} has "
            f"{nearest.column_names[agree]!r} there"
        )
    raise NprintError(
        f"{name}: {len(kept):,} columns of bits; layout {nearest.name} has {nearest.width:,}"
    )


def _blocks(file: BinaryIO, columns: _Columns, name: str) -> Iterator[np.ndarray]:
    line = 2
    rest = b""
    with file:
        while True:
            block = file.read(_READ_BYTES)
            text = rest + block
            if not block and text and not text.endswith(b"\n"):
                text += b"\n"
            whole = text.rfind(b"\n") + 1
            rest = text[whole:]
            if len(rest) > _MAX_ROW_BYTES + _READ_BYTES:
                raise NprintError(f"{name}, line {line}: over {_MAX_ROW_BYTES:,} bytes long")
            text = text[:whole]
            if text:
                rows = np.full((text.count(b"\n"), columns.layout.width), VACANT, np.int8)
                num_rows, wrong = _parse(np.frombuffer(text, np.uint8), columns.positions, rows)
                if num_rows:
                    yield rows[:num_rows]
                if wrong >= 0:
                    raise NprintError(
                        f"{name}, line {line + num_rows}: column {wrong + 2} is not -1, 0 or 1 "
                        f"followed by a comma or the end of {len(columns.positions):,} columns"
                    )
                line += num_rows
            if not block:
                return


@numba.njit(cache=True)
def _parse(text, positions, rows):
    """Read lines into `rows`, each column into its position in the layout or, -1, nowhere.

    Returns (rows read, -1 or the column of the first fault in the line after them).
    """
    at = 0
    width = len(positions)
    count = 0
    while at < len(text):
        while text[at] != _COMMA and text[at] != _NEWLINE:  # the index column
            at += 1
        for j in range(width):
            if text[at] != _COMMA:
                return count, j
            at += 1
            position = positions[j]
            if position < 0:
                while text[at] != _COMMA and text[at] != _NEWLINE and text[at] != _RETURN:
                    at += 1
                continue
            minus = text[at] == _MINUS
            if minus:
                at += 1
            if minus and text[at] == _ONE:
                rows[count, position] = VACANT
            elif not minus and (text[at] == _ZERO or text[at] == _ONE):
                rows[count, position] = text[at] - _ZERO
            else:
                return count, j
            at += 1
        if text[at] == _RETURN:
            at += 1
        if text[at] != _NEWLINE:
            return count, width
        at += 1
        count += 1
    return count, -1
