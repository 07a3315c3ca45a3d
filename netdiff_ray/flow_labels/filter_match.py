"""Flows and filters joined.

Shape letters: F flows, L label rows.
"""

from collections.abc import Sequence

import numpy as np

from netdiff_ray.flow_labels.filters import FlowFilter, both_directions
from netdiff_ray.flow_labels.outcome import (
    NEARLY,
    ROW_OTHER_TIME,
    ROW_USED,
    Matches,
    Outcome,
)
from netdiff_ray.flow_labels.spans import FlowSpans


def match_filters(
    flows: FlowSpans,
    filters: Sequence[FlowFilter],
    start_ns: np.ndarray,
    end_ns: np.ndarray,
    label: np.ndarray,
    rows: np.ndarray | None = None,
) -> Matches:
    """Return the labels of flows by filters, as pcapML labels packets: the first that fits.

    A flow fits a filter if packets of one of its directions do. Of its time, each filter has what
    those before it leave; the label that has most of it is the flow's.

    Args:
        flows: of captures.
        filters: of L rows, in order.
        start_ns: (L,) int64.
        end_ns: (L,) int64.
        label: (L,) int32: the label of each row.
        rows: (L,) uint8, in which ROW_USED and ROW_OTHER_TIME are noted if it is given.
    """
    outcome = np.full(len(flows), Outcome.NO_ROW, np.uint8)
    is_open = np.ones(len(flows), np.bool_)
    everything = np.arange(len(flows))
    flow_of, row_of = [everything[:0]], [everything[:0]]
    for row, passes in enumerate(filters):
        asked = everything if rows is not None else np.flatnonzero(is_open)
        directions = both_directions(flows.words[asked])
        fits = asked[passes(directions[0]) | passes(directions[1])]
        near = fits[(flows.start_ns[fits] <= end_ns[row]) & (flows.end_ns[fits] >= start_ns[row])]
        outcome[fits] = Outcome.OTHER_TIME
        if rows is not None and len(fits):
            rows[row] = ROW_USED if len(near) else ROW_OTHER_TIME
        near = near[is_open[near]]
        flow_of.append(near)
        row_of.append(np.full(len(near), row))
        whole = (start_ns[row] <= flows.start_ns[near]) & (flows.end_ns[near] <= end_ns[row])
        is_open[near[whole]] = False
    flow, row = np.concatenate(flow_of), np.concatenate(row_of)
    labels = np.full(len(flows), -1, np.int32)
    counts = np.bincount(flow, minlength=len(flows))
    single = counts[flow] == 1
    labels[flow[single]] = label[row[single]]
    several: dict[int, list[int]] = {}
    for one, its_row in zip(flow[~single].tolist(), row[~single].tolist(), strict=True):
        several.setdefault(one, []).append(its_row)
    outcome[counts > 0] = Outcome.LABELLED
    for one, its_rows in several.items():
        spans = [(int(start_ns[k]), int(end_ns[k]) + 1, int(label[k])) for k in its_rows]
        labels[one] = _longest(int(flows.start_ns[one]), int(flows.end_ns[one]) + 1, spans)
    outcome[(counts > 0) & (labels < 0)] = Outcome.AMBIGUOUS
    return Matches(label=labels, outcome=outcome, begins=counts > 0)


def _longest(begin_ns: int, end_ns: int, spans: Sequence[tuple[int, int, int]]) -> int:
    """Return the label that has most of a time of which each (begin, end, label) takes what those
    before it leave; -1 if two have the same."""
    free, shares = [(begin_ns, end_ns)], {}
    for begin, end, label in spans:
        left = []
        for a, b in free:
            low, high = max(a, begin), min(b, end)
            if low < high:
                shares[label] = shares.get(label, 0) + high - low
            pieces = [(a, min(b, begin)), (max(a, end), b)]
            left += [(c, d) for c, d in pieces if c < d]
        free = left
    most = max(shares.values())
    best = [label for label, share in shares.items() if share >= NEARLY * most]
    return best[0] if len(best) == 1 else -1
