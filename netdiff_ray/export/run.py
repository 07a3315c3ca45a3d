"""`netdiff export` as a function: a pcap dataset, shard by shard, in another form."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from netdiff_ray.config.export import MERGED, ExportConfig
from netdiff_ray.datasets.parts import shard_windows
from netdiff_ray.errors import DataError, DatasetError
from netdiff_ray.export import cicflowmeter, nfstream, pcapml
from netdiff_ray.export.connections import follow_connections
from netdiff_ray.export.feature_csv import csv_head, csv_lines
from netdiff_ray.export.huggingface import dataset_card, flow_table
from netdiff_ray.export.ipfix import MessageWriter
from netdiff_ray.export.merge import CaptureSpan, merged_records
from netdiff_ray.export.target import ExportTarget
from netdiff_ray.export.zeek import connection_rows, json_line, tsv_head, tsv_line, tsv_tail
from netdiff_ray.flows import Windows
from netdiff_ray.packets.writer import pcap_header
from netdiff_ray.storage.manifest import (
    PCAP_DATASET,
    Dataset,
    open_dataset,
    read_manifest,
    read_part_metadata,
)
from netdiff_ray.storage.shards import captures_among, flow_key, labels_csv, row_endpoints
from netdiff_ray.storage.store import open_store

Report = Callable[[int, int], None]
"""Called with (shards done, shards)."""
_LABELS = "labels.csv"
_KEY_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export has written."""

    files: dict[str, dict]
    """{name: {sha256, bytes}}."""
    num_flows: int
    num_packets: int
    num_shared: int = 0
    """Flows of a merged capture whose protocol and endpoints another flow has too: tools that tell
    flows by these alone may join them."""


def export(config: ExportConfig, report: Report = lambda done, count: None) -> Exported:
    """Write the flows of a pcap dataset in another form, and the record of the files.

    Raises:
        DatasetError: it is no complete pcap dataset, or a file is missing or damaged.
        ConfigError: the target holds other files.
        StorageError: the target cannot be written.
    """
    store = open_store(config.dataset)
    dataset = open_dataset(store, PCAP_DATASET)
    about = {
        "dataset": store.uri,
        "dataset_manifest_sha256": hashlib.sha256(read_manifest(store) or b"").hexdigest(),
        "form": config.form,
    }
    target = ExportTarget(open_store(config.target), about)
    counts = dataset.manifest["counts"]
    num_shared = _WRITERS[config.form](dataset, target, config, report)
    target.finish({"flows": counts["flows"], "packets": counts["packets"]})
    return Exported(
        files=target.files, num_flows=counts["flows"], num_packets=counts["packets"],
        num_shared=num_shared or 0,
    )  # fmt: skip


def flow_indexes(dataset: Dataset, report: Report) -> Iterator[tuple[pa.Table, list[str]]]:
    """Yield (rows of FLOW_SCHEMA, names of captures) of each shard."""
    for done, name in enumerate(dataset.part_names):
        content = dataset.store.get(name)
        part = read_part_metadata(pa.BufferReader(content)) if content is not None else None
        if part is None:
            raise DatasetError(f"{dataset.store.uri}: {name} is missing or damaged")
        yield pq.read_table(pa.BufferReader(content)), captures_among(part["files"])
        report(done + 1, len(dataset.part_names))


def _write_merged(
    dataset: Dataset, target: ExportTarget, config: ExportConfig, report: Report
) -> int:
    """Write captures in time order and their labels; return how many flows share endpoints."""
    spans: list[CaptureSpan] = []
    keys = [np.empty(0, np.uint64)]
    with target.writing(_LABELS) as write:
        for number, (flows, captures) in enumerate(flow_indexes(dataset, report)):
            write(labels_csv(flows, heading=number == 0))
            spans += capture_spans(dataset, flows, captures)
            keys.append(_key_hashes(flows))
    part_ns = int(config.part_seconds * 1e9) if config.part_seconds else None
    pieces = merged_records(dataset.store, spans, part_bytes=config.part_bytes, part_ns=part_ns)
    number = 0
    with ExitStack() as open_file:
        for piece in pieces:
            if piece.begins_part:
                open_file.close()
                name = f"capture-{number:05d}.pcap"
                write = open_file.enter_context(target.writing(name))
                write(pcap_header())
                number += 1
            write(piece.records)
    hashes, shared = np.unique(np.concatenate(keys), return_counts=True)
    return int(shared[shared > 1].sum()) if len(hashes) else 0


def capture_spans(dataset: Dataset, flows: pa.Table, captures: list[str]) -> Iterator[CaptureSpan]:
    """Yield when the packets of each capture of a shard are, those without packets left out."""
    starts = flows["start_ts_ns"].to_numpy()
    ends = starts + flows["duration_ns"].to_numpy()
    if len(captures) == 1 and len(flows):
        yield _span(dataset, captures[0], starts.min(), ends.max())
        return
    of_flow = {id: k for k, id in enumerate(flows["flow_id"].to_pylist())}
    for name in captures if len(flows) else ():
        k = of_flow[name.rsplit("/", 1)[1].removesuffix(".pcap")]
        yield _span(dataset, name, starts[k], ends[k])


def _span(dataset: Dataset, name: str, first_ns: int, last_ns: int) -> CaptureSpan:
    return CaptureSpan(name, dataset.files[name]["bytes"], int(first_ns), int(last_ns))


