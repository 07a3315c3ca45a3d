"""Check the files of a run's base, ControlNet and LoRAs before workers load them.

Loads neither torch nor diffusers. Only what lies on this machine is checked; the same checks are
made where it is loaded.
"""

from collections.abc import Iterable
from pathlib import Path

from netdiff_ray.config.diffusion import EMBEDDED_BASE, BaseSettings, Lora
from netdiff_ray.diffusion.controlnet_kinds import check_fits, describe_pixels
from netdiff_ray.diffusion.fetch import embedded_base
from netdiff_ray.diffusion.weight_files import (
    check_component,
    check_lora_names,
    check_text_encoders,
    check_transformer_file,
    config_in,
    refuse_single_file,
    tensors_in,
)


def check_base_files(settings: BaseSettings) -> None:
    """Raise ModelError if the transformer or the autoencoder cannot be loaded as it is meant."""
    refuse_single_file(settings.base)
    directory = _directory(settings.base)
    if settings.transformer_file is not None:
        check_transformer_file(Path(settings.transformer_file))
    elif directory is not None:
        check_component(directory / "transformer", settings.variant)
    if directory is not None:
        check_component(directory / "vae", settings.variant)


def check_text_files(settings: BaseSettings, *, with_t5: bool) -> None:
    """Raise ModelError if text encoders lack tokenizers, or cannot be loaded as they are meant."""
    directory = _directory(settings.base)
    if directory is None:
        return
    check_text_encoders(directory, settings.base, with_t5=with_t5)
    for number in ("", "_2", *["_3"] * with_t5):
        check_component(directory / f"text_encoder{number}", settings.variant)


def check_controlnet_files(settings: BaseSettings) -> str:
    """Raise ModelError if the ControlNet cannot be loaded as it is meant, or does not fit the base.

    Returns:
        Which pixels it takes, in words; empty if it is not on this machine.
    """
    directory = _directory(settings.base)
    own = None if directory is None else directory / "controlnet"
    folder = own if settings.controlnet is None else _directory(settings.controlnet)
    if folder is None or not (config := config_in(folder)):
        return ""
    if directory is not None:
        source = settings.controlnet or f"{settings.base}/controlnet"
        check_fits(config, config_in(directory / "transformer"), source, settings.base)
    check_component(folder, settings.variant)
    return describe_pixels(config, settings.control_image, settings.control_pixels)


def check_lora_files(loras: Iterable[Lora]) -> None:
    """Raise ModelError if diffusers would not load a LoRA, or only a part of it."""
    for lora in loras:
        path = Path(lora.source)
        if path.is_dir():
            files = sorted(path.glob(lora.weight_name or "*.safetensors"))
        else:
            files = [path] if path.is_file() and path.suffix == ".safetensors" else []
        for file in files:
            if names := tensors_in(file):
                check_lora_names(names, str(file))


def _directory(source: str) -> Path | None:
    """Return the directory of a base or ControlNet; None if it is not on this machine."""
    if source == EMBEDDED_BASE:
        return embedded_base()
    return Path(source) if Path(source).is_dir() else None
