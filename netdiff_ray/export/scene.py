"""A scene's flows in time order, and what is true of its hosts and incidents."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from socket import AF_INET, AF_INET6, inet_ntop

import numpy as np

from netdiff_ray.config.scene import FLOWS_FOLDER
from netdiff_ray.errors import DatasetError
from netdiff_ray.export.merge import CaptureSpan, TimeGrid, merged_records
from netdiff_ray.export.run import Report, capture_spans, flow_indexes
from netdiff_ray.export.target import ExportTarget
from netdiff_ray.packets.writer import pcap_header
from netdiff_ray.scenes.planner import ScenePlanner
from netdiff_ray.scenes.scene import Scene
from netdiff_ray.scenes.sessions import num_groups
from netdiff_ray.storage.manifest import Dataset, read_manifest
from netdiff_ray.storage.shards import labels_name, seconds_text
from netdiff_ray.storage.store import Store

SCENE_RECORD = "scene.json"
"""Lists the files of a scene; written last."""
HOST_COLUMNS = ("host", "site", "role", "ipv4", "ipv6")
"""Columns of hosts.csv; the roles are client, gateway, resolver and server."""
INCIDENT_COLUMNS = (
    "incident", "label", "service", "start", "end", "flows_per_second", "factor", "sources",
    "targets",
)  # fmt: skip
_NS_PER_MINUTE = 60 * 10**9


@dataclass(frozen=True, kw_only=True)
class SceneFiles:
    """What is written of a scene."""

    files: dict[str, dict]
    """{name: {sha256, bytes}}."""
    num_flows: int
    num_packets: int
    num_hosts: int
    """Clients, resolvers and servers with flows, and gateways."""


def write_scene(
    target: Store,
    dataset: Dataset,
    planner: ScenePlanner,
    shard_seconds: float | None,
    report: Report = lambda done, count: None,
) -> SceneFiles:
    """Write a scene's captures in time order, its labels, hosts and incidents, and the record.

    A target with the record of the same scene stays as it is.

    Args:
        dataset: of its flows.
        shard_seconds: time that a capture covers; None for a single capture.

    Raises:
        DatasetError: a file of the dataset is missing or damaged.
        ConfigError: the target holds other files.
        StorageError: the target cannot be written.
    """
    counts = dataset.manifest["counts"]
    about = {
        "form": "scene",
        "flows_manifest_sha256": hashlib.sha256(read_manifest(dataset.store) or b"").hexdigest(),
        "shard_seconds": shard_seconds,
        "scene": dataset.manifest["config"]["scene"],
    }
    finished = _finished(target, about)
    if finished is None:
        export = ExportTarget(target, about, record=SCENE_RECORD, beside=FLOWS_FOLDER)
        spans = _write_labels(export, dataset, report)
        _write_captures(export, dataset, spans, planner.scene, shard_seconds)
        num_hosts = _write_table(export, "hosts.csv", HOST_COLUMNS, _host_rows(planner))
        _write_table(export, "incidents.csv", INCIDENT_COLUMNS, _incident_rows(planner.scene))
        sums = {"flows": counts["flows"], "packets": counts["packets"], "hosts": num_hosts}
        export.finish(sums)
        finished = {"files": export.files, "counts": sums}
    return SceneFiles(
        files=finished["files"], num_flows=counts["flows"], num_packets=counts["packets"],
        num_hosts=finished["counts"]["hosts"],
    )  # fmt: skip


def _finished(target: Store, about: dict) -> dict | None:
    """Return the record of a target that holds what would be written; None if it does not."""
    try:
        record = json.loads(target.get(SCENE_RECORD) or b"")
        holds = record["complete"] and all(record[key] == about[key] for key in about)
        sizes = target.sizes() if holds else {}
        whole = all(sizes.get(name) == file["bytes"] for name, file in record["files"].items())
    except (ValueError, KeyError, TypeError):
        return None
    return record if holds and whole else None


def _write_labels(export: ExportTarget, dataset: Dataset, report: Report) -> list[CaptureSpan]:
    """Write labels.csv, shard after shard; return the spans of the captures."""
    spans: list[CaptureSpan] = []
    with export.writing("labels.csv") as write:
        for number, (flows, captures) in enumerate(flow_indexes(dataset, report)):
            name = labels_name(number)
            content = dataset.store.get(name)
            if content is None:
                raise DatasetError(f"{dataset.store.uri}: {name} is missing")
            heading = content.index(b"\n") + 1
            write(content if number == 0 else content[heading:])
            spans += capture_spans(dataset, flows, captures)
    return spans


def _write_captures(
    export: ExportTarget,
    dataset: Dataset,
    spans: Sequence[CaptureSpan],
    scene: Scene,
    shard_seconds: float | None,
) -> None:
    """Write capture-NNNNN.pcap, one for each part of the scene's time."""
    seconds = shard_seconds or scene.duration_s
    grid = TimeGrid(
        scene.start_ns, round(seconds * 1e9), max(math.ceil(scene.duration_s / seconds), 1)
    )
    pieces = merged_records(dataset.store, spans, grid=grid)
    piece = next(pieces, None)
    for part in range(grid.num_parts):
        with export.writing(f"capture-{part:05d}.pcap") as write:
            write(pcap_header())
            while piece is not None and grid.part_at(piece.first_ns) == part:
                write(piece.records)
                piece = next(pieces, None)


