"""How flows of a label begin and end: aggregates that an adapter holds and repair uses.

Payload lengths, flags, windows and times of the first packets, and lengths and flags of the last,
by their number in the flow, which payload follows which, lengths and times of the packets
between and how these repeat, and how windows go on after the handshake. Nothing here is a single
flow's: values and successions that fewer than MIN_FLOWS_DISCLOSED flows have are suppressed.
"""

from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, PlainSerializer

from netdiff_ray.header_bytes import FIN, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, PSH, RST
from netdiff_ray.labels.copies import MOST_COPIES, NUM_OCTAVES, CopyTimeCount
from netdiff_ray.labels.pace import NUM_PACES, PaceCount, PacedTimeCount
from netdiff_ray.labels.repeats import REPEATED_FIELDS, RepeatCount
from netdiff_ray.labels.stack import MAX_SCALE
from netdiff_ray.labels.window_kinds import ANY_OCTAVE, MOST_OCTAVE, UNOPENED
from netdiff_ray.labels.window_steps import NUM_STEPS
from netdiff_ray.nprint.timecode import MOST_LEVEL

OPENING_PACKETS = 8
"""Packets of a flow that are its opening; the times of later ones are counted together."""
ENDING_PACKETS = 6
"""Packets of a TCP flow that are its ending, as far as they are not of its opening."""
LATER = OPENING_PACKETS + ENDING_PACKETS
"""Number of the packets between opening and ending."""
MIN_FLOWS_DISCLOSED = 2
"""Flows that must share a value for an adapter to hold it."""
SUPPRESSED = -1
"""Stands for payloads or windows that are not disclosed."""
CLOSED = (256, 512)
"""Bits beside a packet's flags: the client, or the server, has sent a FIN or RST before it."""
DISCLOSED_FLAGS = PSH | RST | FIN
"""TCP flags that a profile has."""
TRANSPORTS = (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP)
"""Transports of a profile; IPPROTO_ICMP is ICMPv6 too."""

_MOST_BYTES = 65_535


class PayloadState(NamedTuple):
    """The payload of a packet of a given number."""

    transport: int
    """One of TRANSPORTS."""
    packet: int
    """Number of the packet in its flow, from 0. Of a TCP flow of more than OPENING_PACKETS, the
    last ENDING_PACKETS of the others have the numbers up to LATER - 1; packets between, and later
    ones of other flows, have LATER."""
    side: int
    """0 for the client, 1 for the server."""
    payload_bytes: int
    """Bytes after the transport header, or SUPPRESSED."""
    flags: int
    """DISCLOSED_FLAGS of TCP with bits of CLOSED; of LATER, PSH alone."""


class PayloadCount(NamedTuple):
    """How many flows have a PayloadState."""

    transport: int
    packet: int
    side: int
    payload_bytes: int
    flags: int
    flows: int
    """Flows; of LATER, packets."""
    ending_flows: int
    """Flows that end with it."""

    @property
    def state(self) -> PayloadState:
        """What is counted."""
        return PayloadState(*self[:5])


class Succession(NamedTuple):
    """How many flows have a PayloadState after another."""

    transport: int
    packet: int
    """Number of the first packet."""
    side: int
    payload_bytes: int
    flags: int
    next_side: int
    next_payload_bytes: int
    next_flags: int
    flows: int

    @property
    def before(self) -> PayloadState:
        """State of the first packet."""
        return PayloadState(*self[:5])

    @property
    def after(self) -> PayloadState:
        """State of the packet after it."""
        return PayloadState(self.transport, self.packet + 1, *self[5:8])


class WindowCount(NamedTuple):
    """How many flows have a TCP window, of a kind of hosts (see `window_kinds`)."""

    packet: int
    side: int
    window: int
    """As in the header, or SUPPRESSED."""
    flows: int
    scale: int = UNOPENED
    """That the side uses, or UNOPENED."""
    octave: int = ANY_OCTAVE
    """Of the side's first window, or ANY_OCTAVE: these are counted twice."""


class WindowConduct(NamedTuple):
    """How many flows keep or change a side's TCP window after the handshake."""

    side: int
    steady_flows: int
    changing_flows: int


class WindowStepCount(NamedTuple):
    """How many steps a side's windows take in flows that change them."""

    side: int
    step: int
    """Class of `window_steps.window_step`."""
    steps: int


class MssCount(NamedTuple):
    """How many flows have an MSS in a side's SYN (RFC 9293 section 3.7.1)."""

    side: int
    mss: int
    """Or SUPPRESSED."""
    flows: int


class LevelCount(NamedTuple):
    """How many packets have a level of the time before them (see `nprint.timecode`)."""

    packet: int
    """OPENING_PACKETS for later packets, and for others whose level fewer than
    MIN_FLOWS_DISCLOSED flows have."""
    side: int
    level: int
    packets: int


