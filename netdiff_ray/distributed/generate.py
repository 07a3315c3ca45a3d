"""An adapter to a dataset of drawn flows: a row a shard, from its plan to its files.

plans -> draw (a pool of actors that hold the weights) -> repair and write (tasks) -> sums
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import ray
import ray.data

from netdiff_ray.config import GenerateConfig
from netdiff_ray.config.diffusion import EMBEDDED_BASE
from netdiff_ray.diffusion.fetch import embedded_base
from netdiff_ray.distributed import metrics
from netdiff_ray.distributed.cluster import (
    connected,
    quiet_restart_warning,
    reachable_resources,
    results_apart,
)
from netdiff_ray.distributed.columns import record_of
from netdiff_ray.distributed.generate_stages import DrawStage, WriteStage, WrittenShard
from netdiff_ray.generation.adapter_files import read_adapter_files
from netdiff_ray.generation.pool import WRITER_CPUS, Pool, size_pool
from netdiff_ray.generation.run import GenerationRun, resolve_run
from netdiff_ray.generation.shard_plan import ShardPlan
from netdiff_ray.storage.manifest import PCAP_DATASET, Dataset, commit, missing_parts
from netdiff_ray.storage.shards import index_name
from netdiff_ray.storage.store import open_store

Progress = Callable[[int, int, str], None]
"""Called with flows done, flows in all, and the packets so far in words."""

_MAX_BLOCKS = 10_000
_TRIES = 2
_DEATHS_WHILE_LOADING = 3
_STUCK_S = 7200.0
"""Seconds without a shard after which the job ends: a large shard of tall rasters on a slow
machine takes long, but a worker whose lost machine is not replaced would wait for ever."""


def generate(config: GenerateConfig, progress: Progress = lambda *_: None) -> Dataset:
    """Draw what is missing of a run at `config.target`, and commit it.

    Raises:
        ConfigError: the adapter has no such label, or the target holds another run.
        ModelError: no such adapter or base.
        ClusterError: too little memory, or too few CPUs or GPUs.
    """
    target, adapter = open_store(config.target), open_store(config.adapter)
    run = resolve_run(config, target, adapter, read_adapter_files(adapter))
    return _Job(run, config.address).carry_out(progress)


@dataclass(frozen=True)
class _Job:
    """A run, on a cluster."""

    run: GenerationRun
    address: str | None

    def carry_out(self, progress: Progress) -> Dataset:
        """Write the missing shards, and commit the dataset."""
        run = self.run
        names = [index_name(plan.number) for plan in run.plans]
        missing = missing_parts(run.target, run.identity, names)
        if not missing:
            return self.commit(names)
        if run.base.base == EMBEDDED_BASE:
            embedded_base()
        plans = [run.plans[number] for number in missing]
        total = sum(plan.count for plan in run.plans)
        done = total - sum(plan.count for plan in plans)
        progress(done, total, "")
        run_progress = metrics.RunProgress(run.target.uri, "generate", done=done, planned=total)
        with connected(self.address), results_apart(), run_progress:
            pool = size_pool(reachable_resources(), run.denoisers, len(plans))
            num_packets = 0
            for shard in self.written_shards(plans, pool):
                done += shard.flows
                num_packets += shard.packets
                run_progress.set(done)
                progress(done, total, f"{num_packets:,} packets")
            dataset = self.commit(names)
            metrics.set_dataset_time(run.target.uri)
        return dataset

    def commit(self, names: list[str]) -> Dataset:
        """Commit the dataset of the shards of these index files."""
        run = self.run
        return commit(run.target, PCAP_DATASET, run.identity, names, run.origin)

    def written_shards(self, plans: list[ShardPlan], pool: Pool) -> Iterator[WrittenShard]:
        """Yield each shard when it is written.

        The death of a worker also loses the shards that wait for it. Lost shards are tried once
        more, none waiting behind another; a shard that then kills its worker again is
        quarantined.
        """
        run = self.run
        quiet_restart_warning()
        files = ray.put(run.adapter_files)
        writer = WriteStage(
            metadata=run.metadata, target=run.target, settings=run.shards, identity=run.identity,
            pcap_per_flow=run.pcap_per_flow,
        )  # fmt: skip
        left = {plan.number: plan for plan in plans}
        for attempt in range(_TRIES):
            if left:
                for shard in self.attempt(files, list(left.values()), writer, pool, attempt):
                    shard.raise_if_any()
                    del left[shard.number]
                    yield shard
                # The error of a worker's death holds the worker's handle in a reference cycle.
                # Until Python collects it, the worker, restarted, keeps its CPUs or GPUs.
                gc.collect()
        for plan in left.values():
            yield writer.quarantine(
                plan, "the worker that draws, or the one that repairs it, died each time"
            )

    def attempt(
        self,
        files: ray.ObjectRef,
        plans: list[ShardPlan],
        writer: WriteStage,
        pool: Pool,
        attempt: int,
    ) -> Iterator[WrittenShard]:
        """Yield the shards of some plans, without those whose workers died."""
        rows = [asdict(plan) for plan in plans]
        base = replace(self.run.base, device="cuda" if pool.gpus else "cpu")
        shards = (
            ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
            .map_batches(
                DrawStage,
                fn_constructor_args=(files, base, self.run.draw, self.run.target.uri),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    min_size=min(pool.least, len(plans)),
                    max_size=min(pool.most, len(plans)),
                    max_tasks_in_flight_per_actor=1 if attempt else 2,
                ),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
                max_restarts=-1,
                max_task_retries=1,
            )
            .map(
                writer.write_row,
                compute=ray.data.TaskPoolStrategy(size=pool.most),
                num_cpus=WRITER_CPUS,
            )
        )  # fmt: skip
        # Shards lost with a worker are tried again by the caller; the stages catch exceptions.
        shards.context.max_errored_blocks = -1
        shards.context.max_consecutive_actor_init_deaths = _DEATHS_WHILE_LOADING
        shards.context.execution_no_progress_timeout_s = _STUCK_S
        for row in shards.iter_rows():
            yield record_of(WrittenShard, row)
