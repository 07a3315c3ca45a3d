"""Configuration of `netdiff check`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from netdiff_ray.config.checks import check_share
from netdiff_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Check captures against the named rules of protocol-compliant packets and flows.

    Exit code 0: all valid, but for the allowed share; 1: more is invalid; 2: a capture
    cannot be read to its end, or holds no IP packet.
    """

    captures: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="CAPTURE", help_behavior_hint="(required)"),
    ]
    """Captures: pcap or pcapng, compressed or not."""
    max_invalid_share: float = 0.0
    """Share of packets, and of flows, that may be invalid."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        if not self.captures:
            raise ConfigError("name at least one capture")
        check_share("max_invalid_share", self.max_invalid_share)
