"""What each job takes: frozen, keyword-only dataclasses, from which the command line is made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from netdiff_ray.errors import UsageError
from netdiff_ray.flows import DEFAULT_HEIGHT, DEFAULT_IDLE_TIMEOUT_S
from netdiff_ray.nprint.layouts import HEIGHTS, layout_named

LAYOUT_METAVAR = "{nprint,nprint-1088,timed}"


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Convert between a capture, .nprint text and .png rasters, by the suffixes.

    Inputs: any capture (known by content), .nprint, .png. Outputs: .pcap, .pcapng,
    .nprint, .png. A capture of several flows gives several images, numbered before the
    suffix. Captures made from .nprint or .png hold the headers only, as they stand.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """What to read."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """What to write; its suffix decides the form."""
    layout: Annotated[str | None, tyro.conf.arg(metavar=LAYOUT_METAVAR)] = None
    """Fields to keep: nprint, nprint-1088 or timed. Unless given, that of IN, and for a
    capture nprint in text and timed in images."""
    strict: bool = False
    """Read captures as nPrint 1.2.1 does, its faults included."""
    count: int | None = None
    """Read the first so many records only (records that give no row count too)."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Silence that ends a flow, in seconds."""
    height: int = DEFAULT_HEIGHT
    """Most rows of one image."""

    def __post_init__(self):
        if self.layout is not None:
            layout_named(self.layout)
        if self.count is not None and self.count < 1:
            raise UsageError(f"--count {self.count}: at least 1 record has to be read")
        check_flow_settings(self.idle_timeout_s, self.height)


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Show what captures hold: packets, flows, link types, lengths, what was skipped and why."""

    captures: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE")]
    """Captures, or folders whose captures (all files with a capture's suffix) are taken."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Silence that ends a flow, in seconds."""
    json: bool = False
    """Print JSON instead of tables."""

    def __post_init__(self):
        if not self.captures:
            raise UsageError("name at least one capture")
        check_flow_settings(self.idle_timeout_s, DEFAULT_HEIGHT)


def check_flow_settings(idle_timeout_s: float, height: int) -> None:
    """Raise UsageError unless flows can be cut with these."""
    if not 0 < idle_timeout_s <= 1e9:
        raise UsageError(f"--idle-timeout-s {idle_timeout_s}: more than 0 seconds are needed")
    if height not in HEIGHTS:
        raise UsageError(f"--height {height}: one of {', '.join(map(str, HEIGHTS))}")


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Check captures against the named rules of protocol-compliant packets and flows.

    Exit code 0: all valid, but for the allowed fraction; 1: more is invalid; 2: a capture
    cannot be read to its end, or holds no IP packet.
    """

    captures: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE")]
    """Captures: pcap or pcapng, gzip too."""
    allow: float = 0.0
    """Fraction of packets, and of flows, that may be invalid."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        if not self.captures:
            raise UsageError("name at least one capture")
        if not 0 <= self.allow <= 1:
            raise UsageError(f"--allow {self.allow}: a fraction from 0 to 1")
