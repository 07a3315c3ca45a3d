"""LoRA weights in a base's transformer: added to be trained, or fused for drawing."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import diffusers
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings, Lora, TrainSettings
from netdiff_ray.diffusion.adapter import DECODER_FILE, Adapter, check_base
from netdiff_ray.diffusion.base import Base, load_base
from netdiff_ray.diffusion.decoder_tuning import load_decoder
from netdiff_ray.diffusion.fetch import directory_of
from netdiff_ray.diffusion.source_checks import check_lora_files
from netdiff_ray.diffusion.weight_files import check_lora_names
from netdiff_ray.errors import ConfigError, ModelError
from netdiff_ray.labels.flow_plan import seed_of

_TRAINED = "default"
_ADAPTER = "adapter"
_LORA_TENSOR = re.compile(r"(\.lora(_[AB]|\.down|\.up|_down|_up)(\.\w+)?\.weight|\.alpha)$")
"""End of the name of a LoRA tensor, after that of its module."""


def add_lora(base: Base, settings: TrainSettings) -> dict[str, torch.nn.Parameter]:
    """Add LoRA to the base's transformer, and return its float32 parameters by name.

    Raises:
        ConfigError: the transformer has no module that `target_modules` names.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.target_modules),
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(settings.optimization.seed, "lora", 0, "weights"))
        try:
            base.transformer.add_adapter(config, adapter_name=_TRAINED)
        except ValueError as error:
            raise ConfigError(
                f"target_modules {', '.join(settings.target_modules)}: "
                f"{str(error).strip().splitlines()[0]}"
            ) from None
    if settings.gradient_checkpointing:
        base.transformer.enable_gradient_checkpointing()
    parameters = {}
    for name, parameter in base.transformer.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            parameters[name] = parameter
    return parameters


def save_lora(base: Base, directory: Path) -> None:
    """Write the trained LoRA of the base's transformer as diffusers does."""
    diffusers.StableDiffusion3Pipeline.save_lora_weights(
        directory,
        transformer_lora_layers=get_peft_model_state_dict(base.transformer, adapter_name=_TRAINED),
        transformer_lora_adapter_metadata=base.transformer.peft_config[_TRAINED].to_dict(),
    )


def load_for_drawing(adapter: Adapter, settings: BaseSettings, draw: DrawSettings) -> Base:
    """Load a base, and add an adapter and the LoRAs of `draw` to its weights.

    Args:
        adapter: what to draw with.
        settings: of the base that the adapter was trained on.
        draw: says which LoRAs to stack, and whether the ControlNet is needed.

    Raises:
        ModelError: see `load_base` and `load_adapter`.
    """
    check_lora_files(draw.loras)
    base = load_base(settings, with_controlnet=draw.control_scale > 0)
    load_adapter(base, adapter, draw.loras)
    return base


def load_adapter(base: Base, adapter: Adapter, loras: Sequence[Lora] = ()) -> None:
    """Add an adapter's LoRA, and others stacked on it, to the base's weights for good; the
    adapter's decoder, if it has one, takes the place of the base's.

    For another adapter, load the base again.

    Raises:
        ModelError: the adapter belongs to another base, or weights do not fit or cannot be
            obtained.
    """
    check_base(adapter.metadata, base.digest, base.settings.base)
    names, scales = [_ADAPTER], [1.0]
    _load_lora(base, str(adapter.directory), None, _ADAPTER)
    for k, lora in enumerate(loras):
        source = str(lora.source)
        if not source.endswith(".safetensors"):
            patterns = [lora.weight_name or "*.safetensors"]
            source = str(directory_of(source, lora.revision, (), files=patterns))
        _load_lora(base, source, lora.weight_name, f"lora_{k}")
        names.append(f"lora_{k}")
        scales.append(lora.scale)
    base.transformer.set_adapters(names, scales)
    base.transformer.fuse_lora(adapter_names=names)
    base.transformer.unload_lora()
    if (adapter.directory / DECODER_FILE).is_file():
        load_decoder(base, adapter.directory / DECODER_FILE)


def _check_modules(base: Base, names: Iterable[str], source: str) -> None:
    """Raise ModelError unless the transformer has the modules that LoRA weights are for.

    Args:
        base: of the transformer.
        names: of the tensors, as diffusers has them.
        source: of the LoRA, for the message.
    """
    modules = {name for name, _ in base.transformer.named_modules()}
    wanted = {_LORA_TENSOR.sub("", name.removeprefix("transformer.")) for name in names}
    if unknown := sorted(wanted - modules):
        raise ModelError(
            f"{source}: these LoRA weights do not fit {base.settings.base}: it has no "
            f"{unknown[0]} ({len(unknown)} of {len(wanted)} modules are missing); use the base "
            "that they were trained on"
        )


def _load_lora(base: Base, source: str, weight_name: str | None, name: str) -> None:
    """Load LoRA weights into the base's transformer under a name, not fused yet."""
    pipeline = diffusers.StableDiffusion3Pipeline
    try:
        weights, metadata = pipeline.lora_state_dict(
            source, weight_name=weight_name, local_files_only=True, return_lora_metadata=True
        )
        check_lora_names(weights, source)
        transformer = {k: v for k, v in weights.items() if k.startswith("transformer.")}
        _check_modules(base, transformer, source)
        pipeline.load_lora_into_transformer(
            transformer, base.transformer, adapter_name=name, metadata=metadata
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{source}: these LoRA weights do not fit {base.settings.base} ({reason}); use the "
            "base that they were trained on"
        ) from None
