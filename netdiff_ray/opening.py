"""What flows of a label begin with: aggregates that an adapter holds and repair knows of.

Payload lengths, windows and times of the first packets, by their number in the flow, and which
payload follows which. Nothing here is a single flow's: values and successions that fewer than
two flows have are not told.

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
UNLISTED = -1
"""Stands for payloads or windows that are not told."""

_FEWEST_SHARING = 2
_MOST_VALUES = 64
_TRANSPORTS = {6: 6, 17: 17, 1: 1, 58: 1}
_PSH = 8

Counts = Counter[tuple[str, tuple[int, ...]]]
"""(what, value) to a number, which add up over parts of the windows:

    payload        flows by (transport, number, side, bytes, PSH)
    succession     flows by (transport, number, side, bytes, PSH, then those of the next packet)
    tcp window     flows by (number, side, window)
    level          packets by (number, side, level)
"""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Aggregates of one label. Sides are 0 for the client and 1 for the server, transports IP
    protocol numbers (1 is ICMPv6 too), numbers those of packets in their flow, from 0."""

    payloads: list[list[int]] = field(default_factory=list)
    """[transport, number, side, bytes after the transport header, PSH, flows]."""
    successions: list[list[int]] = field(default_factory=list)
    """[transport, number, side, bytes, PSH, side, bytes, PSH of the packet after, flows]."""
    windows: list[list[int]] = field(default_factory=list)
    """[number, side, TCP window as it stands in the header, flows]."""
    levels: list[list[int]] = field(default_factory=list)
    """[number, side, level of the time before the packet (see `nprint.timecode`), packets].
    Number OPENING_PACKETS has those of later packets, and others that fewer than two flows have."""

    def __post_init__(self) -> None:
        """Raises ValueError: a table has a row that it cannot have."""
        for name, columns, last_number in (
            ("payloads", 6, OPENING_PACKETS - 1), ("successions", 9, OPENING_PACKETS - 2),
            ("windows", 4, OPENING_PACKETS - 1), ("levels", 4, OPENING_PACKETS),
        ):  # fmt: skip
            for row in getattr(self, name):
                transport = row[0] if name in ("payloads", "successions") else 6
                number, side = row[columns > 4 :][:2]
                holds = len(row) == columns and transport in _TRANSPORTS.values() and row[-1] > 0
                holds = holds and 0 <= number <= last_number and side in (0, 1)
                if not holds or (name == "levels" and not 0 <= row[2] <= MOST_LEVEL):
                    raise ValueError(f"{name} cannot have {row}")
        listed = {tuple(row[:5]) for row in self.payloads}
        for transport, number, *states, _ in self.successions:
            for state in ((transport, number, *states[:3]), (transport, number + 1, *states[3:])):
                if state not in listed:
                    raise ValueError(f"a succession has {list(state)}, which payloads lack")


def count_openings(
    rows: np.ndarray,
    direction: np.ndarray,
    level: np.ndarray,
    window: np.ndarray,
    is_first: np.ndarray,
) -> Counts:
    """The counts of windows, their packets one after another.

    Args:
        rows: (P,) HEADER_ROW.
        direction: (P,) 0 from the client, 1 to it.
        level: (P,) of the time before each packet.
        window: (P,) which window each packet is of, ascending.
        is_first: (P,) bool, whether that is the first of its flow.
    """
    assert rows.dtype == HEADER_ROW
    place = np.arange(len(rows)) - np.searchsorted(window, window)
    number = np.where(is_first, np.minimum(place, OPENING_PACKETS), OPENING_PACKETS)
    transport = np.zeros(len(rows), np.int64)
    for protocol, name in _TRANSPORTS.items():
        transport[rows["protocol"] == protocol] = name
    octets = rows["network"].astype(np.int64)
    total, behind = (octets[:, at] * 256 + octets[:, at + 1] for at in (2, 4))  # IPv4, IPv6
    claimed = np.where(rows["version"] == 4, total, 40 + behind)
    payload = np.maximum(claimed - rows["network_len"] - rows["transport_len"], 0)
    is_tcp = transport == 6
    push = is_tcp & (rows["transport"][:, 13] & _PSH != 0)
    tcp_window = rows["transport"][:, 14].astype(np.int64) * 256 + rows["transport"][:, 15]
    there = (transport > 0) & (rows["version"] > 0) & (number < OPENING_PACKETS)
    state = np.stack([transport, number, direction, payload, push], axis=1).astype(np.int64)
    counts: Counts = Counter()
    _count(counts, "payload", state[there])
    next_in_window = np.append(window[1:] == window[:-1], False)
    follows = there & next_in_window
    follows &= np.append(there[1:] & (transport[1:] == transport[:-1]), False)
    after = np.flatnonzero(follows)
    _count(counts, "succession", np.concatenate([state[after], state[after + 1, 2:]], axis=1))
    state = np.stack([number, direction, tcp_window], axis=1).astype(np.int64)
    _count(counts, "tcp window", state[there & is_tcp])
    _count(counts, "level", np.stack([number, direction, level], axis=1).astype(np.int64))
    return counts


def _count(counts: Counts, what: str, values: np.ndarray) -> None:
    found, numbers = np.unique(values, axis=0, return_counts=True)
    for value, number in zip(found.tolist(), numbers.tolist(), strict=True):
        counts[what, tuple(value)] += number


def describe_opening(counts: Mapping[str, Mapping[tuple[int, ...], int]]) -> Opening:
    """The aggregates of a label, of all that was counted of it, by what and value."""
    payloads, name = _listed(counts.get("payload", {}), 1)
    windows, _ = _listed(counts.get("tcp window", {}), 0)
    successions: Counter[tuple[int, ...]] = Counter()
    for (transport, number, *states), flows in counts.get("succession", {}).items():
        before, after = (transport, number, *states[:3]), (transport, number + 1, *states[3:])
        successions[*name[before], *name[after][2:]] += flows
    levels: Counter[tuple[int, ...]] = Counter()
    for (number, *level), packets in counts.get("level", {}).items():
        levels[number if packets >= _FEWEST_SHARING else OPENING_PACKETS, *level] += packets
    return Opening(
        payloads=payloads,
        successions=[
            [*value, flows]
            for value, flows in sorted(successions.items())
            if flows >= _FEWEST_SHARING
        ],
        windows=windows,
        levels=[[*value, packets] for value, packets in sorted(levels.items())],
    )


def _listed(
    counts: Mapping[tuple[int, ...], int], at: int
) -> tuple[list[list[int]], dict[tuple[int, ...], tuple[int, ...]]]:
    """The values that may be told with their numbers, others summed up as UNLISTED, and what each
    value is among them. The packet's number is at `at` of a value, its side behind it."""
    names = {}
    ranks: Counter[tuple[int, ...]] = Counter()
    table: Counter[tuple[int, ...]] = Counter()
    for value, flows in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        place, kept = value[: at + 1], value[: at + 2]
        ranks[place] += 1
        names[value] = value
        if flows < _FEWEST_SHARING or ranks[place] > _MOST_VALUES:
            names[value] = (*kept, UNLISTED, *[0] * (len(value) - len(kept) - 1))
        table[names[value]] += flows
    return [[*value, flows] for value, flows in sorted(table.items())], names
