"""The clock of label files: which reading of their times agrees with the captures.

Files write local time, often without saying which zone, on a clock of 12 hours, or with days and
months in an unknown order. Of all readings, that under which most flows begin with a row of
their endpoints is taken; where another does nearly as well and gives flows other labels, the user
has to choose.

Shape letters: F flows, L label rows, N pairs of a flow and a row of its endpoints.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from netdiff_ray.errors import ConfigError, DataError, NetdiffError
from netdiff_ray.flow_labels.keys import keys_of_flows
from netdiff_ray.flow_labels.match import TOLERANCE_NS, LabelSpans, match_flows
from netdiff_ray.flow_labels.outcome import Matches, Outcome
from netdiff_ray.flow_labels.spans import FlowSpans, evenly_chosen
from netdiff_ray.flow_labels.tables import LabelTable
from netdiff_ray.flow_labels.times import HALF_DAY_NS, S_NS, zone_offset_ns

_MOST_FLOWS = 10_000
_MOST_ROWS = 100
"""Rows of a flow's endpoints that are looked at for candidates."""
_QUARTER_NS = 15 * 60 * S_NS
_MOST_ZONE_NS = 14 * 3600 * S_NS
_CANDIDATES = 4
"""Offsets of each kind that are tried."""
_NEARLY = 0.9
"""Share of the best reading's flows from which on another one is a rival."""
_DIFFERING = 0.01
"""Share of flows from which on other labels matter."""
_LEAST_SHARE = 0.05
"""Of the flows whose endpoints have rows, the share that a clock must match."""


@dataclass(frozen=True)
class Clock:
    """How the times of label files are read."""

    zone: str = "+00:00"
    """What their clock is ahead of UTC, or the name of its zone (IANA)."""
    hours: int = 24
    """24, or 12 where hours have no AM or PM and may be of the afternoon."""
    dates: str = "day-first"
    """`day-first` or `month-first`, where the year stands last and the data do not tell."""

    def __str__(self) -> str:
        zone = f"UTC{self.zone}" if self.zone[0] in "+-" else self.zone
        hours = ", on a clock of 12 hours" * (self.hours == 12)
        return zone + hours + ", the month before the day" * (self.dates == "month-first")


class ClockChoice(NamedTuple):
    """What the data say of the clock."""

    clock: Clock
    """The best."""
    num_flows: int
    """That were looked at."""
    num_known: int
    """Of them, those whose endpoints have rows."""
    num_matched: int
    """Of them, those that begin with a row."""
    rivals: list[tuple[Clock, int]]
    """Other clocks under which nearly as many do, but have other labels; and how many."""
    is_far: bool
    """Whether the clock is of no zone on earth, and nobody said it is that."""

    def doubt(self) -> NetdiffError | None:
        """Return the error that says why the clock is not certain; None if it is."""
        if (self.num_known and self.num_matched < _LEAST_SHARE * self.num_known) or self.is_far:
            return DataError(
                "the labels' times match nothing: the best clock is "
                f"{_ahead_words(self.clock)}, under which {self.num_matched:,} of "
                f"{self.num_known:,} flows of known endpoints begin with a row; give the labels of "
                "these captures, or confirm the zone"
            )
        if self.rivals:
            every = [(self.clock, self.num_matched), *self.rivals]
            words = "; ".join(f"{clock} ({count:,} flows)" for clock, count in every)
            return ConfigError(
                f"the labels' clock is ambiguous: {words}; confirm one by its zone, hours or dates"
            )
        return None


def check_zone(zone: str) -> None:
    """Raise ConfigError unless a text is an offset from UTC or the name of a zone."""
    try:
        if zone[:1] in ("+", "-", ""):
            assert re.fullmatch(r"[+-](\d{4}|\d{2,7}:\d{2}(:\d{2})?)", zone)
        else:
            _in_utc(np.zeros(1, np.int64), zone)
    except (AssertionError, pa.ArrowInvalid):
        raise ConfigError(
            f"{zone!r} is no time zone; write what it is ahead of UTC, as in -03:00, or a name "
            "such as America/Halifax"
        ) from None


def spans_of_labels(table: LabelTable, clock: Clock) -> LabelSpans:
    """Return the rows of a table on the captures' clock."""
    start = _starts(table, clock)
    order = np.arange(len(table)) if table.filters else np.lexsort((start, table.key))
    start = start[order]
    return LabelSpans(
        key=table.key[order], start_ns=start, end_ns=start + table.lasts_ns[order],
        label=table.label[order], labels=table.labels, parts=table.parts,
        starts_within_ns=table.precision_ns,
        shifts_ns=(0, HALF_DAY_NS) if clock.hours == 12 else (0,), filters=table.filters,
    )  # fmt: skip


