"""An adapter to a dataset of drawn flows: a row a shard, from its plan to its files.

plans -> draw (a pool of actors that hold the weights) -> repair and write (tasks) -> sums
"""

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata

import pyarrow as pa
import ray
import ray.data

from netdiff_ray.config import GenerateConfig
from netdiff_ray.config.content import run_identity
from netdiff_ray.config.diffusion import EMBEDDED_BASE, BaseSettings, DrawSettings
from netdiff_ray.config.generate import lora_text
from netdiff_ray.diffusion.adapter import (
    METADATA_FILE,
    adapter_digest,
    parse_metadata,
    unpack_adapter,
)
from netdiff_ray.diffusion.fetch import embedded_base
from netdiff_ray.distributed import metrics
from netdiff_ray.distributed.cluster import connected, reachable_resources, results_apart
from netdiff_ray.errors import ClusterError, NetdiffError
from netdiff_ray.generation.adapter_files import read_adapter_files
from netdiff_ray.generation.pool import WRITER_CPUS, Pool, size_pool
from netdiff_ray.generation.shard_builder import build_planned_shard, quarantined_shard
from netdiff_ray.generation.shard_plan import (
    ShardPlan,
    ShardSettings,
    apportion,
    pack_cells,
    plan_shards,
    unpack_cells,
    windows_to_draw,
)
from netdiff_ray.labels.adapter_metadata import AdapterMetadata, label_statistics
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.storage.manifest import (
    PCAP_DATASET,
    Dataset,
    commit,
    missing_parts,
    reason_kind,
)
from netdiff_ray.storage.shards import Shard, index_name, write_shard
from netdiff_ray.storage.store import Store, open_store, public_uri

Progress = Callable[[int, int, str], None]
"""Called with flows done, flows in all, and more in words."""

_MAX_BLOCKS = 10_000
_TRIES = 2
_DEATHS_WHILE_LOADING = 3
_STUCK_S = 7200.0
"""Seconds without a shard after which the job ends: a large one of tall rasters on a slow
machine takes long, but a worker whose lost machine is not replaced would wait for ever."""


def generate(config: GenerateConfig, progress: Progress = lambda *_: None) -> Dataset:
    """Draw what is missing of a run at `config.target`, and commit it.

    Raises:
        ClusterError: no such adapter, label or base, an already used place, too little memory
            or too few CPUs or GPUs.
    """
    store = open_store(config.adapter)
    files = read_adapter_files(store)
    facts = parse_metadata(files.get(METADATA_FILE), store.uri)
    counts = _flows_by_label(config, facts)
    plans = plan_shards(counts, config.flows_per_shard)
    names = [index_name(plan.number) for plan in plans]
    target = open_store(config.target)
    resolved = _identity(config, facts, adapter_digest(files))
    missing = missing_parts(target, resolved, names)
    if missing:
        total = sum(counts.values())
        if (config.base or facts.base) == EMBEDDED_BASE:
            embedded_base()
        done = total - sum(plans[number].count for number in missing)
        progress(done, total, "")
        with connected(config.address), results_apart():
            pool = size_pool(
                reachable_resources(), sizes=config.denoisers, gpus=config.gpus_per_denoiser,
                cpus=config.cpus_per_denoiser, num_shards=len(missing),
            )  # fmt: skip
            job = _Job(config, pool, facts, files, target, resolved)
            num_packets = 0
            metrics.set_progress(target.uri, "generate", done, total)
            for own in job.run([plans[number] for number in missing]):
                done += own["flows"]
                num_packets += own["packets"]
                metrics.set_progress(target.uri, "generate", done, total)
                progress(done, total, f"{num_packets:,} packets")
    return commit(target, PCAP_DATASET, resolved, names, _models(config, facts, files))


def _flows_by_label(config: GenerateConfig, facts: AdapterMetadata) -> dict[str, int]:
    weights = config.weights()
    for label in (*config.labels, *weights):
        label_statistics(facts, label)
    if weights:
        return apportion(config.flows, weights)
    return dict.fromkeys(config.labels or facts.labels, config.flows)


def _identity(config: GenerateConfig, facts: AdapterMetadata, digest: str) -> dict:
    """Return what decides the dataset's content, the labels filled in."""
    labels = () if config.mix else tuple(sorted(config.labels or facts.labels))
    config = replace(
        config, labels=labels, mix=tuple(sorted(config.mix)),
        loras=tuple(map(lora_text, config.draw_settings().loras)),
    )  # fmt: skip
    return run_identity("generate", config, {"adapter": digest, "base": facts.base_digest})


