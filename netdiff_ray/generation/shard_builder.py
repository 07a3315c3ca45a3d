"""Repaired flows to a shard.

A planned shard is a function of the adapter's metadata, the run's settings, its plan and its
drawings alone, whichever machine builds it.

Shape letters: N flows, P packets, F fields, R rows of all windows, B bits.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from netdiff_ray.fields import FIELDS
from netdiff_ray.generation.flow_repair import flow_id, repair_flows
from netdiff_ray.generation.schedule import schedule_packets
from netdiff_ray.generation.shard_plan import ShardPlan, ShardSettings, windows_to_draw
from netdiff_ray.header_bytes import IPPROTO_TCP, IPPROTO_UDP
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.flow_plan import seed_of
from netdiff_ray.repair import Repaired
from netdiff_ray.repair.change_report import ASSIGNED
from netdiff_ray.repair.context import DEFAULT_START_NS
from netdiff_ray.storage.shards import FLOW_SCHEMA, Shard, addresses


def build_planned_shard(
    metadata: AdapterMetadata, plan: ShardPlan, drawn: np.ndarray, settings: ShardSettings
) -> Shard:
    """Build the shard of a plan from its drawings: join the windows of each flow, repair, schedule.

    Args:
        drawn: (R, B) int8, the windows of `windows_to_draw`, in order, each of its full height.
    """
    flows = windows_to_draw(metadata, plan, settings.seed)
    ends = np.cumsum([0, *(sum(sample.height for sample in flow) for flow in flows)])
    assert ends[-1] == len(drawn)
    nprints = [drawn[begin:end] for begin, end in pairwise(ends)]
    return _build(metadata, plan, nprints, settings)


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
    repaired = repair_flows(
        metadata, plan.label, plan.first, nprints, seed=settings.seed, payload=settings.payload
    )
    indices = range(plan.first, plan.first + len(nprints))
    return build_shard(
        repaired, number=plan.number, label=plan.label,
        flow_ids=[flow_id(settings.seed, plan.label, index) for index in indices],
        order=settings.order, flows_per_second=settings.flows_per_second,
        seed=seed_of(settings.seed, plan.label, plan.first, "arrivals"),
    )  # fmt: skip


def build_shard(
    repaired: Repaired,
    *,
    number: int,
    label: str,
    flow_ids: Sequence[str],
    order: str = "sequential",
    flows_per_second: float = 10.0,
    start_ns: int = DEFAULT_START_NS,
    seed: int = 0,
) -> Shard:
    """Build a shard from repaired flows.

    Args:
        repaired: flows of one label, whose numbers keep their addresses apart.
        number: of the shard.
        flow_ids: of every flow that was handed to repair, rejected flows too.
        order, flows_per_second, start_ns, seed: see `schedule_packets`.
    """
    batch = repaired.batch
    first = batch.flows.starts
    starts = repaired.packets.starts
    begin_ns = np.repeat(repaired.packets.ts_ns[first[:-1]], np.diff(first))
    ts_ns, permutation = schedule_packets(
        repaired.packets.ts_ns - begin_ns, first, order=order, start_ns=start_ns,
        flows_per_second=flows_per_second, seed=seed,
    )  # fmt: skip
    return Shard(
        number=number,
        label=label,
        data=repaired.packets.data,
        start=starts[:-1],
        caplen=np.diff(starts),
        wirelen=repaired.packets.wirelen,
        ts_ns=ts_ns,
        order=permutation,
        first=first,
        flows=_index(repaired, number, label, flow_ids, ts_ns, permutation),
        quarantine=[
            {"label": label, "shard": number, "flow_id": flow_ids[position], "reason": reason}
            for position, reason in repaired.rejected
        ],
    )


def _index(
    repaired: Repaired,
    number: int,
    label: str,
    flow_ids: Sequence[str],
    ts_ns: np.ndarray,
    permutation: np.ndarray,
) -> pa.Table:
    """Return the N rows of FLOW_SCHEMA."""
    batch = repaired.batch
    num_flows = len(batch)
    begin, end = batch.flows.starts[:-1], batch.flows.starts[1:]
    position = np.empty(len(permutation), np.int64)
    position[permutation] = np.arange(len(permutation))
    sources, targets = addresses(batch.packets.rows[begin])
    to_client = batch.packets.direction[begin] == 1
    pairs = list(zip(sources, targets, to_client.tolist(), strict=True))
    wire = np.concatenate([[0], np.cumsum(repaired.packets.wirelen)])
    has_ports = np.isin(batch.flows.protocol, (IPPROTO_TCP, IPPROTO_UDP))
    assigned = repaired.changed[:, ASSIGNED]
    columns = {
        "flow_id": [flow_ids[k] for k in batch.position.tolist()],
        "label": pa.repeat(label, num_flows),
        "shard": pa.repeat(pa.scalar(number, pa.int32()), num_flows),
        "first_packet": position[begin],
        "num_packets": end - begin,
        "wire_bytes": wire[end] - wire[begin],
        "ip_version": batch.flows.version,
        "protocol": batch.flows.protocol,
        "client_ip": [t if swapped else s for s, t, swapped in pairs],
        "client_port": np.where(has_ports, batch.flows.client_port, 0).astype(np.uint16),
        "server_ip": [s if swapped else t for s, t, swapped in pairs],
        "server_port": np.where(has_ports, batch.flows.server_port, 0).astype(np.uint16),
        "start_ts_ns": ts_ns[begin],
        "duration_ns": ts_ns[end - 1] - ts_ns[begin],
        "seed": batch.flows.seed,
        "repair_distance": repaired.distance,
        "answerable_bits": repaired.answerable,
        "corrected_bits": _by_field(repaired.corrected),
        "assigned_bits": _by_field(assigned),
        "rows_after_end": repaired.after_end.astype(np.int32),
        "sampled": pa.ListArray.from_arrays(
            np.arange(num_flows + 1, dtype=np.int32) * len(repaired.sampled),
            pa.array(list(repaired.sampled) * num_flows, pa.string()),
        ),
    }
    return pa.table(columns, schema=FLOW_SCHEMA)


def _by_field(bits: np.ndarray) -> pa.MapArray:
    """Return {field: bits} of each flow, fields of 0 bits left out, from (N, F) int32."""
    flows, fields = np.nonzero(bits)
    offsets = np.searchsorted(flows, np.arange(len(bits) + 1)).astype(np.int32)
    names = pa.array([field.name for field in FIELDS]).take(pa.array(fields))
    return pa.MapArray.from_arrays(offsets, names, pa.array(bits[flows, fields], pa.int32()))
