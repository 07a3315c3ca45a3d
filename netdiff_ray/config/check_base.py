"""Configuration of `netdiff check-base`."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import check_share, paths_as_text, require, require_at_least_1
from netdiff_ray.config.diffusion import BaseSettings
from netdiff_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CheckBaseConfig:
    """Check whether a base's autoencoder keeps the header bits of real rasters.

    What it loses, no training of the transformer brings back; fine-tuning its decoder may. Exit
    code 0: it keeps them, but for the allowed share; 1: it loses more, or packets; 2: nothing was
    checked.
    """

    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")]
    """Base model: nano, a diffusers SD3-family directory, or a hub name."""
    data: str
    """Encoded dataset, a folder or URI."""
    labels: tuple[str, ...] = ()
    """Labels to take windows of; all unless given."""
    windows: int = 32
    """Most windows of each label and height."""
    batch_size: int = 8
    """Rasters at a time."""
    max_wrong_share: float = 0.001
    """Share of the bits of packets that may be wrong."""
    tune_decoder: int = 0
    """Steps of fine-tuning the decoder for the three colours; every fourth window takes no part,
    and these are measured before and after. 0 for none."""
    adapter: str | None = None
    """Folder or URI of the adapter that gets the tuned decoder, and then draws with it."""
    learning_rate: float = 1e-4
    """Peak learning rate of the decoder."""
    seed: int = 0
    """Seed of the choice of windows in each step."""
    revision: str | None = None
    """The commit of a base on the hub."""
    variant: str | None = None
    """Variant of the weights, such as fp16, where the base has one."""
    device: str = "auto"
    """A torch device, or auto: the GPU if there is one, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; auto is bfloat16 on a GPU and float32 on a CPU."""
    slice_vae: bool = False
    """One raster at a time, to save memory."""
    tile_vae: bool = False
    """Rasters in tiles, to save memory; the result differs a little."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        paths_as_text(self)
        require_at_least_1(self, "windows", "batch_size")
        check_share("max_wrong_share", self.max_wrong_share)
        for name in ("tune_decoder", "seed"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        if (self.adapter is None) != (self.tune_decoder == 0):
            raise ConfigError("tune_decoder and adapter belong together: give both, or neither")

    def settings(self) -> BaseSettings:
        """Return the settings of the base."""
        return BaseSettings(
            base=self.base, revision=self.revision, variant=self.variant, device=self.device,
            dtype=self.dtype, slice_vae=self.slice_vae, tile_vae=self.tile_vae,
        )  # fmt: skip
