"""An encoded dataset to an adapter: Ray Train workers that each hold a share of the windows.

encoded dataset --(Ray Data)--> shares --> latents --> steps --> checkpoints --> adapter

The windows stream through Ray Data, each to one worker, which keeps its latents
(`diffusion.training_set` says what memory that takes). A step exchanges two things between workers:
the latents of its windows, so that any worker may need any window and none holds all, and
the gradients. A worker that dies is replaced, and all go on from the last checkpoint.
"""

import dataclasses
import hashlib
import json
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import ray
import ray.data
import ray.train
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue

from netdiff_ray.config import TrainConfig
from netdiff_ray.config.content import run_identity
from netdiff_ray.config.diffusion import NEW_CONTROLNET, BaseSettings, TrainSettings
from netdiff_ray.diffusion.adapter import METADATA_FILE
from netdiff_ray.diffusion.fetch import directory_of
from netdiff_ray.diffusion.source_checks import (
    check_base_files,
    check_controlnet_files,
    check_text_files,
)
from netdiff_ray.distributed.cluster import (
    cluster_address,
    connected,
    require_cpus,
    require_gpus,
    results_apart,
    user_error_in,
)
from netdiff_ray.distributed.columns import record_of
from netdiff_ray.encoding.windows import encoded_layout, labelled_windows, read_parts
from netdiff_ray.errors import ClusterError, ConfigError, DatasetError, NetdiffError
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.storage.manifest import ENCODED_DATASET, Dataset, open_dataset, refuse_other
from netdiff_ray.storage.store import Store, open_store

Progress = Callable[[dict[str, float | int | str]], None]
"""Called with what the workers report: step, last_step, loss, heldout_loss, lr, windows_per_s."""

RUN_FOLDER = "run"
"""Of the checkpoints, in the adapter's folder; Ray's name of the run."""

_RUN_FILE = f"{RUN_FOLDER}/config.json"
_CHECKPOINT_FOLDER = "checkpoints"
_NEEDED = ("transformer", "vae", "scheduler")
_WINDOWS_AT_ONCE = 64
_KEPT_CHECKPOINTS = 2
_SECONDS_BETWEEN_POLLS = "0.5"


@dataclasses.dataclass(frozen=True)
class _Job:
    """The settings of every worker."""

    base: BaseSettings
    settings: TrainSettings
    layout: Layout
    labels: tuple[str, ...]
    target: Store


