"""Configuration of `netdiff check`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from netdiff_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Check captures against the named rules of protocol-compliant packets and flows.

    Exit code 0: all valid, but for the allowed fraction; 1: more is invalid; 2: a capture
    cannot be read to its end, or holds no IP packet.
    """

    captures: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="CAPTURE", help_behavior_hint="(required)"),
    ]
    """Captures: pcap or pcapng, gzip too."""
    max_invalid_share: float = 0.0
    """Fraction of packets, and of flows, that may be invalid."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        if not self.captures:
            raise ConfigError("name at least one capture")
        if not 0 <= self.max_invalid_share <= 1:
            raise ConfigError(
                f"--max-invalid-share {self.max_invalid_share}: a fraction from 0 to 1"
            )
