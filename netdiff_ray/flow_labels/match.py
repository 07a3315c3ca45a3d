"""Flows and label rows joined: by endpoints in either order, then by the time they share.

A flow gets the label whose rows overlap it longest in time. Where none does, the nearest row
within the tolerance counts. Two labels that do equally well leave the flow ambiguous, unless only
one of them has a row that begins when the flow does.

Shape letters: F flows, L label rows, N pairs of a flow and a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netdiff_ray.flow_labels.filter_match import match_filters
from netdiff_ray.flow_labels.filters import FlowFilter
from netdiff_ray.flow_labels.keys import KeyParts, keys_of_flows
from netdiff_ray.flow_labels.outcome import (
    NEARLY,
    ROW_OTHER_TIME,
    ROW_USED,
    Matches,
    Outcome,
)
from netdiff_ray.flow_labels.spans import FlowSpans
from netdiff_ray.flow_labels.times import S_NS

TOLERANCE_NS = S_NS
"""How far a row may be from its flow in time, beyond its precision: clocks of tools differ."""
_MOST_PAIRS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class LabelSpans:
    """Label rows on the captures' clock, sorted by key and start."""

    key: np.ndarray
    """(L,) uint64, see `endpoint_keys`."""
    start_ns: np.ndarray
    """(L,) int64: ns since 1970-01-01 UTC."""
    end_ns: np.ndarray
    """(L,) int64."""
    label: np.ndarray
    """(L,) int32: element of `labels`, -1 for none."""
    labels: list[str]
    parts: KeyParts
    starts_within_ns: int
    """Precision of the starts."""
    shifts_ns: tuple[int, ...] = (0,)
    """What may have to be added to the times: half a day, on a clock of 12 hours."""
    filters: Sequence[FlowFilter] = ()
    """Of the L rows, in the order of their file, if they name flows by filters and not by keys."""

    def __len__(self) -> int:
        return len(self.key)


def match_flows(flows: FlowSpans, spans: LabelSpans, rows: np.ndarray | None = None) -> Matches:
    """Return the labels of flows.

    Args:
        flows: of captures.
        spans: of the label rows.
        rows: (L,) uint8, in which ROW_USED and ROW_OTHER_TIME are noted if it is given.
    """
    if spans.filters:
        times = (spans.start_ns, spans.end_ns)
        return match_filters(flows, spans.filters, *times, spans.label, rows)
    keys = keys_of_flows(flows.words, spans.parts)
    order = np.argsort(keys, kind="stable")  # neighbours in the rows, and each key is sought once
    distinct, inverse = np.unique(keys, return_inverse=True)
    first = np.searchsorted(spans.key, distinct)[inverse]
    last = np.searchsorted(spans.key, distinct, side="right")[inverse]
    if rows is not None:
        _note_known(rows, first, last)
    outcome = np.where(last > first, Outcome.OTHER_TIME, Outcome.NO_ROW).astype(np.uint8)
    label = np.full(len(keys), -1, np.int32)
    begins = np.zeros(len(keys), np.bool_)
    latest = _latest_ends(spans) if len(spans) else spans.end_ns
    ranges = [
        (shift, *_near(flows, spans, latest, first, last, shift)) for shift in spans.shifts_ns
    ]
    num_pairs = sum(np.maximum(high - low, 0) for _, low, high in ranges)[order]
    begin = 0
    totals = np.cumsum(num_pairs)
    while begin < len(order):
        most = (totals[begin - 1] if begin else 0) + _MOST_PAIRS
        end = max(begin + 1, int(np.searchsorted(totals, most, side="right")))
        chosen = order[begin:end]
        pairs = [
            _overlaps(flows, spans, chosen, low[chosen], high[chosen], shift)
            for shift, low, high in ranges
        ]
        _decide(pairs, spans, label, outcome, begins, rows)
        begin = end
    return Matches(label=label, outcome=outcome, begins=begins)


def _note_known(rows: np.ndarray, first: np.ndarray, last: np.ndarray) -> None:
    """Note the rows whose endpoints have flows, ranges of them."""
    steps = np.zeros(len(rows) + 1, np.int64)
    np.add.at(steps, first, 1)
    np.add.at(steps, last, -1)
    known = np.cumsum(steps[:-1]) > 0
    rows[known & (rows != ROW_USED)] = ROW_OTHER_TIME