def _models(config: GenerateConfig, facts: AdapterMetadata, files: Mapping[str, bytes]) -> dict:
    """What the manifest says beyond the configuration."""
    return {
        "models": {
            "adapter": {"name": public_uri(config.adapter), "sha256": adapter_digest(files)},
            "base": {
                "name": config.base or facts.base,
                "revision": config.revision or facts.revision,
                "sha256": facts.base_digest,
            },
        },
        "drawn_with": {name: metadata.version(name) for name in ("torch", "diffusers")},
    }


def _base_settings(config: GenerateConfig, facts: AdapterMetadata, gpus: float) -> BaseSettings:
    revision = config.revision if config.base else (config.revision or facts.revision)
    return BaseSettings(
        base=_absolute(config.base or facts.base), revision=revision,
        controlnet=_absolute(config.controlnet) if config.controlnet else None,
        controlnet_revision=config.controlnet_revision, device="cuda" if gpus else "cpu",
        dtype=config.dtype, compile=config.compile,
    )  # fmt: skip


def _draw_settings(config: GenerateConfig) -> DrawSettings:
    settings = config.draw_settings()
    loras = tuple(replace(lora, source=_absolute(lora.source)) for lora in settings.loras)
    return replace(settings, loras=loras)


def _absolute(source: str) -> str:
    """A path that means the same in other working folders; names as they are."""
    return os.path.abspath(source) if os.path.exists(source) else source


@dataclass(frozen=True)
class _Job:
    """What it takes to make shards."""

    config: GenerateConfig
    pool: Pool
    facts: AdapterMetadata
    files: dict[str, bytes]
    target: Store
    resolved: dict

    def run(self, plans: list[ShardPlan]) -> Iterator[dict]:
        """The sums of each shard, as it gets done: `number`, `flows`, `packets`.

        A shard whose worker dies takes those with it that wait for the same worker. Those
        that did not come about are tried once more, none waiting behind another; what then
        kills its worker again is set aside.
        """
        settings = self.settings()
        writer = _Writer(
            self.facts, self.target, settings, self.resolved, self.config.pcap_per_flow
        )
        files = ray.put(self.files)
        left = {plan.number: plan for plan in plans}
        for attempt in range(_TRIES):
            if left:
                for own in self.attempt(list(left.values()), files, writer, attempt):
                    if own["fault"]:
                        raise ClusterError(own["fault"])
                    del left[own["number"]]
                    yield own
                # The error of a worker's death holds the worker's handle in a reference cycle.
                # Until Python collects it, the worker, restarted, keeps its CPUs or GPUs.
                gc.collect()
        for plan in left.values():
            reason = "the worker that draws, or the one that repairs it, died each time"
            yield writer.set_aside(plan, reason)

    def settings(self) -> ShardSettings:
        config = self.config
        return ShardSettings(
            seed=config.draw.seed, payload=config.payload, order=config.order,
            flows_per_second=config.flows_per_second,
        )  # fmt: skip

    def attempt(
        self, plans: list[ShardPlan], files: ray.ObjectRef, writer: "_Writer", attempt: int
    ) -> Iterator[dict]:
        """The sums of the shards whose workers did not die."""
        rows = [asdict(plan) for plan in plans]
        shards = (
            ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
            .map_batches(
                _Denoiser,
                fn_constructor_args=(
                    files, _base_settings(self.config, self.facts, self.pool.gpus),
                    _draw_settings(self.config),
                ),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    min_size=min(self.pool.least, len(plans)),
                    max_size=min(self.pool.most, len(plans)),
                    max_tasks_in_flight_per_actor=1 if attempt else 2,
                ),
                num_cpus=self.config.cpus_per_denoiser,
                num_gpus=self.pool.gpus or None,
                max_restarts=-1,
                max_task_retries=1,
            )
            .map(
                writer.write,
                compute=ray.data.TaskPoolStrategy(size=self.pool.most),
                num_cpus=WRITER_CPUS,
            )
        )  # fmt: skip
        # What a worker's death costs is made up for in `run`; exceptions are caught at work.
        shards.context.max_errored_blocks = -1
        shards.context.max_consecutive_actor_init_deaths = _DEATHS_WHILE_LOADING
        shards.context.execution_no_progress_timeout_s = _STUCK_S
        yield from shards.iter_rows()


