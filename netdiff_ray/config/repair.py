"""Configuration of `netdiff repair`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import (
    check_share,
    require,
    require_at_least_1,
)
from netdiff_ray.config.content import Execution, Input


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
    payload: Literal["dialogue", "zeros", "random", "none"] = "dialogue"
    """What fills the drawn lengths: dialogue (messages that answer each other), zeros, random
    bytes, or none (headers only; the length on the wire stays)."""
    server_ports: tuple[int, ...] = ()
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
        require_at_least_1(self, "flows_per_shard")
        rate = self.flows_per_second
        require(rate > 0, "flows_per_second", rate, "above 0")
        check_share("max_quarantined_share", self.max_quarantined_share)
        holds = self.label is None or re.fullmatch(r"[\w.-]+", self.label) is not None
        require(holds, "label", self.label, "of letters, digits, dots, underscores and hyphens")
