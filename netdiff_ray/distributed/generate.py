"""An adapter to a dataset of drawn flows: a row a shard, from its plan to its files.

plans -> draw (a pool of actors that hold the weights) -> repair and write (tasks) -> sums
"""

import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import ray
import ray.data
from ray.actor import ActorHandle

from netdiff_ray.config import GenerateConfig
from netdiff_ray.diffusion.source_checks import (
    check_base_files,
    check_controlnet_files,
    check_lora_files,
)
from netdiff_ray.distributed import metrics
from netdiff_ray.distributed.cluster import (
    connected,
    quiet_restart_warning,
    reachable_resources,
    results_apart,
)
from netdiff_ray.distributed.columns import record_of
from netdiff_ray.distributed.drawn_flows import DrawingProgress, following
from netdiff_ray.distributed.generate_stages import DrawStage, WriteStage, WrittenShard
from netdiff_ray.generation.adapter_files import read_adapter_files
from netdiff_ray.generation.pool import WRITER_CPUS, Pool, size_pool
from netdiff_ray.generation.run import GenerationRun, resolve_run
from netdiff_ray.generation.shard_plan import ShardPlan
from netdiff_ray.scenes.scene import Scene
from netdiff_ray.storage.manifest import PCAP_DATASET, Dataset, commit, missing_parts
from netdiff_ray.storage.shards import index_name
from netdiff_ray.storage.store import open_store

Progress = Callable[[int, int, dict[str, int | str]], None]
"""Called with flows drawn, flows in all, and of this start `flows_repaired` and written, their
`packets` and what it `waits_for` (see `shortage`; empty if for nothing); not always from the thread
of the job, but never twice at a time. All flows are drawn only when they are written."""

_MAX_BLOCKS = 10_000
_TRIES = 2
_DEATHS_WHILE_LOADING = 3
_STUCK_S = 7200.0
"""Seconds without a shard after which the job ends: a large shard of tall rasters on a slow
machine takes long, but a worker whose lost machine is not replaced would wait for ever."""


def generate(
    config: GenerateConfig,
    progress: Progress = lambda *_: None,
    note: Callable[[str], None] = lambda _: None,
    scene: Scene | None = None,
) -> Dataset:
    """Draw what is missing of a run at `config.target`, and commit it.

    Args:
        config: of the run.
        progress: see Progress.
        note: called with what was chosen for the run, a line each, before it begins.
        scene: that the flows are of; it decides how many there are of each label.

    Raises:
        ConfigError: the adapter has no such label, or the target holds another run.
        ModelError: no such adapter or base.
        ClusterError: too little memory, or too few CPUs or GPUs.
    """
    target, adapter = open_store(config.target), open_store(config.adapter)
    run = resolve_run(config, target, adapter, read_adapter_files(adapter), scene)
    return _Job(run, config.address).carry_out(progress, note)


class _Reporter:
    """Reports the progress of a run: flows as they are drawn, and packets as they are written.

    Args:
        plans: of the shards to write; the run's others were written before.
    """

    def __init__(self, run: GenerationRun, plans: list[ShardPlan], progress: Progress):
        self._progress = progress
        self._total = sum(plan.count for plan in run.plans)
        self._unwritten = {plan.number: plan.count for plan in plans}
        self._drawn = DrawingProgress({}, "")
        self._num_repaired = self._num_packets = 0
        self._lock = threading.Lock()
        self.metrics = metrics.RunProgress(
            run.target.uri, "generate", done=self._done, planned=self._total
        )

    def drawn(self, drawn: DrawingProgress) -> None:
        """Report what the denoisers have done, or what they wait for."""
        with self._lock:
            waited, self._drawn = self._drawn.waits_for, drawn
            if waited or drawn.waits_for or any(n in drawn.flows for n in self._unwritten):
                self.report()
                self.metrics.set(self._done)

    def written(self, shard: WrittenShard) -> None:
        """Report that a shard is written."""
        with self._lock:
            self._num_repaired += self._unwritten.pop(shard.number)
            self._num_packets += shard.packets
            self.report()
            self.metrics.set(self._done)

    def report(self) -> None:
        """Report the progress so far; the last flow of a shard counts when the shard is
        written."""
        more = {
            "flows_repaired": self._num_repaired, "packets": self._num_packets,
            "waits_for": self._drawn.waits_for,
        }  # fmt: skip
        self._progress(self._done, self._total, more)

    @property
    def _done(self) -> int:
        unwritten = self._unwritten.items()
        drawn = self._drawn.flows
        left = [max(1, count - drawn.get(number, 0)) for number, count in unwritten]
        return self._total - sum(left)


@dataclass(frozen=True)
class _Job:
    """A run, on a cluster."""

    run: GenerationRun
    address: str | None

    def carry_out(self, progress: Progress, note: Callable[[str], None]) -> Dataset:
        """Write the missing shards, and commit the dataset."""
        run = self.run
        names = [index_name(plan.number) for plan in run.plans]
        missing = missing_parts(run.target, run.identity, names)
        if not missing:
            return self.commit(names)
        run.target.require_writable()
        check_base_files(run.base)
        check_lora_files(run.draw.loras)
        if run.draw.control_scale and (line := check_controlnet_files(run.base)):
            note(line)
        plans = [run.plans[number] for number in missing]
        reporter = _Reporter(run, plans, progress)
        reporter.report()
        with connected(self.address), results_apart(), reporter.metrics:
            pool = size_pool(reachable_resources(), run.denoisers, len(plans))
            quiet_restart_warning()
            with following(reporter.drawn, cpus=pool.cpus, gpus=pool.gpus) as drawn_flows:
                for shard in self.written_shards(plans, pool, drawn_flows):
                    reporter.written(shard)
            dataset = self.commit(names)
            metrics.set_dataset_time(run.target.uri)
        return dataset

    def commit(self, names: list[str]) -> Dataset:
        """Commit the dataset of the shards of these index files."""
        run = self.run
        return commit(run.target, PCAP_DATASET, run.identity, names, run.origin)

    def written_shards(
        self, plans: list[ShardPlan], pool: Pool, drawn_flows: ActorHandle
    ) -> Iterator[WrittenShard]:
        """Yield each shard when it is written.

        The death of a worker also loses the shards that wait for it. Lost shards are tried once
        more, none waiting behind another; a shard that then kills its worker again is
        quarantined.
        """
        run = self.run
        shared = ray.put(run.adapter_files), drawn_flows
        writer = WriteStage(
            metadata=run.metadata, target=run.target, settings=run.shards, identity=run.identity,
            pcap_per_flow=run.pcap_per_flow,
        )  # fmt: skip
        left = {plan.number: plan for plan in plans}
        for attempt in range(_TRIES):
            if left:
                for shard in self.attempt(shared, list(left.values()), writer, pool, attempt):
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
        shared: tuple[ray.ObjectRef, ActorHandle],
        plans: list[ShardPlan],
        writer: WriteStage,
        pool: Pool,
        attempt: int,
    ) -> Iterator[WrittenShard]:
        """Yield the shards of some plans, without those whose workers died.

        Args:
            shared: the adapter's files, and the actor that counts drawn flows.
        """
        rows = [asdict(plan) for plan in plans]
        base = replace(self.run.base, device="cuda" if pool.gpus else "cpu")
        shards = (
            ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
            .map_batches(
                DrawStage,
                fn_constructor_args=(
                    *shared, base, self.run.draw, self.run.target.uri, self.run.shards.scene,
                ),
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
