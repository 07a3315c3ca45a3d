"""Sample grids: a few rasters of each label, drawn during training, and their bit error.

Shape letters: N windows, P packets, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from netdiff_ray.config.diffusion import DrawSettings, TrainSettings
from netdiff_ray.diffusion.base import Base, Condition, decode_latents
from netdiff_ray.diffusion.denoise import denoise, token_columns
from netdiff_ray.diffusion.training_set import TrainingSet
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.raster import drop_vacant_tail, from_rgb

_PER_SERVICE = 4
"""Rasters of each label."""
_GAP = 2
"""Black pixel rows between services."""


def bit_error(drawn: Sequence[np.ndarray], real: np.ndarray) -> float:
    """Return the distance between the bits of drawn and of real windows, 0 to 1.

    The total variation distance of (1, 0, vacant) over all packets, mean over columns.

    Args:
        drawn: matrices (P, W) int8, without padding.
        real: (3, W) shares of 1, 0 and vacant among the real packets.
    """
    rows = np.concatenate(drawn)
    shares = np.stack([(rows == value).mean(axis=0) for value in (1, 0, -1)])
    return float(0.5 * np.abs(shares - real).sum(axis=0).mean())


@torch.no_grad()
def draw_sample_grid(
    base: Base,
    training_set: TrainingSet,
    windows: Sequence[PlannedWindow],
    settings: TrainSettings,
    path: Path,
) -> float:
    """Draw a few rasters of each service, and return their bit error, the mean over services.

    Without guidance and ControlNet. The picture has a row for each service, sorted.

    Args:
        base: what draws.
        training_set: what the base is trained on.
        windows: what to draw, a window of each service.
        settings: of the training.
        path: of the picture, a PNG file.
    """
    drawing = DrawSettings(
        seed=settings.optimization.seed, steps=settings.sample_grid_steps, batch_size=_PER_SERVICE,
        shift=settings.objective.shift,
    )  # fmt: skip
    pictures, errors = [], []
    for window in sorted(windows, key=lambda sample: sample.label_service):
        service = window.label_service
        samples = [replace(window, index=k) for k in range(_PER_SERVICE)]
        prompt = torch.from_numpy(training_set.embeddings.prompt[service, 0]).to(base.device)
        pooled = torch.from_numpy(training_set.embeddings.pooled[service, 0]).to(base.device)
        condition = Condition(
            prompt.expand(_PER_SERVICE, -1, -1), pooled.expand(_PER_SERVICE, -1),
            columns=token_columns(
                base, training_set.layout, training_set.services.values(), samples
            ),
        )  # fmt: skip
        latents = denoise(base, condition, None, samples, training_set.layout.width, drawing)
        rasters = decode_latents(base, latents)
        drawn = [drop_vacant_tail(from_rgb(rgb)[0]) for rgb in rasters]
        drawn = [nprint for nprint in drawn if len(nprint)]
        errors.append(bit_error(drawn, training_set.column_shares[service]) if drawn else 1.0)
        pictures.append(np.pad(np.hstack(rasters), ((0, _GAP), (0, 0), (0, 0))))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(pictures)).save(path)
    return float(np.mean(errors))
