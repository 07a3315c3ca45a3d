"""Losses of pretraining besides flow matching: of the autoencoder, and of distillation.

Shape letters: N rasters, H x W pixels, C x h x w latents.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch.nn import functional

from netdiff_ray.diffusion.base import Base, Condition, decode_latents, encode_rasters, velocity
from netdiff_ray.diffusion.denoise import scheduler_for
from netdiff_ray.diffusion.objective import TrainingBatch
from netdiff_ray.errors import ModelError
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import height_for
from netdiff_ray.raster import from_rgb, to_rgb

_SHARPNESS = 5.0
"""RGB of -1 to 1 times this are the logits of the cross-entropy."""
_MSE_WEIGHT = 0.2
"""Keeps colours from growing past what a picture can hold."""
_LOG_VARIANCE, _LOG_VARIANCE_WEIGHT = -9.0, 1e-3
"""Make the posterior nearly a point."""
_CODES = {
    1: ((1.5, 0.5, -1.0),),
    2: ((1.0, 1.0, -1.0), (1.0, -1.0, 0.0)),
}
"""Weights of R, G, B (0 to 1) in the latents of one pixel, by the number of its latents. A bit
that is undecided lies between 1 and 0, never at vacant; black and white, the colours of
control images, differ."""


def latent_code(pixels: torch.Tensor, channels: int, scale: int) -> torch.Tensor:
    """Return the latents that an autoencoder is to have, each a function of one pixel.

    Args:
        pixels: (N, 3, H, W) float32, -1 to 1.
        channels: C, one or two for each of the scale x scale pixels of a latent.
        scale: pixels along the side of a latent.

    Returns:
        (N, C, H / scale, W / scale) float32.

    Raises:
        ModelError: C is another number.
    """
    per_pixel, rest = divmod(channels, scale * scale)
    if rest or per_pixel not in _CODES:
        raise ModelError(
            f"{channels} latent channels for {scale} x {scale} pixels: an autoencoder that loses "
            f"no bit has {scale * scale} or {2 * scale * scale}"
        )
    weights = torch.tensor(_CODES[per_pixel], device=pixels.device)
    code = torch.einsum("kc,nchw->nkhw", weights, pixels / 2 + 0.5)
    return functional.pixel_unshuffle(code, scale)


def autoencoder_loss(
    vae: AutoencoderKL, rgb: np.ndarray, latent_noise: float, rng: torch.Generator
) -> torch.Tensor:
    """Return the loss of an autoencoder, a scalar.

    The cross-entropy of the three colours after noisy latents, and the distance of the latents from
    `latent_code`. Vacant cells and
    header bits count half each, however many there are. One picture of edges, such as the
    ControlNet sees, is encoded too.

    Args:
        vae: trainable.
        rgb: (N, H, W, 3) uint8 rasters.
        latent_noise: standard deviation of the noise on latents, relative to theirs.
        rng: a CPU generator of the noise.

    Raises:
        ModelError: the autoencoder's channels do not fit its scale.
    """
    picture = torch.from_numpy(rgb).to(vae.device).permute(0, 3, 1, 2)
    pixels = picture.float() / 127.5 - 1
    colour = picture.argmax(dim=1)
    pictures = torch.cat([pixels, _edge_picture(colour[:1])])
    posterior = vae.encode(pictures).latent_dist
    latents = posterior.mode()
    scale = pixels.shape[-1] // latents.shape[-1]
    code = latent_code(pictures, latents.shape[1], scale)
    noise = torch.randn(latents[:-1].shape, generator=rng).to(latents.device)
    out = vae.decode(latents[:-1] + latent_noise * code.std() * noise).sample
    entropy = functional.cross_entropy(_SHARPNESS * out, colour, reduction="none")
    vacant = colour == 2
    parts = [entropy[mask].mean() for mask in (vacant, ~vacant) if mask.any()]
    spread = ((posterior.logvar - _LOG_VARIANCE) ** 2).mean()
    return (
        torch.stack(parts).mean()
        + functional.mse_loss(latents, code)
        + _MSE_WEIGHT * functional.mse_loss(out, pixels)
        + _LOG_VARIANCE_WEIGHT * spread
    )


def _edge_picture(colour: torch.Tensor) -> torch.Tensor:
    """Return (N, 3, H, W) float32, 1 where a cell differs from its left neighbour, else -1."""
    differs = functional.pad((colour[:, :, 1:] != colour[:, :, :-1]).float(), (1, 0))
    return (2 * differs - 1)[:, None].expand(-1, 3, -1, -1)


def normalise_latents(base: Base, nprints: Sequence[np.ndarray]) -> None:
    """Set the autoencoder's shift and scaling factors so that latents of the windows have mean 0
    and variance 1."""
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
    """Return how well the autoencoder restores windows.

    Returns:
        `header_bits`, the share of 1 and 0 cells of the windows that are restored; `cells`, the
        share of all cells of their rasters; `exact`, the share of windows without an error.
    """
    bits_right = bits = cells_right = cells = exact = 0
    for nprint in nprints:
        rgb = to_rgb(nprint, height_for(len(nprint)))
        original, _ = from_rgb(rgb)
        restored, _ = from_rgb(decode_latents(base, encode_rasters(base, rgb[None]))[0])
        right = restored == original
        occupied = original != VACANT
        bits += int(occupied.sum())
        bits_right += int(right[occupied].sum())
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
    batch: TrainingBatch,
    steps: int,
    substeps: int,
    rng: torch.Generator,
) -> torch.Tensor:
    """Return the distance of one step of a `steps`-step schedule from `substeps` of the teacher.

    Progressive distillation (Salimans and Ho, arXiv:2202.00512) in velocities: each window gets the
    noise level of a random step, the teacher goes on to the next level in substeps, and the student
    is to get there in one step.

    Args:
        base: the student; its ControlNet takes part if the batch has control images.
        teacher: the transformer before distillation.
        batch: on the base's device.
        steps: of the schedule, which has the shift of the base's scheduler.
        substeps: of the teacher in each step.
        rng: a CPU generator.
    """
    latents = batch.latents
    levels = scheduler_for(base, "FlowMatchEulerDiscreteScheduler", None, steps).sigmas
    step = torch.randint(steps, (len(latents),), generator=rng)
    noise = torch.randn(latents.shape, generator=rng).to(latents.device)
    start, end = levels[step].to(latents.device), levels[step + 1].to(latents.device)
    wide_start, wide_end = start.view(-1, 1, 1, 1), end.view(-1, 1, 1, 1)
    first = (1 - wide_start) * latents + wide_start * noise
    condition = Condition(batch.prompt, batch.pooled, batch.control, columns=batch.columns)
    with torch.no_grad():
        guide = copy.copy(base)
        guide.transformer = teacher
        moved = first
        for k in range(substeps):
            sigmas = start + (end - start) * (k / substeps)
            change = (wide_end - wide_start) / substeps
            moved = moved + change * velocity(guide, moved, sigmas, condition)
        target = (moved - first) / (wide_end - wide_start)
    return functional.mse_loss(velocity(base, first, start, condition), target)
