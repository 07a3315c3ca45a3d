"""Repaired flows to a shard.

A planned shard is a function of the adapter's metadata, the run's settings, its plan and its
drawings alone, whichever machine builds it.

Shape letters: N flows, P packets, F fields, R rows of all windows, B bits.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from netdiff_ray.config.pins import DEFAULT_START_NS
from netdiff_ray.dialogue import KINDS
from netdiff_ray.encoding.windows import DrawnFlow, drawn_table
from netdiff_ray.fields import FIELDS
from netdiff_ray.generation.flow_repair import RepairedGroup, flow_id, repair_flows
from netdiff_ray.generation.schedule import FlowTimes, schedule_packets
from netdiff_ray.generation.shard_plan import (
    ShardPlan,
    ShardSettings,
    scene_flows,
    windows_to_draw,
)
from netdiff_ray.header_bytes import IPPROTO_TCP, IPPROTO_UDP
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.addresses import flow_addresses
from netdiff_ray.labels.flow_plan import PlannedWindow, seed_of
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.repair import Repaired
from netdiff_ray.repair.change_report import ASSIGNED
from netdiff_ray.storage.shards import (
    FLOW_SCHEMA,
    TRUTH_COLUMNS,
    Shard,
    addresses,
    capture_name,
)


def build_planned_shard(
    metadata: AdapterMetadata, plan: ShardPlan, drawn: np.ndarray, settings: ShardSettings
) -> Shard:
    """Build the shard of a plan from its drawings: join the windows of each flow, repair, schedule.

    Args:
        drawn: (R, B) int8, the windows of `windows_to_draw`, in order, each of its full height.
    """
    flows = windows_to_draw(metadata, plan, settings.seed, settings.scene)
    ends = np.cumsum([0, *(sum(sample.height for sample in flow) for flow in flows)])
    assert ends[-1] == len(drawn)
    nprints = [drawn[begin:end] for begin, end in itertools.pairwise(ends)]
    shard = _build(metadata, plan, nprints, settings)
    if settings.keep_drawn:
        shard = replace(shard, drawn=_drawn_table(metadata, plan, flows, nprints, settings))
    return shard


def _drawn_table(
    metadata: AdapterMetadata,
    plan: ShardPlan,
    flows: Sequence[Sequence[PlannedWindow]],
    nprints: Sequence[np.ndarray],
    settings: ShardSettings,
) -> pa.Table:
    """Return what was drawn for a shard, as rows of an encoded dataset.

    Args:
        flows: windows of each flow.
        nprints: (R_n, B) int8 of each flow, its windows joined.
    """
    drawn = [
        DrawnFlow(
            flow_id=flow_id(settings.seed, plan.label, flow[0].index), service=flow[0].service,
            windows=np.split(nprint, np.cumsum([sample.height for sample in flow[:-1]])),
        )
        for flow, nprint in zip(flows, nprints, strict=True)
    ]  # fmt: skip
    return drawn_table(
        drawn, layout_named(metadata.layout), label=plan.label,
        capture=capture_name(plan.label, plan.number, settings.form),
    )  # fmt: skip


def quarantined_shard(
    metadata: AdapterMetadata, plan: ShardPlan, reason: str, settings: ShardSettings
) -> Shard:
    """Return the shard of a plan all of whose flows are quarantined for `reason`."""
    shard = _build(metadata, plan, [], settings)
    for index in range(plan.first, plan.first + plan.count):
        id = flow_id(settings.seed, plan.label, index)
        shard.quarantine.append(
            {"label": plan.label, "shard": plan.number, "flow_id": id, "reason": reason}
        )
    return shard


def _build(
    metadata: AdapterMetadata,
    plan: ShardPlan,
    nprints: Sequence[np.ndarray],
    settings: ShardSettings,
) -> Shard:
    if settings.scene is not None:
        return _build_of_scene(metadata, plan, nprints, settings)
    hosts = flow_addresses(metadata, plan.label, settings.seed, plan.first, settings.addresses)
    groups = repair_flows(
        metadata, plan.label, plan.first, nprints, seed=settings.seed, payload=settings.payload,
        addresses=list(itertools.islice(hosts, len(nprints))),
    )  # fmt: skip
    indices = range(plan.first, plan.first + len(nprints))
    return build_shard(
        groups, number=plan.number, label=plan.label,
        flow_ids=[flow_id(settings.seed, plan.label, index) for index in indices],
        order=settings.order, flows_per_second=settings.flows_per_second,
        start_ns=settings.start_ns,
        seed=seed_of(settings.seed, plan.label, plan.first, "arrivals"),
    )  # fmt: skip


def _build_of_scene(
    metadata: AdapterMetadata,
    plan: ShardPlan,
    nprints: Sequence[np.ndarray],
    settings: ShardSettings,
) -> Shard:
    assert settings.scene is not None
    flows = scene_flows(metadata, plan, settings.seed, settings.scene)[: len(nprints)]
    groups = repair_flows(
        metadata, plan.label, plan.first, nprints, seed=settings.seed, payload=settings.payload,
        of_scene=flows,
    )  # fmt: skip
    ids = [flow_id(settings.seed, plan.label, plan.first + k) for k in range(len(flows))]
    shard = build_shard(
        groups, number=plan.number, label=plan.label, flow_ids=ids,
        start_ns=FlowTimes(
            np.array([flow.start_ns for flow in flows], np.int64),
            np.array([flow.most_ns for flow in flows], np.int64),
        ),
    )  # fmt: skip
    by_id = dict(zip(ids, flows, strict=True))
    kept = [by_id[id] for id in shard.flows["flow_id"].to_pylist()]
    return replace(shard, truth={name: [getattr(f, name) for f in kept] for name in TRUTH_COLUMNS})


class _Packets(NamedTuple):
    """Packets of a shard, flow after flow; each (P,) but `data` and `first`."""

    data: np.ndarray
    """uint8, captured bytes in any order."""
    start: np.ndarray
    """int64: first byte of the packet in `data`."""
    caplen: np.ndarray
    wirelen: np.ndarray
    relative_ns: np.ndarray
    """int64: since the flow's first packet."""
    first: np.ndarray
    """(N + 1,) int64: first packet of each flow, the last element P."""


