"""Label files to one label table: each file's form is told from its content."""

from collections.abc import Mapping, Sequence

from netdiff_ray.errors import ConfigError, DataError
from netdiff_ray.flow_labels.csv_rows import ShortRows, csv_dialect, file_head, read_table
from netdiff_ray.flow_labels.formats import TABLE_FORMATS, LabelFormat, columns_of
from netdiff_ray.flow_labels.keys import KeyParts
from netdiff_ray.flow_labels.log_rows import (
    SURICATA,
    ZEEK,
    is_notice_log,
    log_form,
    read_alerts,
    read_connections,
    read_notices,
)
from netdiff_ray.flow_labels.pcapml import MAGIC, PCAPML, add_pcapml
from netdiff_ray.flow_labels.pcapml_filters import add_filters, is_filter_file
from netdiff_ray.flow_labels.tables import LabelTable, TableBuilder
from netdiff_ray.storage.store import Store, open_store

_LOG = LabelFormat({})


def read_labels(
    files: Sequence[str], *, form: str = "auto", columns: Mapping[str, str] | None = None
) -> LabelTable:
    """Return the label table of files.

    Args:
        files: paths or URIs.
        form: `auto`, `csv`, `zeek`, `suricata`, `pcapml` or a name of TABLE_FORMATS.
        columns: field to the name of its column, for CSV files; of logs the label's alone.

    Raises:
        ConfigError: a file's columns cannot be told.
        DataError: a file cannot be read, or holds no row that is of use.
    """
    chosen = dict(columns or {})
    builder = TableBuilder()
    opened = [(store, name, file_head(store, name)) for store, name in map(_place, files)]
    forms = [log_form(head) if form == "auto" else form for _, _, head in opened]
    notices: dict[str, str] | None = None
    for (store, name, head), kind in zip(opened, forms, strict=True):
        if kind == ZEEK and is_notice_log(head):
            notices = {**read_notices(builder, store, name, head), **(notices or {})}
    for (store, name, head), kind in zip(opened, forms, strict=True):
        if _is_filters(form, head):
            add_filters(builder, store, name)
        elif kind == PCAPML or (form == "auto" and head.startswith(MAGIC)):
            _require_parts(builder, name, KeyParts(True, True))
            add_pcapml(builder, store, name)
        elif kind not in (ZEEK, SURICATA):
            _add_csv(builder, store, name, head, form, chosen)
        elif kind == SURICATA or not is_notice_log(head):
            _require_parts(builder, name, KeyParts(True, True))
            if kind == ZEEK:
                rows = read_connections(builder, store, name, head, notices, chosen.get("label"))
            else:
                rows = read_alerts(builder, store, name, chosen.get("label"))
            for batch in rows:
                builder.add(name, _LOG, batch)
    table = builder.finish()
    if not len(table):
        why = "".join(f"; {problem}" for problem in table.problems[:3])
        raise DataError(f"{', '.join(files)}: no row can be used{why}")
    if len(table.filters) not in (0, len(table)):
        raise ConfigError("pcapML's filters and other labels do not go together; give either")
    return table


def _is_filters(form: str, head: bytes) -> bool:
    """Return whether a file is one of pcapML's filters."""
    if form == PCAPML:
        return b"\0" not in head  # captures have some in their first bytes
    return form == "auto" and is_filter_file(head)


def _place(path: str) -> tuple[Store, str]:
    folder, _, name = path.rpartition("/")
    return open_store(folder or ("/" if path.startswith("/") else ".")), name


def _require_parts(builder: TableBuilder, name: str, parts: KeyParts) -> None:
    """Raise ConfigError unless a file names endpoints as those before it."""
    if builder.parts not in (None, parts):
        raise ConfigError(f"{name}: it has not the same columns as the files before it")
    builder.parts = parts


def _add_csv(
    builder: TableBuilder,
    store: Store,
    name: str,
    head: bytes,
    form: str,
    chosen: Mapping[str, str],
) -> None:
    """Add the rows of a CSV file."""
    known = TABLE_FORMATS.get(form)
    dialect = csv_dialect(head, known.header if known else TABLE_FORMATS["unsw-nb15"].header)
    table, positions = columns_of(dialect.names, name, form=form, chosen=chosen)
    parts = KeyParts("sport" in positions and "dport" in positions, "protocol" in positions)
    _require_parts(builder, name, parts)
    short = ShortRows(dialect)
    for rows in read_table(store, name, dialect, positions, short):
        builder.add(name, table, rows)
    for line, what in short.noted:
        builder.note(name, what, line)
