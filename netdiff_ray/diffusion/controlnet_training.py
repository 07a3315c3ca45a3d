"""A ControlNet that is trained on the pictures of flows' plans, beside an adapter's LoRA."""

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel

from netdiff_ray.config.diffusion import NEW_CONTROLNET, BaseSettings, TrainSettings
from netdiff_ray.diffusion.base import Base, load_base, use_exact_gelu

CONTROLNET_FOLDER = "controlnet"
"""Of the trained ControlNet, in the adapter's directory."""


def load_for_training(settings: BaseSettings, training: TrainSettings) -> Base:
    """Load a base to train with, and the ControlNet that takes part or is trained, if any.

    Raises:
        ConfigError, ModelError: see `load_base`.
    """
    if training.controlnet_from == NEW_CONTROLNET:
        base = load_base(settings, with_controlnet=False)
        base.controlnet = new_controlnet(base.transformer)
        use_exact_gelu(base.controlnet)
        return base
    return load_base(
        controlnet_settings(settings, training),
        with_controlnet=training.objective.control_scale > 0,
    )


def controlnet_settings(settings: BaseSettings, training: TrainSettings) -> BaseSettings:
    """Return the settings of a base with the ControlNet that a training begins with."""
    if training.controlnet_from in (None, NEW_CONTROLNET):
        return settings
    return replace(settings, controlnet=training.controlnet_from)


def new_controlnet(transformer: SD3Transformer2DModel) -> SD3ControlNetModel:
    """Return a ControlNet of the first half of a transformer's blocks that changes nothing yet.

    It has the transformer's weights, and zeros where its image comes in and its residuals go out,
    as diffusers' train_controlnet_sd3.py begins with (`SD3ControlNetModel.from_transformer`, which
    changes the transformer's config). As there it does not see pooled prompts.
    """
    layers = -(-len(transformer.transformer_blocks) // 2)
    config = {name: value for name, value in transformer.config.items() if name[0] != "_"}
    with torch.random.fork_rng(devices=[]):
        net = SD3ControlNetModel.from_config(
            {**config, "num_layers": layers, "extra_conditioning_channels": 0}
        )
    for name in ("pos_embed", "time_text_embed", "context_embedder"):
        getattr(net, name).load_state_dict(getattr(transformer, name).state_dict())
    blocks = transformer.transformer_blocks[:layers]
    for ours, theirs in zip(net.transformer_blocks, blocks, strict=True):
        # A transformer's last block has less for the prompt, as that of a single block has.
        ours.load_state_dict(
            theirs.state_dict(), strict=layers < len(transformer.transformer_blocks)
        )
    net.to(transformer.device, transformer.dtype).eval().requires_grad_(False)
    return net


def add_controlnet(base: Base, settings: TrainSettings) -> dict[str, torch.nn.Parameter]:
    """Make the base's ControlNet trainable, and return its float32 parameters by name."""
    assert base.controlnet is not None
    base.controlnet.float().requires_grad_(True)
    if settings.gradient_checkpointing:
        base.controlnet.enable_gradient_checkpointing()
    return {f"controlnet.{name}": p for name, p in base.controlnet.named_parameters()}


def release_controlnet(base: Base) -> None:
    """Freeze the base's ControlNet again, with weights of the base's type."""
    assert base.controlnet is not None
    base.controlnet.to(base.dtype).requires_grad_(False)
    base.controlnet.disable_gradient_checkpointing()


def save_controlnet(base: Base, directory: Path) -> None:
    """Write the trained ControlNet as diffusers does, in float32."""
    assert base.controlnet is not None
    base.controlnet.save_pretrained(directory / CONTROLNET_FOLDER)
