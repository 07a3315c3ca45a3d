"""The encoded dataset: windows as rows of a table, readable with pyarrow alone.

A packed nprint is its two bit planes, most significant column first: P * B / 8 bytes whose
bits say where the matrix is 1, then as many whose bits say where it is -1 (vacant).

Shape letters: W windows, P packets, B bits (columns of the layout).
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from netdiff_ray.dialogue.recognise import window_kinds
from netdiff_ray.errors import ConfigError, NprintError
from netdiff_ray.flows import Windows
from netdiff_ray.header_bytes import (
    IPV4_ADDRESS_BYTES,
    IPV4_DST,
    IPV4_SRC,
    IPV6_ADDRESS_BYTES,
    IPV6_DST,
    IPV6_SRC,
)
from netdiff_ray.labels.duplicates import duplicates_of
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.service import flow_services
from netdiff_ray.nprint.codec import VACANT, decode, encode_windows
from netdiff_ray.nprint.layouts import Layout, layout_named
from netdiff_ray.raster import drop_vacant_tail
from netdiff_ray.storage.store import Store

METADATA_LAYOUT = b"netdiff:layout"

_TRAINING_COLUMNS = [
    "flow_id", "label", "service", "kind", "window", "nprint", "direction", "interarrival_ns",
    "client_host", "server_host", "capture", "start_ts_ns", "duplicate_hops", "duplicate_ns",
]  # fmt: skip
_ROWS_AT_ONCE = 512

_COLUMNS = [
    ("flow_id", pa.string()),
    ("label", pa.string()),
    ("service", pa.string()),
    ("kind", pa.string()),
    ("capture", pa.string()),
    ("window", pa.int32()),
    ("num_packets", pa.int32()),
    ("start_ts_ns", pa.int64()),
    ("protocol", pa.uint8()),
    ("nprint", pa.binary()),
    ("direction", pa.list_(pa.uint8())),
    ("interarrival_ns", pa.list_(pa.int64())),
    ("client_host", pa.int64()),
    ("server_host", pa.int64()),
    ("duplicate_hops", pa.int8()),
    ("duplicate_ns", pa.int64()),
]


def encoded_schema(layout: Layout) -> pa.Schema:
    """Return the schema of a row a window; its metadata names the layout."""
    return pa.schema(_COLUMNS, metadata={METADATA_LAYOUT: layout.name})


def encoded_table(
    windows: Windows,
    layout: Layout,
    *,
    label: str | Sequence[str],
    capture: str,
    host_key: bytes = b"",
    open_flows: dict[str, str] | None = None,
) -> pa.Table:
    """Return W rows of `encoded_schema(layout)`.

    Args:
        windows: of one capture.
        label: the class of its traffic, or that of each window.
        capture: its name, as the dataset shall remember it.
        host_key: at most 64 bytes that turn addresses into numbers of hosts.
        open_flows: see `flow_services`; needed where other windows of the same flows are in other
            tables.
    """
    nprint = encode_windows(windows, layout)
    first = windows.first
    client_host, server_host = _hosts(windows, host_key)
    duplicate_hops, duplicate_ns = _duplicates(windows)
    columns = {
        "flow_id": windows.flow_id,
        "label": [label] * len(windows) if isinstance(label, str) else label,
        "service": flow_services(windows, {} if open_flows is None else open_flows),
        "kind": window_kinds(windows.rows["sign"], first),
        "capture": [capture] * len(windows),
        "window": windows.window,
        "start_ts_ns": windows.rows["ts_ns"][first[:-1]],
        "protocol": windows.rows["protocol"][first[:-1]],
        "client_host": client_host,
        "server_host": server_host,
        "duplicate_hops": duplicate_hops,
        "duplicate_ns": duplicate_ns,
    }
    cells = _cell_columns(nprint, first, windows.direction, windows.interarrival_ns)
    return pa.table(columns | cells, schema=encoded_schema(layout))


def _hosts(windows: Windows, key: bytes) -> tuple[list[int], list[int]]:
    """Return the numbers of the W windows' clients and servers: keyed hashes of addresses, the same
    where the address is the same."""
    hosts: tuple[list[int], list[int]] = ([], [])
    begins = windows.first[:-1]
    headers, versions = windows.rows["network"][begins], windows.rows["version"][begins]
    to_client = windows.direction[begins] == 1
    for header, version, swapped in zip(headers, versions, to_client, strict=True):
        octets = header.tobytes()
        if version == 4:
            ends = [octets[at : at + IPV4_ADDRESS_BYTES] for at in (IPV4_SRC, IPV4_DST)]
        else:
            ends = [octets[at : at + IPV6_ADDRESS_BYTES] for at in (IPV6_SRC, IPV6_DST)]
        for column, address in zip(hosts, reversed(ends) if swapped else ends, strict=True):
            digest = hashlib.blake2b(address, digest_size=8, key=key).digest()
            column.append(int.from_bytes(digest) >> 1)
    return hosts


def _duplicates(windows: Windows) -> tuple[list[int | None], list[int | None]]:
    """Return by how many routers, and how much later in nanoseconds, the W windows' packets were
    captured again, in the median; None of windows of which at most half were."""
    hops: list[int | None] = []
    later_ns: list[int | None] = []
    for begin, end in itertools.pairwise(windows.first.tolist()):
        rows = windows.rows[begin:end]
        again = rows[rows["duplicates"] > 0]
        is_twice = 2 * len(again) > len(rows)
        hops.append(int(np.median(again["duplicate_hops"])) if is_twice else None)
        later_ns.append(int(np.median(again["duplicate_ns"])) if is_twice else None)
    return hops, later_ns


@dataclass(frozen=True, kw_only=True)
class DrawnFlow:
    """A flow as a model drew it."""

    flow_id: str
    service: str
    """Of the flow's plan."""
    windows: Sequence[np.ndarray]
    """(R, B) int8 of 1, 0, -1 each; a wholly vacant row ends the flow."""


