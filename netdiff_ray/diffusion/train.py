"""Fine-tune a base on labelled windows with LoRA; the result is an adapter.

`train` uses this process alone, `fine_tune` a process group whose ranks hold some of the windows
each. The windows of a step, its noise levels and its noise are drawn for the whole batch, as a
function of the seed and the step. Each rank computes its slice of every micro-batch, and the sum
of the ranks' gradients is that of the batch; so is the held-out loss, which tells when to stop.
So the adapter does not depend on the number of ranks, but for the order in which floats are added,
and unless minutes end the training.

Shape letters: N windows, C x h x w latents.
"""

import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from netdiff_ray import __version__
from netdiff_ray.config.content import content_of
from netdiff_ray.config.diffusion import TrainSettings
from netdiff_ray.diffusion.adapter import write_adapter
from netdiff_ray.diffusion.base import Base
from netdiff_ray.diffusion.control import control_latents
from netdiff_ray.diffusion.controlnet_training import (
    add_controlnet,
    release_controlnet,
    save_controlnet,
)
from netdiff_ray.diffusion.lora import add_lora, save_lora
from netdiff_ray.diffusion.objective import TrainingBatch, flow_matching_loss
from netdiff_ray.diffusion.optimization import (
    Evidence,
    StepResult,
    TrainState,
    as_result,
    averaged,
    is_out_of_memory,
    save_checkpoint,
    start_or_resume,
    steps,
)
from netdiff_ray.diffusion.process_group import SINGLE_PROCESS, ProcessGroup
from netdiff_ray.diffusion.sample_grid import draw_sample_grid
from netdiff_ray.diffusion.token_pruning import Kind, select_columns
from netdiff_ray.diffusion.training_set import KindWindows, TrainingSet, make_training_set
from netdiff_ray.errors import ModelError
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.flow_plan import PlannedWindow, seed_of
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.service import LabelService
from netdiff_ray.labels.statistics import ServiceStatistics, by_label

Report = Callable[[dict[str, float | int | str]], None]
"""Takes the step, the loss and so on, by name."""


def train(
    base: Base, windows: LabelledWindows, directory: Path, settings: TrainSettings, report: Report
) -> Path:
    """Train an adapter in this process, from its last checkpoint on, and return its directory.

    Args:
        base: its transformer carries the LoRA during training and not after; its ControlNet is
            trained too if the settings say so (see `controlnet_training.load_for_training`).
        windows: to learn from.
        directory: becomes the adapter; checkpoints go to its `checkpoints`.
        settings: of the training.
        report: called with the losses, and with the bit error when a sample grid is drawn.

    Raises:
        DatasetError: the windows cannot be trained on (before anything is written).
        ConfigError: the directory holds another run.
        ModelError: the base does not fit (before anything is written), the loss is not finite or
            memory does not suffice (the last checkpoint stays).
    """
    directory = Path(directory)
    fine_tune(base, [windows], directory, directory / "checkpoints", settings, report)
    return directory


def fine_tune(
    base: Base,
    parts: Iterable[LabelledWindows],
    directory: Path,
    checkpoints: Path,
    settings: TrainSettings,
    report: Report,
    process_group: ProcessGroup = SINGLE_PROCESS,
    save: Callable[[TrainState], object] = save_checkpoint,
) -> None:
    """Train an adapter with a process group; rank 0 writes it to `directory`.

    Args:
        base: its transformer carries the LoRA during training and not after.
        parts: this rank's windows, see `make_training_set`.
        directory: becomes the adapter.
        checkpoints: holds the last checkpoint, if a training was begun before.
        settings: of the training.
        report: called by all ranks, equally often.
        process_group: the ranks that take part.
        save: called by all ranks when a checkpoint is due.

    Raises:
        NetdiffError: see `train`.
    """
    training_set = _encoded(base, parts, settings, process_group)
    parameters = add_lora(base, settings)
    with_controlnet = settings.controlnet_from is not None
    if with_controlnet:
        parameters |= add_controlnet(base, settings)
    try:
        identity = _identity(base, training_set, settings)
        state = start_or_resume(parameters, settings.optimization, checkpoints, identity)

        def loss_of(step: int, micro: int) -> tuple[torch.Tensor, int]:
            return window_loss(base, training_set, settings, step, micro, process_group)

        batches = heldout_batches(training_set, settings.optimization.batch_size)
        evidence = Evidence(
            settings.evidence,
            lambda: heldout_loss(base, training_set, settings, batches, process_group),
        )
        timer = _Timer(settings, state.step)
        for result in steps(state, loss_of, process_group, save, evidence if batches else None):
            if timer.is_due(result):
                report(timer.report_of(result))
                timer.restart(result.step)
            if settings.sample_grid_every and result.step % settings.sample_grid_every == 0:
                report(_sample_grid(base, state, training_set, directory, settings, process_group))
        if process_group.rank == 0:
            with as_result(state):
                save_lora(base, directory)
                if with_controlnet:
                    save_controlnet(base, directory)
    finally:
        base.transformer.unload_lora()
        base.transformer.disable_gradient_checkpointing()
        if with_controlnet:
            release_controlnet(base)
    if process_group.rank == 0:
        metadata = _metadata(base, training_set, settings, state)
        write_adapter(directory, metadata, training_set.embeddings)


