"""Batches of pretraining: windows of one kind, between random hosts, with control images or not.

Shape letters: N windows, P packets, W columns, C x h x w latents.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from netdiff_ray.config.diffusion import EvidenceSettings, FlowMatchingSettings, TrainSettings
from netdiff_ray.diffusion.base import Base, encode_rasters
from netdiff_ray.diffusion.objective import TrainingBatch
from netdiff_ray.diffusion.token_pruning import Kind, columns_with_tokens, select_columns
from netdiff_ray.diffusion.train import batch_of, choose_batch, make_batch
from netdiff_ray.diffusion.training_set import TrainingSet, make_training_set
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.nprint.layouts import height_for
from netdiff_ray.pretraining.config import PretrainConfig
from netdiff_ray.pretraining.random_stacks import most_option_octets, with_random_stack
from netdiff_ray.raster import to_rgb

_BATCH_ROWS = 32


@dataclass(frozen=True)
class PretrainingSet:
    """A training set of one process, with the windows that it was made of."""

    training_set: TrainingSet
    nprints: dict[int, list[np.ndarray]]
    """(P, W) int8 windows by the height of their rasters, in the order of `KindWindows.clean`."""


def pretraining_set(base: Base, windows: LabelledWindows, config: PretrainConfig) -> PretrainingSet:
    """Return prompts and plans of all windows; with latents unless `random_stacks` changes them."""
    settings = TrainSettings(
        balance=config.balance, max_height=config.max_height, optimization=config.denoiser,
        objective=FlowMatchingSettings(control_scale=1.0),
        evidence=EvidenceSettings(heldout_share=0.0),
    )  # fmt: skip
    nprints: dict[int, list[np.ndarray]] = {}
    for nprint in windows.nprint:
        nprints.setdefault(height_for(len(nprint)), []).append(nprint)
    training_set = make_training_set(
        base, [windows], settings, with_latents=not config.random_stacks
    )
    return PretrainingSet(training_set, nprints)


def batch_at(
    base: Base,
    windows: PretrainingSet,
    config: PretrainConfig,
    size: int,
    key: tuple[int, int],
) -> tuple[TrainingBatch, int]:
    """Return the batch of a (step, micro-batch) and its height.

    It has `size` windows of _BATCH_ROWS rows, or more or fewer windows of other heights, so that
    all steps cost about the same. `config` says how often windows get random hosts, and the batch
    control images.
    """
    key = (config.seed, *key)
    by_kind = windows.training_set.by_kind
    kind, _ = choose_batch(by_kind, 1, key)
    height, _ = kind
    count = max(1, size * _BATCH_ROWS // height)
    _, chosen = choose_batch({kind: by_kind[kind]}, count, key)
    rng = np.random.default_rng((*key, 1))
    with_control = rng.random() < config.control_share
    if not config.random_stacks:
        batch = make_batch(base, windows.training_set, kind, chosen)
        return (batch if with_control else dataclasses.replace(batch, control=None)), height
    return _with_random_stacks(base, windows, kind, chosen, with_control, rng), height


def _with_random_stacks(
    base: Base,
    windows: PretrainingSet,
    kind: Kind,
    chosen: np.ndarray,
    with_control: bool,
    rng: np.random.Generator,
) -> TrainingBatch:
    """Return the chosen windows of a kind, between random hosts."""
    training_set = windows.training_set
    height, transport = kind
    layout, of_kind = training_set.layout, training_set.by_kind[kind]
    pairs = [
        with_random_stack(windows.nprints[height][row], sample, layout, rng)
        for row, sample in zip(
            of_kind.row[chosen].tolist(), training_set.planned_windows(kind, chosen), strict=True
        )
    ]
    nprints, samples = zip(*pairs, strict=True)
    columns = columns_with_tokens(
        layout, transport, most_option_octets(nprints, layout), base.vae_scale,
        base.transformer.config.patch_size,
    )  # fmt: skip
    if columns is not None:
        columns = columns[torch.from_numpy(of_kind.version[chosen])]
    latents = encode_rasters(base, np.stack([to_rgb(nprint, height) for nprint in nprints]))
    return batch_of(
        base, training_set, of_kind.prompt[chosen], select_columns(latents, columns), columns,
        samples if with_control else None,
    )  # fmt: skip
