"""Optimiser steps that resume exactly.

A step is a function of the seed, its number, the weights and the optimiser's state. So a
checkpoint holds the step number, the weights and the optimiser's state; the random numbers and
the position of the sampler follow from the step number. Linear warm-up, cosine decay, moving
average of the weights.
"""

import contextlib
import math
import os
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from netdiff_ray.config.diffusion import OptimizationSettings
from netdiff_ray.diffusion.process_group import SINGLE_PROCESS, ProcessGroup
from netdiff_ray.errors import ConfigError, ModelError

_KEPT_CHECKPOINTS = 2
_NAME = re.compile(r"step-(\d{8})\.pt")

Loss = Callable[[int, int], tuple[torch.Tensor, int]]
"""Maps (step, micro-batch number) to the loss, a scalar, and the height of its rasters. The loss
of a micro-batch is the sum over the ranks."""


@dataclass
class TrainState:
    """A training in progress: its weights, and what it takes to go on."""

    parameters: dict[str, torch.nn.Parameter]
    """The trained parameters by name."""
    optimisers: tuple[torch.optim.Optimizer, ...]
    """Each parameter belongs to one of them."""
    average: dict[str, torch.Tensor]
    """Moving average of each parameter; empty if `ema_decay` is 0."""
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


def learning_rate_at(step: int, settings: OptimizationSettings) -> float:
    """Return the learning rate of step `step`, counted from 0.

    Linear warm-up, then a cosine that reaches 0 after the last step.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    span = max(settings.steps - settings.warmup_steps, 1)
    done = (step - settings.warmup_steps) / span
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


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
        step=0, loss=math.nan, settings=settings, directory=directory, identity=identity,
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
) -> Iterator[StepResult]:
    """Take the remaining steps, and yield the result of each once its checkpoint is saved.

    The ranks' gradients and losses are summed once a step, in one tensor: a step costs one
    exchange of the size of the trained weights, however many micro-batches it has.

    Args:
        state: of the training; changed by each step.
        loss_of: the loss of this rank.
        process_group: the ranks that take part.
        save: called when a checkpoint is due.

    Raises:
        ModelError: a loss is not finite, or memory does not suffice (says what to lower);
            the last checkpoint stays.
    """
    settings = state.settings
    while state.step < settings.steps:
        rate = learning_rate_at(state.step, settings)
        for optimiser in state.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        loss = sum(_backward(state, loss_of, micro) for micro in range(settings.accumulate))
        loss = _sum_over_ranks(state, loss, process_group) / settings.accumulate
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
        if state.step % settings.checkpoint_every == 0 or state.step == settings.steps:
            save(state)
            state.last_checkpoint = _name_of(state.step)
        yield StepResult(state.step, state.loss, rate)


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
            "lower batch_size (and raise accumulate), or max_height; "
            f"{_describe_checkpoint(state)}"
        ) from None


def _sum_over_ranks(state: TrainState, loss: float, process_group: ProcessGroup) -> float:
    """Replace the gradients by their sums over the ranks, and return the sum of the losses."""
    if process_group.size == 1:
        return loss
    parameters = list(state.parameters.values())
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients] + [gradients[0].new_tensor([loss])])
    *summed, loss_sum = process_group.all_reduce(flat).split([*(p.numel() for p in parameters), 1])
    for parameter, gradient in zip(parameters, summed, strict=True):
        parameter.grad = gradient.view_as(parameter)
    return loss_sum.item()


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


@contextlib.contextmanager
def averaged(state: TrainState) -> Iterator[None]:
    """Set the parameters to their moving average inside the block, and back after it."""
    before = {name: state.parameters[name].detach().clone() for name in state.average}
    with torch.no_grad():
        for name, average in state.average.items():
            state.parameters[name].copy_(average)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                state.parameters[name].copy_(value)
