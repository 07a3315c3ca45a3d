"""A label's profile as arrays for the kernels of the rule `profile`.

Shape letters: S states (payloads of a packet number), T successions, V values, G rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.header_bytes import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP
from netdiff_ray.labels.pace import NUM_PACES
from netdiff_ray.labels.profile import (
    LATER,
    OPENING_PACKETS,
    SUPPRESSED,
    PayloadCount,
    PayloadState,
    Profile,
    Succession,
    WindowCount,
)
from netdiff_ray.labels.window_kinds import NUM_KINDS, coarser_kind, window_kind
from netdiff_ray.labels.window_steps import NUM_STEPS
from netdiff_ray.nprint.timecode import MOST_LEVEL

_UNKNOWN_STEP = 1e-9
"""Steps of a class that counts none: less likely than any number of wrong bits."""
NUM_NUMBERS = LATER + 1
"""Packet numbers of a `Profile`."""

_FIRST_ROW = {IPPROTO_TCP: 0, IPPROTO_UDP: NUM_NUMBERS, IPPROTO_ICMP: 2 * NUM_NUMBERS}
_NUM_ROWS = 3 * NUM_NUMBERS


class PayloadTable(NamedTuple):
    """Payloads and their successions, by row: transport (TCP, UDP, ICMP) times NUM_NUMBERS plus
    the packet's number."""

    starts: np.ndarray
    """(3 * NUM_NUMBERS + 1,) int64: first state of each row."""
    states: np.ndarray
    """(S, 3) int64: side, bytes of payload, flags; those of a row ascending."""
    keys: np.ndarray
    """(S,) int64: all three in one number (see `key_of`), ascending in each row."""
    share: np.ndarray
    """(S,) float64: of its row."""
    last_share: np.ndarray
    """(S,) float64: of its flows, those that end with it."""
    follow_starts: np.ndarray
    """(3 * NUM_NUMBERS + 1,) int64: first succession into each row."""
    follows: np.ndarray
    """(T, 2) int64: states before and after."""
    follow_share: np.ndarray
    """(T,) float64: of what follows the state before."""


class WordTable(NamedTuple):
    """16-bit values by row."""

    starts: np.ndarray
    """(G + 1,) int64: first value of each row."""
    values: np.ndarray
    """(V,) int64; those of a row ascending."""
    share: np.ndarray
    """(V,) float64: flows."""


class WindowTable(NamedTuple):
    """A profile's windows. Costs are negative logarithms of probabilities."""

    opening: WordTable
    """By packet number, side and kind of hosts, see `window_row`."""
    is_known: np.ndarray
    """(2,) bool: whether it is known how a side's windows go on."""
    steady_cost: np.ndarray
    """(2,) float64: of a side that keeps its window."""
    changing_cost: np.ndarray
    """(2,) float64: of a side that changes it."""
    step_cost: np.ndarray
    """(2, NUM_STEPS) float64: of a step, of a side that changes its window."""


class Tables(NamedTuple):
    """A profile as arrays, but for its windows."""

    payloads: PayloadTable
    mss: WordTable
    """By side."""
    levels: np.ndarray
    """(2 * (OPENING_PACKETS + 1), 256) float64: packets by 2 * number + side and level; the last
    two rows are of all later packets."""


def tables_of(profile: Profile) -> Tables:
    """Return the tables of a profile."""
    return Tables(
        payloads=_payload_table(profile.payloads, profile.successions),
        mss=_word_table([(row.side, row.mss, row.flows) for row in profile.mss], 2),
        levels=_levels(profile),
    )


