"""The encoded dataset: windows as rows of a table, readable with pyarrow alone.

A packed nprint is its two bit planes, most significant column first: P * B / 8 bytes whose
bits say where the matrix is 1, then as many whose bits say where it is -1 (vacant).

Shape letters: W windows, P packets, B bits (columns of the layout).
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from netdiff_ray.errors import NprintError
from netdiff_ray.flows import Windows
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.service import window_services
from netdiff_ray.nprint.codec import VACANT, encode
from netdiff_ray.nprint.layouts import Layout, layout_named
from netdiff_ray.storage.store import Store

METADATA_LAYOUT = b"netdiff:layout"

_TRAINING_COLUMNS = [
    "flow_id", "label", "service", "window", "nprint", "direction", "interarrival_ns",
]  # fmt: skip
_ROWS_AT_ONCE = 512

_COLUMNS = [
    ("flow_id", pa.string()),
    ("label", pa.string()),
    ("service", pa.string()),
    ("capture", pa.string()),
    ("window", pa.int32()),
    ("num_packets", pa.int32()),
    ("start_ts_ns", pa.int64()),
    ("protocol", pa.uint8()),
    ("nprint", pa.binary()),
    ("direction", pa.list_(pa.uint8())),
    ("interarrival_ns", pa.list_(pa.int64())),
]


def encoded_schema(layout: Layout) -> pa.Schema:
    """Return the schema of a row a window; its metadata names the layout."""
    return pa.schema(_COLUMNS, metadata={METADATA_LAYOUT: layout.name})


def encoded_table(windows: Windows, layout: Layout, *, label: str, capture: str) -> pa.Table:
    """W rows of `encoded_schema(layout)`.

    Args:
        windows: of one capture.
        label: the class of its traffic.
        capture: its name, as the dataset shall remember it.
    """
    nprint = encode(
        windows.rows, layout, direction=windows.direction, interarrival_ns=windows.interarrival_ns
    )
    first = windows.first
    offsets = pa.array(first.astype(np.int32))
    ones = np.packbits(nprint == 1, axis=1)
    vacant = np.packbits(nprint == VACANT, axis=1)
    packed = [
        ones[begin:end].tobytes() + vacant[begin:end].tobytes()
        for begin, end in zip(first[:-1].tolist(), first[1:].tolist(), strict=True)
    ]
    columns = {
        "flow_id": windows.flow_id,
        "label": [label] * len(windows),
        "service": window_services(windows.rows, windows.direction, first),
        "capture": [capture] * len(windows),
        "window": windows.window,
        "num_packets": np.diff(first).astype(np.int32),
        "start_ts_ns": windows.rows["ts_ns"][first[:-1]],
        "protocol": windows.rows["protocol"][first[:-1]],
        "nprint": packed,
        "direction": pa.ListArray.from_arrays(offsets, pa.array(windows.direction)),
        "interarrival_ns": pa.ListArray.from_arrays(offsets, pa.array(windows.interarrival_ns)),
    }
    return pa.table(columns, schema=encoded_schema(layout))


def layout_of_table(schema: pa.Schema) -> Layout:
    """Return the layout that an encoded dataset's schema names.

    Raises:
        NprintError: it names none, or an unknown one.
    """
    name = (schema.metadata or {}).get(METADATA_LAYOUT)
    if name is None:
        raise NprintError(
            f"the table's schema names no layout under {METADATA_LAYOUT.decode()}; it is no "
            "encoded dataset"
        )
    return layout_named(name.decode())


def unpack(packed: bytes, layout: Layout) -> np.ndarray:
    """Return the (P, B) int8 nprint of 1, 0, -1 of one row's packed bytes.

    Raises:
        NprintError: the bytes are no whole number of rows of the layout.
    """
    row_bytes = layout.width // 8
    if len(packed) % (2 * row_bytes):
        raise NprintError(
            f"{len(packed):,} packed bytes; layout {layout.name} needs a multiple of "
            f"{2 * row_bytes:,}"
        )
    planes = np.frombuffer(packed, np.uint8).reshape(2, -1, row_bytes)
    bits = np.unpackbits(planes, axis=2).astype(np.int8)
    return bits[0] - bits[1]


def unpack_all(table: pa.Table) -> list[np.ndarray]:
    """Return the nprint of each row, (P, B) int8 of 1, 0, -1."""
    layout = layout_of_table(table.schema)
    return [unpack(packed, layout) for packed in table["nprint"].to_pylist()]


def labelled_windows(table: pa.Table, layout: Layout) -> LabelledWindows:
    """Return the training data of rows of an encoded dataset of that layout."""
    return LabelledWindows(
        nprint=[unpack(packed, layout) for packed in table["nprint"].to_pylist()],
        label=table["label"].to_pylist(),
        service=table["service"].to_pylist(),
        flow=table["flow_id"].to_pylist(),
        window=table["window"].to_pylist(),
        layout=layout,
        direction=_lists(table["direction"]),
        interarrival_ns=_lists(table["interarrival_ns"]),
    )


def _lists(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Return the arrays of a column of lists."""
    lists = column.combine_chunks()
    offsets, values = lists.offsets.to_pylist(), lists.values.to_numpy()
    return [values[first:last] for first, last in itertools.pairwise(offsets)]


def read_parts(names: Sequence[str], store: Store, labels: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows that `labelled_windows` takes, some at a time, of parts of an encoded dataset.

    Args:
        names: of the parts.
        store: of the dataset.
        labels: which are wanted.
    """
    wanted = pa.array(labels, pa.string())
    for name in names:
        with store.filesystem.open_input_file(store.path(name)) as file:
            part = pq.ParquetFile(file)
            for rows in part.iter_batches(_ROWS_AT_ONCE, columns=_TRAINING_COLUMNS):
                table = pa.table(rows)
                yield table.filter(pc.is_in(table["label"], value_set=wanted))
