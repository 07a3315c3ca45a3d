"""Label files to one label table: each file's form is told from its content."""

from collections.abc import Mapping, Sequence

from netdiff_ray.errors import ConfigError, DataError
from netdiff_ray.flow_labels.csv_rows import (
    ShortRows,
    csv_dialect,
    file_head,
    read_table,
)
from netdiff_ray.flow_labels.formats import TABLE_FORMATS, columns_of
from netdiff_ray.flow_labels.keys import KeyParts
from netdiff_ray.flow_labels.tables import LabelTable, TableBuilder
from netdiff_ray.storage.store import Store, open_store


def read_labels(
    files: Sequence[str], *, form: str = "auto", columns: Mapping[str, str] | None = None
) -> LabelTable:
    """Return the label table of files.

    Args:
        files: paths or URIs.
        form: `auto`, `csv` or a name of TABLE_FORMATS.
        columns: field to the name of its column, for CSV files.

    Raises:
        ConfigError: a file's columns cannot be told.
        DataError: a file cannot be read, or holds no row that is of use.
    """
    builder = TableBuilder()
    for path in files:
        store, name = _place(path)
        _add_csv(builder, store, name, form, columns or {})
    table = builder.finish()
    if not len(table):
        why = "".join(f"; {problem}" for problem in table.problems[:3])
        raise DataError(f"{', '.join(files)}: no row can be used{why}")
    return table


def _place(path: str) -> tuple[Store, str]:
    folder, _, name = path.rpartition("/")
    return open_store(folder or ("/" if path.startswith("/") else ".")), name


def _add_csv(
    builder: TableBuilder, store: Store, name: str, form: str, chosen: Mapping[str, str]
) -> None:
    """Add the rows of a CSV file."""
    head = file_head(store, name)
    known = TABLE_FORMATS.get(form)
    dialect = csv_dialect(head, known.header if known else TABLE_FORMATS["unsw-nb15"].header)
    table, positions = columns_of(dialect.names, name, form=form, chosen=chosen)
    parts = KeyParts("sport" in positions and "dport" in positions, "protocol" in positions)
    if builder.parts not in (None, parts):
        raise ConfigError(f"{name}: it has not the same columns as the files before it")
    builder.parts = parts
    short = ShortRows(dialect)
    for rows in read_table(store, name, dialect, positions, short):
        builder.add(name, table, rows)
    for line, what in short.noted:
        builder.note(name, what, line)
