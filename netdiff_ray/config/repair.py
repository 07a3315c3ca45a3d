"""Configuration of `netdiff repair`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import NO_DEFAULT_SHOWN, check_share
from netdiff_ray.config.content import Execution, Input
from netdiff_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RepairConfig:
    """Make packets of drawn .nprint or .png files, NetDiffusion's own included.

    Each file is a flow. What is wrong with it is corrected and every corrected bit
    counted; a file that gives no flow is quarantined with its reason.
    """

    source: Input[Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]]
    """A drawn file, or a folder of them, whose inner folders name the labels."""
    target: Execution[Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]]
    """A capture (.pcap, .pcapng), or the folder of a dataset."""
    label: str | None = None
    """Label of every flow, instead of the folder's name."""
    payload: Literal["framed", "zeros", "random", "none"] = "framed"
    """What fills the drawn lengths: frames of what the port means, zeros, random bytes, or
    nothing (headers only, wire length kept)."""
    server_ports: Annotated[tuple[int, ...], NO_DEFAULT_SHOWN] = ()
    """Ports that servers of this traffic have; the drawn one is snapped to the nearest."""
    order: Literal["sequential", "interleaved"] = "sequential"
    """Flows one after another, or overlapping as they would arrive."""
    flows_per_second: float = 10.0
    """Mean arrival rate of interleaved flows."""
    flows_per_shard: int = 1000
    """Flows in one output file of a dataset."""
    pcap_per_flow: bool = False
    """Write a capture a flow."""
    seed: int = 0
    """Seed of all that is random: addresses, ports, payload, times inside a level."""
    max_quarantined_share: Execution[float] = 0.0
    """Share of the files that may be quarantined before the exit code says so."""

    def __post_init__(self):
        if self.flows_per_shard < 1:
            raise ConfigError(f"--flows-per-shard {self.flows_per_shard}: at least 1")
        if not self.flows_per_second > 0:
            raise ConfigError(f"--flows-per-second {self.flows_per_second}: more than 0")
        check_share(self.max_quarantined_share)
        if self.label is not None and not re.fullmatch(r"[\w.-]+", self.label):
            raise ConfigError(
                f"--label {self.label!r}: letters, digits, dot, underscore and hyphen only"
            )
