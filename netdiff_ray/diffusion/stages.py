"""What pretraining a base from nothing needs beside the flow-matching loss.

Shape letters: N rasters, H x W pixels, C x h x w latents.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch.nn import functional

from netdiff_ray.diffusion.base import Base, Condition, decode_latents, encode_rasters, velocity
from netdiff_ray.diffusion.denoise import scheduler_named
from netdiff_ray.diffusion.objective import Batch
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import height_for
from netdiff_ray.raster import from_rgb, to_rgb

_SHARPNESS = 5.0  # RGB of -1 to 1 times this are the logits of the cross-entropy
_LATENT_NOISE = 0.25  # of the latents' standard deviation: what a denoiser leaves undecided
_MSE_WEIGHT = 0.2  # keeps colours from growing past what a picture can hold
_LOG_VARIANCE, _LOG_VARIANCE_WEIGHT = -9.0, 1e-3  # the posterior is to be nearly a point


def autoencoder_loss(vae: AutoencoderKL, rgb: np.ndarray, rng: torch.Generator) -> torch.Tensor:
    """The cross-entropy of the three colours after noisy latents, a scalar.

    Vacant cells and header bits count half each, however many there are. Noise is added to
    the latents in proportion to their own spread, so that growing does not drown it.

    Args:
        vae: trainable.
        rgb: (N, H, W, 3) uint8 rasters.
        rng: a CPU generator, of the noise.
    """
    picture = torch.from_numpy(rgb).to(vae.device).permute(0, 3, 1, 2)
    pixels = picture.float() / 127.5 - 1
    colour = picture.argmax(dim=1)
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.mode()
    noise = torch.randn(latents.shape, generator=rng).to(latents.device)
    out = vae.decode(latents + _LATENT_NOISE * latents.detach().std() * noise).sample
    entropy = functional.cross_entropy(_SHARPNESS * out, colour, reduction="none")
    vacant = colour == 2
    parts = [entropy[mask].mean() for mask in (vacant, ~vacant) if mask.any()]
    spread = ((posterior.logvar - _LOG_VARIANCE) ** 2).mean()
    return (
        torch.stack(parts).mean()
        + _MSE_WEIGHT * functional.mse_loss(out, pixels)
        + _LOG_VARIANCE_WEIGHT * spread
    )


def normalise_latents(base: Base, nprints: Sequence[np.ndarray]) -> None:
    """Nothing; sets the autoencoder's shift and scaling factors so that latents of the
    windows have mean 0 and variance 1."""
    base.vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    parts = [
        encode_rasters(base, to_rgb(nprint, height_for(len(nprint)))[None]).flatten()
        for nprint in nprints
    ]
    latents = torch.cat(parts).double()
    base.vae.register_to_config(
        scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean())
    )


def header_accuracy(base: Base, nprints: Sequence[np.ndarray]) -> dict[str, float]:
    """How much of windows survives the autoencoder: `header_bits`, the share of their 1 and 0
    cells that come back right; `cells`, of all cells of their rasters; `exact`, of windows
    that come back whole."""
    bits_right = bits = cells_right = cells = exact = 0
    for nprint in nprints:
        rgb = to_rgb(nprint, height_for(len(nprint)))
        wanted, _ = from_rgb(rgb)
        got, _ = from_rgb(decode_latents(base, encode_rasters(base, rgb[None]))[0])
        right = got == wanted
        there = wanted != VACANT
        bits += int(there.sum())
        bits_right += int(right[there].sum())
        cells += right.size
        cells_right += int(right.sum())
        exact += bool(right.all())
    return {
        "header_bits": bits_right / bits,
        "cells": cells_right / cells,
        "exact": exact / len(nprints),
    }


def distillation_loss(
    base: Base,
    teacher: SD3Transformer2DModel,
    batch: Batch,
    steps: int,
    substeps: int,
    rng: torch.Generator,
) -> torch.Tensor:
    """How far one step of a `steps`-step schedule is from `substeps` of the teacher's, a scalar.

    Progressive distillation (Salimans and Ho, arXiv:2202.00512) in velocities: each window
    is noised to a random step's level, the teacher goes on to the next one in substeps, and the
    student is to get there in one.

    Args:
        base: the student, with its ControlNet if `batch.control` is there.
        teacher: what it was before.
        batch: on the base's device.
        steps: of the schedule, with the base scheduler's shift.
        substeps: of the teacher in each.
        rng: a CPU generator.
    """
    latents = batch.latents
    count = len(latents)
    scheduler = scheduler_named(base, "FlowMatchEulerDiscreteScheduler", None)
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas
    at = torch.randint(steps, (count,), generator=rng)
    noise = torch.randn(latents.shape, generator=rng).to(latents.device)
    start, end = levels[at].to(latents.device), levels[at + 1].to(latents.device)
    wide_start, wide_end = start.view(-1, 1, 1, 1), end.view(-1, 1, 1, 1)
    first = (1 - wide_start) * latents + wide_start * noise
    condition = Condition(batch.prompt, batch.pooled, batch.control)
    with torch.no_grad():
        guide = copy.copy(base)
        guide.transformer = teacher
        moved = first
        for k in range(substeps):
            sigmas = start + (end - start) * (k / substeps)
            step = (wide_end - wide_start) / substeps
            moved = moved + step * velocity(guide, moved, sigmas, condition)
        wanted = (moved - first) / (wide_end - wide_start)
    return functional.mse_loss(velocity(base, first, start, condition), wanted)