def _starts(table: LabelTable, clock: Clock) -> np.ndarray:
    """Return (L,) int64: starts in UTC, on a clock of 12 hours those of the morning."""
    start = table.start_ns
    if clock.dates == "month-first" and table.month_first_ns is not None:
        start = table.month_first_ns
    if clock.hours == 12:  # 12:30 is of the hour after midnight or noon
        start = start - np.where(start % (2 * HALF_DAY_NS) >= HALF_DAY_NS, HALF_DAY_NS, 0)
    return _in_utc(start, clock.zone)


def _in_utc(start_ns: np.ndarray, zone: str) -> np.ndarray:
    """Return local times as UTC."""
    if zone[0] in "+-":
        return start_ns - zone_offset_ns(zone)
    local = pa.array(start_ns, pa.timestamp("ns"))
    known = pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="earliest")
    return pc.cast(known, pa.int64()).to_numpy(zero_copy_only=False)


def estimate_clock(
    flows: FlowSpans,
    table: LabelTable,
    *,
    zone: str | None = None,
    hours: int | None = None,
    dates: str | None = None,
) -> ClockChoice:
    """Return the clock under which most flows begin with a row of their endpoints.

    Args:
        flows: of captures, or of some of them.
        table: of the labels.
        zone: of the clock, if it is known.
        hours: of the clock, if they are known.
        dates: of the clock, if they are known.
    """
    if table.filters:
        return _clock_of_filters(flows, table, zone, hours, dates)
    if zone is not None:
        check_zone(zone)
    sample = evenly_chosen(flows, _MOST_FLOWS)
    rows = _rows_of(table, keys_of_flows(sample.words, table.parts))
    both_hours = [24, 12] if table.is_plain else [24]
    both_dates = ["day-first", *["month-first"] * (table.month_first_ns is not None)]
    results: dict[Clock, Matches] = {}
    for hours_, dates_ in itertools.product(
        [hours] if hours else both_hours, [dates] if dates else both_dates
    ):
        base = Clock("+00:00", hours_, dates_)
        zones = [zone] if zone else _zones(sample, rows, base)
        for candidate in zones:
            clock = replace(base, zone=candidate)
            results[clock] = match_flows(sample, spans_of_labels(rows, clock))
    scores = {clock: int(result.begins.sum()) for clock, result in results.items()}
    best = max(results, key=lambda clock: scores[clock] * _plausibility(clock))
    known = np.isin(keys_of_flows(sample.words, table.parts), rows.key)
    rivals = [
        (clock, scores[clock])
        for clock in sorted(results, key=lambda clock: -scores[clock])
        if clock != best
        and scores[clock] >= max(1, _NEARLY * scores[best])
        and _contradicts(results[clock], results[best])
    ]
    is_far = zone is None and abs(zone_offset_ns(best.zone)) > _MOST_ZONE_NS
    return ClockChoice(
        best, len(sample), int(known.sum()), scores[best], rivals[:_CANDIDATES], is_far
    )


def _clock_of_filters(
    flows: FlowSpans, table: LabelTable, zone: str | None, hours: int | None, dates: str | None
) -> ClockChoice:
    """Return UTC, the clock of pcapML's filters, and how many flows it gives a label.

    Raises:
        ConfigError: another clock is asked for.
    """
    if (zone, hours, dates) != (None, None, None):
        raise ConfigError(
            "pcapML's filters count seconds since 1970-01-01 UTC: leave out the labels' zone, "
            "hours and dates"
        )
    sample = evenly_chosen(flows, _MOST_FLOWS)
    outcome = match_flows(sample, spans_of_labels(table, Clock())).outcome
    known = int((outcome != Outcome.NO_ROW).sum())
    matched = int((outcome == Outcome.LABELLED).sum())
    return ClockChoice(Clock(), len(sample), known, matched, [], is_far=False)


def _plausibility(clock: Clock) -> float:
    """Return a factor that breaks ties: clocks of 24 hours and zones that exist come first, then
    UTC, then the nearest to it."""
    factor = 1.0 if clock.hours == 24 else 0.995
    if clock.zone[0] in "+-":
        ahead = abs(zone_offset_ns(clock.zone))
        factor *= 0.99 if ahead > _MOST_ZONE_NS or ahead % _QUARTER_NS else 1.0
        factor *= 1 - 1e-6 * ahead / _MOST_ZONE_NS
    return factor * (1 if clock.dates == "day-first" else 1 - 1e-7)