_DRAWN = pa.schema(
    [
        ("number", pa.int64()), ("label", pa.string()), ("first", pa.int64()),
        ("count", pa.int64()), ("cells", pa.large_binary()), ("reason", pa.string()),
        ("fault", pa.string()),
    ]
)  # fmt: skip
"""A row a shard: its plan and `cells` (see `pack_cells`), or the `reason` why it could not be
drawn, or the `fault` in what the user asked for, which ends the job."""


class _Denoiser:
    """The base with the adapter in it, drawing shard after shard."""

    def __init__(self, files: ray.ObjectRef, base: BaseSettings, draw: DrawSettings):
        from netdiff_ray.diffusion.lora import load_for_drawing

        self._fault = ""
        self._draw = draw
        try:
            self._adapter = unpack_adapter(ray.get(files))
            self._base = load_for_drawing(self._adapter, base, draw)
        except NetdiffError as error:
            self._fault = str(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = []
        for row in batch.to_pylist():
            drawn = {"cells": b"", "reason": "", "fault": self._fault}
            if not self._fault:
                try:
                    drawn["cells"] = self._cells(ShardPlan(**row))
                except NetdiffError as error:
                    drawn["fault"] = str(error)
                except Exception as error:
                    drawn["reason"] = f"drawing failed: {type(error).__name__}: {error}"
            rows.append({**row, **drawn})
        return pa.Table.from_pylist(rows, _DRAWN)

    def _cells(self, plan: ShardPlan) -> bytes:
        from netdiff_ray.diffusion.denoise import batches, draw

        begin = time.monotonic()
        flows = windows_to_draw(self._adapter.metadata, plan, self._draw.seed)
        samples = [sample for flow in flows for sample in flow]
        drawn = {
            (one.sample.index, one.sample.window): one.nprint
            for one in draw(self._base, self._adapter, samples, self._draw)
        }
        cells = pack_cells([drawn[sample.index, sample.window] for sample in samples])
        seconds, size = time.monotonic() - begin, self._draw.batch_size
        metrics.observe_stage("draw", seconds)
        metrics.observe_drawing(seconds, [len(batch) / size for batch in batches(samples, size)])
        metrics.count_flows("draw", plan.label, flows=plan.count, packets=0)
        return cells


@dataclass(frozen=True)
class _Writer:
    """Repairs and writes the shard of a row of `_DRAWN`; returns its sums."""

    facts: AdapterMetadata
    target: Store
    settings: ShardSettings
    resolved: dict
    pcap_per_flow: bool

    def write(self, row: dict) -> dict:
        plan = ShardPlan(**{key: row[key] for key in ShardPlan.__dataclass_fields__})
        if row["fault"]:
            return _sums(plan, fault=row["fault"])
        try:
            if row["reason"]:
                return self.set_aside(plan, row["reason"])
            try:
                begin = time.monotonic()
                cells = unpack_cells(row["cells"], layout_named(self.facts.layout).width)
                shard = build_planned_shard(self.facts, plan, cells, self.settings)
                metrics.observe_stage("repair", time.monotonic() - begin)
            except Exception as error:
                return self.set_aside(plan, f"repair failed: {type(error).__name__}: {error}")
            self.put(shard)
            return _sums(plan, packets=len(shard.ts_ns))
        except NetdiffError as error:
            return _sums(plan, fault=str(error))

    def set_aside(self, plan: ShardPlan, reason: str) -> dict:
        shard = quarantined_shard(self.facts, plan, reason, self.settings)
        self.put(shard)
        return _sums(plan)

    def put(self, shard: Shard) -> None:
        """Write a shard, and tell of it."""
        begin = time.monotonic()
        num_bytes = write_shard(self.target, shard, self.resolved, pcap_per_flow=self.pcap_per_flow)
        metrics.observe_stage("write", time.monotonic() - begin)
        metrics.count_flows("write", shard.label, flows=len(shard.flows), packets=len(shard.ts_ns))
        metrics.observe_repair(shard.label, shard.flows["repair_distance"].to_pylist())
        metrics.count_quarantined("write", map(reason_kind, shard.quarantine))
        metrics.observe_shard("write", num_bytes)
        metrics.log_event("shard written", run=self.target.uri, shard=shard.number)
        for record in shard.quarantine:
            metrics.log_event(
                f"flow set aside: {record['reason']}", run=self.target.uri, shard=shard.number,
                flow_id=record["flow_id"],
            )  # fmt: skip


def _sums(plan: ShardPlan, packets: int = 0, fault: str = "") -> dict:
    return {"number": plan.number, "flows": plan.count, "packets": packets, "fault": fault}
