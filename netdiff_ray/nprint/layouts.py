"""Layouts: which fields stand in a raster, in what order.

Every layout keeps whole bytes of the wire in order, so that the codec can copy bytes;
`Layout` refuses any other.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from netdiff_ray.errors import ConfigError, NprintError
from netdiff_ray.fields import BIT_IN_HEADER, FIELD_NAMED, FIELDS, HEADERS

HEIGHTS = (16, 32, 64, 128, 256, 512, 1024)
"""Rows that a raster may have; each is a multiple of 16, as SD3 needs."""


@dataclass(frozen=True)
class Layout:
    """A choice of fields."""

    name: str
    fields: tuple[str, ...]
    """Field names, in column order."""
    zeroes_assigned: bool
    """Whether bits that only repair can set (values of TCP timestamp options and SACK blocks, the
    client's ephemeral port) are written 0."""

    @cached_property
    def width(self) -> int:
        """Columns, each a bit."""
        return sum(FIELD_NAMED[name].width for name in self.fields)

    @cached_property
    def offsets(self) -> dict[str, int]:
        """First column of each field."""
        offsets, at = {}, 0
        for name in self.fields:
            offsets[name] = at
            at += FIELD_NAMED[name].width
        return offsets

    def columns(self, field: str) -> slice:
        """Return the columns of a field."""
        at = self.offsets[field]
        return slice(at, at + FIELD_NAMED[field].width)

    def indices(self, fields: Iterable[str]) -> np.ndarray:
        """Return (C,) int64: where the columns of fields stand, field after field."""
        return np.concatenate([np.arange(self.width)[self.columns(name)] for name in fields])

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """`<field>_<k>` for each column, k counting from the most significant bit."""
        return tuple(f"{n}_{k}" for n in self.fields for k in range(FIELD_NAMED[n].width))

    def columns_of(self, headers: Collection[str], options: bool = True) -> np.ndarray:
        """Return (W,) bool: the columns of fields that need some headers (of HEADERS), with the IP
        and TCP options or without."""
        return np.repeat(
            [
                FIELD_NAMED[name].needs in headers and (options or name not in OPTIONS)
                for name in self.fields
            ],
            [FIELD_NAMED[name].width for name in self.fields],
        )

    @cached_property
    def needs_flow(self) -> bool:
        """Whether rows hold direction and time, which a single packet does not have."""
        return any(FIELD_NAMED[name].header == "flow" for name in self.fields)

    @cached_property
    def has_state(self) -> bool:
        """Whether rows hold what packets do in their flow (see `flow_state`)."""
        return any(name in self.fields for name in STATE_FIELDS)

    @cached_property
    def segments(self) -> np.ndarray:
        """(S, 4) int64 runs of whole bytes: index in HEADERS, first byte in that header,
        bytes, first byte (column / 8) in the layout."""
        runs: list[list[int]] = []
        for name in self.fields:
            field = FIELD_NAMED[name]
            header = HEADERS.index(field.header)
            bit = BIT_IN_HEADER[name]
            column = self.offsets[name]
            if runs and runs[-1][0] == header and runs[-1][1] + runs[-1][2] == bit:
                runs[-1][2] += field.width
            else:
                runs.append([header, bit, field.width, column])
        segments = np.array(runs, np.int64)
        assert not (segments[:, 1:] % 8).any(), f"layout {self.name} splits a byte"
        segments[:, 1:] //= 8
        return segments


def _without(*dropped: str) -> tuple[str, ...]:
    return tuple(f.name for f in FIELDS if f.name not in dropped)


FLOW_FIELDS = tuple(field.name for field in FIELDS if field.header == "flow")
"""Fields that are not of the packet alone but of its flow."""
_SAME = ("flow_same_length", "flow_same_window", "flow_same_gap")
STATE_FIELDS = ("flow_retransmission", "flow_sequence_hole", "flow_acknowledged", *_SAME)
"""Those of what packets do in their flow."""
OPTIONS = ("ipv4_opt", "tcp_opt")
"""Fields that a packet with the header may lack."""
_ADDRESSES = ("ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst")
_ONLY_REPAIR_SETS = (
    "ipv4_id", "ipv4_cksum", "tcp_seq", "tcp_ackn", "tcp_cksum", "udp_cksum", "icmp_cksum",
)  # fmt: skip

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("nprint", _without(*FLOW_FIELDS), zeroes_assigned=False),
        Layout("nprint-1088", _without(*FLOW_FIELDS, *_ADDRESSES), zeroes_assigned=False),
        Layout(
            "stateful",
            (*_without(*_SAME, *_ADDRESSES, "ipv4_opt", *_ONLY_REPAIR_SETS), *_SAME),
            zeroes_assigned=True,
        ),
    )
}
"""`nprint`: the 1,408 columns of the tool. `nprint-1088`: NetDiffusion's, without
addresses. `stateful` (704, the default): direction, time and what packets do in their flow,
without addresses, IPv4 options and the fields that only repair can set."""

DEFAULT_LAYOUT = "stateful"


def layout_named(name: str) -> Layout:
    """Return the layout called `name`.

    Raises:
        ConfigError: no layout has that name.
    """
    if name not in LAYOUTS:
        raise ConfigError(f"layout {name!r} is not known; layouts are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def layout_of_width(width: int) -> Layout:
    """Return the layout of that many columns; no two share a width.

    Raises:
        NprintError: no layout has that width.
    """
    for layout in LAYOUTS.values():
        if layout.width == width:
            return layout
    widths = ", ".join(f"{layout.width:,} ({layout.name})" for layout in LAYOUTS.values())
    raise NprintError(f"no layout has {width:,} columns; widths are {widths}")


def height_for(num_rows: int) -> int:
    """Return the smallest of HEIGHTS that holds `num_rows`.

    Raises:
        NprintError: more rows than the largest height.
    """
    for height in HEIGHTS:
        if num_rows <= height:
            return height
    raise NprintError(f"{num_rows:,} rows do not fit; a raster has at most {HEIGHTS[-1]:,}")
