"""Label files set to the clock of a collection of captures, before its flows are encoded."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from netdiff_ray.config.labels import LabelSettings
from netdiff_ray.encoding.collection import Capture
from netdiff_ray.encoding.encode import EncodeSettings, open_capture
from netdiff_ray.errors import CaptureError, DataError
from netdiff_ray.flow_labels.clock import ClockChoice, estimate_clock, spans_of_labels
from netdiff_ray.flow_labels.labelling import FlowLabels
from netdiff_ray.flow_labels.read import read_labels
from netdiff_ray.flow_labels.spans import FlowSpans, flow_spans, joined_spans
from netdiff_ray.packets.headers import header_rows
from netdiff_ray.storage.store import Store, open_store

SAMPLE_BYTES = 128 << 20
"""Bytes of captures that are read to tell the clock."""


def label_file_digests(files: Sequence[str]) -> list[list]:
    """Return name, bytes and time of writing of each label file.

    Raises:
        DataError: there is no such file.
    """
    digests = []
    for path in files:
        store = open_store(path)
        info = store.filesystem.get_file_info(store.root)
        if not info.is_file:
            raise DataError(f"{store.uri}: no such file")
        digests.append([info.base_name, info.size, info.mtime_ns or 0])
    return digests


def flow_labels_of(
    files: Sequence[str],
    settings: LabelSettings,
    source: Store,
    captures: Sequence[Capture],
    encoding: EncodeSettings,
) -> tuple[FlowLabels, ClockChoice]:
    """Return the labels of flows of a collection, and how sure their clock is.

    Args:
        files: of labels.
        settings: of `netdiff labels`.
        source: of the collection.
        captures: all of them; some tell the clock.
        encoding: how flows are cut.

    Raises:
        ConfigError: a file's columns cannot be told, or its clock is ambiguous.
        DataError: a file cannot be read, or its times match nothing.
    """
    table = read_labels(files, form=settings.label_format, columns=settings.columns())
    flows = joined_spans(_sample(source, captures, encoding))
    choice = estimate_clock(
        flows, table, zone=settings.label_zone, hours=settings.label_hours,
        dates=settings.label_dates,
    )  # fmt: skip
    doubt = choice.doubt()
    if doubt is not None:
        raise doubt
    spans = spans_of_labels(table, choice.clock)
    return FlowLabels(spans=spans, unlabelled=settings.unlabelled), choice


def _sample(
    source: Store, captures: Sequence[Capture], encoding: EncodeSettings
) -> Iterator[FlowSpans]:
    """Yield the flows at the beginning of captures, evenly chosen ones if there are many."""
    mean = sum(capture.num_bytes for capture in captures) / max(len(captures), 1)
    count = min(len(captures), max(4, int(SAMPLE_BYTES / max(mean, 1))))
    chosen = [captures[k * len(captures) // count] for k in range(count)]
    for capture in chosen:
        try:
            with open_capture(source, capture, decapsulate=encoding.decapsulate) as reader:
                tables = itertools.takewhile(
                    lambda table: table.offset[0] < SAMPLE_BYTES / count, reader
                )
                chunks: Iterator[np.ndarray] = (header_rows(table) for table in tables)
                yield flow_spans(chunks, reader.fingerprint, idle_timeout_s=encoding.idle_timeout_s)
        except CaptureError:  # encoding says why it cannot be read
            continue
