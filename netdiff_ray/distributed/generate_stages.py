"""The stages of a generate job: a row a shard, from its plan to its files.

ShardPlan -> DrawStage -> DrawnShard -> WriteStage -> WrittenShard
"""

import time
from dataclasses import asdict, dataclass

import pyarrow as pa
import ray
from ray.actor import ActorHandle

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings
from netdiff_ray.diffusion.adapter import unpack_adapter
from netdiff_ray.distributed import metrics
from netdiff_ray.distributed.columns import ErrorColumns, fault_of, record_of
from netdiff_ray.distributed.drawn_flows import DrawnFlowsSender
from netdiff_ray.errors import DataError, NetdiffError
from netdiff_ray.generation.shard_builder import build_planned_shard, quarantined_shard
from netdiff_ray.generation.shard_plan import (
    ShardPlan,
    ShardSettings,
    pack_cells,
    unpack_cells,
    windows_to_draw,
)
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.scenes.scene import Scene
from netdiff_ray.storage.manifest import reason_kind
from netdiff_ray.storage.shards import Shard, write_shard
from netdiff_ray.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class DrawnShard(ShardPlan, ErrorColumns):
    """A plan and its drawing."""

    cells: bytes = b""
    """See `pack_cells`."""
    reason: str = ""
    """Why it could not be drawn; empty if it was."""


_DRAWN_SHARDS = pa.schema(
    [
        ("number", pa.int64()), ("label", pa.string()), ("first", pa.int64()),
        ("count", pa.int64()), ("cells", pa.large_binary()), ("reason", pa.string()),
        ("fault_class", pa.string()), ("fault_text", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WrittenShard(ErrorColumns):
    """The sums of a shard."""

    number: int
    """Position of the shard in its dataset, from 0."""
    flows: int = 0
    """Planned."""
    packets: int = 0


class DrawStage:
    """The base with the adapter in it, drawing shard after shard.

    Args:
        files: reference to the adapter's files, {name: content}.
        drawn_flows: an actor of `drawn_flows.following`.
        run: the URI that the run writes to, for its metrics.
        scene: that the flows are of, if they are of one.
    """

    def __init__(
        self, files: ray.ObjectRef, drawn_flows: ActorHandle, base: BaseSettings,
        draw: DrawSettings, run: str, scene: Scene | None = None,
    ):  # fmt: skip
        from netdiff_ray.diffusion.lora import load_for_drawing

        self._run = run
        self._fault = ErrorColumns()
        self._draw, self._scene = draw, scene
        self._sender = DrawnFlowsSender(drawn_flows)
        try:
            self._adapter = unpack_adapter(ray.get(files))
            self._base = load_for_drawing(self._adapter, base, draw)
        except NetdiffError as error:
            self._fault = fault_of(error)

    def __call__(self, plans: pa.Table) -> pa.Table:
        """Draw the shards of a table of ShardPlan; return a table of DrawnShard."""
        drawn = [asdict(self.draw(record_of(ShardPlan, row))) for row in plans.to_pylist()]
        return pa.Table.from_pylist(drawn, _DRAWN_SHARDS)

    def draw(self, plan: ShardPlan) -> DrawnShard:
        """Draw a shard; an error goes into the record."""
        cells, reason, fault = b"", "", self._fault
        if not fault.fault_class:
            try:
                cells = self.cells(plan)
            except NetdiffError as error:
                fault = fault_of(error)
            except Exception as error:
                reason = f"drawing failed: {type(error).__name__}: {error}"
        return DrawnShard(**asdict(plan), **asdict(fault), cells=cells, reason=reason)

    def cells(self, plan: ShardPlan) -> bytes:
        """Draw the windows of a shard; return them packed."""
        from netdiff_ray.diffusion.denoise import batches, draw

        begin = time.monotonic()
        flows = windows_to_draw(self._adapter.metadata, plan, self._draw.seed, self._scene)
        samples = [sample for flow in flows for sample in flow]
        nprints = {}
        for drawing in draw(self._base, self._adapter, samples, self._draw):
            nprints[drawing.sample.index, drawing.sample.window] = drawing.nprint
            self._sender.send(plan.number, plan.count * len(nprints) // len(samples))
        cells = pack_cells([nprints[sample.index, sample.window] for sample in samples])
        seconds, size = time.monotonic() - begin, self._draw.batch_size
        fills = [len(batch) / size for batch in batches(samples, size)]
        metrics.observe_stage(self._run, "draw", seconds)
        metrics.observe_drawing(self._run, seconds, fills)
        metrics.count_flows(self._run, "draw", plan.label, flows=plan.count, packets=0)
        return cells


@dataclass(frozen=True, kw_only=True)
class WriteStage:
    """Repairs and writes shards."""

    metadata: AdapterMetadata
    target: Store
    settings: ShardSettings
    identity: dict
    """Of the run."""
    pcap_per_flow: bool

    def write_row(self, row: dict) -> dict:
        """Write the shard of a row of DrawnShard; return a row of WrittenShard."""
        try:
            drawn = record_of(DrawnShard, row)
        except DataError as error:
            return asdict(WrittenShard(number=-1, **asdict(fault_of(error))))
        return asdict(self.write(drawn))

    def write(self, drawn: DrawnShard) -> WrittenShard:
        """Repair and write a shard; an error goes into the record."""
        if drawn.fault_class:
            return WrittenShard(
                number=drawn.number, fault_class=drawn.fault_class, fault_text=drawn.fault_text
            )
        plan = record_of(ShardPlan, asdict(drawn))
        try:
            if drawn.reason:
                return self.quarantine(plan, drawn.reason)
            try:
                begin = time.monotonic()
                cells = unpack_cells(drawn.cells, layout_named(self.metadata.layout).width)
                shard = build_planned_shard(self.metadata, plan, cells, self.settings)
                metrics.observe_stage(self.target.uri, "repair", time.monotonic() - begin)
            except Exception as error:
                return self.quarantine(plan, f"repair failed: {type(error).__name__}: {error}")
            self._put(shard)
            return WrittenShard(number=plan.number, flows=plan.count, packets=len(shard.ts_ns))
        except NetdiffError as error:
            return WrittenShard(number=plan.number, **asdict(fault_of(error)))

    def quarantine(self, plan: ShardPlan, reason: str) -> WrittenShard:
        """Write the shard of a plan with all its flows in quarantine."""
        self._put(quarantined_shard(self.metadata, plan, reason, self.settings))
        return WrittenShard(number=plan.number, flows=plan.count)

    def _put(self, shard: Shard) -> None:
        """Write a shard, its metrics and its lines of the log."""
        begin = time.monotonic()
        num_bytes = write_shard(
            self.target, shard, self.identity, pcap_per_flow=self.pcap_per_flow,
            form=self.settings.form,
        )  # fmt: skip
        run, distances = self.target.uri, shard.flows["repair_distance"].to_pylist()
        metrics.observe_stage(run, "write", time.monotonic() - begin)
        metrics.count_flows(
            run, "write", shard.label, flows=len(shard.flows), packets=len(shard.ts_ns)
        )
        metrics.observe_repair(run, shard.label, distances)
        metrics.count_quarantined(run, "write", map(reason_kind, shard.quarantine))
        metrics.observe_shard(run, "write", num_bytes)
        metrics.log_event("shard written", run=run, shard=shard.number)
        for record in shard.quarantine:
            metrics.log_event(
                f"flow quarantined: {record['reason']}", run=run, shard=shard.number,
                flow_id=record["flow_id"],
            )  # fmt: skip
