"""Flow sources: captures, encoded datasets, pcap datasets.

A source is a list of units, each of which gives blocks of flows by itself.

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
from netdiff_ray.evaluate.flow_blocks import (
    FlowBlock,
    blocks_of_table,
    blocks_of_windows,
    complete_flows,
    joined_blocks,
)
from netdiff_ray.flows import DEFAULT_IDLE_TIMEOUT_S, assemble_flows
from netdiff_ray.header_bytes import (
    IPV4_ADDRESS_BYTES,
    IPV4_DST,
    IPV4_SRC,
    IPV6_ADDRESS_BYTES,
    IPV6_DST,
    IPV6_SRC,
)
from netdiff_ray.packets import CaptureReader, header_rows
from netdiff_ray.packets.container import has_capture_suffix
from netdiff_ray.storage.manifest import (
    DRAWN_FOLDER,
    PCAP_DATASET,
    kind_of,
    open_dataset,
    read_manifest,
    read_part_metadata,
)
from netdiff_ray.storage.shards import LABEL_FOLDER, captures_among
from netdiff_ray.storage.store import Store, open_store

CAPTURES, ENCODED, PCAPS = "captures", "encoded dataset", "pcap dataset"
NEVER_S = 1e9
"""The idle timeout of a pcap dataset, whose shards hold a flow on its ports once."""


@dataclass(frozen=True)
class Unit:
    """A file that gives flows by itself."""

    name: str
    """Relative to the source's store."""
    num_bytes: int
    """Size of what is read for it, as stored."""
    label: str = ""
    """Of a capture; the other kinds hold the labels of their flows."""
    mtime_ns: int = 0
    """Time of writing, in nanoseconds of Unix time; 0 where a manifest has the file's digest."""
    reason: str = ""
    """Why it is left out; empty if it is not."""


@dataclass(frozen=True)
class Source:
    """Where flows are read from."""

    uri: str
    """As the user named it."""
    kind: str
    """CAPTURES, ENCODED or PCAPS."""
    store: Store
    units: tuple[Unit, ...]
    """Captures, tables or flow indexes."""
    captures: tuple[Unit, ...] = ()
    """The captures that hold its packets; none of an encoded dataset."""

    def digest(self) -> str:
        """Return what identifies its content, as SHA-256 in hex.

        That is the manifest, which lists a digest of every file; without a manifest, the
        names, sizes and times of writing of the files.
        """
        units = [[unit.name, unit.num_bytes, unit.mtime_ns] for unit in self.units]
        manifest = read_manifest(self.store) if self.kind != CAPTURES else None
        return hashlib.sha256(manifest or json.dumps(units).encode()).hexdigest()


def drawn_with(source: Source) -> dict[str, str | int | None]:
    """Return {adapter, seed} with which the flows of a pcap dataset were drawn, None elsewhere.

    The adapter is its SHA-256 in hex.
    """
    content = read_manifest(source.store) if source.kind == PCAPS else None
    manifest = json.loads(content) if content else {}
    adapter = manifest.get("models", {}).get("adapter", {})
    draw = manifest.get("config", {}).get("draw", {})
    return {"adapter": adapter.get("sha256"), "seed": draw.get("seed")}


def open_source(uri: str | os.PathLike, labels_csv: str | None = None) -> Source:
    """Return the source at a path or URI: a folder, a glob, or a capture or Parquet file.

    Args:
        uri: of the source.
        labels_csv: names the labels of captures, as in `list_captures`.

    Raises:
        DatasetError: nothing is stored at it, or nothing that holds flows.
    """
    store, given = open_store(uri), os.fspath(uri)
    uri = store.uri
    info = store.filesystem.get_file_info(store.root)
    if info.type == pafs.FileType.File and info.extension == "parquet":
        folder = Store(uri, store.filesystem, str(PurePosixPath(store.root).parent))
        table = Unit(info.base_name, info.size, mtime_ns=info.mtime_ns or 0)
        return Source(uri, ENCODED, folder, (table,))
    is_folder = info.type == pafs.FileType.Directory
    kind = kind_of(store) if is_folder else None
    if kind == PCAP_DATASET:
        return _pcap_source(uri, store)
    if kind is not None:
        files = open_dataset(store, kind).files
        tables = [Unit(name, files[name]["bytes"]) for name in files if name.endswith(".parquet")]
        return Source(uri, ENCODED, store, tuple(tables))
    files = store.listing().files if is_folder else {}
    tables = [
        Unit(name, entry.size, mtime_ns=entry.mtime_ns)
        for name, entry in sorted(files.items())
        if name.endswith(".parquet")
    ]
    if tables and any(map(has_capture_suffix, files)):
        raise DatasetError(
            f"{uri}: it holds captures and Parquet files, but no manifest; a dataset is "
            "complete when its manifest is written"
        )
    if tables:
        return Source(uri, ENCODED, store, tuple(tables))
    try:
        store, entries, set_aside = list_captures(given, labels_csv)
    except DataError:
        raise DatasetError(
            f"{uri}: no manifest, no Parquet file and no capture (.pcap, .pcap.gz, ...)"
        ) from None
    captures = tuple(Unit(c.name, c.num_bytes, c.label, c.mtime_ns) for c in entries)
    left_out = tuple(Unit(r["capture"], 0, reason=r["reason"]) for r in set_aside)
    return Source(uri, CAPTURES, store, captures + left_out, captures)


