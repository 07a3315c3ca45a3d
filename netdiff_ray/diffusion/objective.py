"""The flow-matching loss of SD3 (Esser et al., 2024, arXiv:2403.03206), one plain function.

Shape letters: N windows, C x h x w latents (of those columns that have tokens), T text tokens, D
their width, E the pooled width.
"""

from dataclasses import dataclass

import torch

from netdiff_ray.diffusion.base import Base, Condition, velocity
from netdiff_ray.diffusion.settings import FlowMatchingSettings


@dataclass(frozen=True)
class Batch:
    """Windows of one height and transport, ready for the transformer."""

    latents: torch.Tensor
    """(N, C, h, w) clean latents."""
    prompt: torch.Tensor
    """(N, T, D)."""
    pooled: torch.Tensor
    """(N, E)."""
    empty_prompt: torch.Tensor
    """(T, D) of the empty text, which prompt dropout puts in."""
    empty_pooled: torch.Tensor
    """(E,) of it."""
    control: torch.Tensor | None = None
    """(N, C, h, w) latents of control images, or None."""
    columns: torch.Tensor | None = None
    """(N, w) bool, columns of the latents that have tokens (see `tokens`), or None: all."""


def noise_levels(
    count: int, settings: FlowMatchingSettings, shift: float, rng: torch.Generator
) -> torch.Tensor:
    """(count,) float32 noise levels: a logit-normal, shifted towards 1 as at drawing."""
    normal = torch.randn(count, generator=rng)
    level = torch.sigmoid(settings.logit_mean + settings.logit_std * normal)
    return shift * level / (1 + (shift - 1) * level)


def flow_matching_loss(
    base: Base,
    batch: Batch,
    settings: FlowMatchingSettings,
    rng: torch.Generator,
    part: slice = slice(None),
) -> torch.Tensor:
    """Mean squared error of the predicted velocity, a scalar.

    Args:
        base: its transformer, and ControlNet if `batch.control` is there, with whatever is
            trainable in them.
        batch: on the base's device.
        settings: noise levels and prompt dropout.
        rng: a CPU generator: the loss is a function of its state on any device.
        part: which of the batch's windows to compute; the rest count as if they had no
            error, so that over parts that make up the batch the losses add up to its loss.
    """
    count = len(batch.latents)
    shift = base.shift if settings.shift is None else settings.shift
    sigmas = noise_levels(count, settings, shift, rng)[part]
    noise = torch.randn(batch.latents.shape, generator=rng)[part]
    dropped = (torch.rand(count, generator=rng) < settings.prompt_dropout)[part]
    latents = batch.latents[part]
    noise, dropped = noise.to(latents.device), dropped.to(latents.device)
    condition = Condition(
        prompt=torch.where(dropped[:, None, None], batch.empty_prompt, batch.prompt[part]),
        pooled=torch.where(dropped[:, None], batch.empty_pooled, batch.pooled[part]),
        control=None if batch.control is None else batch.control[part],
        control_scale=settings.control_scale,
        columns=None if batch.columns is None else batch.columns[part],
    )
    at = sigmas.to(latents.device).view(-1, 1, 1, 1)
    predicted = velocity(base, (1 - at) * latents + at * noise, sigmas, condition)
    error = torch.nn.functional.mse_loss(predicted, noise - latents)
    return error * (len(latents) / count)
