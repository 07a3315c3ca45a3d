"""A base in memory: SD3 transformer, autoencoder, scheduler and, if any, ControlNet.

All sizes and factors come from the components' configs, so that any SD3-family model (Esser et
al., 2024, arXiv:2403.03206) can be loaded.

Shape letters: N rasters, H x W pixels, C x h x w latents, T text tokens, D their width,
E the pooled width.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3ControlNetModel,
    SD3Transformer2DModel,
)
from diffusers.models.activations import GELU

from netdiff_ray.config.diffusion import BaseSettings
from netdiff_ray.diffusion.attention import attention_by, check_attention
from netdiff_ray.diffusion.components import (
    load_controlnet,
    load_scheduler,
    load_transformer,
    load_vae,
)
from netdiff_ray.diffusion.controlnet_kinds import NORMALISED, PIXELS, pixels_of
from netdiff_ray.diffusion.fetch import digest_of, directory_of
from netdiff_ray.diffusion.token_pruning import pruned_to
from netdiff_ray.diffusion.weight_files import refuse_single_file
from netdiff_ray.errors import ConfigError, ModelError
from netdiff_ray.raster import to_rgb

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TILE = 256
"""Pixels along the side of a tile of the autoencoder; diffusers' own are as large as rasters."""
_HASHED = ("transformer", "vae", "scheduler")


@dataclass
class Base:
    """The weights of a base, on their device."""

    settings: BaseSettings
    """Settings that it was loaded with."""
    directory: Path
    """Holds its files."""
    digest: str
    """Hex sha256 of transformer, autoencoder and scheduler config, see `digest_of`."""
    transformer: SD3Transformer2DModel
    """Predicts velocities."""
    vae: AutoencoderKL
    """RGB to latents and back."""
    scheduler: FlowMatchEulerDiscreteScheduler
    """Only its config is used."""
    controlnet: SD3ControlNetModel | None
    """Turns a control image into residuals of the transformer's blocks."""
    encoded: dict[tuple[int, bytes], torch.Tensor] = field(default_factory=dict, repr=False)
    """Cache of `encode_once`."""
    expected: dict[tuple, torch.Tensor] = field(default_factory=dict, repr=False)
    """Cache of shared first steps: the clean latents that the base expects of pure noise."""

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    @property
    def vae_scale(self) -> int:
        """Pixels along the side of a latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def granule(self) -> int:
        """Pixels along the side of a token."""
        return self.vae_scale * self.transformer.config.patch_size

    @property
    def shift(self) -> float:
        """The noise-level shift of the scheduler's config."""
        return float(self.scheduler.config.shift)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape (C, h, w) of a raster's latents."""
        channels = self.transformer.config.in_channels
        return channels, height // self.vae_scale, width // self.vae_scale


