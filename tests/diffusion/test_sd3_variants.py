"""Every published kind of SD3 at toy width: loaded, trained, drawn with a ControlNet, and its
adapter in plain diffusers, whose pipeline computes the same."""

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, SD3ControlNetModel, SD3Transformer2DModel
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
    chosen = DrawSettings(steps=STEPS.get(name, 2), batch_size=1, control_scale=0.7)
    assert draw_batch(base, adapter, [sample], chosen).shape == (1, 32, 704, 3)

    plain = load(directory)
    pipeline = diffusers.StableDiffusion3ControlNetPipeline(
        transformer=plain.transformer, scheduler=plain.scheduler, vae=plain.vae,
        controlnet=plain.controlnet, text_encoder=None, text_encoder_2=None,
        text_encoder_3=None, tokenizer=None, tokenizer_2=None, tokenizer_3=None,
    )  # fmt: skip
    pipeline.load_lora_weights(str(trained))
    rng = torch.Generator().manual_seed(0)
    prompt, pooled = torch.randn(1, 9, 32, generator=rng), torch.randn(1, 32, generator=rng)
    latents = torch.randn(1, 16, 4, 88, generator=rng)
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 704, 3), np.uint8)
    pixels = torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.manual_seed(0)
    theirs = pipeline(
        prompt_embeds=prompt, pooled_prompt_embeds=pooled, latents=latents, guidance_scale=1.0,
        control_image=pixels, height=32, width=704, num_inference_steps=1,
        controlnet_conditioning_scale=0.7, output_type="latent",
    ).images  # fmt: skip
    torch.manual_seed(0)
    config = base.vae.config
    unshifted = base.controlnet.config.force_zeros_for_pooled_projection
    with torch.no_grad():
        control = base.vae.encode(pixels).latent_dist.sample()
        control = (control - (0 if unshifted else config.shift_factor)) * config.scaling_factor
        condition = Condition(prompt, pooled, control, 0.7)
        ours = latents - velocity(base, latents, torch.ones(1), condition)
        assert not torch.allclose(
            ours, latents - velocity(load(directory), latents, torch.ones(1), condition), atol=1e-3
        )
    assert torch.allclose(ours, theirs, atol=1e-4)
