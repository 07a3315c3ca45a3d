"""Label files that are logs of tools: Zeek's conn.log joined with notice.log, Suricata's eve.json.

Sources: docs.zeek.org, `Conn::Info` and `Notice::Info`, and the headers of Zeek's ASCII writer;
docs.suricata.io, "Eve JSON Format", event types alert and flow.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from netdiff_ray.errors import DataError
from netdiff_ray.flow_labels.csv_rows import ShortRows, read_table, zeek_dialect
from netdiff_ray.flow_labels.tables import RawRows, TableBuilder
from netdiff_ray.storage.store import Store

ZEEK, SURICATA = "zeek", "suricata"
_BATCH = 50_000
_CONN = {
    "src": "id.orig_h", "dst": "id.resp_h", "sport": "id.orig_p", "dport": "id.resp_p",
    "protocol": "proto", "start": "ts", "duration": "duration",
}  # fmt: skip
_SURICATA_LABEL = "alert.category"


def log_form(head: bytes) -> str | None:
    """Return the tool whose log begins with these bytes, None if it is none of these."""
    if head.startswith((b"#separator", b"#fields")):
        return ZEEK
    if head.lstrip().startswith(b"{"):
        return SURICATA if b'"event_type"' in head else ZEEK
    return None


def is_notice_log(head: bytes) -> bool:
    """Return whether a log of Zeek is its notice.log."""
    if head.startswith(b"#"):
        fields = next((line for line in head.splitlines() if line.startswith(b"#fields")), b"")
        return b"note" in fields.split(b"\t")
    return b'"note"' in head.splitlines()[0]


def read_notices(builder: TableBuilder, store: Store, name: str, head: bytes) -> dict[str, str]:
    """Return the first notice of each connection of a notice.log, by uid."""
    notices: dict[str, str] = {}
    for rows in _zeek_rows(builder, store, name, head, {"uid": "uid", "note": "note"}):
        pairs = (rows.columns[field].cast(pa.string()).to_pylist() for field in ("uid", "note"))
        for uid, note, line in zip(*pairs, rows.lines.tolist(), strict=True):
            if uid in ("", "-"):
                builder.note(name, "a notice of no connection", line)
            else:
                notices.setdefault(uid, note)
    return notices


def read_connections(
    builder: TableBuilder,
    store: Store,
    name: str,
    head: bytes,
    notices: Mapping[str, str] | None,
    label: str | None,
) -> Iterator[RawRows]:
    """Yield the rows of a conn.log: the label of a connection is its notice, or a field.

    Args:
        notices: of `read_notices`, None without a notice.log.
        label: the field that names the label, `label` unless given and without notices.

    Raises:
        DataError: there are neither notices nor such a field.
    """
    if notices is None or label is not None:
        yield from _zeek_rows(builder, store, name, head, {**_CONN, "label": label or "label"})
        return
    uids = pa.array(list(notices), pa.string())
    names = pa.array([*notices.values(), ""], pa.string())
    for rows in _zeek_rows(builder, store, name, head, {**_CONN, "uid": "uid"}):
        columns = dict(rows.columns)
        found = pc.index_in(columns.pop("uid").cast(pa.string()), value_set=uids)
        columns["label"] = names.take(pc.fill_null(found, len(names) - 1))
        yield RawRows(columns, rows.lines)


def _zeek_rows(
    builder: TableBuilder, store: Store, name: str, head: bytes, fields: Mapping[str, str]
) -> Iterator[RawRows]:
    """Yield some fields of a Zeek log, of either writer."""
    if not head.startswith(b"#"):

        def taken(event: dict) -> dict:
            return {field: event.get(key) for field, key in fields.items()}

        yield from _json_rows(builder, store, name, taken, list(fields))
        return
    dialect = zeek_dialect(head, name)
    missing = [key for key in fields.values() if key not in dialect.names]
    if "label" in missing:
        raise DataError(
            f"{name}: it has no field label; give the notice.log of the same run too, whose "
            "notices become labels"
        )
    if missing:
        raise DataError(f"{name}: a Zeek log without {', '.join(missing)}; conn.log has them")
    positions = {field: dialect.names.index(key) for field, key in fields.items()}
    short = ShortRows(dialect)
    for rows in read_table(store, name, dialect, positions, short):
        columns = dict(rows.columns)
        if "label" in columns:  # unset
            texts = columns["label"].cast(pa.string())
            columns["label"] = pc.if_else(pc.equal(texts, "-"), "", texts)
        yield RawRows(columns, rows.lines)
    for line, what in short.noted:
        builder.note(name, what, line)


def read_alerts(
    builder: TableBuilder, store: Store, name: str, label: str | None
) -> Iterator[RawRows]:
    """Yield the alerts of an eve.json as rows, and its flows without alerts as rows without a
    label.

    Args:
        label: path of the label in an event, as in alert.signature; alert.category unless given.
    """
    path = (label or _SURICATA_LABEL).split(".")

    def taken(event: dict) -> dict | None:
        flow = event.get("flow") or {}
        kind = event.get("event_type")
        if kind not in ("alert", "flow") or (kind == "flow" and flow.get("alerted")):
            return None
        value: object = event if kind == "alert" else None
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if kind == "alert" and not value:
            value = (event.get("alert") or {}).get("signature")
        return {
            "src": event.get("src_ip"), "dst": event.get("dest_ip"),
            "sport": event.get("src_port"), "dport": event.get("dest_port"),
            "protocol": event.get("proto"), "start": flow.get("start") or event.get("timestamp"),
            "end": flow.get("end") or event.get("timestamp"), "label": value,
        }  # fmt: skip

    fields = ["src", "dst", "sport", "dport", "protocol", "start", "end", "label"]
    yield from _json_rows(builder, store, name, taken, fields)


def _json_rows(
    builder: TableBuilder,
    store: Store,
    name: str,
    taken: Callable[[dict], dict | None],
    fields: list[str],
) -> Iterator[RawRows]:
    """Yield what is taken of the objects in a file of JSON, a line each."""
    with store.filesystem.open_input_stream(store.path(name)) as stream:
        lines = enumerate(_lines(stream), 1)
        while batch := list(itertools.islice(lines, _BATCH)):
            rows, numbers = [], []
            for number, line in batch:
                if not line.strip():
                    continue
                try:
                    event = json.loads(line)
                    row = taken(event) if isinstance(event, dict) else None
                except ValueError:
                    builder.note(name, "no JSON object, or one cut short", number)
                    continue
                if row is not None:
                    rows.append(row)
                    numbers.append(number)
            columns = {
                field: pa.array(
                    ["" if row[field] is None else str(row[field]) for row in rows], pa.string()
                )
                for field in fields
            }
            if rows:
                yield RawRows(columns, np.array(numbers, np.int64))


def _lines(stream: pa.NativeFile) -> Iterator[bytes]:
    """Yield the lines of a stream."""
    rest = b""
    while block := stream.read(1 << 20):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    yield rest