@dataclass(frozen=True)
class Condition:
    """The condition of a batch."""

    prompt: torch.Tensor
    """(N, T, D) text embeddings."""
    pooled: torch.Tensor
    """(N, E) pooled text embeddings."""
    control: torch.Tensor | None = None
    """(N, C, h, w) latents of control images, see `encode_control`; None without ControlNet."""
    control_scale: float = 1.0
    """Weight of the ControlNet."""
    columns: torch.Tensor | None = None
    """(N, w) bool, columns of each sample's latents that have tokens, v of each; None for all (see
    `token_pruning`). Latents and control images are of these columns alone."""

    def repeated(self, k: int) -> "Condition":
        """Return the condition of N samples like the k-th."""

        def repeat(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values[k : k + 1].expand_as(values)

        return Condition(
            prompt=repeat(self.prompt), pooled=repeat(self.pooled), control=repeat(self.control),
            control_scale=self.control_scale, columns=repeat(self.columns),
        )  # fmt: skip


def device_of(name: str) -> torch.device:
    """Return the torch device called `name`; `auto` is the GPU if torch has one, else the CPU.

    Raises:
        ConfigError: torch does not have the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"device {name!r} cannot be used ({reason}); use cpu, or install a torch build for it"
        ) from None
    return device


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype called `name`; `auto` is bfloat16 on a GPU, float32 elsewhere."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return _DTYPES[name]


def load_base(settings: BaseSettings, *, with_controlnet: bool = True) -> Base:
    """Load a base, with frozen weights and in evaluation mode.

    Args:
        settings: of the base.
        with_controlnet: load the base's or the given ControlNet, if any.

    Raises:
        ConfigError: torch lacks the device or the attention backend.
        ModelError: a component is missing, gated, offline, unreadable or not of SD3's kind; says
            which, and what to do.
    """
    device = device_of(settings.device)
    dtype = dtype_of(settings.dtype, device)
    folders = ["transformer", "vae", "scheduler"]
    if with_controlnet and settings.controlnet is None:
        folders.append("controlnet")
    name = settings.base
    refuse_single_file(name)
    directory = directory_of(
        name, settings.revision, folders, files=["model_index.json"], variant=settings.variant
    )
    controlnet = load_controlnet(settings, directory, dtype) if with_controlnet else None
    transformer = load_transformer(settings, directory, dtype)
    vae = load_vae(settings, directory, dtype)
    if vae.config.latent_channels != transformer.config.in_channels:
        raise ModelError(
            f"{name}: the autoencoder has {vae.config.latent_channels} latent channels and the "
            f"transformer takes {transformer.config.in_channels}; use components of one model"
        )
    scheduler = load_scheduler(directory, name)
    for model in (transformer, vae, controlnet):
        if model is not None:
            _move(model, device, name)
            use_exact_gelu(model)
    if device.type == "cpu":
        vae.to(memory_format=torch.channels_last)  # takes half the time of channels first
    check_attention(transformer, settings.attention)
    if settings.slice_vae:
        vae.enable_slicing()
    if settings.tile_vae:
        vae.enable_tiling()
        vae.tile_sample_min_size = _TILE
        vae.tile_latent_min_size = _TILE // 2 ** (len(vae.config.block_out_channels) - 1)
    if settings.compile:
        transformer.compile()
        if controlnet is not None:
            controlnet.compile()
    return Base(
        settings=settings, directory=directory, digest=_digest(settings, directory),
        transformer=transformer, vae=vae, scheduler=scheduler, controlnet=controlnet,
    )  # fmt: skip


def _move(model: torch.nn.Module, device: torch.device, name: str) -> None:
    """Move a component to its device, frozen and in evaluation mode.

    Raises:
        ModelError: memory does not suffice.
    """
    try:
        model.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError:
        raise ModelError(
            f"out of memory loading {name} to {device}: set dtype bfloat16, or use a GPU that has "
            "more memory, or fewer workers on each"
        ) from None


def _digest(settings: BaseSettings, directory: Path) -> str:
    """Return the digest of what was loaded, see `Base.digest`."""
    single = {}
    if settings.transformer_file is not None:
        single = {"transformer": Path(settings.transformer_file)}
    return digest_of(directory, _HASHED, settings.variant, single)


def use_exact_gelu(model: torch.nn.Module) -> None:
    """Replace the approximation of GELU by tanh, if the model is on a CPU.

    It differs from GELU by less than 0.0005, and takes a CPU three times as long.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    for module in model.modules() if on_cpu else ():
        if isinstance(module, GELU):
            module.approximate = "none"


def check_size(base: Base, height: int, width: int) -> None:
    """Raise ModelError unless the base can draw rasters of `height` x `width` pixels.

    Both sides must be multiples of a token's, and within reach of the position embeddings.
    """
    granule = base.granule
    for side, name in ((height, "height"), (width, "width")):
        if side % granule:
            raise ModelError(
                f"a raster's {name} of {side} is not a multiple of {granule}, the side of a token "
                f"of {base.settings.base}"
            )
    reach = base.transformer.config.pos_embed_max_size
    if reach and max(height, width) > reach * granule:
        raise ModelError(
            f"a raster of {height} x {width} is too large for {base.settings.base}, which "
            f"reaches {reach * granule} pixels a side; lower the height"
        )


@torch.no_grad()
def encode_rasters(base: Base, rgb: np.ndarray) -> torch.Tensor:
    """Encode rasters to latents, as the transformer takes them.

    The mean of the autoencoder's distribution, not a sample from it, so that the latents are a
    function of the raster.

    Args:
        rgb: (N, H, W, 3) uint8.

    Returns:
        (N, C, h, w) float32 on the base's device.
    """
    config = base.vae.config
    return (_encode(base, rgb) - (config.shift_factor or 0.0)) * config.scaling_factor


def encode_once(base: Base, nprint: np.ndarray, height: int) -> torch.Tensor:
    """Return the latents (1, C, h, w) of an nprint's raster, computed once.

    Args:
        nprint: (P, W) int8 of 1, 0, -1, one of a few that are needed again and again.
        height: H of the raster, at least P.
    """
    key = height, nprint.tobytes()
    if key not in base.encoded:
        base.encoded[key] = encode_rasters(base, to_rgb(nprint, height)[None])
    return base.encoded[key]


def require_controlnet(base: Base) -> None:
    """Raise ModelError unless the base has a ControlNet."""
    if base.controlnet is None:
        raise ModelError(
            f"{base.settings.base} has no ControlNet; set control_scale to 0, or set controlnet "
            "to a ControlNet such as InstantX/SD3-Controlnet-Canny"
        )


@torch.no_grad()
def encode_control(base: Base, rgb: np.ndarray) -> torch.Tensor:
    """Encode control images to latents, as the ControlNet takes them.

    Of the pixels that it takes (see `controlnet_kinds`), and not shifted if it was trained so (its
    config's `force_zeros_for_pooled_projection`, as in diffusers'
    StableDiffusion3ControlNetPipeline). Arguments and result as in `encode_rasters`.

    Raises:
        ModelError: the base has no ControlNet.
    """
    require_controlnet(base)
    config, settings = base.vae.config, base.settings
    net = base.controlnet.config
    shift = 0.0 if net.force_zeros_for_pooled_projection else (config.shift_factor or 0.0)
    pixels = pixels_of(net, settings.control_image, settings.control_pixels)
    return (_encode(base, rgb, pixels) - shift) * config.scaling_factor


def _encode(base: Base, rgb: np.ndarray, pixels: str = NORMALISED) -> torch.Tensor:
    """Encode pictures, given as one of PIXELS, to latents as the autoencoder has them."""
    given = torch.from_numpy(np.ascontiguousarray(rgb)).to(base.device).permute(0, 3, 1, 2)
    if pixels == NORMALISED:
        given = given.float() / 127.5 - 1
    else:
        factor, summand = PIXELS[pixels]
        given = given.float() * factor + summand
    latents = base.vae.encode(given.to(base.vae.dtype)).latent_dist.mode().float()
    _require_finite(base, latents)
    return latents


def _require_finite(base: Base, values: torch.Tensor) -> None:
    """Raise ModelError unless what the autoencoder gave is finite."""
    if not torch.isfinite(values).all():
        raise ModelError(
            f"the autoencoder of {base.settings.base} gives values that are not finite numbers in "
            f"{str(base.vae.dtype).removeprefix('torch.')}: use dtype bfloat16 or float32; if that "
            "changes nothing, its weights are damaged"
        )


@torch.no_grad()
def decode_latents(base: Base, latents: torch.Tensor) -> np.ndarray:
    """Decode latents to rasters.

    Args:
        latents: (N, C, h, w), as returned by `encode_rasters`.

    Returns:
        (N, H, W, 3) uint8.
    """
    config = base.vae.config
    latents = latents.float() / config.scaling_factor + (config.shift_factor or 0.0)
    pixels = base.vae.decode(latents.to(base.vae.dtype)).sample.float()
    _require_finite(base, pixels)
    pixels = (pixels * 127.5 + 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def velocity(
    base: Base, latents: torch.Tensor, sigmas: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """Predict noise minus clean latents.

    Args:
        latents: (N, C, h, w) at noise level sigma: (1 - sigma) clean + sigma noise; w is v where
            not all columns have tokens.
        sigmas: (N,) float32 from 0 to 1.
        condition: prompts, and control images if the ControlNet takes part.

    Returns:
        (N, C, h, w) float32.
    """
    timesteps = sigmas.to(base.device) * base.scheduler.config.num_train_timesteps
    latents = latents.to(base.dtype)
    prompt = condition.prompt.to(base.dtype)
    pooled = condition.pooled.to(base.dtype)
    residuals = None
    columns = condition.columns
    with attention_by(base.settings.attention), pruned_to(base.transformer, columns):
        if condition.control is not None:
            residuals = _control_residuals(base, latents, timesteps, prompt, pooled, condition)
        out = base.transformer(
            hidden_states=latents, timestep=timesteps, encoder_hidden_states=prompt,
            pooled_projections=pooled, block_controlnet_hidden_states=residuals,
            return_dict=False,
        )  # fmt: skip
    return out[0].float()


def _control_residuals(
    base: Base,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    prompt: torch.Tensor,
    pooled: torch.Tensor,
    condition: Condition,
) -> list[torch.Tensor]:
    """Return the ControlNet's residuals.

    The configs of the three kinds of SD3 ControlNet distinguish them, as in diffusers' pipeline.
    """
    net = base.controlnet
    config, dtype = net.config, net.dtype  # float32 while it is trained
    if config.force_zeros_for_pooled_projection:
        pooled = torch.zeros_like(pooled)
    takes_text = config.joint_attention_dim is not None
    hidden = latents if net.pos_embed is not None else base.transformer.pos_embed(latents)
    with pruned_to(net, condition.columns):
        residuals = net(
            hidden_states=hidden.to(dtype), timestep=timesteps,
            pooled_projections=pooled.to(dtype),
            encoder_hidden_states=prompt.to(dtype) if takes_text else None,
            controlnet_cond=condition.control.to(dtype),
            conditioning_scale=condition.control_scale, return_dict=False,
        )[0]  # fmt: skip
    return [residual.to(base.dtype) for residual in residuals]
