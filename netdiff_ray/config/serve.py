"""Configuration of `netdiff serve`."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import require, require_min_max
from netdiff_ray.config.diffusion import BaseSettings, DrawSettings
from netdiff_ray.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Hosts that only this machine reaches."""


Role = Literal["draw", "submit"]


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """What a client of the endpoint may ask for."""

    flows: int = 1000
    """Flows of one request; a job may have any number."""
    steps: int = 100
    """Denoising steps."""
    body_bytes: int = 65_536
    """Bytes of a request's body."""
    body_seconds: float = 10.0
    """Until the body is there."""
    seconds: float = 600.0
    """Until the answer is complete; it is cut off then."""
    streams: int = 8
    """Captures that are streamed at a time; a further request is answered 429 at once."""
    jobs: int = 4
    """Jobs that wait or run at a time."""

    def __post_init__(self):
        for name, value in vars(self).items():
            require(value > 0, f"limits.{name}", value, "above 0")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Answer requests for flows over HTTP, with a page to try it, on Ray Serve.

    It listens to this machine only, unless clients have to show a token.
    """

    adapters: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")
    ] = ()
    """Adapters, or folders of adapters; paths or URIs that every node reaches. One that is
    not there yet is taken up when it comes."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    tokens: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SHA256:ROLE ...")] = ()
    """Whom to answer: the hex SHA-256 of each bearer token, a colon and its role, draw or
    submit (which may draw too)."""
    jobs_target: str | None = None
    """Folder or URI below which jobs write their datasets; there are no jobs without."""
    base: str | None = None
    """Base model, a directory or a name; that of each adapter unless given."""
    revision: str | None = None
    """The commit of a base on the hub."""
    controlnet: str | None = None
    """ControlNet instead of the base's own, a directory or a name; it takes part where
    control_scale is above 0."""
    controlnet_revision: str | None = None
    """The commit of a ControlNet on the hub."""
    control_image: Literal["plan", "edges"] = "plan"
    """What the ControlNet takes, as in generate."""
    control_pixels: Literal["auto", "normalised", "sd3.5-large-canny"] = "auto"
    """Pixels that the ControlNet takes, as in generate."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; auto is bfloat16 on a GPU and float32 on a CPU."""
    slice_vae: bool = False
    """Decode one raster at a time, to save memory."""
    tile_vae: bool = False
    """Decode rasters in tiles, to save memory; the result differs a little."""
    draw: Annotated[DrawSettings, tyro.conf.arg(name="")] = field(default_factory=DrawSettings)
    """How to draw; seed and steps are what a request has that does not say."""
    denoisers: Annotated[tuple[int, int], tyro.conf.arg(metavar="LEAST MOST")] = (1, 1)
    """Replicas that draw; with a least of 0 they go when nobody asks, and come back."""
    gpus_per_denoiser: float | None = None
    """GPUs of each, 0 to draw on the CPU; 1 unless given, where there are any."""
    cpus_per_denoiser: float = 1.0
    """CPUs of each."""
    repairers: Annotated[tuple[int, int], tyro.conf.arg(metavar="LEAST MOST")] = (1, 2)
    """Replicas that repair."""
    cpus_per_repairer: float = 0.25
    """CPUs of each."""
    limits: ServeLimits = field(default_factory=ServeLimits)
    """What clients may ask for."""
    address: str | None = None
    """Ray cluster to run on; a local one unless given."""

    def __post_init__(self):
        require(0 < self.port < 65_536, "port", self.port, "from 1 to 65535")
        require_min_max(self, "denoisers")
        require_min_max(self, "repairers")
        if not self.host_is_loopback() and not self.tokens:
            raise ConfigError(
                f"host {self.host} is reachable by others, and there are no tokens: give the "
                "hash and role of a token, or listen on 127.0.0.1"
            )
        if self.controlnet is not None and not self.draw.control_scale:
            raise ConfigError(
                f"controlnet {self.controlnet} takes no part, since control_scale is 0; set it too"
            )
        self.roles()

    def base_settings(self, base: str, revision: str | None, device: str) -> BaseSettings:
        """Return the settings of the base that draws with an adapter.

        Args:
            base: that the adapter was trained on.
            revision: its commit.
            device: that draws.
        """
        return BaseSettings(
            base=self.base or base, revision=self.revision if self.base else revision,
            controlnet=self.controlnet, controlnet_revision=self.controlnet_revision,
            control_image=self.control_image, control_pixels=self.control_pixels,
            device=device, dtype=self.dtype, slice_vae=self.slice_vae, tile_vae=self.tile_vae,
        )  # fmt: skip

    def host_is_loopback(self) -> bool:
        """Return whether only this machine reaches the endpoint."""
        return self.host in LOOPBACK

    def roles(self) -> dict[str, Role]:
        """Return the role of each token, by its lower-case hex SHA-256."""
        roles: dict[str, Role] = {}
        for text in self.tokens:
            digest, _, role = text.lower().partition(":")
            if not re.fullmatch("[0-9a-f]{64}", digest) or role not in ("draw", "submit"):
                raise ConfigError(
                    f"tokens has {text[:8]}...; it must be the 64 hex digits of a token's SHA-256, "
                    "a colon, and draw or submit"
                )
            roles[digest] = role
        return roles
