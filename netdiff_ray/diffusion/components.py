"""Load the components of a base by diffusers' loaders for their classes."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3ControlNetModel,
    SD3Transformer2DModel,
)
from diffusers.loaders.single_file_utils import SingleFileComponentError

from netdiff_ray.config.diffusion import BaseSettings
from netdiff_ray.diffusion.controlnet_kinds import check_fits
from netdiff_ray.diffusion.fetch import directory_of, require_folder
from netdiff_ray.diffusion.weight_files import (
    check_component,
    check_transformer_file,
    config_in,
    variant_of,
)
from netdiff_ray.errors import ModelError

Model = SD3Transformer2DModel | AutoencoderKL | SD3ControlNetModel


def load_transformer(
    settings: BaseSettings, directory: Path, dtype: torch.dtype
) -> SD3Transformer2DModel:
    """Load the transformer: from its folder, or from a single file with the folder's config."""
    folder = require_folder(directory, "transformer", settings.base)
    if settings.transformer_file is None:
        return _load(SD3Transformer2DModel, folder, settings.variant, dtype)
    file = Path(settings.transformer_file)
    check_transformer_file(file)
    _check_class(SD3Transformer2DModel, folder)

    def load() -> SD3Transformer2DModel:
        model = SD3Transformer2DModel.from_single_file(
            str(file), config=str(directory), subfolder="transformer", torch_dtype=dtype,
            local_files_only=True,
        )  # fmt: skip
        missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
        if missing:
            raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
        return model

    advice = f"it has to be an SD3 transformer of the sizes in {folder}/config.json"
    return _in_words(load, str(file), SD3Transformer2DModel, advice)


def load_vae(settings: BaseSettings, directory: Path, dtype: torch.dtype) -> AutoencoderKL:
    """Load the autoencoder, in float32 if its config asks for it."""
    folder = require_folder(directory, "vae", settings.base)
    upcast = AutoencoderKL.load_config(folder).get("force_upcast", True)
    return _load(AutoencoderKL, folder, settings.variant, torch.float32 if upcast else dtype)


def load_scheduler(directory: Path, name: str) -> FlowMatchEulerDiscreteScheduler:
    """Load the scheduler."""
    if not (directory / "scheduler" / "scheduler_config.json").is_file():
        raise ModelError(
            f"{name} has no scheduler/scheduler_config.json; use a complete SD3 directory"
        )
    return FlowMatchEulerDiscreteScheduler.from_pretrained(directory, subfolder="scheduler")


def load_controlnet(
    settings: BaseSettings, directory: Path, dtype: torch.dtype
) -> SD3ControlNetModel | None:
    """Load the ControlNet that the settings name, else that of the base; None without either.

    Raises:
        ModelError: it is none of SD3's, or does not fit the base.
    """
    folder = controlnet_folder(settings, directory)
    if folder is None:
        return None
    _check_class(SD3ControlNetModel, folder)
    source = settings.controlnet or f"{settings.base}/controlnet"
    check_fits(config_in(folder), config_in(directory / "transformer"), source, settings.base)
    return _load(SD3ControlNetModel, folder, settings.variant, dtype)


def controlnet_folder(settings: BaseSettings, directory: Path) -> Path | None:
    """Return the folder of the ControlNet; None without one.

    Args:
        settings: of the base.
        directory: of the base.
    """
    if settings.controlnet is None:
        folder = directory / "controlnet"
        return folder if (folder / "config.json").is_file() else None
    folder = directory_of(settings.controlnet, settings.controlnet_revision, (), files=["*"])
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{settings.controlnet} has no config.json; give a diffusers SD3 ControlNet"
        )
    return folder


def _load(kind: type[Model], folder: Path, variant: str | None, dtype: torch.dtype):
    """Load the component in a folder."""
    _check_class(kind, folder)
    check_component(folder, variant)
    chosen = variant_of(folder, variant)
    advice = "download the directory again, with its .safetensors files"

    def load() -> Model:
        model, loaded = kind.from_pretrained(
            folder, torch_dtype=dtype, variant=chosen, output_loading_info=True
        )
        if missing := sorted(loaded["missing_keys"]):
            raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
        return model

    return _in_words(load, str(folder), kind, advice)


def _check_class(kind: type[Model], folder: Path) -> None:
    """Raise ModelError if the config in a folder is that of another class."""
    found = config_in(folder).get("_class_name", kind.__name__)
    if found != kind.__name__:
        raise ModelError(f"{folder} holds a {found}; an SD3-family base has {kind.__name__}")


def _in_words(load: Callable[[], Model], where: str, kind: type[Model], advice: str):
    """Return what `load` does; errors of diffusers become ModelError."""
    try:
        return load()
    except (OSError, ValueError, RuntimeError, LookupError, SingleFileComponentError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{where}: the weights of {kind.__name__} cannot be loaded ({reason}); {advice}"
        ) from None