def _contradicts(other: Matches, best: Matches) -> bool:
    """Return whether flows have a label under another reading that they have not under the best."""
    labelled = other.label >= 0
    differing = labelled & (other.label != best.label)
    return bool(differing.sum() > _DIFFERING * labelled.sum())


def _ahead_words(clock: Clock) -> str:
    """Return a clock in words, how far it is ahead of UTC in days if it is more than one."""
    if clock.zone[0] not in "+-":
        return str(clock)
    ahead = zone_offset_ns(clock.zone)
    days = abs(ahead) // (2 * HALF_DAY_NS)
    side = "ahead of" if ahead > 0 else "behind"
    return f"{clock}" + f", {days:,} days {side} the captures" * (days > 0)


def _rows_of(table: LabelTable, keys: np.ndarray) -> LabelTable:
    """Return the rows of a table that have one of these keys."""
    distinct = np.unique(keys)
    begin = np.searchsorted(table.key, distinct)
    counts = np.searchsorted(table.key, distinct, side="right") - begin
    chosen = np.arange(counts.sum()) + np.repeat(begin - np.cumsum(counts) + counts, counts)
    columns = ("key", "start_ns", "month_first_ns", "lasts_ns", "label", "line")
    values = {name: getattr(table, name) for name in columns}
    return replace(table, **{n: v if v is None else v[chosen] for n, v in values.items()})


def _zones(flows: FlowSpans, rows: LabelTable, base: Clock) -> list[str]:
    """Return zones that may be those of a table: UTC, and those under which most pairs of a flow
    and a row of its endpoints begin together."""
    late = np.sort(np.concatenate(list(_late(flows, rows, base))))
    within = rows.precision_ns + TOLERANCE_NS
    quarters = np.arange(-_MOST_ZONE_NS, _MOST_ZONE_NS + 1, _QUARTER_NS)
    counts = np.searchsorted(late, quarters + within) - np.searchsorted(
        late, quarters - TOLERANCE_NS
    )
    best = quarters[np.argsort(-counts, kind="stable")[:_CANDIDATES]]
    offsets = [0, *best.tolist(), *_peaks(late, within + TOLERANCE_NS, best, rows.precision_ns)]
    return list(dict.fromkeys(map(_zone_of, offsets)))


def _late(flows: FlowSpans, rows: LabelTable, base: Clock) -> Iterator[np.ndarray]:
    """Yield how much later flows begin than rows of their endpoints, in ns."""
    starts = _starts(rows, base)
    keys = keys_of_flows(flows.words, rows.parts)
    begin = np.searchsorted(rows.key, keys)
    every = np.searchsorted(rows.key, keys, side="right") - begin
    counts = np.minimum(every, _MOST_ROWS)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    nth = nth * np.repeat(every, counts) // np.maximum(np.repeat(counts, counts), 1)
    late = np.repeat(flows.start_ns, counts) - starts[np.repeat(begin, counts) + nth]
    yield late
    if base.hours == 12:
        yield late - HALF_DAY_NS


def _peaks(late: np.ndarray, width: int, known: np.ndarray, precision_ns: int) -> list[int]:
    """Return offsets, to the second, that most of sorted differences have, but for known ones."""
    bins, in_bins = np.unique(late // width, return_counts=True)
    peaks = []
    for peak in bins[np.argsort(-in_bins, kind="stable")[:_CANDIDATES]].tolist():
        inside = late[(late >= (peak - 1) * width) & (late < (peak + 2) * width)]
        within = max(precision_ns, S_NS)
        counts = np.searchsorted(inside, inside + within) - np.arange(len(inside))
        offset = int(inside[np.argmax(counts)]) // S_NS * S_NS  # starts are cut off to their unit
        if np.abs(known - offset).min() > width:
            peaks.append(offset)
    return peaks


def _zone_of(offset_ns: int) -> str:
    """Return the zone of labels that captures are so much ahead of."""
    seconds = abs(offset_ns) // S_NS
    text = f"{'-' if offset_ns > 0 else '+'}{seconds // 3600:02}:{seconds // 60 % 60:02}"
    return text + f":{seconds % 60:02}" * (seconds % 60 > 0)
