"""Sides read from where they lie: captures, encoded datasets, pcap datasets.

A side is a list of units, each of which gives blocks of flows by itself.

Shape letters: P packets.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from netdiff_ray.encoding.collection import list_captures
from netdiff_ray.errors import CaptureError, DataError, DatasetError, NprintError
from netdiff_ray.evaluate.flowset import (
    FlowBlock,
    blocks_of_table,
    blocks_of_windows,
    complete_flows,
    gathered,
)
from netdiff_ray.flows import DEFAULT_IDLE_TIMEOUT_S, assemble_flows
from netdiff_ray.packets import CaptureReader, header_rows
from netdiff_ray.packets.container import has_capture_suffix
from netdiff_ray.storage.manifest import (
    PCAP_DATASET,
    kind_of,
    open_dataset,
    read_manifest,
    read_part_metadata,
)
from netdiff_ray.storage.store import Store, open_store

CAPTURES, ENCODED, PCAPS = "captures", "encoded dataset", "pcap dataset"
_NEVER_S = 1e9
_LABEL_FOLDER = "label="


@dataclass(frozen=True)
class Unit:
    """A file that gives flows by itself."""

    name: str
    """Relative to the side's place."""
    num_bytes: int
    """Size of what is read for it, as stored."""
    label: str = ""
    """Of a capture; the others tell the labels of their flows themselves."""


@dataclass(frozen=True)
class Source:
    """Where the flows of one side lie."""

    uri: str
    """As the user named it."""
    kind: str
    """CAPTURES, ENCODED or PCAPS."""
    place: Store
    units: tuple[Unit, ...]
    """Captures, tables or flow indexes."""
    captures: tuple[Unit, ...] = ()
    """The captures that hold its packets; none of an encoded dataset."""

    def digest(self) -> str:
        """SHA-256, in hex, of the manifest, which knows every file's; of what has none, of the
        files' names and sizes."""
        units = [[unit.name, unit.num_bytes] for unit in self.units]
        known = read_manifest(self.place) if self.kind != CAPTURES else None
        return hashlib.sha256(known or json.dumps(units).encode()).hexdigest()


def open_source(uri: str | os.PathLike) -> Source:
    """The side at a path or URI: a folder, a glob, or one capture or Parquet file.

    Raises:
        DatasetError: there is nothing, or nothing that holds flows.
    """
    place, given = open_store(uri), os.fspath(uri)
    uri = place.uri
    info = place.filesystem.get_file_info(place.root)
    if info.type == pafs.FileType.File and info.extension == "parquet":
        folder = Store(uri, place.filesystem, str(PurePosixPath(place.root).parent))
        return Source(uri, ENCODED, folder, (Unit(info.base_name, info.size),))
    is_folder = info.type == pafs.FileType.Directory
    kind = kind_of(place) if is_folder else None
    if kind == PCAP_DATASET:
        return _pcap_side(uri, place)
    if kind is not None:
        files = open_dataset(place, kind).files
        tables = [Unit(name, files[name]["bytes"]) for name in files if name.endswith(".parquet")]
        return Source(uri, ENCODED, place, tuple(tables))
    sizes = place.sizes() if is_folder else {}
    tables = [Unit(name, sizes[name]) for name in sorted(sizes) if name.endswith(".parquet")]
    if tables and any(map(has_capture_suffix, sizes)):
        raise DatasetError(
            f"{uri}: captures and Parquet files are there, but no manifest; a dataset is "
            "complete when its manifest is written"
        )
    if tables:
        return Source(uri, ENCODED, place, tuple(tables))
    try:
        place, found, _ = list_captures(given)
    except DataError:
        raise DatasetError(
            f"{uri}: no manifest, no Parquet file and no capture (.pcap, .pcap.gz, ...) is there"
        ) from None
    captures = tuple(Unit(c.name, c.num_bytes, c.label) for c in found)
    return Source(uri, CAPTURES, place, captures, captures)


