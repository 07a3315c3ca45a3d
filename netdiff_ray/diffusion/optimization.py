"""Optimiser steps that resume exactly.

A step is a function of the seed, its number, the weights and the optimiser's state. So a
checkpoint holds the step number, the weights and the optimiser's state; the random numbers and
the position of the sampler follow from the step number. The learning rate, and when to stop, are
those of `diffusion.schedule`; the result is a moving average of the weights, where the held-out
loss was lowest.
"""

import contextlib
import dataclasses
import math
import os
import pickle
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from netdiff_ray.config.diffusion import EvidenceSettings, OptimizationSettings
from netdiff_ray.diffusion.process_group import SINGLE_PROCESS, ProcessGroup
from netdiff_ray.diffusion.schedule import (
    TrainingSchedule,
    after_measurement,
    after_step,
    learning_rate_at,
    planned,
)
from netdiff_ray.errors import ConfigError, ModelError

_KEPT_CHECKPOINTS = 2
_NAME = re.compile(r"step-(\d{8})\.pt")

Loss = Callable[[int, int], tuple[torch.Tensor, int]]
"""Maps (step, micro-batch number) to the loss, a scalar, and the height of its rasters. The loss
of a micro-batch is the sum over the ranks."""


@dataclass(frozen=True)
class Evidence:
    """How held-out windows tell when to stop."""

    settings: EvidenceSettings
    """When to measure, and what a gain is."""
    measure: Callable[[], float]
    """Returns the held-out loss of the present weights, the same in all ranks."""


@dataclass
class TrainState:
    """A training in progress: its weights, and what it takes to go on."""

    parameters: dict[str, torch.nn.Parameter]
    """The trained parameters by name."""
    optimisers: tuple[torch.optim.Optimizer, ...]
    """Each parameter belongs to one of them."""
    average: dict[str, torch.Tensor]
    """Moving average of each parameter; empty if `ema_decay` is 0."""
    best: dict[str, torch.Tensor]
    """The weights that had the lowest held-out loss; empty before the first measurement."""
    schedule: TrainingSchedule
    """Where the learning rate falls and the training ends, as far as is known."""
    step: int
    """Number of finished steps."""
    loss: float
    """Loss of the last step; NaN before the first."""
    settings: OptimizationSettings
    """Number of steps, batch size, learning rate and so on."""
    directory: Path
    """Holds the checkpoints."""
    identity: str
    """Identifies the run; checkpoints of another are refused."""
    last_checkpoint: str = ""
    """File name of the last checkpoint; empty before the first."""


@dataclass(frozen=True)
class StepResult:
    """The result of one optimiser step."""

    step: int
    """Number of finished steps, including this one."""
    loss: float
    """Mean over the micro-batches of the step."""
    learning_rate: float
    """Learning rate of the step."""
    heldout_loss: float
    """As last measured; NaN if it has not been."""
    last_step: int
    """Number of finished steps at which the training ends, as far as is known."""


def start_or_resume(
    parameters: dict[str, torch.nn.Parameter],
    settings: OptimizationSettings,
    directory: Path,
    identity: str,
) -> TrainState:
    """Return the training at its last checkpoint in `directory`, or at its beginning.

    Args:
        parameters: what to train, float32; a checkpoint's values are copied into them.
        settings: of the training.
        directory: of the checkpoints; may be missing.
        identity: a text that is the same if and only if the run is the same.

    Raises:
        ConfigError: the checkpoints belong to another run.
        ModelError: the last checkpoint is unreadable.
    """
    average = {}
    if settings.ema_decay:
        average = {name: p.detach().clone() for name, p in parameters.items()}
    state = TrainState(
        parameters=parameters, optimisers=_optimisers(parameters, settings), average=average,
        best={}, schedule=planned(settings), step=0, loss=math.nan, settings=settings,
        directory=directory, identity=identity,
    )  # fmt: skip
    checkpoints = checkpoints_in(directory)
    if checkpoints:
        _restore(state, checkpoints[-1])
    return state