def pace_tables(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """Return shares of packets that have a level or a shorter one, 0 throughout where there are no
    packets: (R, 256) float64 by row of `Tables.levels`, and (NUM_PACES, R, 256) by pace and row.
    """
    levels = _levels(profile)
    paced = np.zeros((NUM_PACES, *levels.shape))
    for row in profile.paced_times:
        paced[row.pace, 2 * row.packet + row.side, row.level] += row.packets
    return _cumulative(levels), _cumulative(paced)


def _cumulative(packets: np.ndarray) -> np.ndarray:
    ends = np.cumsum(packets, axis=-1)
    return ends / np.maximum(ends[..., -1:], 1)


def _levels(profile: Profile) -> np.ndarray:
    """Return `Tables.levels` of a profile."""
    levels = np.zeros((2 * (OPENING_PACKETS + 1), MOST_LEVEL + 1))
    for row in profile.levels:
        levels[2 * row.packet + row.side, row.level] += row.packets
    return levels


def window_table(profile: Profile) -> WindowTable:
    """Return the table of a profile's windows."""
    windows = _disclosed_windows(profile.windows)
    flows = np.zeros((2, 2))
    for row in profile.conduct:
        flows[row.side] = row.steady_flows, row.changing_flows
    steps = np.zeros((2, NUM_STEPS))
    for row in profile.steps:
        steps[row.side, row.step] = row.steps
    shares = (flows + 0.5) / (flows.sum(axis=1, keepdims=True) + 1)
    step_shares = np.maximum(steps, _UNKNOWN_STEP) / np.maximum(steps.sum(axis=1, keepdims=True), 1)
    return WindowTable(
        opening=_word_table(windows, 2 * OPENING_PACKETS * NUM_KINDS),
        is_known=flows.any(axis=1),
        steady_cost=-np.log(shares[:, 0]),
        changing_cost=-np.log(shares[:, 1]),
        step_cost=-np.log(step_shares),
    )


def _disclosed_windows(counts: Sequence[WindowCount]) -> list[tuple[int, int, int]]:
    """Return (row, window, flows) of the kinds of which a window is disclosed."""
    rows: dict[int, list[tuple[int, int, int]]] = {}
    for count in counts:
        kind = window_kind(count.scale, count.octave)
        row = (2 * count.packet + count.side) * NUM_KINDS + kind
        rows.setdefault(row, []).append((row, count.window, count.flows))
    return [
        entry
        for of_row in rows.values()
        if any(window != SUPPRESSED for _, window, _ in of_row)
        for entry in of_row
    ]


@numba.njit(cache=True)
def window_row(number, side, kind, table):
    """Return the row of a WordTable that has the windows of a packet number and side, of the kind
    of hosts, or if these are not known of that of any octave."""
    first = (2 * number + side) * NUM_KINDS
    if table.starts[first + kind] == table.starts[first + kind + 1]:
        kind = coarser_kind(kind)
    return first + kind


def _key(state: PayloadCount | PayloadState) -> tuple[int, int, int, int]:
    """Return the row of a state, and its side, bytes and flags."""
    row = _FIRST_ROW[state.transport] + state.packet
    return row, state.side, state.payload_bytes, state.flags


def _payload_table(
    payloads: Sequence[PayloadCount], successions: Sequence[Succession]
) -> PayloadTable:
    ordered = sorted((_key(row), row) for row in payloads)
    position = {key: k for k, (key, _) in enumerate(ordered)}
    table_row = np.array([key[0] for key, _ in ordered], np.int64)
    flows = np.array([row.flows for _, row in ordered], np.float64)
    ending_flows = np.array([row.ending_flows for _, row in ordered], np.float64)
    follows = []
    for succession in successions:
        before, after = position[_key(succession.before)], position[_key(succession.after)]
        follows.append((_key(succession.after)[0], before, after, succession.flows))
    follow = np.array(sorted(follows), np.int64).reshape(-1, 4)
    following = np.bincount(follow[:, 1], follow[:, 3], len(payloads))
    states = np.array([key[1:] for key, _ in ordered], np.int64).reshape(-1, 3)
    rows = np.arange(_NUM_ROWS + 1)
    return PayloadTable(
        starts=np.searchsorted(table_row, rows),
        states=states,
        keys=key_of(*states.T),
        share=flows / np.bincount(table_row, flows, _NUM_ROWS)[table_row],
        last_share=ending_flows / flows,
        follow_starts=np.searchsorted(follow[:, 0], rows),
        follows=np.ascontiguousarray(follow[:, 1:3]),
        follow_share=follow[:, 3] / following[follow[:, 1]],
    )


def _word_table(rows: Sequence[tuple[int, int, int]], num_rows: int) -> WordTable:
    """Return the table of (row, value, flows)."""
    columns = np.array(sorted(rows), np.int64).reshape(-1, 3)
    return WordTable(
        starts=np.searchsorted(columns[:, 0], np.arange(num_rows + 1)),
        values=np.ascontiguousarray(columns[:, 1]),
        share=columns[:, 2].astype(np.float64),
    )


@numba.njit(cache=True)
def key_of(side, payload, flags):
    """Return a number that ascends with side, payload and flags, in that order."""
    return (side << 32) + (payload + 1 << 12) + flags