def as_columns(row_type: type) -> tuple[BeforeValidator, PlainSerializer]:
    """Return how a list of NamedTuples is read from, and written as, a mapping of columns."""

    def rows_of(columns: object) -> list:
        names = row_type._fields
        if not isinstance(columns, dict) or set(columns) != set(names):
            raise ValueError(f"it needs the columns {', '.join(names)}")
        lists = [columns[name] for name in names]
        if not all(isinstance(values, list) and len(values) == len(lists[0]) for values in lists):
            raise ValueError("its columns need to be lists of one length")
        return [row_type(*row) for row in zip(*lists, strict=True)]

    def columns_of(rows: list) -> dict[str, list[int | str]]:
        return {name: [row[k] for row in rows] for k, name in enumerate(row_type._fields)}

    return BeforeValidator(rows_of), PlainSerializer(columns_of)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Aggregates of one label; in JSON each table is a mapping of its columns."""

    payloads: Annotated[list[PayloadCount], *as_columns(PayloadCount)] = field(default_factory=list)
    successions: Annotated[list[Succession], *as_columns(Succession)] = field(default_factory=list)
    windows: Annotated[list[WindowCount], *as_columns(WindowCount)] = field(default_factory=list)
    conduct: Annotated[list[WindowConduct], *as_columns(WindowConduct)] = field(
        default_factory=list
    )
    steps: Annotated[list[WindowStepCount], *as_columns(WindowStepCount)] = field(
        default_factory=list
    )
    mss: Annotated[list[MssCount], *as_columns(MssCount)] = field(default_factory=list)
    oversized: int = 0
    """Flows with segments larger than the other side's MSS allows, as captures have them of hosts
    whose network cards cut and join segments."""
    levels: Annotated[list[LevelCount], *as_columns(LevelCount)] = field(default_factory=list)
    paces: Annotated[list[PaceCount], *as_columns(PaceCount)] = field(default_factory=list)
    paced_times: Annotated[list[PacedTimeCount], *as_columns(PacedTimeCount)] = field(
        default_factory=list
    )
    repeats: Annotated[list[RepeatCount], *as_columns(RepeatCount)] = field(default_factory=list)
    copy_times: Annotated[list[CopyTimeCount], *as_columns(CopyTimeCount)] = field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        """Raise ValueError unless each row of each table has possible values."""
        for name in (
            "payloads", "successions", "windows", "conduct", "steps", "mss", "levels", "paces",
            "paced_times", "repeats", "copy_times",
        ):  # fmt: skip
            for row in getattr(self, name):
                if not _POSSIBLE[type(row)](row):
                    raise ValueError(f"{name} cannot have {row}")
        states = {row.state for row in self.payloads}
        for row in self.successions:
            for state in (row.before, row.after):
                if state not in states:
                    raise ValueError(f"a succession has {state}, which payloads lack")
        paces = {row.pace for row in self.paced_times}
        for pace in self.paces:
            if pace.pace not in paces:
                raise ValueError(f"paces have {pace}, which paced_times lack")


def _is_state(row: PayloadCount | Succession, most_packet: int) -> bool:
    return (
        row.transport in TRANSPORTS
        and 0 <= row.packet <= most_packet
        and row.side in (0, 1)
        and SUPPRESSED <= row.payload_bytes <= _MOST_BYTES
        and row.flows > 0
    )


_POSSIBLE = {
    PayloadCount: lambda row: _is_state(row, LATER) and row.ending_flows >= 0,
    Succession: lambda row: _is_state(row, LATER - 2),
    WindowCount: lambda row: (
        0 <= row.packet < OPENING_PACKETS
        and row.side in (0, 1)
        and SUPPRESSED <= row.window <= _MOST_BYTES
        and row.flows > 0
        and UNOPENED <= row.scale <= MAX_SCALE
        and ANY_OCTAVE <= row.octave <= MOST_OCTAVE
    ),
    WindowConduct: lambda row: (
        row.side in (0, 1) and min(row.steady_flows, row.changing_flows) >= 0
    ),
    WindowStepCount: lambda row: row.side in (0, 1) and 0 <= row.step < NUM_STEPS and row.steps > 0,
    MssCount: lambda row: (
        row.side in (0, 1) and SUPPRESSED <= row.mss <= _MOST_BYTES and row.flows > 0
    ),
    LevelCount: lambda row: (
        0 <= row.packet <= OPENING_PACKETS
        and row.side in (0, 1)
        and 0 <= row.level <= MOST_LEVEL
        and row.packets > 0
    ),
    PaceCount: lambda row: row.octave > 0 and 0 <= row.pace < NUM_PACES and row.flows > 0,
    PacedTimeCount: lambda row: (
        0 <= row.pace < NUM_PACES
        and 0 <= row.packet <= OPENING_PACKETS
        and row.side in (0, 1)
        and 0 <= row.level <= MOST_LEVEL
        and row.packets > 0
    ),
    RepeatCount: lambda row: (
        row.transport in TRANSPORTS
        and 0 <= row.field < len(REPEATED_FIELDS)
        and row.side in (0, 1)
        and row.before in (0, 1)
        and min(row.repeating, row.changing) >= 0
        and row.repeating + row.changing > 0
    ),
    CopyTimeCount: lambda row: (
        0 <= row.copy < MOST_COPIES and 0 <= row.octave < NUM_OCTAVES and row.segments > 0
    ),
}
"""Whether a row of each table is possible."""
