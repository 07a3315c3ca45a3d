"""A shard out of repaired flows.

Shape letters: N flows, P packets, F fields.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from netdiff_ray.fields import FIELDS
from netdiff_ray.generation.schedule import arrange
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, layout_named
from netdiff_ray.repair import RepairContext, Repaired, repair
from netdiff_ray.repair.change_report import ASSIGNED
from netdiff_ray.storage.shards import FLOW_SCHEMA, Shard, addresses

DEFAULT_START_NS = 1_700_000_000_000_000_000
"""2023-11-14 22:13:20 UTC: when captures begin unless said."""


def compile_kernels() -> None:
    """Nothing; makes a shard of one flow of noise, so that the kernels of repair and of shards are
    compiled, or loaded, before somebody waits for them."""
    layout = layout_named(DEFAULT_LAYOUT)
    noise = np.random.default_rng(0).integers(0, 2, (8, layout.width), np.int8)
    one = np.ones(1, np.uint64)
    repaired = repair([noise], layout, RepairContext(label=""), one, one)
    build_shard(repaired, number=0, label="", flow_ids=[""])


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
    """The shard that repaired flows make.

    Args:
        repaired: flows of one label, whose numbers keep their addresses apart.
        number: of the shard.
        flow_ids: of every flow that was handed to repair, the rejected ones too.
        order, flows_per_second, start_ns, seed: see `arrange`.
    """
    batch = repaired.batch
    first = batch.flow_starts
    starts = repaired.packets.starts
    begin_ns = np.repeat(repaired.packets.ts_ns[first[:-1]], np.diff(first))
    ts_ns, permutation = arrange(
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
    """N rows of FLOW_SCHEMA."""
    batch = repaired.batch
    num_flows = len(batch)
    begin, end = batch.flow_starts[:-1], batch.flow_starts[1:]
    position = np.empty(len(permutation), np.int64)
    position[permutation] = np.arange(len(permutation))
    sources, targets = addresses(batch.rows[begin])
    to_client = batch.direction[begin] == 1
    pairs = list(zip(sources, targets, to_client.tolist(), strict=True))
    wire = np.concatenate([[0], np.cumsum(repaired.packets.wirelen)])
    has_ports = np.isin(batch.protocol, (6, 17))
    assigned = repaired.changed[:, ASSIGNED]
    columns = {
        "flow_id": [flow_ids[k] for k in batch.flow.tolist()],
        "label": pa.repeat(label, num_flows),
        "shard": pa.repeat(pa.scalar(number, pa.int32()), num_flows),
        "first_packet": position[begin],
        "num_packets": end - begin,
        "wire_bytes": wire[end] - wire[begin],
        "ip_version": batch.version,
        "protocol": batch.protocol,
        "client_ip": [t if swapped else s for s, t, swapped in pairs],
        "client_port": np.where(has_ports, batch.client_port, 0).astype(np.uint16),
        "server_ip": [s if swapped else t for s, t, swapped in pairs],
        "server_port": np.where(has_ports, batch.server_port, 0).astype(np.uint16),
        "start_ts_ns": ts_ns[begin],
        "duration_ns": ts_ns[end - 1] - ts_ns[begin],
        "seed": batch.seed,
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
    """{field: bits} of each flow, fields without any left out, from (N, F) int32."""
    flows, fields = np.nonzero(bits)
    offsets = np.searchsorted(flows, np.arange(len(bits) + 1)).astype(np.int32)
    names = pa.array([field.name for field in FIELDS]).take(pa.array(fields))
    return pa.MapArray.from_arrays(offsets, names, pa.array(bits[flows, fields], pa.int32()))
