"""Configuration of `netdiff labels`, and of the labels of flows in other jobs."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from netdiff_ray.config.checks import check_flow_settings, require
from netdiff_ray.errors import ConfigError
from netdiff_ray.flows import DEFAULT_HEIGHT, DEFAULT_IDLE_TIMEOUT_S

LABEL_FIELDS = ("src", "dst", "sport", "dport", "protocol", "start", "end", "duration", "label")
DROP, KEEP = "drop", "keep"


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """How label files are read, and what becomes of flows without a label."""

    label_format: Literal[
        "auto",
        "csv",
        "cic-ids2017",
        "cic-ids2018",
        "unsw-nb15",
        "ctu-13",
        "zeek",
        "suricata",
        "pcapml",
    ] = "auto"
    """Form of the label files; their content tells it unless given. pcapml: its captures, or its
    label files of filters."""
    label_columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=NAME")] = ()
    """Columns of a CSV by what they say: src, dst, sport, dport, protocol, start, end, duration,
    label. The usual names are known; src=sender names another."""
    label_zone: str | None = None
    """What the labels' clock is ahead of UTC, as in -03:00, or its zone, as in America/Halifax.
    The captures tell it unless given."""
    label_hours: Literal[12, 24] | None = None
    """12 if hours of the afternoon have no PM, else 24. The captures tell it unless given."""
    label_dates: Literal["day-first", "month-first"] | None = None
    """Order of dates whose year stands last. The data tell it unless given."""
    unlabelled: Annotated[str, tyro.conf.arg(metavar="{drop,keep,NAME}")] = DROP
    """What becomes of flows without a label: drop, keep with the label of their capture, or a
    label for them."""

    def __post_init__(self):
        require(bool(self.unlabelled), "unlabelled", self.unlabelled, "drop, keep or a label")
        self.columns()

    def columns(self) -> dict[str, str]:
        """Return the name of the column of each field of `label_columns`."""
        columns = {}
        for pair in self.label_columns:
            name, equals, column = pair.partition("=")
            if not equals or name not in LABEL_FIELDS or not column:
                raise ConfigError(
                    f"label_columns has {pair!r}; it must be FIELD=NAME, with a field of "
                    f"{', '.join(LABEL_FIELDS)}"
                )
            columns[name] = column
        return columns


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Show which flows of captures have a label, and which not and why, before encoding.

    Exit code 0: flows have labels, and the labels' clock is certain; 1: not so.
    """

    captures: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURES")]
    """A folder, a glob or one capture; a path or a URI (s3://, gs://)."""
    labels: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="LABELS", help_behavior_hint="(required)"),
    ]
    """Files of labels of flows."""
    settings: Annotated[LabelSettings, tyro.conf.OmitArgPrefixes] = field(
        default_factory=LabelSettings
    )
    """How the files are read."""
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Silence that ends a flow, in seconds."""
    decapsulate: bool = False
    """Follow GRE, IP-in-IP, 6in4, VXLAN, Geneve, GTP-U and Teredo to the packets in them."""
    json: bool = False
    """Print JSON instead of tables."""

    def __post_init__(self):
        if not self.labels:
            raise ConfigError("name at least one file of labels")
        check_flow_settings(self.idle_timeout_s, DEFAULT_HEIGHT)
