"""One Euler step of diffusers' own ControlNet pipeline, on the same inputs as ours."""

from typing import NamedTuple

import diffusers
import numpy as np
import torch

CONTROL_SCALE = 0.7


class Step(NamedTuple):
    """What a step takes, and what diffusers makes of it."""

    prompt: torch.Tensor
    """(1, 9, 32) float32."""
    pooled: torch.Tensor
    """(1, 32) float32."""
    latents: torch.Tensor
    """(1, 16, 4, 88) float32, noise."""
    picture: np.ndarray
    """(1, 32, 704, 3) uint8, the control image."""
    pixels: torch.Tensor
    """(1, 3, 32, 704) float32 of it, -1 to 1."""
    theirs: torch.Tensor
    """(1, 16, 4, 88) float32: the latents after the step."""


def diffusers_step(base, lora=None) -> Step:
    """Return a step by the components of a base, with a directory of LoRA weights if given. Right
    after it, torch's generator is as it was when diffusers encoded the control image."""
    pipeline = diffusers.StableDiffusion3ControlNetPipeline(
        transformer=base.transformer, scheduler=base.scheduler, vae=base.vae,
        controlnet=base.controlnet, text_encoder=None, text_encoder_2=None,
        text_encoder_3=None, tokenizer=None, tokenizer_2=None, tokenizer_3=None,
    )  # fmt: skip
    if lora is not None:
        pipeline.load_lora_weights(str(lora))
    rng = torch.Generator().manual_seed(0)
    prompt, pooled = torch.randn(1, 9, 32, generator=rng), torch.randn(1, 32, generator=rng)
    latents = torch.randn(1, 16, 4, 88, generator=rng)
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 704, 3), np.uint8)
    pixels = torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.manual_seed(0)
    theirs = pipeline(
        prompt_embeds=prompt, pooled_prompt_embeds=pooled, latents=latents, guidance_scale=1.0,
        control_image=pixels, height=32, width=704, num_inference_steps=1,
        controlnet_conditioning_scale=CONTROL_SCALE, output_type="latent",
    ).images  # fmt: skip
    torch.manual_seed(0)
    return Step(prompt, pooled, latents, picture, pixels, theirs)