def _write_table(
    export: ExportTarget, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> int:
    """Write rows as CSV under a heading; return how many there are."""
    text, number = io.StringIO(), 0
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    with export.writing(name) as write:
        for number, row in enumerate(rows, 1):  # noqa: B007
            writer.writerow(row)
            write(text.getvalue().encode())
            text.seek(0)
            text.truncate()
        write(text.getvalue().encode())
    return number


def _host_rows(planner: ScenePlanner) -> Iterable[tuple[str, ...]]:
    """Yield HOST_COLUMNS of gateways, resolvers and clients, and of the servers that flows have."""
    scene = planner.scene
    versions = {net.version for net in scene.server_nets}

    def row(name: str, site: str, role: str, packed: dict[int, bytes]) -> tuple[str, ...]:
        texts = (
            inet_ntop(family, packed[version]) if version in packed else ""
            for version, family in ((4, AF_INET), (6, AF_INET6))
        )
        return (name, site, role, *texts)

    resolver = 0
    for number, site in enumerate(scene.sites):
        gateway = {version: planner.gateway_address(number, version) for version in versions}
        yield row(f"{site.name}-gateway", site.name, "gateway", gateway)
        for k in range(site.resolvers):
            packed = {version: planner.server_address(resolver, version) for version in versions}
            yield row(f"{site.name}-resolver-{k}", site.name, "resolver", packed)
            resolver += 1
    for host in range(scene.num_hosts):
        packed = {version: planner.client_address(host, version) for version in versions}
        name = planner.host_name(host)
        yield row(name, name.rpartition("-")[0], "client", packed)
    used = np.zeros(int(planner.tables.first_server[-1]), bool)
    for group in range(num_groups(scene)):
        used[planner.schedule(group).server] = True
    for server in np.flatnonzero(used)[np.searchsorted(np.flatnonzero(used), resolver) :].tolist():
        packed = {version: planner.server_address(server, version) for version in versions}
        yield row(f"server-{server - resolver}", "", "server", packed)


def _incident_rows(scene: Scene) -> Iterable[tuple[object, ...]]:
    """Yield INCIDENT_COLUMNS."""
    for incident in scene.incidents:
        begin, end = (
            seconds_text(scene.start_ns + round(minute * _NS_PER_MINUTE))
            for minute in (incident.begin_minute, incident.end_minute)
        )
        values = asdict(incident)
        more = (values[name] for name in INCIDENT_COLUMNS[5:])
        yield incident.name, incident.label, incident.service or "", begin, end, *more
