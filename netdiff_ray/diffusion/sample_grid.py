"""Contact sheets: a few rasters a label, drawn during training, and how far they are off.

Shape letters: N windows, P packets, H x W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from netdiff_ray.config.diffusion import DrawSettings, TrainSettings
from netdiff_ray.diffusion.base import Base, Condition, decode_latents
from netdiff_ray.diffusion.denoise import denoise, own_columns
from netdiff_ray.diffusion.training_set import Prepared
from netdiff_ray.labels.flow_plan import Sample
from netdiff_ray.raster import drop_vacant_tail, from_rgb

_A_LABEL = 4
_GAP = 2


def bit_error(drawn: Sequence[np.ndarray], real: np.ndarray) -> float:
    """How far the bits of drawn windows are from those of real ones, 0 to 1.

    The total variation distance of (1, 0, vacant) over all packets, mean over columns.

    Args:
        drawn: matrices (P, W) int8, none of them a flow's padding.
        real: (3, W) shares of 1, 0 and vacant among the real packets.
    """
    rows = np.concatenate(drawn)
    shares = np.stack([(rows == value).mean(axis=0) for value in (1, 0, -1)])
    return float(0.5 * np.abs(shares - real).sum(axis=0).mean())


@torch.no_grad()
def draw_sample_grid(
    base: Base,
    prepared: Prepared,
    windows: Mapping[str, Sample],
    settings: TrainSettings,
    path: Path,
) -> float:
    """The mean bit error over labels of a few rasters drawn for each, written to `path` as one
    picture: a row a label, in order. No guidance, no ControlNet.

    Args:
        base: what draws.
        prepared: what is learnt.
        windows: by label, one like those to draw.
        settings: of the training.
        path: a PNG file.
    """
    drawing = DrawSettings(
        seed=settings.loop.seed, steps=settings.sample_grid_steps, batch_size=_A_LABEL,
        shift=settings.objective.shift,
    )  # fmt: skip
    pictures, errors = [], []
    for label, window in sorted(windows.items()):
        samples = [replace(window, index=k) for k in range(_A_LABEL)]
        prompt = torch.from_numpy(prepared.embeddings.prompt[label, 0]).to(base.device)
        pooled = torch.from_numpy(prepared.embeddings.pooled[label, 0]).to(base.device)
        condition = Condition(
            prompt.expand(_A_LABEL, -1, -1), pooled.expand(_A_LABEL, -1),
            columns=own_columns(base, prepared.layout, prepared.labels, samples),
        )  # fmt: skip
        latents = denoise(base, condition, None, samples, prepared.layout.width, drawing)
        rasters = decode_latents(base, latents)
        drawn = [drop_vacant_tail(from_rgb(rgb)[0]) for rgb in rasters]
        drawn = [nprint for nprint in drawn if len(nprint)]
        errors.append(bit_error(drawn, prepared.column_shares[label]) if drawn else 1.0)
        pictures.append(np.pad(np.hstack(rasters), ((0, _GAP), (0, 0), (0, 0))))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(pictures)).save(path)
    return float(np.mean(errors))