def build_shard(
    groups: Sequence[RepairedGroup],
    *,
    number: int,
    label: str,
    flow_ids: Sequence[str],
    order: str = "sequential",
    flows_per_second: float = 10.0,
    start_ns: int | FlowTimes = DEFAULT_START_NS,
    seed: int = 0,
) -> Shard:
    """Build a shard from repaired flows, in the order in which they were handed to repair.

    Args:
        groups: flows of one label, whose numbers keep their addresses apart.
        number: of the shard.
        flow_ids: of every flow that was handed to repair, rejected flows too.
        order, flows_per_second, start_ns, seed: see `schedule_packets`; times of flows are of
            every flow that was handed to repair.
    """
    position = _joined(
        [np.array(group.positions)[group.repaired.batch.position] for group in groups], np.int64
    )
    flow_order = np.argsort(position)
    if isinstance(start_ns, FlowTimes):
        start_ns = FlowTimes(*(column[position[flow_order]] for column in start_ns))
    packets = _join_packets([group.repaired for group in groups], flow_order)
    ts_ns, permutation = schedule_packets(
        packets.relative_ns, packets.first, order=order, start_ns=start_ns,
        flows_per_second=flows_per_second, seed=seed,
    )  # fmt: skip
    rejected = sorted(
        (group.positions[position], reason)
        for group in groups
        for position, reason in group.repaired.rejected
    )
    rows = [_index_rows(group, number, label, flow_ids) for group in groups]
    rows = pa.concat_tables(rows).take(flow_order) if rows else _UNTIMED_SCHEMA.empty_table()
    return Shard(
        number=number,
        label=label,
        data=packets.data,
        start=packets.start,
        caplen=packets.caplen,
        wirelen=packets.wirelen,
        ts_ns=ts_ns,
        order=permutation,
        first=packets.first,
        flows=_with_times(rows, packets.first, ts_ns, permutation),
        quarantine=[
            {"label": label, "shard": number, "flow_id": flow_ids[k], "reason": reason}
            for k, reason in rejected
        ],
    )


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    """Concatenate arrays, of which there may be none."""
    return np.concatenate([np.empty(0, dtype), *arrays])


def _join_packets(parts: Sequence[Repaired], flow_order: np.ndarray) -> _Packets:
    """Return the packets of repaired flows, the flows in another order.

    Args:
        parts: N flows in all.
        flow_order: (N,) indices of flows, as they stand in `parts`.
    """
    starts, relative, begins, num_bytes, num_packets = [], [], [], 0, 0
    for part in parts:
        first, ts_ns = part.first, part.packets.ts_ns
        starts.append(part.packets.starts[:-1] + num_bytes)
        relative.append(ts_ns - np.repeat(ts_ns[first[:-1]], np.diff(first)))
        begins.append(first[:-1] + num_packets)
        num_bytes += len(part.packets.data)
        num_packets += len(ts_ns)
    caplen = _joined([np.diff(part.packets.starts) for part in parts], np.int64)
    wirelen = _joined([part.packets.wirelen for part in parts], np.int64)
    counts = _joined([np.diff(part.first) for part in parts], np.int64)[flow_order]
    first = np.concatenate([[0], np.cumsum(counts)])
    shift = _joined(begins, np.int64)[flow_order] - first[:-1]
    at = np.arange(first[-1]) + np.repeat(shift, counts)
    return _Packets(
        data=_joined([part.packets.data for part in parts], np.uint8),
        start=_joined(starts, np.int64)[at],
        caplen=caplen[at],
        wirelen=wirelen[at],
        relative_ns=_joined(relative, np.int64)[at],
        first=first,
    )


