"""Label files that are tables: CSV in any dress, and Zeek's TSV logs.

Columns are read as bytes, in blocks; a file in another encoding than UTF-8 keeps its labels.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from netdiff_ray.errors import DataError
from netdiff_ray.flow_labels.tables import RawRows
from netdiff_ray.storage.store import Store

_BLOCK_BYTES = 16 << 20
_HEAD_BYTES = 1 << 16
_DELIMITERS = ",;\t|"
_WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_BOM = b"\xef\xbb\xbf"


def file_head(store: Store, name: str) -> bytes:
    """Return the first bytes of a file, decompressed if its suffix says so.

    Raises:
        DataError: there is no such file, or it is empty, or is text of two bytes a character.
    """
    try:
        with store.filesystem.open_input_stream(store.path(name)) as stream:
            head = stream.read(_HEAD_BYTES)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{name}: no such file") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error}") from None
    if not head.strip():
        raise DataError(f"{name}: the file is empty; a table of labels begins with column names")
    for mark, encoding in _WIDE.items():
        if head.startswith(mark):
            raise DataError(f"{name}, line 1: it is in {encoding}; save it in UTF-8")
    return head.removeprefix(_BOM)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a table is written."""

    delimiter: str
    names: Sequence[str]
    """Of its columns."""
    skipped: int
    """Lines before its first row."""
    is_quoted: bool = True
    ends_with_comment: bool = False
    """Whether lines that begin with # close it, as Zeek's do."""


def csv_dialect(head: bytes, header: Sequence[str] = ()) -> Dialect:
    """Return how a CSV file is written, from its first bytes.

    Args:
        header: names of the columns if the file has no line of them.
    """
    line = head.splitlines()[0].decode("utf-8", errors="replace")
    delimiter = max(_DELIMITERS, key=line.count)
    first = next(csv.reader(io.StringIO(line), delimiter=delimiter), [])
    if header and len(first) == len(header) and first[0].strip().lower() != header[0].lower():
        return Dialect(delimiter=delimiter, names=header, skipped=0)
    return Dialect(delimiter=delimiter, names=[name.strip() for name in first], skipped=1)


def zeek_dialect(head: bytes, name: str) -> Dialect:
    """Return how a Zeek log is written, from the lines before its first row.

    Raises:
        DataError: it does not name its fields.
    """
    lines = head.decode("utf-8", errors="replace").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    fields = next((line for line in comments if line.startswith("#fields")), None)
    if fields is None:
        raise DataError(f"{name}: a Zeek log without a line #fields")
    skipped = next((k for k, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return Dialect(
        delimiter="\t", names=fields.split("\t")[1:], skipped=skipped, is_quoted=False,
        ends_with_comment=True,
    )  # fmt: skip


@dataclass
class ShortRows:
    """Rows whose number of cells is not that of the columns."""

    dialect: Dialect
    lines: list[int] = field(default_factory=list)
    noted: list[tuple[int, str]] = field(default_factory=list)
    """(line, what is wrong) of those that are no comment."""

    def skip(self, row: pacsv.InvalidRow) -> str:
        """Note a row and have it left out."""
        self.lines.append(row.number)
        if not (self.dialect.ends_with_comment and row.text.startswith("#")):
            kind = "cut short" if row.actual_columns < row.expected_columns else "too long"
            what = f"a row {kind}: {row.actual_columns} cells of {row.expected_columns}"
            self.noted.append((row.number, what))
        return "skip"


def read_table(
    store: Store, name: str, dialect: Dialect, positions: Mapping[str, int], short: ShortRows
) -> Iterator[RawRows]:
    """Yield the rows of a table, block by block.

    Args:
        positions: of the column of each field.
        short: gets the rows that are left out.

    Raises:
        DataError: the file is no such table.
    """
    numbered = [str(k) for k in range(len(dialect.names))]
    chosen = sorted({numbered[k] for k in positions.values()})
    try:
        stream = store.filesystem.open_input_stream(store.path(name))
        with stream, pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(
                use_threads=False, block_size=_BLOCK_BYTES, skip_rows=dialect.skipped,
                column_names=numbered,
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=dialect.delimiter, invalid_row_handler=short.skip,
                ignore_empty_lines=False, quote_char='"' if dialect.is_quoted else False,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(chosen, pa.binary()), include_columns=chosen,
                strings_can_be_null=False,
            ),
        ) as reader:  # fmt: skip
            following = dialect.skipped + 1
            for batch in reader:
                lines = _lines(following, len(batch), short.lines)
                following = int(lines[-1]) + 1 if len(lines) else following
                columns = {
                    field: batch.column(batch.schema.get_field_index(numbered[k]))
                    for field, k in positions.items()
                }
                yield RawRows(columns, lines)
    except pa.ArrowInvalid as error:
        if "Empty CSV file" not in str(error):
            raise DataError(f"{name}: not a table: {str(error).splitlines()[0]}") from None


def _lines(first: int, count: int, left_out: Sequence[int]) -> np.ndarray:
    """Return (count,) int64: the lines from `first` on that are not left out."""
    lines = np.arange(first, first + count + sum(line >= first for line in left_out))
    return lines[~np.isin(lines, np.array(left_out, np.int64))][:count]