def train(
    config: TrainConfig,
    progress: Progress = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> dict:
    """Train the adapter at `config.target` as far as it is not; return its `adapter.json`.

    Args:
        config: of the training.
        progress: see Progress.
        note: called with what was chosen for the run, a line each, before it begins.

    Raises:
        NprintError: the dataset's layout is not known.
        ClusterError: no windows, labels that are not there, a base that is missing, a place
            that holds another run, too few CPUs or GPUs, a training that cannot go on.
    """
    dataset = open_dataset(open_store(config.source), ENCODED_DATASET)
    layout = encoded_layout(dataset.manifest["config"]["layout"])
    labels = _labels(dataset, config)
    settings = _resolved(config.settings, dataset.manifest["config"]["height"])
    target = open_store(config.target)
    base = _base(config)
    resolved = dataclasses.replace(config, labels=labels, base=base, settings=settings)
    if not _claim(target, dataset, resolved):
        check_base_files(base)
        check_text_files(base, with_t5=settings.t5 != "none")
        if settings.objective.control_scale and (line := _check_controlnet(base, settings)):
            note(line)
        job = _Job(
            base=base,
            settings=settings,
            layout=layout,
            labels=labels,
            target=target,
        )
        with connected(config.address), results_apart():
            _fit(job, dataset, _scaling(config), config.max_failures, progress)
    return json.loads(target.get(METADATA_FILE))


def _labels(dataset: Dataset, config: TrainConfig) -> tuple[str, ...]:
    """Return the labels to train on, sorted; check that they have enough windows."""
    counts = dataset.manifest["counts"]["labels"]
    unknown = sorted(set(config.labels) - set(counts))
    if unknown:
        raise DatasetError(
            f"{dataset.store.uri} has no label {', '.join(unknown)}; it has {', '.join(counts)}"
        )
    labels = tuple(sorted(set(config.labels) or set(counts)))
    windows = sum(counts[label]["windows"] for label in labels)
    batch_size = config.settings.optimization.batch_size
    if not windows:
        raise DatasetError(f"{dataset.store.uri} has no windows to train on; encode captures first")
    if windows < batch_size:
        raise DatasetError(
            f"{dataset.store.uri} has {windows:,} windows of these labels, fewer than a batch of "
            f"{batch_size:,}: lower batch_size, or encode more captures"
        )
    return labels


def _base(config: TrainConfig) -> BaseSettings:
    """Return the base as workers find it, whatever folder they run in, on their device.

    Raises:
        ClusterError: the workers are to run on this machine, which cannot get it.
    """
    chosen = config.base
    if cluster_address(config.address) is None:
        directory_of(chosen.base, chosen.revision, _NEEDED, files=["model_index.json"])
    device = chosen.device
    if device == "auto":
        device = "cuda" if config.gpus_per_worker else "cpu"
    paths = {
        name: str(Path(source).resolve())
        for name in ("base", "controlnet", "transformer_file")
        if (source := getattr(chosen, name)) is not None and Path(source).exists()
    }
    return dataclasses.replace(chosen, device=device, **paths)


def _check_controlnet(base: BaseSettings, settings: TrainSettings) -> str:
    """Check the ControlNet that takes part, and return what is said of it; see
    `check_controlnet_files`."""
    source = settings.controlnet_from
    if source == NEW_CONTROLNET:
        return "a new ControlNet is trained, on pictures of plans as normalised pixels, -1 to 1"
    return check_controlnet_files(
        base if source is None else dataclasses.replace(base, controlnet=source)
    )


def _resolved(settings: TrainSettings, height: int) -> TrainSettings:
    """Return the settings for windows that were cut at `height`, their paths absolute."""
    if settings.max_height not in (height, TrainSettings().max_height):
        raise ConfigError(
            f"max_height {settings.max_height}: the dataset was encoded with height {height}; "
            "leave it out, or encode with that height"
        )
    source = settings.controlnet_from
    if source is not None and source != NEW_CONTROLNET and Path(source).is_dir():
        source = str(Path(source).resolve())  # workers run in other folders
    return dataclasses.replace(settings, max_height=height, controlnet_from=source)


def _claim(target: Store, dataset: Dataset, config: TrainConfig) -> bool:
    """Return whether the adapter is finished; if not, record this run as the target's.

    Args:
        config: with labels, base and height filled in.

    Raises:
        ConfigError: the target holds another run.
    """
    digest = hashlib.sha256(json.dumps(dataset.files, sort_keys=True).encode()).hexdigest()
    requested = run_identity("train", config, {"encoded": digest})
    content = target.get(_RUN_FILE)
    finished = target.get(METADATA_FILE) is not None
    if finished and content is None:
        raise ConfigError(
            f"{target.uri} holds an adapter that another job made; choose another target, or "
            "remove it"
        )
    # A run that has not come to a checkpoint has nothing that another could spoil.
    if finished or _has_checkpoints(target):
        refuse_other(target, json.loads(content or "null"), requested)
        return finished
    target.put(_RUN_FILE, json.dumps(requested, indent=1).encode())
    return False


def _has_checkpoints(target: Store) -> bool:
    return any(name.endswith(".pt") for name in target.sizes(RUN_FOLDER))


def _scaling(config: TrainConfig) -> ray.train.ScalingConfig:
    """Return number and size of the workers.

    Raises:
        ClusterError: the cluster does not have that.
    """
    fewest = config.workers[0]
    cpus = config.cpus_per_worker
    if cpus is None:
        alone = cluster_address(config.address) is None
        there = int(ray.cluster_resources().get("CPU", 1))
        cpus = max(1, there // config.workers[-1]) if alone else 1
    require_cpus(fewest * cpus)
    require_gpus(fewest * config.gpus_per_worker)
    return ray.train.ScalingConfig(
        num_workers=tuple(config.workers) if len(config.workers) > 1 else fewest,
        use_gpu=bool(config.gpus_per_worker),
        resources_per_worker={"CPU": cpus, "GPU": config.gpus_per_worker},
    )


def _fit(
    job: _Job,
    dataset: Dataset,
    scaling: ray.train.ScalingConfig,
    max_failures: int,
    progress: Progress,
) -> None:
    """Train until the adapter is written.

    Raises:
        ClusterError: it cannot be.
    """
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _SECONDS_BETWEEN_POLLS)
    windows = ray.data.from_items(
        [dataclasses.asdict(_Part(name=name)) for name in dataset.part_names],
        override_num_blocks=len(dataset.part_names),
    ).map_batches(
        _read_parts,
        fn_kwargs={"store": dataset.store, "labels": job.labels},
        batch_size=1,
        # The workers may hold all CPUs there are; reading must not wait for them. (Ray's own
        # Parquet reader has a step that wants one.)
        num_cpus=0,
    )
    with _progress_queue(progress) as queue:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": job},
            scaling_config=scaling,
            run_config=ray.train.RunConfig(
                name=RUN_FOLDER,
                storage_path=job.target.root,
                storage_filesystem=job.target.filesystem,
                failure_config=ray.train.FailureConfig(max_failures=max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=_KEPT_CHECKPOINTS),
                callbacks=[_Watch(queue)],
            ),
            datasets={"windows": windows},
            dataset_config=_Unequal(),
        )
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit()
        except SystemExit:  # what Ray makes of Ctrl-C once it has ended the run
            raise KeyboardInterrupt from None
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            netdiff_error = user_error_in(error)
            if netdiff_error is not None:
                raise netdiff_error from None
            reason = str(error).strip().splitlines()
            raise ClusterError(
                f"the training failed: {reason[-1]}; run the same command again to go on from "
                "the last checkpoint"
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """Column of a part to read."""

    name: str


def _read_parts(batch: dict, store: Store, labels: tuple[str, ...]) -> Iterator[pa.Table]:
    """Yield the windows of a batch of _Part, with the columns that `labelled_windows` takes."""
    yield from read_parts(record_of(_Part, batch).name, store, labels)


class _Unequal(ray.train.DataConfig):
    """Windows split among the workers with none left out; Ray's own leaves out the rest of an
    equal division."""

    def configure(self, datasets, world_size, worker_handles, worker_node_ids, **_):
        splits = {
            name: dataset.streaming_split(world_size, equal=False)
            for name, dataset in datasets.items()
        }
        return [{name: of[k] for name, of in splits.items()} for k in range(world_size)]


class _Watch(ray.train.UserCallback):
    """Passes on what the workers report, and does not retry what a user has to mend."""

    def __init__(self, queue: Queue):
        self._queue = queue

    def after_report(self, run_context, metrics, checkpoint):
        # With a checkpoint comes only what the next report tells better.
        if checkpoint is None:
            self._queue.put(metrics[0])

    def after_exception(self, run_context, worker_exceptions):
        for error in worker_exceptions.values():
            if isinstance(error, NetdiffError):
                raise error


@contextmanager
def _progress_queue(progress: Progress) -> Iterator[Queue]:
    """Yield a queue whose items are passed to `progress` from another thread."""
    queue = Queue(actor_options={"num_cpus": 0})
    ended = threading.Event()

    def tell() -> None:
        while not (ended.is_set() and queue.empty()):
            try:
                progress(queue.get(timeout=0.5))
            except Empty:
                continue
            except ray.exceptions.RayError:
                return

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        ended.set()
        thread.join(timeout=5)
        queue.shutdown(force=True)


def _work(config: dict) -> None:
    """Run a worker from the last checkpoint on."""
    from accelerate import Accelerator
    from accelerate.utils import gather_object

    from netdiff_ray.diffusion.controlnet_training import load_for_training
    from netdiff_ray.diffusion.optimization import TrainState, save_checkpoint
    from netdiff_ray.diffusion.process_group import ProcessGroup
    from netdiff_ray.diffusion.train import fine_tune

    job: _Job = config["job"]
    context = ray.train.get_context()
    accelerator = Accelerator(cpu=job.base.device == "cpu")

    def all_reduce(tensor):
        summed = accelerator.reduce(tensor.to(accelerator.device), reduction="sum")
        return summed.to(tensor.device)

    process_group = ProcessGroup(
        rank=context.get_world_rank(),
        size=context.get_world_size(),
        all_reduce=all_reduce,
        all_gather=lambda thing: gather_object([thing]),
    )
    base = load_for_training(job.base, job.settings)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            checkpoint.to_directory(str(directory / _CHECKPOINT_FOLDER))

        def report(values: dict) -> None:
            if "sample_grid" in values:
                _put(job.target, directory, Path(values["sample_grid"]))
            ray.train.report({k: v for k, v in values.items() if k != "sample_grid"})

        def save(training: TrainState) -> None:
            progress = {"step": training.step, "loss": training.loss}
            if process_group.rank:
                ray.train.report(progress)
                return
            with tempfile.TemporaryDirectory() as folder_of_checkpoint:
                training = dataclasses.replace(training, directory=Path(folder_of_checkpoint))
                save_checkpoint(training)
                ray.train.report(
                    progress, checkpoint=ray.train.Checkpoint.from_directory(folder_of_checkpoint)
                )

        fine_tune(
            base, _windows(job), directory, directory / _CHECKPOINT_FOLDER, job.settings, report,
            process_group, save,
        )  # fmt: skip
        if process_group.rank == 0:
            written = [path for path in sorted(directory.rglob("*")) if path.is_file()]
            metadata_file = directory / METADATA_FILE
            for path in written:
                if path.parent.name != _CHECKPOINT_FOLDER and path != metadata_file:
                    _put(job.target, directory, path)
            _put(job.target, directory, metadata_file)


def _windows(job: _Job) -> Iterator:
    """Yield this worker's share of the windows, some at a time."""
    shard = ray.train.get_dataset_shard("windows")
    for table in shard.iter_batches(batch_size=_WINDOWS_AT_ONCE, batch_format="pyarrow"):
        if table.num_rows:
            yield labelled_windows(table, job.layout)


def _put(target: Store, directory: Path, path: Path) -> None:
    target.put(path.relative_to(directory).as_posix(), path.read_bytes())
