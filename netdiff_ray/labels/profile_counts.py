"""Count how flows of a label begin and end, and describe the counts as a profile.

Shape letters: P packets.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from netdiff_ray.header_bytes import (
    FIN,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_TL,
    IPV6_HEADER_BYTES,
    IPV6_LEN,
    PSH,
    RST,
    SYN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_OPT,
    TCP_OPTION_MSS,
    TCP_WSIZE,
    words16,
)
from netdiff_ray.labels.by_size import size_octave
from netdiff_ray.labels.copies import CopyTimeCount, count_copies
from netdiff_ray.labels.pace import (
    UNPACED,
    PacedTimeCount,
    disclosed_paces,
    paces_of,
)
from netdiff_ray.labels.profile import (
    CLOSED,
    DISCLOSED_FLAGS,
    ENDING_PACKETS,
    LATER,
    MIN_FLOWS_DISCLOSED,
    OPENING_PACKETS,
    SUPPRESSED,
    LevelCount,
    MssCount,
    PayloadCount,
    Profile,
    Succession,
    WindowConduct,
    WindowCount,
    WindowStepCount,
)
from netdiff_ray.labels.repeats import count_repeats, disclosed_repeats
from netdiff_ray.labels.row_counts import Row, count_rows
from netdiff_ray.labels.window_kinds import ANY_OCTAVE, window_kinds
from netdiff_ray.labels.window_steps import count_window_steps
from netdiff_ray.packets.headers import HEADER_ROW

_MOST_VALUES = 64
_MOST_LATER_VALUES = 256
_TRANSPORTS = {
    IPPROTO_TCP: IPPROTO_TCP, IPPROTO_UDP: IPPROTO_UDP,
    IPPROTO_ICMP: IPPROTO_ICMP, IPPROTO_ICMPV6: IPPROTO_ICMP,
}  # fmt: skip
_MSS_OPTION_BYTES = 4
_MOST_BYTES = 65_535
_LEAST_BINNED = 16


@dataclass(kw_only=True)
class ProfileCounts:
    """Counts of a label's packets, which add up over parts of its windows."""

    payloads: Counter[Row] = field(default_factory=Counter)
    """Flows (LATER: packets) by PayloadState."""
    later_flows: Counter[Row] = field(default_factory=Counter)
    """Flows by PayloadState with LATER, of their first windows."""
    later_bins: Counter[Row] = field(default_factory=Counter)
    """Flows by the same, payloads in bins."""
    endings: Counter[Row] = field(default_factory=Counter)
    """Flows by PayloadState of the opening with which they end."""
    successions: Counter[Row] = field(default_factory=Counter)
    """Flows by PayloadState and side, bytes and flags of the next packet."""
    windows: Counter[Row] = field(default_factory=Counter)
    """Flows by number, kind of hosts (scale and octave), side and TCP window."""
    conduct: Counter[Row] = field(default_factory=Counter)
    """Sides of flows by side and whether they change their window (1) or keep it (0)."""
    steps: Counter[Row] = field(default_factory=Counter)
    """Steps of windows by side and class, of sides that change theirs."""
    step_flows: Counter[Row] = field(default_factory=Counter)
    """Flows by the same."""
    mss: Counter[Row] = field(default_factory=Counter)
    """Flows by side and MSS of its SYN."""
    oversized: Counter[Row] = field(default_factory=Counter)
    """Flows, under (), with segments larger than the other side's MSS allows."""
    levels: Counter[Row] = field(default_factory=Counter)
    """Packets by number, side and level."""
    paces: Counter[Row] = field(default_factory=Counter)
    """Flows by octave and pace of their first windows."""
    paced_times: Counter[Row] = field(default_factory=Counter)
    """Packets by pace of their window, number, side and level."""
    repeats: Counter[Row] = field(default_factory=Counter)
    """Packets by transport, field, side, whether the packet before repeats, and whether they do."""
    repeat_flows: Counter[Row] = field(default_factory=Counter)
    """Flows by the same, of their first windows."""
    copy_times: Counter[Row] = field(default_factory=Counter)
    """Segments that are sent again by copy and octave of the time before them."""
    copy_flows: Counter[Row] = field(default_factory=Counter)
    """Flows by the same, of their first windows."""

    def update(self, other: "ProfileCounts") -> None:
        """Add the counts of other windows."""
        for kind in fields(self):
            getattr(self, kind.name).update(getattr(other, kind.name))