def drawn_table(
    flows: Sequence[DrawnFlow], layout: Layout, *, label: str, capture: str
) -> pa.Table:
    """Return what a model drew as rows of `encoded_schema(layout)`, a row a window.

    What is drawn behind the row that ends a flow is left out. Directions and times are those of
    the cells; every flow begins at 0, and hosts are not known.

    Args:
        flows: as they were drawn.
        layout: of the cells.
        label: of all flows.
        capture: name of what the flows were repaired to.
    """
    nprints: list[np.ndarray] = []
    names: list[tuple[str, str, int]] = []
    for flow in flows:
        for number, cells in enumerate(flow.windows):
            nprint = drop_vacant_tail(cells)
            if len(nprint):
                nprints.append(nprint)
                names.append((flow.flow_id, flow.service, number))
            if len(nprint) < len(cells):
                break
    first = np.cumsum([0, *map(len, nprints)])
    nprint = np.concatenate([np.empty((0, layout.width), np.int8), *nprints])
    rows, direction, interarrival_ns = decode(nprint, layout)
    columns = {
        "flow_id": [flow_id for flow_id, _, _ in names],
        "label": [label] * len(names),
        "service": [service for _, service, _ in names],
        "kind": [""] * len(names),
        "capture": [capture] * len(names),
        "window": [number for _, _, number in names],
        "start_ts_ns": [0] * len(names),
        "protocol": rows["protocol"][first[:-1]],
        "client_host": pa.nulls(len(names), pa.int64()),
        "server_host": pa.nulls(len(names), pa.int64()),
        "duplicate_hops": pa.nulls(len(names), pa.int8()),
        "duplicate_ns": pa.nulls(len(names), pa.int64()),
    }
    cells = _cell_columns(nprint, first, direction, interarrival_ns)
    return pa.table(columns | cells, schema=encoded_schema(layout))


def _cell_columns(
    nprint: np.ndarray, first: np.ndarray, direction: np.ndarray, interarrival_ns: np.ndarray
) -> dict[str, pa.Array]:
    """Return the columns of W windows that hold what is known of each packet, by name.

    Args:
        nprint: (P, B) int8 of 1, 0, -1.
        first: (W + 1,) int64 first packet of each window, the last element P.
        direction: (P,) uint8.
        interarrival_ns: (P,) int64.
    """
    offsets = pa.array(first.astype(np.int32))
    ones = np.packbits(nprint == 1, axis=1)
    vacant = np.packbits(nprint == VACANT, axis=1)
    packed = [
        ones[begin:end].tobytes() + vacant[begin:end].tobytes()
        for begin, end in itertools.pairwise(first.tolist())
    ]
    return {
        "num_packets": pa.array(np.diff(first).astype(np.int32)),
        "nprint": pa.array(packed, pa.binary()),
        "direction": pa.ListArray.from_arrays(offsets, pa.array(direction)),
        "interarrival_ns": pa.ListArray.from_arrays(offsets, pa.array(interarrival_ns)),
    }


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
    return encoded_layout(name.decode())


def encoded_layout(name: str) -> Layout:
    """Return the layout that an encoded dataset names.

    Raises:
        NprintError: no layout has that name.
    """
    try:
        return layout_named(name)
    except ConfigError as error:
        raise NprintError(f"{error}; encode the captures again") from None


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
        kind=table["kind"].to_pylist(),
        flow=table["flow_id"].to_pylist(),
        window=table["window"].to_pylist(),
        layout=layout,
        direction=_lists(table["direction"]),
        interarrival_ns=_lists(table["interarrival_ns"]),
        client=table["client_host"].to_pylist(),
        server=table["server_host"].to_pylist(),
        capture=table["capture"].to_pylist(),
        start_ns=table["start_ts_ns"].to_pylist(),
        duplicates=[
            None if hops is None else duplicates_of(hops, later_ns)
            for hops, later_ns in zip(
                table["duplicate_hops"].to_pylist(), table["duplicate_ns"].to_pylist(), strict=True
            )
        ],
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
