"""Optimiser steps that resume exactly.

What a step does is a function of (seed, step), of the weights and of the optimiser's
state, so a checkpoint holds the last two and the step's number: randomness and the
sampler's position follow from it. Linear warm-up, cosine decay, moving average.
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

from netdiff_ray.config.diffusion import LoopSettings
from netdiff_ray.diffusion.process_group import SINGLE_PROCESS, ProcessGroup
from netdiff_ray.errors import ConfigError, ModelError

_KEPT_CHECKPOINTS = 2
_NAME = re.compile(r"step-(\d{8})\.pt")

Loss = Callable[[int, int], tuple[torch.Tensor, int]]
"""(step, micro-batch number) to the loss, a scalar, and the height of its rasters. Of
several ranks, each gives its share: their sum is the loss of the micro-batch."""


@dataclass
class TrainState:
    """Weights that are being trained, with what belongs to them."""

    parameters: dict[str, torch.nn.Parameter]
    """What is trained, by name."""
    optimisers: tuple[torch.optim.Optimizer, ...]
    """Over `parameters`, in their order, each parameter in one of them."""
    average: dict[str, torch.Tensor]
    """Moving average of the parameters; empty if `ema_decay` is 0."""
    step: int
    """Steps done."""
    loss: float
    """Of the last of them; not a number before the first."""
    settings: LoopSettings
    """How."""
    directory: Path
    """Where checkpoints go."""
    identity: str
    """What run this is; checkpoints of another are refused."""
    saved: str = ""
    """Name of the last checkpoint; empty if there is none."""


@dataclass(frozen=True)
class Progress:
    """One step."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Mean over the step's micro-batches."""
    learning_rate: float
    """That it was taken with."""