def _pcap_side(uri: str, place: Store) -> Source:
    """A unit a shard, with the bytes of its captures."""
    files = open_dataset(place, PCAP_DATASET).files
    sizes: Counter[str] = Counter()
    captures = []
    for name, facts in files.items():
        if not name.startswith(_LABEL_FOLDER):
            continue
        label, shard = name.split("/")[:2]
        sizes[shard.removesuffix(".pcap")] += facts["bytes"]
        captures.append(Unit(name, facts["bytes"], unquote(label.removeprefix(_LABEL_FOLDER))))
    units = [
        Unit(name, sizes[PurePosixPath(name).stem]) for name in files if name.endswith(".parquet")
    ]
    return Source(uri, PCAPS, place, tuple(units), tuple(captures))


def source_blocks(side: Source, units: Sequence[Unit] | None = None) -> Iterator[FlowBlock]:
    """The flows of a side, or of some of its units, block by block.

    Raises:
        NetdiffError: a unit is missing or is not what it should be.
    """
    units = side.units if units is None else units
    return gathered(block for unit in units for block in unit_blocks(side, unit))


def unit_blocks(side: Source, unit: Unit) -> Iterator[FlowBlock]:
    """The flows of one unit of a side, block by block."""
    if side.kind == CAPTURES:
        yield from _capture_blocks(side.place, unit, DEFAULT_IDLE_TIMEOUT_S)
    elif side.kind == ENCODED:
        try:
            yield from blocks_of_table(pq.read_table(_content(side.place, unit.name)))
        except pa.ArrowInvalid as error:
            what = f"not a readable Parquet file ({error})"
            raise DatasetError(f"{side.place.uri}: {unit.name}: {what}") from None
        except NprintError as error:
            raise DatasetError(f"{side.place.uri}: {unit.name}: {error}") from None
    else:
        yield from _shard_blocks(side.place, unit)


def _content(place: Store, name: str) -> pa.BufferReader:
    content = place.get(name)
    if content is None:
        raise DatasetError(f"{place.uri}: {name} is missing")
    return pa.BufferReader(content)


def _capture_blocks(place: Store, capture: Unit, idle_timeout_s: float) -> Iterator[FlowBlock]:
    """Flows as they end; what there is to say of the capture stands in the last block."""
    try:
        with (
            place.filesystem.open_input_file(place.path(capture.name)) as file,
            CaptureReader(file, name=f"{place.uri}: {capture.name}") as reader,
        ):
            chunks = (header_rows(table) for table in reader)
            batches = assemble_flows(chunks, reader.fingerprint, idle_timeout_s=idle_timeout_s)
            for windows in complete_flows(batches):
                addresses = frozenset().union(*(addresses_of(w.rows) for w in windows))
                for block in blocks_of_windows(windows, capture.label):
                    yield replace(block, addresses=addresses)
            notes = (f"read in part: {reader.fault}",) if reader.fault else ()
    except CaptureError as error:
        notes = (f"left out: {error}",)
    except FileNotFoundError:
        notes = (f"left out: {place.uri}: {capture.name} is missing",)
    yield replace(FlowBlock.empty(), notes=notes, has_addresses=True)


def _shard_blocks(place: Store, index: Unit) -> Iterator[FlowBlock]:
    """The flows of a shard, with what its index says of repair."""
    content = _content(place, index.name)
    part = read_part_metadata(content)
    if part is None:
        raise DatasetError(f"{place.uri}: {index.name} is no flow index")
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
    for name, facts in part["files"].items():
        label = name.split("/")[0].removeprefix(_LABEL_FOLDER)
        yield from _capture_blocks(place, Unit(name, facts["bytes"], label), _NEVER_S)


def addresses_of(rows: np.ndarray) -> frozenset[bytes]:
    """The distinct IP addresses, 4 or 16 bytes each, in (P,) HEADER_ROW."""
    found: set[bytes] = set()
    for version, begin, size in ((4, 12, 4), (6, 8, 16)):
        header = rows["network"][rows["version"] == version]
        for at in (begin, begin + size):
            found.update(a.tobytes() for a in np.unique(header[:, at : at + size], axis=0))
    return frozenset(found)
