"""What flows of a label begin and end with: aggregates that an adapter holds and repair knows of.

Payload lengths, flags, windows and times of the first packets, and lengths and flags of the last,
by their number in the flow, which payload follows which, and lengths and times of the packets
between. Nothing here is a single flow's: values and successions that fewer than two flows have are
not told.

Shape letters: P packets.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from netdiff_ray.nprint.timecode import MOST_LEVEL
from netdiff_ray.packets.headers import HEADER_ROW

OPENING_PACKETS = 8
"""Packets of a flow that are its opening; the times of later ones are counted together."""
ENDING_PACKETS = 6
"""Packets of a TCP flow that are its ending, as far as they are not of its opening."""
LATER = OPENING_PACKETS + ENDING_PACKETS
"""Stands, as a packet's number, for those between opening and ending."""
SUPPRESSED = -1
"""Stands for payloads or windows that are not told."""
CLOSED = (256, 512)
"""Beside a packet's flags: the client, or the server, has sent a FIN or RST before it."""
DISCLOSED_FLAGS = 0x0D
"""PSH, RST and FIN."""

MIN_FLOWS_DISCLOSED = 2
_MOST_VALUES = 64
_MOST_LATER_VALUES = 256
_TRANSPORTS = {6: 6, 17: 17, 1: 1, 58: 1}
_ENDS_IT, _SYN, _PSH = 0x05, 0x02, 0x08
_MOST_BYTES = 65_535