def _latest_ends(spans: LabelSpans) -> np.ndarray:
    """Return (L,) int64: the latest end among the rows of the same key up to each row."""
    is_first = np.append(True, spans.key[1:] != spans.key[:-1])
    group = np.cumsum(is_first, dtype=np.int64)
    # A running maximum that begins anew in each group: ends are ranked behind those before.
    ends = spans.end_ns.astype(np.float64)
    base, width = ends.min(), ends.max() - ends.min() + 1.0
    if width * group[-1] < 2.0**62:
        raised = (spans.end_ns - int(base)) + group * int(width)
        return np.maximum.accumulate(raised) - group * int(width) + int(base)
    latest = spans.end_ns.copy()
    step = 1
    while step < len(latest):  # doubling, as far as the largest group needs
        same = group[step:] == group[:-step]
        if not same.any():
            break
        latest[step:] = np.where(same, np.maximum(latest[step:], latest[:-step]), latest[step:])
        step *= 2
    return latest


def _near(
    flows: FlowSpans,
    spans: LabelSpans,
    latest: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    shift_ns: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the range of rows of each flow's endpoints that may be near it in time."""
    low = _search(latest, first, last, flows.start_ns - shift_ns - TOLERANCE_NS)
    high = _search(spans.start_ns, first, last, flows.end_ns - shift_ns + TOLERANCE_NS + 1)
    return low, high


def _search(
    values: np.ndarray, first: np.ndarray, last: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Return the first position in each range of sorted values whose value is not lower."""
    low, high = first.copy(), last.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        lower = open_ & (values[np.minimum(middle, len(values) - 1)] < wanted)
        low = np.where(lower, middle + 1, low)
        high = np.where(open_ & ~lower, middle, high)
    return low


def _overlaps(
    flows: FlowSpans,
    spans: LabelSpans,
    chosen: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    shift_ns: int,
) -> tuple[np.ndarray, ...]:
    """Return (N,) flows, rows, overlaps in ns (negative: how far apart), and whether the row
    begins when the flow does, of pairs that are no farther apart than the tolerance."""
    counts = np.maximum(high - low, 0)
    flow = np.repeat(chosen, counts)
    row = np.arange(len(flow)) - np.repeat(np.cumsum(counts) - counts, counts)
    row += np.repeat(low, counts)
    start, end = flows.start_ns[flow] - shift_ns, flows.end_ns[flow] - shift_ns
    overlap = np.minimum(end, spans.end_ns[row]) - np.maximum(start, spans.start_ns[row]) + 1
    late = start - spans.start_ns[row]
    begins = (late >= -TOLERANCE_NS) & (late <= spans.starts_within_ns + TOLERANCE_NS)
    near = overlap > -TOLERANCE_NS
    return flow[near], row[near], overlap[near], begins[near]


def _decide(
    pairs: list[tuple[np.ndarray, ...]],
    spans: LabelSpans,
    label: np.ndarray,
    outcome: np.ndarray,
    begins: np.ndarray,
    rows: np.ndarray | None,
) -> None:
    """Write what pairs say of their flows into `label`, `outcome` and `begins`, and mark their
    rows."""
    flow, row, overlap, begin = (np.concatenate(columns) for columns in zip(*pairs, strict=True))
    if not len(flow):
        return
    if rows is not None:
        rows[row] = ROW_USED
    begins[flow[begin]] = True
    # Pairs that overlap come before those that do not.
    overlapping = np.zeros(len(label), np.bool_)
    overlapping[flow[overlap > 0]] = True
    kept = (overlap > 0) | ~overlapping[flow]
    flow, row, overlap, begin = flow[kept], row[kept], overlap[kept], begin[kept]
    code = spans.label[row]
    order = np.lexsort((code, flow))
    flow, code, overlap, begin = flow[order], code[order], overlap[order], begin[order]
    at = np.flatnonzero(np.append(True, (flow[1:] != flow[:-1]) | (code[1:] != code[:-1])))
    total = np.where(
        np.maximum.reduceat(overlap, at) > 0,
        np.add.reduceat(np.maximum(overlap, 0), at),
        np.maximum.reduceat(overlap, at) - TOLERANCE_NS,
    ).astype(np.float64)  # of each label of a flow; negative where it is only near
    flow, code = flow[at], code[at]
    begin = np.logical_or.reduceat(begin, at)
    best = np.full(len(label), -np.inf)
    np.maximum.at(best, flow, total)
    threshold = np.where(best > 0, best * NEARLY, best)
    rivals = total >= threshold[flow]
    flow, code, begin = flow[rivals], code[rivals], begin[rivals]
    # Of labels that do equally well, those with a row that begins when the flow does.
    beginning = np.zeros(len(label), np.bool_)
    beginning[flow[begin]] = True
    stays = begin | ~beginning[flow]
    flow, code = flow[stays], code[stays]
    counts = np.bincount(flow, minlength=len(label))
    single = counts[flow] == 1
    label[flow[single]] = code[single]
    outcome[flow[single]] = np.where(code[single] >= 0, Outcome.LABELLED, Outcome.NO_LABEL)
    outcome[flow[~single]] = Outcome.AMBIGUOUS
