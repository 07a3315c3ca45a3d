"""When the learning rate falls and a training ends: by held-out windows, by steps or by minutes.

The learning rate rises, stays, and falls to 0 in the last `decay_share` of the steps. The fall
begins early where the held-out loss has stopped gaining or that share of the minutes is left; so a
training that ends early ends at a low learning rate, too. Records of numbers and pure functions,
the same in all ranks.
"""

import math
from dataclasses import dataclass, replace

from netdiff_ray.config.diffusion import EvidenceSettings, OptimizationSettings

STEPS, NO_GAIN, MINUTES = "steps", "no gain", "minutes"
"""Why a training ended: the most steps, held-out windows that gained no more, the most minutes."""


@dataclass(frozen=True, kw_only=True)
class TrainingSchedule:
    """Where a training stands; in checkpoints."""

    decay_from: int
    """The step from which the learning rate falls."""
    last_step: int
    """Number of finished steps at which the training ends."""
    reason: str = STEPS
    """Why it ends then: STEPS, NO_GAIN or MINUTES."""
    elapsed_s: float = 0.0
    """Seconds that the finished steps took, those before a resume among them."""
    heldout_loss: float = math.nan
    """Last held-out loss; NaN before the first."""
    best_loss: float = math.inf
    """Lowest held-out loss."""
    best_step: int = 0
    """Number of finished steps at the lowest held-out loss."""
    goal: float = math.inf
    """A held-out loss counts as a gain below it."""
    without_gain: int = 0
    """Measurements since the last gain."""


def planned(settings: OptimizationSettings) -> TrainingSchedule:
    """Return the schedule before the first step."""
    falling = round(settings.steps * settings.decay_share)
    first = max(settings.steps - falling, min(settings.warmup_steps, settings.steps))
    return TrainingSchedule(decay_from=first, last_step=settings.steps)


def learning_rate_at(
    step: int, schedule: TrainingSchedule, settings: OptimizationSettings
) -> float:
    """Return the learning rate of step `step`, counted from 0.

    Linear warm-up, constant, then a half cosine that reaches 0 after the last step.
    """
    rate = settings.learning_rate
    if step < settings.warmup_steps:
        return rate * (step + 1) / settings.warmup_steps
    span = schedule.last_step - schedule.decay_from
    done = (step - schedule.decay_from) / span if span else 0.0
    return rate * 0.5 * (1 + math.cos(math.pi * max(done, 0.0)))


def after_step(
    schedule: TrainingSchedule, step: int, elapsed_s: float, settings: OptimizationSettings
) -> TrainingSchedule:
    """Return the schedule after a step.

    Args:
        schedule: before it.
        step: number of finished steps, including this one.
        elapsed_s: seconds that the finished steps took.
        settings: says how many minutes the steps may take.
    """
    schedule = replace(schedule, elapsed_s=elapsed_s)
    if settings.minutes is None or step >= schedule.last_step:
        return schedule
    limit_s = 60 * settings.minutes
    if elapsed_s >= limit_s:
        return replace(schedule, last_step=step, reason=MINUTES)
    is_time = elapsed_s >= (1 - settings.decay_share) * limit_s
    return _falling(schedule, step, MINUTES, settings) if is_time else schedule


def after_measurement(
    schedule: TrainingSchedule,
    step: int,
    loss: float,
    evidence: EvidenceSettings,
    settings: OptimizationSettings,
) -> TrainingSchedule:
    """Return the schedule after the held-out loss has been measured.

    Args:
        schedule: before it.
        step: number of finished steps.
        loss: of the held-out windows.
        evidence: says what a gain is, and how long to wait for one.
        settings: of the learning rate.
    """
    if loss < schedule.best_loss:
        schedule = replace(schedule, best_loss=loss, best_step=step)
    gained = loss < schedule.goal
    schedule = replace(
        schedule,
        heldout_loss=loss,
        goal=loss * (1 - evidence.min_gain) if gained else schedule.goal,
        without_gain=0 if gained else schedule.without_gain + 1,
    )
    if schedule.without_gain < evidence.patience or step >= schedule.last_step:
        return schedule
    if step < schedule.decay_from:
        return _falling(schedule, step, NO_GAIN, settings)
    return replace(schedule, last_step=step, reason=NO_GAIN)


def _falling(
    schedule: TrainingSchedule, step: int, reason: str, settings: OptimizationSettings
) -> TrainingSchedule:
    """Return the schedule with a fall of the learning rate from `step` on, if none has begun.

    It takes `decay_share` of all steps, and ends no later than planned.
    """
    share = settings.decay_share
    if step >= schedule.decay_from or share == 1:
        return schedule
    last = min(settings.steps, step + math.ceil(step * share / (1 - share)))
    return replace(schedule, decay_from=step, last_step=last, reason=reason, without_gain=0)
