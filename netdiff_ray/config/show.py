"""Configuration of `netdiff show`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from netdiff_ray.config.checks import (
    LAYOUT_METAVAR,
    check_flow_settings,
    require_at_least_1,
)
from netdiff_ray.flows import DEFAULT_HEIGHT, DEFAULT_IDLE_TIMEOUT_S
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, layout_named


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Show the flows of a pcap dataset or a capture, or the packets of one of them.

    Without FLOW_ID the flows are listed; a capture of a single flow shows its packets.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder or URI of a pcap dataset, or a capture."""
    flow_id: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="FLOW_ID")] = None
    """The flow to show, by its id or the beginning of it."""
    picture: Path | None = None
    """PNG to write: the raster of the flow's first window, what was drawn for it where that is
    kept, and the control image of its plan."""
    layout: Annotated[str, tyro.conf.arg(metavar=LAYOUT_METAVAR)] = DEFAULT_LAYOUT
    """Fields of the raster in the picture."""
    most: int = 100
    """Most rows of the table."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Silence that ends a flow of a capture, in seconds."""

    def __post_init__(self):
        require_at_least_1(self, "most")
        layout_named(self.layout)
        check_flow_settings(self.idle_timeout_s, DEFAULT_HEIGHT)