Counts = Counter[tuple[str, tuple[int, ...]]]
"""(what, value) to a number, which add up over parts of the windows:

    payload        flows (LATER: packets) by (transport, number, side, bytes, flags)
    later          flows that have it in their first window, of those with LATER
    last           flows that end with it, of those in the opening
    succession     flows by (transport, number, side, bytes, flags, then those of the next packet)
    tcp window     flows by (number, side, window)
    mss            flows by (side, MSS of its SYN)
    oversized      flows by (0,) that have larger segments than the other side's MSS allows
    level          packets by (number, side, level)
"""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Aggregates of one label. Sides are 0 for the client and 1 for the server, transports IP
    protocol numbers (1 is ICMPv6 too), numbers those of packets in their flow, from 0: of a TCP
    flow of more than OPENING_PACKETS the last ENDING_PACKETS of the others have those behind,
    the last of them LATER - 1, and what is between has LATER, as have later ones of others."""

    payloads: list[list[int]] = field(default_factory=list)
    """[transport, number, side, bytes after the transport header, flags, flows, flows of them
    that end with it]. Flags are DISCLOSED_FLAGS of TCP with those of CLOSED; LATER has PSH
    alone."""
    successions: list[list[int]] = field(default_factory=list)
    """[transport, number, side, bytes, flags, side, bytes, flags of the packet after, flows]."""
    windows: list[list[int]] = field(default_factory=list)
    """[number, side, TCP window as it stands in the header, flows]."""
    mss: list[list[int]] = field(default_factory=list)
    """[side, MSS in its SYN (RFC 9293 section 3.7.1), flows]."""
    oversized: int = 0
    """Flows with segments larger than the other side's MSS allows, as captures have them of hosts
    whose network cards cut and join segments."""
    levels: list[list[int]] = field(default_factory=list)
    """[number, side, level of the time before the packet (see `nprint.timecode`), packets].
    Number OPENING_PACKETS has those of later packets, and others that fewer than two flows have."""

    def __post_init__(self) -> None:
        """Raises ValueError: a table has a row that it cannot have."""
        for name, columns, last_number in (
            ("payloads", 7, LATER), ("successions", 9, LATER - 2),
            ("windows", 4, OPENING_PACKETS - 1), ("mss", 3, 0), ("levels", 4, OPENING_PACKETS),
        ):  # fmt: skip
            for row in getattr(self, name):
                if len(row) != columns or not _holds(name, row, last_number):
                    raise ValueError(f"{name} cannot have {row}")
        listed = {tuple(row[:5]) for row in self.payloads}
        for transport, number, *states, _ in self.successions:
            for state in ((transport, number, *states[:3]), (transport, number + 1, *states[3:])):
                if state not in listed:
                    raise ValueError(f"a succession has {list(state)}, which payloads lack")


def _holds(name: str, row: list[int], last_number: int) -> bool:
    """Whether a row of the table `name` can be."""
    of_tcp = {"mss": [6, 0, *row], "windows": [6, *row], "levels": [6, *row]}
    transport, number, side, value, *_ = of_tcp.get(name, row)
    least, most = (0, MOST_LEVEL) if name == "levels" else (SUPPRESSED, _MOST_BYTES)
    flows = row[5] if name == "payloads" else row[-1]
    holds = transport in _TRANSPORTS.values() and 0 <= number <= last_number and side in (0, 1)
    return holds and least <= value <= most and flows > 0 and row[-1] >= 0


def count_profiles(
    rows: np.ndarray,
    direction: np.ndarray,
    level: np.ndarray,
    window: np.ndarray,
    is_first: np.ndarray,
    is_last: np.ndarray,
) -> Counts:
    """The counts of windows, their packets one after another.

    Args:
        rows: (P,) HEADER_ROW.
        direction: (P,) 0 from the client, 1 to it.
        level: (P,) of the time before each packet.
        window: (P,) which window each packet is of, ascending.
        is_first: (P,) bool, whether that is the first of its flow.
        is_last: (P,) bool, whether it is the last.
    """
    assert rows.dtype == HEADER_ROW
    begin = np.searchsorted(window, window)
    place = np.arange(len(rows)) - begin
    left = np.searchsorted(window, window, "right") - 1 - np.arange(len(rows))
    number = np.where(is_first, np.minimum(place, OPENING_PACKETS), OPENING_PACKETS)
    transport = np.zeros(len(rows), np.int64)
    for protocol, name in _TRANSPORTS.items():
        transport[rows["protocol"] == protocol] = name
    octets = rows["network"].astype(np.int64)
    total, behind = (octets[:, at] * 256 + octets[:, at + 1] for at in (2, 4))  # IPv4, IPv6
    claimed = np.where(rows["version"] == 4, total, 40 + behind)
    payload = np.maximum(claimed - rows["network_len"] - rows["transport_len"], 0)
    is_tcp = transport == 6
    flags = np.where(is_tcp, rows["transport"][:, 13] & DISCLOSED_FLAGS, 0)
    closed = np.zeros(len(rows), np.int64)
    for side, bit in enumerate(CLOSED):
        ends = (direction == side) & (flags & _ENDS_IT != 0)
        before = np.cumsum(ends) - ends
        closed += bit * (before > before[begin])
    tcp_window = rows["transport"][:, 14].astype(np.int64) * 256 + rows["transport"][:, 15]
    there = (transport > 0) & (rows["version"] > 0)
    is_opening = number < OPENING_PACKETS
    is_ending = is_tcp & is_last & (left < ENDING_PACKETS) & ~is_opening
    at = np.where(is_opening, number, np.where(is_ending, LATER - 1 - left, LATER))
    flags = np.where(at < LATER, flags + closed, flags & _PSH)
    state = np.stack([transport, at, direction, payload, flags], axis=1).astype(np.int64)
    counts: Counts = Counter()
    _count(counts, "payload", state[there])
    later = np.column_stack([window, state])[there & is_first & (at == LATER)]
    _count(counts, "later", np.unique(later, axis=0)[:, 1:])
    _count(counts, "last", state[there & is_opening & is_last & (left == 0)])
    follows = there & np.append(window[1:] == window[:-1], False)
    follows &= np.append(there[1:] & (transport[1:] == transport[:-1]), False)
    follows &= np.append((at[1:] == at[:-1] + 1) & (at[1:] != OPENING_PACKETS), False)
    follows &= np.append(at[1:] < LATER, False)
    after = np.flatnonzero(follows)
    _count(counts, "succession", np.concatenate([state[after], state[after + 1, 2:]], axis=1))
    state = np.stack([number, direction, tcp_window], axis=1).astype(np.int64)
    _count(counts, "tcp window", state[there & is_opening & is_tcp])
    syns = (
        is_tcp
        & is_opening
        & (place < 2)
        & (place == direction)
        & (rows["transport"][:, 13] & _SYN != 0)
    )
    syns &= (rows["transport_len"] >= 24) & (rows["transport"][:, 20:22] == (2, 4)).all(axis=1)
    mss = rows["transport"][:, 22].astype(np.int64) * 256 + rows["transport"][:, 23]
    _count(counts, "mss", np.stack([direction, mss], axis=1).astype(np.int64)[syns])
    allowed = np.full((len(rows), 2), _MOST_BYTES)
    allowed[begin[syns], direction[syns]] = mss[syns]
    segment = np.where(is_tcp, payload + rows["transport_len"] - 20, 0)
    oversized = segment > allowed[begin, 1 - direction]
    counts["oversized", (0,)] += len(np.unique(begin[oversized]))
    _count(counts, "level", np.stack([number, direction, level], axis=1).astype(np.int64))
    return counts


def _count(counts: Counts, what: str, values: np.ndarray) -> None:
    for value, number in zip(*counted(values), strict=True):
        counts[what, tuple(value)] += number


def counted(values: np.ndarray) -> tuple[list, list[int]]:
    """The values of (N,) that occur, or the rows of (N, K), and how often."""
    found, numbers = np.unique(values, axis=0, return_counts=True)
    return found.tolist(), numbers.tolist()


def describe_profile(counts: Mapping[str, Mapping[tuple[int, ...], int]]) -> Profile:
    """The aggregates of a label, of all that was counted of it, by what and value."""
    payloads, name = _listed(counts.get("payload", {}), 1, counts.get("later", {}))
    windows, _ = _listed(counts.get("tcp window", {}), 0)
    mss, _ = _listed(counts.get("mss", {}), -1)
    last: Counter[tuple[int, ...]] = Counter()
    for value, flows in counts.get("last", {}).items():
        last[name[value]] += flows
    successions: Counter[tuple[int, ...]] = Counter()
    for (transport, number, *states), flows in counts.get("succession", {}).items():
        before, after = (transport, number, *states[:3]), (transport, number + 1, *states[3:])
        successions[*name[before], *name[after][2:]] += flows
    levels: Counter[tuple[int, ...]] = Counter()
    for (number, *level), packets in counts.get("level", {}).items():
        levels[number if packets >= MIN_FLOWS_DISCLOSED else OPENING_PACKETS, *level] += packets
    return Profile(
        payloads=[[*row, _if_shared(last[tuple(row[:5])])] for row in payloads],
        successions=[
            [*value, flows] for value, flows in sorted(successions.items()) if _if_shared(flows)
        ],
        windows=windows,
        mss=mss,
        oversized=_if_shared(counts.get("oversized", {}).get((0,), 0)),
        levels=[[*value, packets] for value, packets in sorted(levels.items())],
    )


def _if_shared(flows: int) -> int:
    """A number of flows, or 0 if one flow alone would be told of."""
    return flows if flows >= MIN_FLOWS_DISCLOSED else 0


def _listed(
    counts: Mapping[tuple[int, ...], int],
    at: int,
    later: Mapping[tuple[int, ...], int] | None = None,
) -> tuple[list[list[int]], dict[tuple[int, ...], tuple[int, ...]]]:
    """The values that may be told with their numbers, others summed up as SUPPRESSED, and what each
    value is among them. The packet's number, if any, is at `at` of a value, its side behind it
    and then what may not be told; of what is then left, as much as two flows share is told.
    `later` has the flows of values with LATER, of which `counts` has packets."""
    names = {}
    ranks: Counter[tuple[int, ...]] = Counter()
    untold: Counter[tuple[int, ...]] = Counter()
    for value, flows in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        ranks[value[: at + 1]] += 1
        is_later = later is not None and value[at] == LATER
        most, sharing = _MOST_VALUES, flows
        if is_later:
            most, sharing = _MOST_LATER_VALUES, later.get(value, 0)
        names[value] = value
        if not _if_shared(sharing) or ranks[value[: at + 1]] > most:
            names[value] = (*value[: at + 2], SUPPRESSED, *value[at + 3 :])
            untold[names[value]] += flows
    table: Counter[tuple[int, ...]] = Counter()
    for value, flows in counts.items():
        name = names[value]
        if name[at + 2] == SUPPRESSED and not _if_shared(untold[name]):
            names[value] = (*value[: at + 2], SUPPRESSED, *[0] * (len(value) - at - 3))
        table[names[value]] += flows
    return [[*value, flows] for value, flows in sorted(table.items())], names
