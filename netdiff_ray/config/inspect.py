"""Configuration of `netdiff inspect`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from netdiff_ray.config.checks import check_flow_settings
from netdiff_ray.errors import ConfigError
from netdiff_ray.flows import DEFAULT_HEIGHT, DEFAULT_IDLE_TIMEOUT_S


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Show what captures hold: packets, flows, link types, lengths, what was skipped and why."""

    captures: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="CAPTURE", help_behavior_hint="(required)"),
    ]
    """Captures, or folders whose captures (all files with a capture's suffix) are taken."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Silence that ends a flow, in seconds."""
    decapsulate: bool = False
    """Follow GRE, IP-in-IP, 6in4, VXLAN, Geneve, GTP-U and Teredo to the packets in them."""
    json: bool = False
    """Print JSON instead of tables."""

    def __post_init__(self):
        if not self.captures:
            raise ConfigError("name at least one capture")
        check_flow_settings(self.idle_timeout_s, DEFAULT_HEIGHT)
