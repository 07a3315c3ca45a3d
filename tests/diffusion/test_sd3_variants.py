"""Every published kind of SD3 at toy width: loaded, trained, drawn with a ControlNet, and its
adapter in plain diffusers, whose pipeline computes the same."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, SD3ControlNetModel, SD3Transformer2DModel
from diffusers_step import CONTROL_SCALE, diffusers_step
from tiny_models import LABELS, TOY, made_windows, quiet, with_control

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings
from netdiff_ray.diffusion.adapter import read_adapter
from netdiff_ray.diffusion.base import Condition, load_base, velocity
from netdiff_ray.diffusion.denoise import draw_batch
from netdiff_ray.diffusion.lora import load_adapter
from netdiff_ray.diffusion.train import train
from netdiff_ray.labels.flow_plan import PlannedWindow

MEDIUM = {
    "sample_size": 64, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2,
    "attention_head_dim": 16, "num_attention_heads": 2, "caption_projection_dim": 32,
    "joint_attention_dim": 2 * TOY.text_width, "pooled_projection_dim": 2 * TOY.text_width,
    "pos_embed_max_size": 96,
}  # fmt: skip
MEDIUM_3_5 = {**MEDIUM, "qk_norm": "rms_norm", "dual_attention_layers": (0,)}
LARGE = {
    **MEDIUM, "qk_norm": "rms_norm", "num_attention_heads": 3, "caption_projection_dim": 48,
    "num_layers": 3,
}  # fmt: skip
WITH_TEXT = {"num_layers": 1, "force_zeros_for_pooled_projection": True}
WITHOUT_TEXT = {
    "num_layers": 1, "joint_attention_dim": None, "use_pos_embed": False, "pos_embed_type": None,
    "force_zeros_for_pooled_projection": False, "qk_norm": None,
}  # fmt: skip
VARIANTS = {
    "3-medium": (MEDIUM, WITH_TEXT, 3.0),
    "3.5-medium": (MEDIUM_3_5, WITH_TEXT, 3.0),
    "3.5-large": (LARGE, WITHOUT_TEXT, 3.0),
    "3.5-large-turbo": (LARGE, WITHOUT_TEXT, 3.0),
}
STEPS = {"3.5-large-turbo": 4}
"""Denoising steps of what was distilled for few."""


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, toy_directory, tmp_path_factory):
    """Return the name and the directory of a kind of SD3, with its ControlNet."""
    config, control, shift = VARIANTS[request.param]
    directory = tmp_path_factory.mktemp("variants") / request.param
    shutil.copytree(toy_directory, directory)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        transformer = SD3Transformer2DModel(**config)
        net = SD3ControlNetModel(**{**config, **control})
        vae = AutoencoderKL(
            block_out_channels=(4, 4, 4, 4), latent_channels=16, layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4, scaling_factor=1.5305, shift_factor=0.0609,
            use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
        for parameter in net.parameters():
            parameter.data.normal_(std=0.1)
    for folder, model in (("transformer", transformer), ("vae", vae), ("controlnet", net)):
        shutil.rmtree(directory / folder)
        model.save_pretrained(directory / folder)
    path = directory / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "shift": shift}))
    return request.param, directory


def load(directory):
    return load_base(BaseSettings(base=str(directory), device="cpu"))


def test_it_is_trained_drawn_and_the_same_in_diffusers(variant, tmp_path):
    name, directory = variant
    base = load(directory)
    trained = train(
        base, made_windows(3), tmp_path, with_control(steps=2, learning_rate=1e-2), quiet
    )
    adapter = read_adapter(trained)
    load_adapter(base, adapter)
    sample = PlannedWindow(
        label=LABELS[0], service="tcp-other", index=0, window=0, height=32, length=20
    )
    chosen = DrawSettings(steps=STEPS.get(name, 2), batch_size=1, control_scale=CONTROL_SCALE)
    assert draw_batch(base, adapter, [sample], chosen).shape == (1, 32, 704, 3)

    unadapted = load(directory)
    step = diffusers_step(load(directory), lora=trained)
    config = base.vae.config
    unshifted = base.controlnet.config.force_zeros_for_pooled_projection
    with torch.no_grad():
        control = base.vae.encode(step.pixels).latent_dist.sample()
        control = (control - (0 if unshifted else config.shift_factor)) * config.scaling_factor
        condition = Condition(step.prompt, step.pooled, control, CONTROL_SCALE)
        ours = step.latents - velocity(base, step.latents, torch.ones(1), condition)
        assert not torch.allclose(
            ours,
            step.latents - velocity(unadapted, step.latents, torch.ones(1), condition),
            atol=1e-3,
        )
    assert torch.allclose(ours, step.theirs, atol=1e-4)