def _pcap_source(uri: str, store: Store) -> Source:
    """Return a pcap dataset as a source: a unit a shard, with the bytes of its captures."""
    dataset = open_dataset(store, PCAP_DATASET)
    sizes: Counter[str] = Counter()
    captures = []
    for name in captures_among(dataset.files):
        num_bytes = dataset.files[name]["bytes"]
        sizes[PurePosixPath(name.split("/")[1]).stem] += num_bytes
        captures.append(Unit(name, num_bytes, _label_of(name)))
    units = [Unit(name, sizes[PurePosixPath(name).stem]) for name in dataset.part_names]
    return Source(uri, PCAPS, store, tuple(units), tuple(captures))


def kept_drawings(source: Source) -> Source | None:
    """Return what the flows of a pcap dataset were drawn as, if the dataset has kept it."""
    if source.kind != PCAPS:
        return None
    files = open_dataset(source.store, PCAP_DATASET).files
    tables = [Unit(n, files[n]["bytes"]) for n in files if n.startswith(DRAWN_FOLDER)]
    if not tables:
        return None
    return Source(f"{source.uri.rstrip('/')}/{DRAWN_FOLDER}", ENCODED, source.store, tuple(tables))


def why_no_packets(name: str, source: Source) -> str | None:
    """Return why the packets of the source `name` cannot be read; None if they can."""
    return None if source.captures else f"the {name} source ({source.kind}) holds no packets"


def evenly_spaced(units: Sequence[Unit], most: int) -> frozenset[str]:
    """Return names of units: all, or `most` of them that are evenly spaced."""
    count = len(units)
    most = min(count, most)
    return frozenset(units[k * count // most].name for k in range(most))


def source_blocks(source: Source, units: Sequence[Unit] | None = None) -> Iterator[FlowBlock]:
    """Yield the flows of a source, or of some of its units, block by block.

    Raises:
        NetdiffError: a unit is missing or is not what it should be.
    """
    units = source.units if units is None else units
    return joined_blocks(block for unit in units for block in unit_blocks(source, unit))


def unit_blocks(source: Source, unit: Unit) -> Iterator[FlowBlock]:
    """Yield the flows of one unit of a source, block by block."""
    if unit.reason:
        note = f"left out: {source.store.uri}: {unit.name}: {unit.reason}"
        yield replace(FlowBlock.empty(), notes=(note,), has_addresses=True)
    elif source.kind == CAPTURES:
        yield from _capture_blocks(source.store, unit, DEFAULT_IDLE_TIMEOUT_S)
    elif source.kind == ENCODED:
        try:
            yield from blocks_of_table(pq.read_table(_content(source.store, unit.name)))
        except pa.ArrowInvalid as error:
            what = f"not a readable Parquet file ({error})"
            raise DatasetError(f"{source.store.uri}: {unit.name}: {what}") from None
        except NprintError as error:
            raise DatasetError(f"{source.store.uri}: {unit.name}: {error}") from None
    else:
        yield from _shard_blocks(source.store, unit)


def _content(store: Store, name: str) -> pa.BufferReader:
    content = store.get(name)
    if content is None:
        raise DatasetError(f"{store.uri}: {name} is missing")
    return pa.BufferReader(content)


def _capture_blocks(store: Store, capture: Unit, idle_timeout_s: float) -> Iterator[FlowBlock]:
    """Yield flows as they end; the last block has none, and the notes on the capture."""
    try:
        with (
            store.filesystem.open_input_file(store.path(capture.name)) as file,
            CaptureReader(file, name=f"{store.uri}: {capture.name}") as reader,
        ):
            chunks = (header_rows(table) for table in reader)
            batches = assemble_flows(chunks, reader.fingerprint, idle_timeout_s=idle_timeout_s)
            for windows in complete_flows(batches):
                addresses = frozenset().union(*(addresses_of(w.rows) for w in windows))
                for block in blocks_of_windows(windows, capture.label, capture.name):
                    yield replace(block, addresses=addresses)
            notes = (f"read in part: {reader.fault}",) if reader.fault else ()
    except CaptureError as error:
        notes = (f"left out: {error}",)
    except FileNotFoundError:
        notes = (f"left out: {store.uri}: {capture.name} is missing",)
    yield replace(FlowBlock.empty(), notes=notes, has_addresses=True)


_DIALOGUE_COLUMNS = ("label", "kind", "has_dialogue")


def _shard_blocks(store: Store, index: Unit) -> Iterator[FlowBlock]:
    """Yield the flows of a shard, and before them its repair counts in a block of no flows."""
    content = _content(store, index.name)
    metadata = read_part_metadata(content)
    if metadata is None:
        raise DatasetError(f"{store.uri}: {index.name} is no flow index")
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
        dialogues=Counter(
            zip(*(table[name].to_pylist() for name in _DIALOGUE_COLUMNS), strict=True)
        ),
    )
    for name in captures_among(metadata["files"]):
        unit = Unit(name, metadata["files"][name]["bytes"], _label_of(name))
        yield from _capture_blocks(store, unit, NEVER_S)


def _label_of(capture: str) -> str:
    """Return the label that the name of a dataset's capture has."""
    return unquote(capture.split("/", maxsplit=1)[0].removeprefix(LABEL_FOLDER))


def addresses_of(rows: np.ndarray) -> frozenset[bytes]:
    """Return the distinct IP addresses, 4 or 16 bytes each, in (P,) HEADER_ROW."""
    addresses: set[bytes] = set()
    for version, size, offsets in (
        (4, IPV4_ADDRESS_BYTES, (IPV4_SRC, IPV4_DST)),
        (6, IPV6_ADDRESS_BYTES, (IPV6_SRC, IPV6_DST)),
    ):
        header = rows["network"][rows["version"] == version]
        for at in offsets:
            addresses.update(a.tobytes() for a in np.unique(header[:, at : at + size], axis=0))
    return frozenset(addresses)
