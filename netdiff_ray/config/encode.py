"""Configuration of `netdiff encode`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from netdiff_ray.config.checks import (
    LAYOUT_METAVAR,
    check_flow_settings,
    check_share,
    paths_as_text,
    require_at_least_1,
)
from netdiff_ray.config.content import Execution, Input
from netdiff_ray.config.labels import LabelSettings
from netdiff_ray.flows import DEFAULT_HEIGHT, DEFAULT_IDLE_TIMEOUT_S
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, layout_named


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Encode a collection of captures as nPrint windows in Parquet, in parallel on Ray.

    Running it again does what is missing. A capture that cannot be read, or only in part,
    is listed in the dataset's _quarantine.jsonl with the reason.
    """

    source: Input[Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURES")]]
    """A folder, a glob or one capture; a path or a URI (s3://, gs://)."""
    target: Execution[Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]]
    """Folder or URI of the dataset."""
    labels_csv: Input[str | None] = None
    """CSV with columns capture and label. Unless given, the innermost folder called
    label=<label> names the label, else the parent folder."""
    labels: Input[Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE")]] = ()
    """Files of labels of flows, see netdiff labels. Unless given, flows have the label of their
    capture."""
    label_settings: Annotated[LabelSettings, tyro.conf.OmitArgPrefixes] = field(
        default_factory=LabelSettings
    )
    """How those files are read."""
    layout: Annotated[str, tyro.conf.arg(metavar=LAYOUT_METAVAR)] = DEFAULT_LAYOUT
    """Fields to keep."""
    height: int = DEFAULT_HEIGHT
    """Most packets of one window; a longer flow has several."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Silence that ends a flow, in seconds."""
    decapsulate: bool = False
    """Follow GRE, IP-in-IP, 6in4, VXLAN, Geneve, GTP-U and Teredo to the packets in them."""
    part_megabytes: int = 64
    """Captures that one task encodes into one file, in MiB."""
    split_megabytes: int = 256
    """A pcap that is larger, and not compressed, is read in byte ranges by many tasks."""
    max_quarantined_share: Execution[float] = 0.05
    """Share of the captures that may be quarantined before the exit code says so."""
    address: Execution[str | None] = None
    """Ray cluster to run on; a local one unless given."""
    json: Execution[bool] = False
    """Print the result, and lines of progress, as JSON."""

    def __post_init__(self):
        paths_as_text(self)
        layout_named(self.layout)
        check_flow_settings(self.idle_timeout_s, self.height)
        require_at_least_1(self, "part_megabytes", "split_megabytes")
        check_share("max_quarantined_share", self.max_quarantined_share)
