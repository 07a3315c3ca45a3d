"""Batches that cannot be drawn end the run, with words that say what to change."""

import pytest
import torch
from tiny_models import LABELS

from netdiff_ray.config.diffusion import DrawSettings
from netdiff_ray.diffusion.base import decode_latents, encode_rasters
from netdiff_ray.diffusion.denoise import draw_batch
from netdiff_ray.errors import ModelError
from netdiff_ray.labels.flow_plan import PlannedWindow

SETTINGS = DrawSettings(steps=2, batch_size=2, guidance=3.0)
SAMPLES = [
    PlannedWindow(
        label=LABELS[0], service="tcp-443", index=k, window=0, height=16, length=9,
        headers=("ipv4", "tcp"),
    )
    for k in range(2)
]  # fmt: skip


def test_latents_that_are_not_finite_end_the_run_with_the_batchs_settings(ready):
    base, adapter = ready
    base.transformer.proj_out.weight.data[0, 0] = float("inf")
    words = (
        r"predicts from step 1 of 2 on is not finite numbers \(2 rasters of 16 x 704 of tcp-443 "
        r"chat; steps 2, guidance 3, shift 1, control_scale 0, .*, seed 0, float32\): use dtype"
    )
    with pytest.raises(ModelError, match=words):
        draw_batch(base, adapter, SAMPLES, SETTINGS)


def test_an_autoencoder_that_overflows_is_named(ready):
    base, _ = ready
    base.vae.decoder.conv_out.bias.data[0] = float("nan")
    with pytest.raises(ModelError, match=r"autoencoder of .* not finite numbers in float32"):
        decode_latents(base, torch.zeros(1, 1, 16, 704))
    base.vae.encoder.conv_in.weight.data[0] = float("inf")
    with pytest.raises(ModelError, match=r"autoencoder of .* not finite"):
        encode_rasters(base, torch.zeros(1, 16, 704, 3, dtype=torch.uint8).numpy())


def test_an_error_that_every_batch_would_have_is_no_accident_of_one(ready):
    base, adapter = ready
    base.transformer.context_embedder = torch.nn.Linear(3, 32)
    with pytest.raises(ModelError, match=r"RuntimeError while drawing 2 rasters .*Other batches"):
        draw_batch(base, adapter, SAMPLES, SETTINGS)


def test_an_error_of_one_plan_stays_what_it_is(ready):
    base, adapter = ready
    with pytest.raises(AssertionError):
        draw_batch(base, adapter, [], SETTINGS)