def _optimisers(
    parameters: dict[str, torch.nn.Parameter], settings: OptimizationSettings
) -> tuple[torch.optim.Optimizer, ...]:
    """Return AdamW, Muon for the matrices of transformer blocks, or both."""
    lr, weight_decay = settings.learning_rate, settings.weight_decay
    matrices, others = [], []
    for name, parameter in parameters.items():
        is_matrix = parameter.ndim == 2 and "transformer_blocks" in name
        by_muon = settings.optimiser == "muon" and is_matrix
        (matrices if by_muon else others).append(parameter)
    optimisers = []
    if others:
        optimisers.append(torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay))
    if matrices:
        optimisers.append(
            torch.optim.Muon(
                matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return tuple(optimisers)


def checkpoints_in(directory: Path) -> list[Path]:
    """Return the checkpoints in a directory, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _restore(state: TrainState, path: Path) -> None:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); delete it to go on from "
            "the checkpoint before it"
        ) from None
    if saved["identity"] != state.identity:
        raise ConfigError(
            f"{state.directory} holds checkpoints of another run (other settings, base or "
            "windows); choose another output directory, or delete them"
        )
    with torch.no_grad():
        for name, parameter in state.parameters.items():
            parameter.copy_(saved["parameters"][name])
        for name, average in state.average.items():
            average.copy_(saved["average"][name])
    for optimiser, optimiser_state in zip(state.optimisers, saved["optimisers"], strict=True):
        optimiser.load_state_dict(optimiser_state)
    state.best = saved["best"]
    state.schedule = TrainingSchedule(**saved["schedule"])
    state.step = saved["step"]
    state.loss = saved["loss"]
    state.last_checkpoint = path.name


def _name_of(step: int) -> str:
    return f"step-{step:08d}.pt"


def save_checkpoint(state: TrainState) -> Path:
    """Write a checkpoint, whole or not at all, and return its path; the two newest stay."""
    state.directory.mkdir(parents=True, exist_ok=True)
    path = state.directory / _name_of(state.step)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    torch.save(
        {
            "identity": state.identity,
            "step": state.step,
            "loss": state.loss,
            "parameters": {name: p.detach() for name, p in state.parameters.items()},
            "average": state.average,
            "best": state.best,
            "schedule": dataclasses.asdict(state.schedule),
            "optimisers": [optimiser.state_dict() for optimiser in state.optimisers],
        },
        partial,
    )
    partial.replace(path)
    for old in checkpoints_in(state.directory)[:-_KEPT_CHECKPOINTS]:
        old.unlink()
    return path


def steps(
    state: TrainState,
    loss_of: Loss,
    process_group: ProcessGroup = SINGLE_PROCESS,
    save: Callable[[TrainState], object] = save_checkpoint,
    evidence: Evidence | None = None,
) -> Iterator[StepResult]:
    """Take the remaining steps, and yield the result of each once its checkpoint is saved.

    The ranks' gradients and losses are summed once a step, in one tensor: a step costs one
    exchange of the size of the trained weights, however many micro-batches it has. The clock is
    rank 0's, and the held-out loss all ranks', so that all of them stop at the same step.

    Args:
        state: of the training; changed by each step.
        loss_of: the loss of this rank.
        process_group: the ranks that take part.
        save: called when a checkpoint is due.
        evidence: of held-out windows; without it the steps or the minutes end the training.

    Raises:
        ModelError: a loss is not finite, or memory does not suffice (says what to lower);
            the last checkpoint stays.
    """
    settings = state.settings
    began = time.monotonic() - state.schedule.elapsed_s
    while state.step < state.schedule.last_step:
        rate = learning_rate_at(state.step, state.schedule, settings)
        for optimiser in state.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        loss = sum(_backward(state, loss_of, micro) for micro in range(settings.accumulate))
        elapsed_s = time.monotonic() - began
        loss, elapsed_s = _sum_over_ranks(state, loss, elapsed_s, process_group)
        loss /= settings.accumulate
        if not math.isfinite(loss):
            raise ModelError(
                f"the loss of step {state.step} is {loss}: lower learning_rate, or use float32 "
                f"instead of autocast; {_describe_checkpoint(state)}"
            )
        torch.nn.utils.clip_grad_norm_(state.parameters.values(), settings.max_grad_norm)
        for optimiser in state.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        state.step += 1
        state.loss = loss
        _update_average(state)
        state.schedule = after_step(state.schedule, state.step, elapsed_s, settings)
        if evidence is not None:
            _measure(state, evidence)
        if state.step % settings.checkpoint_every == 0 or state.step == state.schedule.last_step:
            save(state)
            state.last_checkpoint = _name_of(state.step)
        yield StepResult(
            step=state.step, loss=state.loss, learning_rate=rate,
            heldout_loss=state.schedule.heldout_loss, last_step=state.schedule.last_step,
        )  # fmt: skip


def _measure(state: TrainState, evidence: Evidence) -> None:
    """Measure the held-out loss if it is due, and keep the weights if it is the lowest."""
    step = state.step
    if step % evidence.settings.heldout_every and step < state.schedule.last_step:
        return
    with averaged(state):
        loss = evidence.measure()
        if loss < state.schedule.best_loss:
            state.best = {name: p.detach().clone() for name, p in state.parameters.items()}
    state.schedule = after_measurement(
        state.schedule, step, loss, evidence.settings, state.settings
    )


def _backward(state: TrainState, loss_of: Loss, micro: int) -> float:
    """Add the gradients of one micro-batch, and return its loss."""
    settings = state.settings
    height = 0
    try:
        loss, height = loss_of(state.step, micro)
        if loss.requires_grad:
            (loss / settings.accumulate).backward()
        return loss.item()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        what = f"height {height}" if height else "this height"
        raise ModelError(
            f"out of memory in step {state.step}, {settings.batch_size} windows of {what}: "
            "lower batch_size (and raise accumulate), set gradient_checkpointing, or encode "
            "captures with a lower height; "
            f"{_describe_checkpoint(state)}"
        ) from None


def _sum_over_ranks(
    state: TrainState, loss: float, elapsed_s: float, process_group: ProcessGroup
) -> tuple[float, float]:
    """Replace the gradients by their sums over the ranks; return the sum of the losses, and the
    seconds that have passed in rank 0."""
    if process_group.size == 1:
        return loss, elapsed_s
    parameters = list(state.parameters.values())
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    numbers = gradients[0].new_tensor([loss, 0.0 if process_group.rank else elapsed_s])
    flat = torch.cat([*(g.flatten() for g in gradients), numbers])
    *summed, numbers = process_group.all_reduce(flat).split([*(p.numel() for p in parameters), 2])
    for parameter, gradient in zip(parameters, summed, strict=True):
        parameter.grad = gradient.view_as(parameter)
    loss, elapsed_s = numbers.tolist()
    return loss, elapsed_s


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch or Python ran out of memory, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def _describe_checkpoint(state: TrainState) -> str:
    name = state.last_checkpoint
    return f"the last checkpoint is {name}" if name else "no checkpoint has been saved yet"


@torch.no_grad()
def _update_average(state: TrainState) -> None:
    decay = min(state.settings.ema_decay, (1 + state.step) / (10 + state.step))
    for name, average in state.average.items():
        average.lerp_(state.parameters[name].detach(), 1 - decay)


def averaged(state: TrainState) -> contextlib.AbstractContextManager[None]:
    """Set the parameters to their moving average inside the block, and back after it."""
    return _replaced(state, state.average)


def as_result(state: TrainState) -> contextlib.AbstractContextManager[None]:
    """Set the parameters to the training's result inside the block, and back after it.

    Those of the lowest held-out loss, or the moving average if none was measured.
    """
    return _replaced(state, state.best or state.average)


@contextlib.contextmanager
def _replaced(state: TrainState, weights: dict[str, torch.Tensor]) -> Iterator[None]:
    before = {name: state.parameters[name].detach().clone() for name in weights}
    with torch.no_grad():
        for name, value in weights.items():
            state.parameters[name].copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                state.parameters[name].copy_(value)
