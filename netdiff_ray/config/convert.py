"""Configuration of `netdiff convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from netdiff_ray.config.checks import LAYOUT_METAVAR, check_flow_settings, require_at_least_1
from netdiff_ray.errors import ConfigError
from netdiff_ray.flows import DEFAULT_HEIGHT, DEFAULT_IDLE_TIMEOUT_S
from netdiff_ray.nprint.layouts import layout_named


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
    """Fields to keep: nprint, nprint-1088 or stateful. Unless given, that of IN, and for a capture
    nprint in text and stateful in images."""
    strict: bool = False
    """Read captures as nPrint 1.2.1 does, its faults included."""
    decapsulate: bool = False
    """Follow GRE, IP-in-IP, 6in4, VXLAN, Geneve, GTP-U and Teredo to the packets in them. A capture
    made of a capture then holds IP packets alone, without a link layer."""
    count: int | None = None
    """Read the first so many records only (records that give no row count too)."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Silence that ends a flow, in seconds."""
    height: int = DEFAULT_HEIGHT
    """Most rows of one image."""

    def __post_init__(self):
        if self.layout is not None:
            layout_named(self.layout)
        if self.strict and self.decapsulate:
            raise ConfigError("nPrint follows no tunnels: choose strict or decapsulate")
        if self.count is not None:
            require_at_least_1(self, "count")
        check_flow_settings(self.idle_timeout_s, self.height)
