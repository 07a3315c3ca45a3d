"""What each job takes: frozen, keyword-only dataclasses, from which the command line is made."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from netdiff_ray.errors import UsageError
from netdiff_ray.flows import DEFAULT_HEIGHT, DEFAULT_IDLE_TIMEOUT_S
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, HEIGHTS, layout_named

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


@dataclass(frozen=True, kw_only=True)
class RepairConfig:
    """Make packets of drawn .nprint or .png files, NetDiffusion's own included.

    Each file is a flow. What is wrong with it is corrected and every corrected bit
    counted; a file that gives no flow is set aside with its reason.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """A drawn file, or a folder of them, whose inner folders name the labels."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """A capture (.pcap, .pcapng), or the folder of a dataset."""
    label: str | None = None
    """Label of every flow, instead of the folder's name."""
    payload: Literal["framed", "zeros", "random", "none"] = "framed"
    """What fills the drawn lengths: frames of what the port means, zeros, random bytes, or
    nothing (headers only, wire length kept)."""
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
    """Seed of everything that is drawn: addresses, ports, payload, times inside a level."""
    allow: float = 0.0
    """Share of the files that may be set aside before the exit code says so."""

    def __post_init__(self):
        if self.flows_per_shard < 1:
            raise UsageError(f"--flows-per-shard {self.flows_per_shard}: at least 1")
        if not self.flows_per_second > 0:
            raise UsageError(f"--flows-per-second {self.flows_per_second}: more than 0")
        check_share(self.allow)
        if self.label is not None and not re.fullmatch(r"[\w.-]+", self.label):
            raise UsageError(
                f"--label {self.label!r}: letters, digits, dot, underscore and hyphen only"
            )


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check a dataset: hashes and counts against its manifest, packets against its index."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Folder or URI of the dataset."""


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Encode a collection of captures as nPrint windows in Parquet, in parallel on Ray.

    Running it again does what is missing. A capture that cannot be read, or only in part,
    is listed in the dataset's quarantine.jsonl with the reason.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURES")]
    """A folder, a glob or one capture; a path or a URI (s3://, gs://)."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder or URI of the dataset."""
    labels: str | None = None
    """CSV with columns capture and label. Unless given, the innermost folder called
    label=<label> names the label, else the parent folder."""
    layout: Annotated[str, tyro.conf.arg(metavar=LAYOUT_METAVAR)] = DEFAULT_LAYOUT
    """Fields to keep."""
    height: int = DEFAULT_HEIGHT
    """Most packets of one window; a longer flow has several."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Silence that ends a flow, in seconds."""
    part_megabytes: int = 64
    """Captures that one task encodes into one file, in MiB."""
    split_megabytes: int = 256
    """A pcap that is larger, and not compressed, is read in byte ranges by many tasks."""
    allow: float = 0.05
    """Share of the captures that may be damaged before the exit code says so."""
    address: str | None = None
    """Ray cluster to run on; a local one unless given."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self):
        layout_named(self.layout)
        check_flow_settings(self.idle_timeout_s, self.height)
        for name in ("part_megabytes", "split_megabytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")
        check_share(self.allow)


def check_share(allow: float) -> None:
    """Raise UsageError unless this is an allowed share."""
    if not 0 <= allow <= 1:
        raise UsageError(f"--allow {allow}: a share, 0 to 1")


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