def count_profile(
    rows: np.ndarray,
    direction: np.ndarray,
    level: np.ndarray,
    window: np.ndarray,
    is_first: np.ndarray,
    is_last: np.ndarray,
    states: np.ndarray | None = None,
) -> ProfileCounts:
    """Count the packets of windows of a label, one window after another.

    Args:
        rows: (P,) HEADER_ROW.
        direction: (P,) 0 from the client, 1 to it.
        level: (P,) of the time before each packet.
        window: (P,) which window each packet is of, ascending.
        is_first: (P,) bool, whether that is the first of its flow.
        is_last: (P,) bool, whether it is the last.
        states: (P,) PACKET_STATE, where the layout has what packets do in their flows.
    """
    assert rows.dtype == HEADER_ROW
    index = np.arange(len(rows))
    begin = np.searchsorted(window, window)
    left = np.searchsorted(window, window, "right") - 1 - index
    number = np.where(is_first, np.minimum(index - begin, OPENING_PACKETS), OPENING_PACKETS)
    transport = np.zeros(len(rows), np.int64)
    for protocol, name in _TRANSPORTS.items():
        transport[rows["protocol"] == protocol] = name
    is_tcp = transport == IPPROTO_TCP
    payload = payload_bytes(rows)
    counted_rows = (transport > 0) & (rows["version"] > 0)
    is_opening = number < OPENING_PACKETS
    is_ending = is_tcp & is_last & (left < ENDING_PACKETS) & ~is_opening
    packet = np.where(is_opening, number, np.where(is_ending, LATER - 1 - left, LATER))
    flags = np.where(is_tcp, rows["transport"][:, TCP_FLAGS] & DISCLOSED_FLAGS, 0)
    closed = _closed_before(flags, direction, begin)
    flags = np.where(packet < LATER, flags + closed, flags & PSH)
    state = _columns(transport, packet, direction, payload, flags)
    later = np.column_stack([window, state])[counted_rows & is_first & (packet == LATER)]
    ends = counted_rows & is_opening & is_last & (left == 0)
    follows = counted_rows & np.append(window[1:] == window[:-1], False)
    follows &= np.append(counted_rows[1:] & (transport[1:] == transport[:-1]), False)
    follows &= np.append((packet[1:] == packet[:-1] + 1) & (packet[1:] != OPENING_PACKETS), False)
    follows &= np.append(packet[1:] < LATER, False)
    before = np.flatnonzero(follows)
    scale, octave = window_kinds(rows, direction, begin)
    windows = _columns(number, scale, octave, direction, words16(rows["transport"], TCP_WSIZE))
    windows = windows[counted_rows & is_opening & is_tcp]
    coarser = windows[windows[:, 2] != ANY_OCTAVE]
    coarser[:, 2] = ANY_OCTAVE
    syns = is_tcp & is_opening & (index - begin < 2) & (index - begin == direction) & _has_mss(rows)
    mss = words16(rows["transport"], TCP_OPT + 2)
    segment = np.where(is_tcp, payload + rows["transport_len"] - TCP_HEADER_BYTES, 0)
    allowed = np.full((len(rows), 2), _MOST_BYTES)
    allowed[begin[syns], direction[syns]] = mss[syns]
    oversized = segment > allowed[begin, 1 - direction]
    conduct, steps, step_flows = count_window_steps(
        rows, direction, window, counted_rows & is_first
    )
    of_states = {}
    if states is not None:
        repeats = count_repeats(states, transport, direction, window, ~is_opening, is_first)
        copies = count_copies(
            states,
            transport,
            payload > 0,
            rows["transport"][:, TCP_FLAGS],
            direction,
            level,
            window,
            is_first,
        )
        names = ("repeats", "repeat_flows", "copy_times", "copy_flows")
        of_states = dict(zip(names, (*repeats, *copies), strict=True))
    starts = np.unique(begin)
    paces = paces_of(level, starts)
    pace = np.repeat(paces, np.diff(starts, append=len(rows)))
    sizes = np.diff(starts, append=len(rows)).tolist()
    firsts = is_first[starts] & (paces != UNPACED)
    return ProfileCounts(
        payloads=count_rows(state[counted_rows]),
        later_flows=count_rows(np.unique(later, axis=0)[:, 1:]),
        later_bins=count_rows(np.unique(_binned(later, 4), axis=0)[:, 1:]),
        endings=count_rows(state[ends]),
        successions=count_rows(np.concatenate([state[before], state[before + 1, 2:]], axis=1)),
        windows=count_rows(np.concatenate([windows, coarser])),
        conduct=conduct,
        steps=steps,
        step_flows=step_flows,
        mss=count_rows(_columns(direction, mss)[syns]),
        oversized=Counter({(): len(np.unique(begin[oversized]))}),
        levels=count_rows(_columns(number, direction, level)),
        paces=Counter(
            (size_octave(sizes[k]), int(paces[k])) for k in np.flatnonzero(firsts).tolist()
        ),
        paced_times=count_rows(_columns(pace, number, direction, level)[pace != UNPACED]),
        **of_states,
    )


