"""Sides read from where they lie: captures, encoded datasets, pcap datasets.

A side is a list of units, each of which gives blocks of flows by itself.

Shape letters: P packets.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from netdiff_ray.dataset.manifest import (
    MANIFEST,
    PCAP_DATASET,
    kind_of,
    open_dataset,
    read_part_metadata,
)
from netdiff_ray.dataset.places import Place, open_place
from netdiff_ray.errors import CaptureError, UsageError
from netdiff_ray.evaluate.flowset import (
    FlowBlock,
    blocks_of_table,
    blocks_of_windows,
    gathered,
)
from netdiff_ray.flows import DEFAULT_IDLE_TIMEOUT_S, assemble_flows
from netdiff_ray.packets import CaptureReader, header_rows
from netdiff_ray.packets.container import has_capture_suffix

_NEVER_S = 1e9
_LABEL_FOLDER = "label="


@dataclass(frozen=True)
class Side:
    """Where the flows of one side lie."""

    uri: str
    """As the user named it."""
    kind: str
    """captures, encoded dataset, or pcap dataset."""
    units: tuple[str, ...]
    """Captures, tables or flow indexes, relative to the folder."""


def open_side(uri: str | os.PathLike) -> Side:
    """The side at a path or URI: a folder, or one capture or Parquet file.

    Raises:
        UsageError: there is nothing, or nothing that holds flows.
    """
    uri = os.fspath(uri)
    if os.path.isfile(uri):
        folder, name = os.path.split(os.path.abspath(uri))
        kind = "encoded dataset" if name.endswith(".parquet") else "captures"
        return Side(folder, kind, (name,))
    place = open_place(uri)
    names = sorted(place.sizes())
    kind = kind_of(place)
    if kind is not None:
        word = "pcap dataset" if kind == PCAP_DATASET else "encoded dataset"
        return Side(uri, word, tuple(open_dataset(place, kind).part_names))
    tables = tuple(name for name in names if name.endswith(".parquet"))
    if tables:
        return Side(uri, "encoded dataset", tables)
    captures = tuple(name for name in names if has_capture_suffix(name))
    if captures:
        return Side(uri, "captures", captures)
    raise UsageError(
        f"{uri}: no {MANIFEST}, no Parquet file and no capture (.pcap, .pcap.gz, ...) is there"
    )


def side_blocks(side: Side) -> Iterator[FlowBlock]:
    """The flows of a side, block by block."""
    return gathered(block for unit in side.units for block in unit_blocks(side, unit))


def unit_blocks(side: Side, unit: str) -> Iterator[FlowBlock]:
    """The flows of one unit of a side, block by block."""
    place = open_place(side.uri)
    if side.kind == "encoded dataset":
        with place.filesystem.open_input_file(place.path(unit)) as file:
            yield from blocks_of_table(_read_table(file, f"{side.uri}/{unit}"))
    elif side.kind == "captures":
        label = label_of(unit, side.uri)
        yield from _capture_blocks(place, unit, label, DEFAULT_IDLE_TIMEOUT_S)
    else:
        yield from _shard_blocks(place, unit)


def label_of(name: str, uri: str) -> str:
    """The label of a capture: its `label=` folder, else the folder that it lies in."""
    folders = PurePosixPath(name).parts[:-1]
    for folder in folders:
        if folder.startswith(_LABEL_FOLDER):
            return folder.removeprefix(_LABEL_FOLDER)
    return folders[-1] if folders else PurePosixPath(os.path.abspath(uri)).name


def _read_table(file: pa.NativeFile, name: str) -> pa.Table:
    try:
        return pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise UsageError(f"{name}: not a readable Parquet file ({error})") from None


def _capture_blocks(
    place: Place, name: str, label: str, idle_timeout_s: float
) -> Iterator[FlowBlock]:
    with place.filesystem.open_input_file(place.path(name)) as file:
        try:
            reader = CaptureReader(file, name=f"{place.uri}/{name}")
        except CaptureError as error:
            yield replace(FlowBlock.empty(), notes=(f"left out: {error}",))
            return
        chunks = (header_rows(table) for table in reader)
        batches = list(assemble_flows(chunks, reader.fingerprint, idle_timeout_s=idle_timeout_s))
    notes = (f"read in part: {reader.fault}",) if reader.fault else ()
    addresses = frozenset().union(*(addresses_of(b.rows) for b in batches))
    for block in blocks_of_windows(batches, label):
        yield replace(block, notes=notes, addresses=addresses, has_addresses=True)


def _shard_blocks(place: Place, index: str) -> Iterator[FlowBlock]:
    """The flows of a shard, with what its index says of repair."""
    content = pa.BufferReader(place.get(index))
    files = read_part_metadata(content)["files"]
    table = pq.read_table(content)
    corrected: Counter = Counter()
    for changes in table["corrected_bits"].to_pylist():
        corrected.update(dict(changes or ()))
    yield replace(
        FlowBlock.empty(),
        num_repaired=len(table),
        corrected=corrected,
        answerable=int(np.sum(table["answerable_bits"].to_numpy())),
        repair_distance=float(np.sum(table["repair_distance"].to_numpy())),
    )
    for name in files:
        yield from _capture_blocks(place, name, label_of(name, place.uri), _NEVER_S)


def addresses_of(rows: np.ndarray) -> frozenset[bytes]:
    """The distinct IP addresses, 4 or 16 bytes each, in (P,) HEADER_ROW."""
    found: set[bytes] = set()
    for version, begin, size in ((4, 12, 4), (6, 8, 16)):
        header = rows["network"][rows["version"] == version]
        for at in (begin, begin + size):
            found.update(a.tobytes() for a in np.unique(header[:, at : at + size], axis=0))
    return frozenset(found)