def _key_hashes(flows: pa.Table) -> np.ndarray:
    """Return a (N,) uint64 hash of the protocol and the endpoints of each flow."""
    names = ("protocol", "client_ip", "client_port", "server_ip", "server_port")
    texts = (
        repr(flow_key(r["protocol"], *row_endpoints(r))) for r in flows.select(names).to_pylist()
    )
    digests = b"".join(hashlib.blake2b(t.encode(), digest_size=_KEY_BYTES).digest() for t in texts)
    return np.frombuffer(digests, np.uint64)


def _write_zeek(
    dataset: Dataset, target: ExportTarget, config: ExportConfig, report: Report
) -> None:
    """Write conn.log; its times of opening and closing are those of the first and last packet."""
    is_json = config.to == "zeek-json"
    line_of = json_line if is_json else tsv_line
    started_ns, ended_ns = _time_span(dataset)
    with target.writing("conn.json.log" if is_json else "conn.log") as write:
        if not is_json:
            write(tsv_head(_zeek_time(started_ns)))
        for flows, windows in _whole_flows(dataset, report):
            connections = follow_connections(windows.rows, windows.direction, windows.first)
            rows = connection_rows(flows, connections, windows.rows[windows.first[:-1]])
            write("".join(map(line_of, rows)).encode())
        if not is_json:
            write(tsv_tail(_zeek_time(ended_ns)))


def _write_features(
    dataset: Dataset, target: ExportTarget, config: ExportConfig, report: Report
) -> None:
    """Write features of flows under the names of NFStream or CICFlowMeter."""
    tool = {"nfstream": nfstream, "cicflowmeter": cicflowmeter}[config.to]
    with target.writing("flows.csv") as write:
        write(csv_head(tool.COLUMNS))
        for flows, windows in _whole_flows(dataset, report):
            write(csv_lines(tool.COLUMNS, *tool.rows_and_values(flows, windows)))


def _write_ipfix(
    dataset: Dataset, target: ExportTarget, config: ExportConfig, report: Report
) -> None:
    """Write IPFIX messages, and the labels that they have no element for."""
    messages = MessageWriter()
    with target.writing("flows.ipfix") as write:
        for flows, windows in _whole_flows(dataset, report):
            for message in messages.messages(flows, windows):
                write(message)
    with target.writing(_LABELS) as write:
        for number, (flows, _) in enumerate(flow_indexes(dataset, lambda done, count: None)):
            write(labels_csv(flows, heading=number == 0))


def _write_huggingface(
    dataset: Dataset, target: ExportTarget, config: ExportConfig, report: Report
) -> None:
    """Write flows as Parquet, a file for each capture, and the dataset card."""
    verdict = None if config.report is None else _verdict(config.report)
    name = config.dataset.rstrip("/").rsplit("/", 1)[-1]
    for number, (flows, windows) in enumerate(_whole_flows(dataset, report)):
        sink = pa.BufferOutputStream()
        pq.write_table(flow_table(flows, windows), sink, compression="zstd")
        with target.writing(f"data/flows-{number:05d}.parquet") as write:
            write(memoryview(sink.getvalue()))
    with target.writing("README.md") as write:
        write(dataset_card(dataset.manifest, name, config.licence, verdict).encode())


def _write_pcapml(
    dataset: Dataset, target: ExportTarget, config: ExportConfig, report: Report
) -> None:
    """Write all packets, capture after capture, each with the id and label of its flow."""
    with target.writing("dataset.pcapng") as write:
        writer = pcapml.pcapml_writer(write)
        for flows, captures in flow_indexes(dataset, report):
            rows = flows.to_pylist()
            for name in captures if rows else ():
                pcapml.add_capture(writer, dataset.store, name, rows)


def _verdict(report: str) -> dict:
    """Return the verdict of a report of `netdiff evaluate`."""
    store = open_store(report)
    try:
        values = json.loads(store.get("report.json") or b"")
        return values["verdict"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{store.uri}: no report.json of netdiff evaluate is in it") from None


def _whole_flows(dataset: Dataset, report: Report) -> Iterator[tuple[list[dict], Windows]]:
    """Yield (rows of FLOW_SCHEMA, their flows as windows) of each capture with packets."""
    for done, name in enumerate(dataset.part_names):
        for _, table, windows in shard_windows(name, store=dataset.store):
            row_of = {row["flow_id"]: row for row in table.to_pylist()}
            if len(windows):
                yield [row_of[id] for id in windows.flow_id], windows
        report(done + 1, len(dataset.part_names))


def _time_span(dataset: Dataset) -> tuple[int, int]:
    """Return the times of the first and the last packet of a dataset, 0 without packets."""
    first_ns, last_ns = [], []
    for flows, _ in flow_indexes(dataset, lambda done, count: None):
        starts = flows["start_ts_ns"].to_numpy()
        if len(starts):
            first_ns.append(int(starts.min()))
            last_ns.append(int((starts + flows["duration_ns"].to_numpy()).max()))
    return min(first_ns, default=0), max(last_ns, default=0)


def _zeek_time(ts_ns: int) -> str:
    return datetime.fromtimestamp(ts_ns // 10**9, UTC).strftime("%Y-%m-%d-%H-%M-%S")


_WRITERS = {
    MERGED: _write_merged, "zeek": _write_zeek, "zeek-json": _write_zeek,
    "nfstream": _write_features, "cicflowmeter": _write_features, "ipfix": _write_ipfix,
    "huggingface": _write_huggingface, "pcapml": _write_pcapml,
}  # fmt: skip