def payload_bytes(rows: np.ndarray) -> np.ndarray:
    """Return (P,) int64: bytes after the transport header that the IP length leaves."""
    ipv6_bytes = IPV6_HEADER_BYTES + words16(rows["network"], IPV6_LEN)
    total = np.where(rows["version"] == 4, words16(rows["network"], IPV4_TL), ipv6_bytes)
    return np.maximum(total - rows["network_len"] - rows["transport_len"], 0)


def _closed_before(flags: np.ndarray, direction: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Return (P,) int64: bits of CLOSED for the sides that have sent a FIN or RST earlier in the
    window, whose first packets are `begin` (P,)."""
    closed = np.zeros(len(flags), np.int64)
    for side, bit in enumerate(CLOSED):
        closes = (direction == side) & (flags & (FIN | RST) != 0)
        before = np.cumsum(closes) - closes
        closed += bit * (before > before[begin])
    return closed


def _has_mss(rows: np.ndarray) -> np.ndarray:
    """Return (P,) bool: whether a packet has SYN and begins its options with an MSS."""
    transport = rows["transport"]
    option = transport[:, TCP_OPT : TCP_OPT + 2] == (TCP_OPTION_MSS, _MSS_OPTION_BYTES)
    fits = rows["transport_len"] >= TCP_HEADER_BYTES + _MSS_OPTION_BYTES
    return (transport[:, TCP_FLAGS] & SYN != 0) & fits & option.all(axis=1)


def _columns(*columns: np.ndarray) -> np.ndarray:
    """Return columns (P,) as rows, int64."""
    return np.stack(columns, axis=1).astype(np.int64)


def describe_profile(counts: ProfileCounts) -> Profile:
    """Return the profile of a label, without what fewer than MIN_FLOWS_DISCLOSED flows have."""
    folded = _folded_payloads(counts)
    payloads, disclosed = _disclose(
        _renamed(counts.payloads, folded), 1, _renamed(counts.later_flows, folded)
    )
    disclosed = {row: disclosed[folded[row]] for row in counts.payloads}
    windows, _ = _disclose(counts.windows, 2)
    mss, _ = _disclose(counts.mss, -1)
    endings: Counter[Row] = Counter()
    for state, flows in counts.endings.items():
        endings[disclosed[state]] += flows
    successions: Counter[Row] = Counter()
    for (transport, packet, *states), flows in counts.successions.items():
        before, after = (transport, packet, *states[:3]), (transport, packet + 1, *states[3:])
        successions[*disclosed[before], *disclosed[after][2:]] += flows
    levels: Counter[Row] = Counter()
    for (packet, *level), packets in counts.levels.items():
        levels[packet if packets >= MIN_FLOWS_DISCLOSED else OPENING_PACKETS, *level] += packets
    paces, of_paces = disclosed_paces(counts.paces, counts.paced_times, MIN_FLOWS_DISCLOSED)
    paced_times: Counter[Row] = Counter()
    for (pace, packet, *level), packets in of_paces.items():
        at = packet if packets >= MIN_FLOWS_DISCLOSED else OPENING_PACKETS
        paced_times[pace, at, *level] += packets
    return Profile(
        payloads=[
            PayloadCount(*state, flows, _disclosed_flows(endings[state]))
            for state, flows in payloads.items()
        ],
        successions=[
            Succession(*states, flows)
            for states, flows in sorted(successions.items())
            if _disclosed_flows(flows)
        ],
        windows=[
            WindowCount(packet, side, window, flows, scale, octave)
            for (packet, scale, octave, side, window), flows in windows.items()
        ],
        conduct=[
            WindowConduct(side, *(_disclosed_flows(counts.conduct[side, k]) for k in (0, 1)))
            for side in (0, 1)
            if any(_disclosed_flows(counts.conduct[side, k]) for k in (0, 1))
        ],
        steps=[
            WindowStepCount(*row, steps)
            for row, steps in sorted(counts.steps.items())
            if _disclosed_flows(counts.step_flows[row])
        ],
        mss=[MssCount(*row, flows) for row, flows in mss.items()],
        oversized=_disclosed_flows(counts.oversized[()]),
        levels=[LevelCount(*row, packets) for row, packets in sorted(levels.items())],
        paces=paces,
        paced_times=[PacedTimeCount(*row, packets) for row, packets in sorted(paced_times.items())],
        repeats=disclosed_repeats(counts.repeats, counts.repeat_flows, MIN_FLOWS_DISCLOSED),
        copy_times=[
            CopyTimeCount(*row, segments)
            for row, segments in sorted(counts.copy_times.items())
            if _disclosed_flows(counts.copy_flows[row])
        ],
    )


def _binned(rows: np.ndarray, at: int) -> np.ndarray:
    """Return rows (P, K) with the payload at column `at` in the middle of its bin, a quarter of an
    octave; payloads of less than _LEAST_BINNED bytes as they are."""
    payload = rows[:, at]
    bins = np.floor(4 * np.log2(np.maximum(payload, 1)))
    middle = np.rint(2.0 ** ((bins + 0.5) / 4)).astype(np.int64)
    binned = rows.copy()
    binned[:, at] = np.where(payload < _LEAST_BINNED, payload, np.minimum(middle, _MOST_BYTES))
    return binned


def _folded_payloads(counts: ProfileCounts) -> dict[Row, Row]:
    """Return what each state of `payloads` is counted as: itself if MIN_FLOWS_DISCLOSED flows have
    it, or else with the payload in the middle of its bin if as many flows have that, or else with
    the nearest disclosed payload within an octave; itself where there is none."""
    rare = {row for row in counts.payloads if not _disclosed_flows(_sharing(counts, row))}
    names = sorted(rare)
    bins = [tuple(row) for row in _binned(np.array(names, np.int64).reshape(-1, 5), 3).tolist()]
    flows: Counter[Row] = Counter()
    for row, binned in zip(names, bins, strict=True):
        flows[binned] += counts.payloads[row]
    kept: dict[Row, list[int]] = {}
    folded = {row: row for row in counts.payloads}
    for row, binned in zip(names, bins, strict=True):
        shared = counts.later_bins[binned] if row[1] == LATER else flows[binned]
        if _disclosed_flows(shared):
            folded[row] = binned
    for row in {name for state, name in folded.items() if state not in rare or name != state}:
        kept.setdefault((*row[:3], row[4]), []).append(row[3])
    for row in names:
        near = [n for n in kept.get((*row[:3], row[4]), ()) if n and n <= 2 * row[3] <= 4 * n]
        if folded[row] == row and near:
            payload = min(near, key=lambda n: (abs(n - row[3]), n))
            folded[row] = (*row[:3], payload, row[4])
    return folded


def _sharing(counts: ProfileCounts, row: Row) -> int:
    """Return how many flows have a state of `payloads`."""
    return counts.later_flows[row] if row[1] == LATER else counts.payloads[row]


def _renamed(counts: Mapping[Row, int], names: Mapping[Row, Row]) -> Counter[Row]:
    """Return counts with rows of the same name added up."""
    renamed: Counter[Row] = Counter()
    for row, number in counts.items():
        renamed[names[row]] += number
    return renamed


def _disclosed_flows(flows: int) -> int:
    """Return a number of flows, or 0 if it is below MIN_FLOWS_DISCLOSED."""
    return flows if flows >= MIN_FLOWS_DISCLOSED else 0


def _disclose(
    counts: Mapping[Row, int], at: int, later_flows: Mapping[Row, int] | None = None
) -> tuple[dict[Row, int], dict[Row, Row]]:
    """Sum up rare rows under SUPPRESSED.

    Args:
        counts: flows by row.
        at: index in a row of the packet's number, -1 if it has none. Its side comes next and
            then the value that is suppressed if rare; of the numbers behind that, as many are
            disclosed as MIN_FLOWS_DISCLOSED flows share.
        later_flows: flows by row with LATER, of which `counts` has packets.

    Returns:
        flows by disclosed row, sorted; the disclosed row of each row.
    """
    disclosed = {}
    ranks: Counter[Row] = Counter()
    suppressed: Counter[Row] = Counter()
    for row, flows in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        ranks[row[: at + 1]] += 1
        is_later = later_flows is not None and row[at] == LATER
        most, sharing = _MOST_VALUES, flows
        if is_later:
            most, sharing = _MOST_LATER_VALUES, later_flows.get(row, 0)
        disclosed[row] = row
        if not _disclosed_flows(sharing) or ranks[row[: at + 1]] > most:
            disclosed[row] = (*row[: at + 2], SUPPRESSED, *row[at + 3 :])
            suppressed[disclosed[row]] += flows
    table: Counter[Row] = Counter()
    for row, flows in counts.items():
        name = disclosed[row]
        if name[at + 2] == SUPPRESSED and not _disclosed_flows(suppressed[name]):
            disclosed[row] = (*row[: at + 2], SUPPRESSED, *[0] * (len(row) - at - 3))
        table[disclosed[row]] += flows
    return dict(sorted(table.items())), disclosed
