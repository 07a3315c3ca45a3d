"""What a label table and the flows of captures have to do with each other, in numbers.

Shape letters: F flows, L label rows.
"""

from dataclasses import asdict, dataclass, field

import numpy as np

from netdiff_ray.flow_labels.clock import ClockChoice, spans_of_labels
from netdiff_ray.flow_labels.match import match_flows
from netdiff_ray.flow_labels.outcome import (
    ROW_NO_FLOW,
    ROW_OTHER_TIME,
    ROW_USED,
    Matches,
    Outcome,
)
from netdiff_ray.flow_labels.spans import FlowSpans
from netdiff_ray.flow_labels.tables import LabelTable

WITHOUT = "(no label)"
"""Stands for rows without a label."""


@dataclass
class LabelCounts:
    """Of a label."""

    flows: int = 0
    rows: int = 0
    rows_used: int = 0
    """That overlap a flow."""
    rows_without_flow: int = 0
    """Whose endpoints have no flow."""
    rows_at_other_times: int = 0
    """Whose endpoints' flows are at other times."""


@dataclass(kw_only=True)
class LabelReport:
    """The flows of captures and the rows of label files, counted by what became of them."""

    num_captures: int
    num_flows: int
    num_rows: int
    clock: str
    clock_flows: int
    """Flows that were looked at to tell the clock, and whose endpoints have rows."""
    clock_matched: int
    """Of them, those that begin with a row."""
    doubt: str
    """Why the clock is not certain; empty if it is."""
    outcomes: dict[str, int]
    """Flows by what became of them."""
    labels: dict[str, LabelCounts]
    ambiguous: list[str]
    """Ids of ambiguous flows."""
    problems: list[str]
    """Rows that could not be used, or were read in another way."""
    faults: list[str] = field(default_factory=list)
    """Captures that could not be read, or not to their end."""

    @property
    def num_labelled(self) -> int:
        """Flows that have a label."""
        return self.outcomes.get(Outcome.LABELLED.words, 0)

    def as_dict(self) -> dict:
        """Return the counts as plain values, for JSON."""
        return asdict(self)


def label_report(
    flows: FlowSpans, table: LabelTable, choice: ClockChoice, *, num_captures: int
) -> tuple[LabelReport, Matches]:
    """Return the counts of flows and rows, and the flows' labels, by the chosen clock."""
    spans = spans_of_labels(table, choice.clock)
    fates = np.full(len(spans), ROW_NO_FLOW, np.uint8)
    matches = match_flows(flows, spans, fates)
    num_labels = len(table.labels)
    counts = {
        fate: np.bincount(spans.label[fates == fate] + 1, minlength=num_labels + 1)
        for fate in (ROW_USED, ROW_NO_FLOW, ROW_OTHER_TIME)
    }
    of_flows = np.bincount(matches.label + 1, minlength=num_labels + 1)
    labels = {}
    for k, label in enumerate([WITHOUT, *table.labels]):
        rows = [int(counts[fate][k]) for fate in (ROW_USED, ROW_NO_FLOW, ROW_OTHER_TIME)]
        if k or sum(rows):
            labels[label] = LabelCounts(int(of_flows[k]) if k else 0, sum(rows), *rows)
    outcomes = np.bincount(matches.outcome, minlength=len(Outcome)).tolist()
    ambiguous = np.flatnonzero(matches.outcome == Outcome.AMBIGUOUS).tolist()
    doubt = choice.doubt()
    report = LabelReport(
        num_captures=num_captures, num_flows=len(flows), num_rows=len(table),
        clock=str(choice.clock), clock_flows=choice.num_known, clock_matched=choice.num_matched,
        doubt=str(doubt or ""),
        outcomes={outcome.words: outcomes[outcome] for outcome in Outcome if outcomes[outcome]},
        labels=labels, ambiguous=[flows.flow_id[k] for k in ambiguous],
        problems=[str(problem) for problem in table.problems],
    )  # fmt: skip
    return report, matches