_TIMED_COLUMNS = ("first_packet", "start_ts_ns", "duration_ns")
_UNTIMED_SCHEMA = pa.schema([field for field in FLOW_SCHEMA if field.name not in _TIMED_COLUMNS])


def _with_times(
    rows: pa.Table, first: np.ndarray, ts_ns: np.ndarray, permutation: np.ndarray
) -> pa.Table:
    """Return the N rows of FLOW_SCHEMA, from those without the columns that scheduling decides."""
    begin, end = first[:-1], first[1:]
    position = np.empty(len(permutation), np.int64)
    position[permutation] = np.arange(len(permutation))
    timed = {
        "first_packet": position[begin],
        "start_ts_ns": ts_ns[begin],
        "duration_ns": ts_ns[end - 1] - ts_ns[begin],
    }
    columns = dict(zip(rows.column_names, rows.columns, strict=True)) | timed
    return pa.table({name: columns[name] for name in FLOW_SCHEMA.names}, schema=FLOW_SCHEMA)


def _index_rows(group: RepairedGroup, number: int, label: str, flow_ids: Sequence[str]) -> pa.Table:
    """Return the rows of _UNTIMED_SCHEMA of a group's flows."""
    repaired, batch = group.repaired, group.repaired.batch
    num_flows = len(batch)
    begin = batch.flows.starts[:-1]
    sources, targets = addresses(batch.packets.rows[begin])
    to_client = batch.packets.direction[begin] == 1
    pairs = list(zip(sources, targets, to_client.tolist(), strict=True))
    wire = np.concatenate([[0], np.cumsum(repaired.packets.wirelen)])
    has_ports = np.isin(batch.flows.protocol, (IPPROTO_TCP, IPPROTO_UDP))
    columns = {
        "flow_id": [flow_ids[group.positions[k]] for k in batch.position.tolist()],
        "label": pa.repeat(label, num_flows),
        "service": pa.repeat(group.service, num_flows),
        "shard": pa.repeat(pa.scalar(number, pa.int32()), num_flows),
        "num_packets": np.diff(repaired.first),
        "captured_twice": batch.plans.captured[:, 0] > 1,
        "wire_bytes": np.diff(wire[repaired.first]),
        "ip_version": batch.flows.version,
        "protocol": batch.flows.protocol,
        "client_ip": [t if swapped else s for s, t, swapped in pairs],
        "client_port": np.where(has_ports, batch.flows.client_port, 0).astype(np.uint16),
        "server_ip": [s if swapped else t for s, t, swapped in pairs],
        "server_port": np.where(has_ports, batch.flows.server_port, 0).astype(np.uint16),
        "seed": batch.flows.seed,
        "repair_distance": repaired.distance,
        "answerable_bits": repaired.answerable,
        "corrected_bits": _by_field(repaired.corrected),
        "assigned_bits": _by_field(repaired.changed[:, ASSIGNED]),
        "rows_after_end": repaired.after_end.astype(np.int32),
        "kind": [
            KINDS[kind].name if spoken else ""
            for kind, spoken in zip(batch.flows.kind.tolist(), has_ports.tolist(), strict=True)
        ],
        "has_dialogue": batch.flows.has_dialogue,
        "sampled": pa.ListArray.from_arrays(
            np.arange(num_flows + 1, dtype=np.int32) * len(repaired.sampled),
            pa.array(list(repaired.sampled) * num_flows, pa.string()),
        ),
    }
    return pa.table(columns, schema=_UNTIMED_SCHEMA)


def _by_field(bits: np.ndarray) -> pa.MapArray:
    """Return {field: bits} of each flow, fields of 0 bits left out, from (N, F) int32."""
    flows, fields = np.nonzero(bits)
    offsets = np.searchsorted(flows, np.arange(len(bits) + 1)).astype(np.int32)
    names = pa.array([field.name for field in FIELDS]).take(pa.array(fields))
    return pa.MapArray.from_arrays(offsets, names, pa.array(bits[flows, fields], pa.int32()))
