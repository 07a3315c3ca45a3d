"""Configuration of `netdiff export`."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from netdiff_ray.config.checks import paths_as_text, require
from netdiff_ray.errors import ConfigError

ExportForm = Literal[
    "zeek", "zeek-json", "nfstream", "cicflowmeter", "ipfix", "huggingface", "pcapml"
]
MERGED = "merge"
"""The form of a merged capture, which has a flag of its own."""
_LEAST_PART_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write the flows of a pcap dataset in the form of another tool.

    The target gets the files, and export.json, written last, which lists them.
    """

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Folder or URI of a pcap dataset."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """Folder or URI to write to: a new or empty one, or that of an earlier export."""
    to: ExportForm | None = None
    """zeek: conn.log; zeek-json: the same as JSON; nfstream and cicflowmeter: a CSV of flow
    features under the names of that tool; ipfix: a file of IPFIX messages, and labels.csv;
    huggingface: a folder that `datasets` loads, with a dataset card; pcapml: pcapng with each
    packet's flow id and label as its comment."""
    merge: bool = False
    """Write all packets in time order as capture-NNNNN.pcap, with their flows in labels.csv."""
    part_bytes: int | None = None
    """With merge: most bytes of a capture; further packets go to the next. Unless given, there is
    no limit."""
    part_seconds: float | None = None
    """With merge: time between the first packets of two captures. Unless given, there is no
    limit."""
    report: str | None = None
    """With huggingface: folder or URI of the dataset's evaluation report, whose verdict the card
    repeats."""
    licence: str = "unknown"
    """With huggingface: licence of the dataset, an identifier of the Hub such as cc0-1.0."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self):
        paths_as_text(self)
        if self.merge == (self.to is not None):
            forms = ", ".join(get_args(ExportForm))
            raise ConfigError(f"choose what to write: to (one of {forms}) or merge")
        for name in ("part_bytes", "part_seconds"):
            if getattr(self, name) is not None and not self.merge:
                raise ConfigError(f"{name} says where a merged capture is cut; it needs merge")
        if self.report is not None and self.to != "huggingface":
            raise ConfigError("report goes into a dataset card; it needs to huggingface")
        if self.part_bytes is not None:
            require(
                self.part_bytes >= _LEAST_PART_BYTES, "part_bytes", self.part_bytes,
                f"at least {_LEAST_PART_BYTES:,}",
            )  # fmt: skip
        if self.part_seconds is not None:
            require(self.part_seconds > 0, "part_seconds", self.part_seconds, "above 0")

    @property
    def form(self) -> str:
        """What is written: one of ExportForm, or MERGED."""
        return self.to or MERGED