def _encoded(
    base: Base,
    parts: Iterable[LabelledWindows],
    settings: TrainSettings,
    process_group: ProcessGroup,
) -> TrainingSet:
    """Return the training set of all ranks' windows.

    Raises:
        ModelError: see `make_training_set`; or memory does not suffice.
    """
    try:
        return make_training_set(base, parts, settings, process_group)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            "out of memory while windows and prompts are encoded: set slice_vae or tile_vae, lower "
            "t5 or set it to none, or encode captures with a lower height"
        ) from None


class _Timer:
    """Measures windows a second between reports: every `report_every` steps and at the end."""

    def __init__(self, settings: TrainSettings, step: int):
        self._settings = settings.optimization
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step, self._began = step, time.monotonic()

    def is_due(self, result: StepResult) -> bool:
        return result.step % self._settings.report_every == 0 or result.step == result.last_step

    def report_of(self, result: StepResult) -> dict[str, float | int | str]:
        windows = (result.step - self._step) * self._settings.windows_per_step
        values = {
            "step": result.step,
            "last_step": result.last_step,
            "loss": result.loss,
            "lr": result.learning_rate,
            "windows_per_s": windows / (time.monotonic() - self._began),
        }
        if not math.isnan(result.heldout_loss):
            values["heldout_loss"] = result.heldout_loss
        return values


def _metadata(
    base: Base, training_set: TrainingSet, settings: TrainSettings, state: TrainState
) -> AdapterMetadata:
    trained = {
        "steps": state.step, "rank": settings.rank, "alpha": settings.alpha, "loss": state.loss,
        "stopped": state.schedule.reason,
    }  # fmt: skip
    if settings.controlnet_from is not None:
        trained["controlnet_from"] = settings.controlnet_from
    if state.best:
        trained |= {
            "heldout_loss": state.schedule.best_loss, "best_step": state.schedule.best_step,
        }  # fmt: skip
    return AdapterMetadata(
        base=base.settings.base, revision=base.settings.revision, base_digest=base.digest,
        layout=training_set.layout.name, max_height=settings.max_height, prompt=settings.prompt,
        version=__version__, labels=by_label(training_set.services),
        sessions=training_set.sessions, trained=trained,
    )  # fmt: skip


def _sample_grid(
    base: Base,
    state: TrainState,
    training_set: TrainingSet,
    directory: Path,
    settings: TrainSettings,
    process_group: ProcessGroup,
) -> dict[str, float | int | str]:
    """Draw a sample grid in rank 0, and return its report; in other ranks that of the step."""
    if process_group.rank:
        return {"step": state.step, "last_step": state.schedule.last_step}
    path = directory / "sample_grids" / f"step-{state.step:08d}.png"
    samples = [
        _middle_window(service, statistics) for service, statistics in training_set.services.items()
    ]
    with averaged(state):
        error = draw_sample_grid(base, training_set, samples, settings, path)
    return {
        "step": state.step, "last_step": state.schedule.last_step, "bit_error": error,
        "sample_grid": str(path),
    }  # fmt: skip


