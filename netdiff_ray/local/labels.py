"""The report of `netdiff labels`: captures and label files joined, nothing written."""

from netdiff_ray.config import LabelsConfig
from netdiff_ray.encoding.collection import list_captures
from netdiff_ray.encoding.encode import open_capture
from netdiff_ray.errors import CaptureError
from netdiff_ray.flow_labels.clock import estimate_clock
from netdiff_ray.flow_labels.read import read_labels
from netdiff_ray.flow_labels.report import LabelReport, label_report
from netdiff_ray.flow_labels.spans import FlowSpans, flow_spans, joined_spans
from netdiff_ray.local.inspect import aligned
from netdiff_ray.packets.headers import header_rows

_MOST_NAMED = 10


def labels(config: LabelsConfig) -> LabelReport:
    """Return what the captures and the label files of a configuration have to do with each other.

    Raises:
        DataError: there are no captures, or no labels in the files.
        ConfigError: the columns of a file cannot be told.
    """
    settings = config.settings
    store, captures, left_out = list_captures(config.captures)
    faults = [f"{record['capture']}: {record['reason']}" for record in left_out]
    spans: list[FlowSpans] = []
    for capture in captures:
        try:
            with open_capture(store, capture, decapsulate=config.decapsulate) as reader:
                chunks = (header_rows(table) for table in reader)
                spans.append(
                    flow_spans(chunks, reader.fingerprint, idle_timeout_s=config.idle_timeout_s)
                )
                if reader.fault is not None:
                    faults.append(str(reader.fault))
        except CaptureError as error:
            faults.append(str(error))
    flows = joined_spans(spans)
    table = read_labels(config.labels, form=settings.label_format, columns=settings.columns())
    choice = estimate_clock(
        flows, table, zone=settings.label_zone, hours=settings.label_hours,
        dates=settings.label_dates,
    )  # fmt: skip
    report, _ = label_report(flows, table, choice, num_captures=len(captures))
    report.faults = faults
    return report


def labels_text(report: LabelReport) -> str:
    """Return the text that `netdiff labels` prints."""
    share = f"{report.clock_matched:,} of {report.clock_flows:,}"
    parts = [
        f"{report.num_captures:,} captures, {report.num_flows:,} flows, {report.num_rows:,} label "
        f"rows\nclock of the labels: {report.clock}; {share} flows of known endpoints begin with "
        "a row"
    ]
    flows = [(words, f"{n:,}", _share(n, report.num_flows)) for words, n in report.outcomes.items()]
    parts.append(aligned([("flows", "number", "share"), *flows]))
    head = ("label", "flows", "rows", "matched", "without flow", "at other times")
    rows = [
        (label, *(f"{n:,}" for n in vars(counts).values()))
        for label, counts in report.labels.items()
    ]
    parts.append(aligned([head, *rows]))
    if report.ambiguous:
        parts.append("ambiguous flows: " + _some(report.ambiguous, " "))
    if report.problems:
        parts.append("rows of the label files:\n" + _some(report.problems, "\n"))
    return "\n\n".join(parts)


def _some(texts: list[str], between: str) -> str:
    more = f"{between}and {len(texts) - _MOST_NAMED:,} more" * (len(texts) > _MOST_NAMED)
    return between.join(texts[:_MOST_NAMED]) + more


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.4f}"