def learning_rate_at(step: int, settings: LoopSettings) -> float:
    """Learning rate of a step, from 0: linear warm-up, then a cosine to 0 past the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    span = max(settings.steps - settings.warmup_steps, 1)
    done = (step - settings.warmup_steps) / span
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def start_or_resume(
    parameters: dict[str, torch.nn.Parameter],
    settings: LoopSettings,
    directory: Path,
    identity: str,
) -> TrainState:
    """A training at its last checkpoint in `directory`, or at its beginning.

    Args:
        parameters: what to train, float32.
        settings: how.
        directory: of the checkpoints; made if missing.
        identity: a text that is the same if and only if the run is the same.

    Raises:
        ModelError: the checkpoints there are of another run, or unreadable.
    """
    average = {}
    if settings.ema_decay:
        average = {name: p.detach().clone() for name, p in parameters.items()}
    training = TrainState(
        parameters=parameters, optimisers=_optimisers(parameters, settings), average=average,
        step=0, loss=math.nan, settings=settings, directory=directory, identity=identity,
    )  # fmt: skip
    found = checkpoints_in(directory)
    if found:
        _restore(training, found[-1])
    return training


def _optimisers(
    parameters: dict[str, torch.nn.Parameter], settings: LoopSettings
) -> tuple[torch.optim.Optimizer, ...]:
    kwargs = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    matrices = []
    if settings.optimiser == "muon":
        matrices = [
            name for name, p in parameters.items() if p.ndim == 2 and "transformer_blocks" in name
        ]
    rest = [p for name, p in parameters.items() if name not in set(matrices)]
    adamw = torch.optim.AdamW(rest, **kwargs) if rest else None
    muon = None
    if matrices:
        chosen = [parameters[name] for name in matrices]
        muon = torch.optim.Muon(chosen, adjust_lr_fn="match_rms_adamw", **kwargs)
    return tuple(optimiser for optimiser in (adamw, muon) if optimiser)


def checkpoints_in(directory: Path) -> list[Path]:
    """The checkpoints of a directory, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _restore(training: TrainState, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); delete it to go on from "
            "the one before"
        ) from None
    if state["identity"] != training.identity:
        raise ConfigError(
            f"{training.directory} holds checkpoints of another run (other settings, base or "
            "windows); choose another output directory, or delete them"
        )
    with torch.no_grad():
        for name, parameter in training.parameters.items():
            parameter.copy_(state["parameters"][name])
        for name, average in training.average.items():
            average.copy_(state["average"][name])
    for optimiser, kept in zip(training.optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(kept)
    training.step = state["step"]
    training.loss = state["loss"]
    training.saved = path.name


def _name_of(step: int) -> str:
    return f"step-{step:08d}.pt"


def save_checkpoint(training: TrainState) -> Path:
    """The path of a new checkpoint; it appears whole, and the two newest stay."""
    training.directory.mkdir(parents=True, exist_ok=True)
    path = training.directory / _name_of(training.step)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    torch.save(
        {
            "identity": training.identity,
            "step": training.step,
            "loss": training.loss,
            "parameters": {name: p.detach() for name, p in training.parameters.items()},
            "average": training.average,
            "optimisers": [optimiser.state_dict() for optimiser in training.optimisers],
        },
        partial,
    )
    partial.replace(path)
    for old in checkpoints_in(training.directory)[:-_KEPT_CHECKPOINTS]:
        old.unlink()
    return path


def steps(
    training: TrainState,
    loss_of: Loss,
    process_group: ProcessGroup = SINGLE_PROCESS,
    save: Callable[[TrainState], object] = save_checkpoint,
) -> Iterator[Progress]:
    """Each step that is left, as it has been done, its checkpoint saved if one is due.

    The ranks' gradients and losses are summed once a step, in one tensor: a step costs one
    exchange of the size of the trained weights, however many micro-batches it has.

    Raises:
        ModelError: a loss is not finite, or memory does not suffice (says what to lower);
            the last checkpoint stays.
    """
    settings = training.settings
    while training.step < settings.steps:
        rate = learning_rate_at(training.step, settings)
        for optimiser in training.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        total = sum(_backward(training, loss_of, micro) for micro in range(settings.accumulate))
        total = _summed(training, total, process_group) / settings.accumulate
        if not math.isfinite(total):
            raise ModelError(
                f"the loss of step {training.step} is {total}: lower learning_rate, or use "
                f"float32 instead of autocast; {_last_checkpoint(training)}"
            )
        torch.nn.utils.clip_grad_norm_(training.parameters.values(), settings.max_grad_norm)
        for optimiser in training.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        training.step += 1
        training.loss = total
        _update_average(training)
        if training.step % settings.checkpoint_every == 0 or training.step == settings.steps:
            save(training)
            training.saved = _name_of(training.step)
        yield Progress(training.step, training.loss, rate)


def _backward(training: TrainState, loss_of: Loss, micro: int) -> float:
    """The loss of one micro-batch, its share of the gradients added."""
    settings = training.settings
    height = 0
    try:
        loss, height = loss_of(training.step, micro)
        if loss.requires_grad:
            (loss / settings.accumulate).backward()
        return loss.item()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        what = f"height {height}" if height else "this height"
        raise ModelError(
            f"out of memory in step {training.step}, {settings.batch_size} windows of {what}: "
            f"lower batch_size (and raise accumulate), or max_height; "
            f"{_last_checkpoint(training)}"
        ) from None


def _summed(training: TrainState, loss: float, process_group: ProcessGroup) -> float:
    """The sum of the ranks' losses; the gradients become the sums of theirs."""
    if process_group.size == 1:
        return loss
    parameters = list(training.parameters.values())
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients] + [gradients[0].new_tensor([loss])])
    *summed, loss_sum = process_group.all_reduce(flat).split([*(p.numel() for p in parameters), 1])
    for parameter, gradient in zip(parameters, summed, strict=True):
        parameter.grad = gradient.view_as(parameter)
    return loss_sum.item()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def _last_checkpoint(training: TrainState) -> str:
    saved = training.saved
    return f"the last checkpoint is {saved}" if saved else "there is no checkpoint yet"


@torch.no_grad()
def _update_average(training: TrainState) -> None:
    decay = min(training.settings.ema_decay, (1 + training.step) / (10 + training.step))
    for name, average in training.average.items():
        average.lerp_(training.parameters[name].detach(), 1 - decay)


@contextlib.contextmanager
def averaged(training: TrainState) -> Iterator[None]:
    """The parameters hold their moving average inside the block, and themselves after it."""
    kept = {name: training.parameters[name].detach().clone() for name in training.average}
    with torch.no_grad():
        for name, average in training.average.items():
            training.parameters[name].copy_(average)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                training.parameters[name].copy_(value)