def _middle_window(service: LabelService, statistics: ServiceStatistics) -> PlannedWindow:
    """Return a full window of the service's median height, with the headers of most flows."""
    heights = sorted(int(height) for height, n in statistics.heights.items() for _ in range(n))
    height = heights[len(heights) // 2]
    flows: Counter[str] = Counter()
    for headers, _, length in statistics.length_bins:
        flows[headers] += length.flows
    headers = tuple(flows.most_common(1)[0][0].split())
    return PlannedWindow(
        label=service.label, service=service.service, index=0, window=0, height=height,
        length=height, headers=headers,
    )  # fmt: skip


def _identity(base: Base, training_set: TrainingSet, settings: TrainSettings) -> str:
    """Return a text that changes with anything that changes the result."""
    run = {
        "settings": content_of(settings),
        "base": base.digest,
        "dtype": str(base.dtype),
        "layout": training_set.layout.name,
        "windows": training_set.digest,
    }
    return json.dumps(run, sort_keys=True)


def window_loss(
    base: Base,
    training_set: TrainingSet,
    settings: TrainSettings,
    step: int,
    micro: int,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[torch.Tensor, int]:
    """Return this rank's part of the loss of a micro-batch, and the height of its rasters.

    A function of the weights, the seed, the step and the micro-batch's number. A rank without
    windows in the micro-batch has a loss of 0, without gradients.
    """
    optimization = settings.optimization
    kind, chosen = choose_batch(
        training_set.by_kind, optimization.batch_size, (optimization.seed, step, micro)
    )
    height, _ = kind
    batch = make_batch(base, training_set, kind, chosen, process_group)
    part = process_group.part_of(optimization.batch_size)
    if part.start == part.stop:
        return torch.zeros(()), height
    rng = torch.Generator()
    rng.manual_seed(seed_of(optimization.seed, "loss", step, str(micro)))
    with torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=settings.autocast):
        return flow_matching_loss(base, batch, settings.objective, rng, part), height


HeldoutBatches = list[tuple[Kind, np.ndarray]]
"""Kind and indices of held-out windows, a batch each."""


def heldout_batches(training_set: TrainingSet, batch_size: int) -> HeldoutBatches:
    """Return the batches that the held-out loss is measured on."""
    batches = []
    for kind, windows in training_set.by_kind.items():
        chosen = np.flatnonzero(windows.measured)
        batches += [
            (kind, chosen[at : at + batch_size]) for at in range(0, len(chosen), batch_size)
        ]
    return batches


@torch.no_grad()
def heldout_loss(
    base: Base,
    training_set: TrainingSet,
    settings: TrainSettings,
    batches: HeldoutBatches,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> float:
    """Return the mean loss of held-out windows, the same in all ranks.

    Noise levels and noise are the same at every call, and with every seed of the training, so
    that the values compare. No prompt is dropped.
    """
    objective = dataclasses.replace(settings.objective, prompt_dropout=0.0)
    total, count = 0.0, 0
    for number, (kind, chosen) in enumerate(batches):
        batch = make_batch(base, training_set, kind, chosen, process_group)
        part = process_group.part_of(len(chosen))
        count += len(chosen)
        if part.start == part.stop:
            continue
        rng = torch.Generator()
        rng.manual_seed(seed_of(0, "held out", number, "loss"))
        with torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=settings.autocast):
            loss = flow_matching_loss(base, batch, objective, rng, part)
        total += len(chosen) * loss.item()
    summed = process_group.all_reduce(torch.tensor([total], device=base.device))
    return process_group.all_gather(summed.item())[0] / count


def choose_batch(
    by_kind: dict[Kind, KindWindows], batch_size: int, key: tuple[int, ...]
) -> tuple[Kind, np.ndarray]:
    """Choose a kind, and windows of it with replacement, in proportion to their weights.

    Returns:
        The kind, and (batch_size,) indices of windows; a function of `key`.
    """
    rng = np.random.default_rng(key)
    kinds = list(by_kind)
    weight = np.array([by_kind[kind].weight.sum() for kind in kinds])
    kind = kinds[rng.choice(len(kinds), p=weight / weight.sum())]
    weight = by_kind[kind].weight
    return kind, rng.choice(len(weight), size=batch_size, p=weight / weight.sum())


def make_batch(
    base: Base,
    training_set: TrainingSet,
    kind: Kind,
    chosen: np.ndarray,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> TrainingBatch:
    """Return the chosen windows of a kind on the base's device, whichever ranks hold them.

    Each rank contributes the latents that it holds; the sum over the ranks is the batch. That is
    one exchange of the size of the batch, and needs no more memory.

    Args:
        base: names the device.
        training_set: of all ranks.
        kind: of the batch.
        chosen: (N,) indices of windows of the kind.
        process_group: the ranks that take part.
    """
    windows = training_set.by_kind[kind]
    columns = None
    if windows.columns is not None:
        columns = windows.columns[torch.from_numpy(windows.version[chosen])]
    row = windows.row[chosen]
    latents = torch.zeros((len(chosen), *windows.clean.shape[1:]))
    latents[torch.from_numpy(row >= 0)] = windows.clean[torch.from_numpy(row[row >= 0])].float()
    latents = process_group.all_reduce(select_columns(latents, columns).to(base.device))
    samples = None
    if training_set.plans is not None:
        samples = training_set.planned_windows(kind, chosen)
    return batch_of(base, training_set, windows.prompt[chosen], latents, columns, samples)


def batch_of(
    base: Base,
    training_set: TrainingSet,
    prompt: np.ndarray,
    latents: torch.Tensor,
    columns: torch.Tensor | None,
    samples: Sequence[PlannedWindow] | None,
) -> TrainingBatch:
    """Return the batch of N windows' latents with their prompts, and control images if they have
    plans.

    Args:
        base: encodes the control images.
        training_set: has the prompts.
        prompt: (N,) int64 indices of prompts.
        latents: (N, C, h, w) float32 on the base's device, of `columns` alone.
        columns: those with tokens, see `columns_with_tokens`; None for all.
        samples: N plans; None for a batch without control images.
    """
    control = None
    if samples is not None:
        control = control_latents(base, samples, training_set.layout.width)
        control = select_columns(control, columns)
    index = torch.from_numpy(prompt).to(base.device)
    return TrainingBatch(
        latents=latents,
        prompt=training_set.prompts[index],
        pooled=training_set.pooled[index],
        empty_prompt=training_set.prompts[-1],
        empty_pooled=training_set.pooled[-1],
        control=control,
        columns=columns,
    )
