"""Checks that a dataset is what its manifest and its index say."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from netdiff_ray.flows import NO_IDLE_TIMEOUT_S, assemble_flows
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.headers import header_rows
from netdiff_ray.storage.inputs import INPUTS_FILE
from netdiff_ray.storage.manifest import (
    MANIFESTS,
    PCAP_DATASET,
    Dataset,
    open_dataset,
    read_part_metadata,
)
from netdiff_ray.storage.shards import (
    CAPTURE_SUFFIXES,
    FlowKey,
    capture_name,
    captures_among,
    endpoints,
    flow_key,
    row_endpoints,
)
from netdiff_ray.storage.store import Store


@dataclass
class Verification:
    """The result of a verification."""

    num_files: int = 0
    num_flows: int = 0
    num_packets: int = 0
    problems: list[str] = field(default_factory=list)
    """What is not as it should be, in words; none if the dataset is whole."""
    unlisted: list[str] = field(default_factory=list)
    """Files that the manifest does not list, and that therefore do not count."""


def verify(store: Store) -> Verification:
    """Check hashes, sizes and counts against the manifest, and packets against the index.

    Raises:
        DatasetError: the store holds no dataset.
    """
    dataset = open_dataset(store, PCAP_DATASET)
    result = Verification()
    sizes = store.sizes()
    unlisted = set(sizes) - set(dataset.files) - {MANIFESTS[PCAP_DATASET], INPUTS_FILE}
    result.unlisted = sorted(unlisted)
    whole = set()
    for name, entry in dataset.files.items():
        content = store.get(name) if name in sizes else None
        result.num_files += 1
        if content is None:
            result.problems.append(f"{name}: missing")
        elif len(content) != entry["bytes"]:
            result.problems.append(f"{name}: {len(content):,} bytes; {entry['bytes']:,} expected")
        elif hashlib.sha256(content).hexdigest() != entry["sha256"]:
            result.problems.append(f"{name}: its SHA-256 is not the manifest's")
        else:
            whole.add(name)
    for name in dataset.part_names:
        if name in whole:
            _check_shard(dataset, name, whole, result)
    counts = dataset.manifest["counts"]
    if not result.problems:
        for unit, indexed in (("flows", result.num_flows), ("packets", result.num_packets)):
            if counts[unit] != indexed:
                result.problems.append(
                    f"the manifest counts {counts[unit]:,} {unit}; the indexes have {indexed:,}"
                )
    return result


def _check_shard(dataset: Dataset, name: str, whole: set[str], result: Verification) -> None:
    content = pa.BufferReader(dataset.store.get(name))
    captures_of = captures_among(read_part_metadata(content)["files"])
    table = pq.read_table(content)
    result.num_flows += len(table)
    result.num_packets += int(np.sum(table["num_packets"].to_numpy()))
    for captures, flows in _groups(table, captures_of):
        if not whole.issuperset(captures):
            continue  # reported already
        unlisted = {}
        for capture in captures:
            unlisted.update(_flows_in(dataset.store, capture, result))
        for row in flows:
            where = f"{name}: flow {row['flow_id']}"
            computed = unlisted.pop(flow_key(row["protocol"], *row_endpoints(row)), None)
            if computed is None:
                result.problems.append(f"{where} is not in {captures[0]}")
                continue
            for column, value in computed.items():
                if row[column] != value:
                    result.problems.append(
                        f"{where}: {column} is {row[column]:,} in the index and {value:,} in the "
                        "packets"
                    )
        for key in unlisted:
            result.problems.append(f"{captures[0]}: packets of {_words(key)}, which no row has")


def _groups(table: pa.Table, files: list[str]) -> Iterator[tuple[list[str], list[dict]]]:
    """Yield (captures, index rows) that belong together."""
    rows = table.to_pylist()
    if not rows:
        return
    wholes = [capture_name(rows[0]["label"], rows[0]["shard"], form) for form in CAPTURE_SUFFIXES]
    if len(files) == 1 and files[0] in wholes:
        yield files, rows
        return
    by_id = {row["flow_id"]: row for row in rows}
    for name in files:
        row = dict(by_id[name.rsplit("/", 1)[1].removesuffix(".pcap")])
        row["first_packet"] = 0
        yield [name], [row]


def _words(key: FlowKey) -> str:
    protocol, (a, a_port), (b, b_port) = key
    return f"protocol {protocol} between {a} port {a_port} and {b} port {b_port}"


def _flows_in(store: Store, name: str, result: Verification) -> dict[FlowKey, dict[str, int]]:
    """Return what the index says of each flow, computed from a capture, by key."""
    reader = CaptureReader(io.BytesIO(store.get(name)), name=name)
    times: list[np.ndarray] = []

    def chunks() -> Iterator[np.ndarray]:
        for table in reader:
            if table.reason.any():
                result.problems.append(f"{name}: {(table.reason != 0).sum():,} records are no rows")
            times.append(table.ts_ns.copy())
            yield header_rows(table)

    batches = list(assemble_flows(chunks(), reader.fingerprint, idle_timeout_s=NO_IDLE_TIMEOUT_S))
    if reader.fault:
        result.problems.append(str(reader.fault))
    ts_ns = np.concatenate([np.empty(0, np.int64), *times])
    if (np.diff(ts_ns) <= 0).any():
        result.problems.append(f"{name}: times do not strictly increase")
    flows: dict[FlowKey, dict[str, int]] = {}
    for windows in batches:
        firsts = windows.rows[windows.first[:-1]]
        wire = np.concatenate([[0], np.cumsum(windows.rows["wirelen"].astype(np.int64))])
        sources, targets = endpoints(firsts)
        for k, protocol in enumerate(firsts["protocol"].tolist()):
            begin, end = windows.first[k], windows.first[k + 1]
            key = flow_key(protocol, sources[k], targets[k])
            start, last = (int(windows.rows["ts_ns"][i]) for i in (begin, end - 1))
            flow = flows.setdefault(
                key, {"num_packets": 0, "wire_bytes": 0, "start_ts_ns": start, "duration_ns": 0}
            )
            last = max(last, flow["start_ts_ns"] + flow["duration_ns"])
            flow["num_packets"] += int(end - begin)
            flow["wire_bytes"] += int(wire[end] - wire[begin])
            flow["start_ts_ns"] = min(start, flow["start_ts_ns"])
            flow["duration_ns"] = last - flow["start_ts_ns"]
    for flow in flows.values():
        flow["first_packet"] = int(np.searchsorted(ts_ns, flow["start_ts_ns"]))
    return flows
