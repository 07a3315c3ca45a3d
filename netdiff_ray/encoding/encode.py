"""Captures to an encoded dataset, part by part; a part depends on its captures alone."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from netdiff_ray.encoding.collection import Capture
from netdiff_ray.encoding.windows import encoded_schema, encoded_table
from netdiff_ray.errors import CaptureError
from netdiff_ray.flow_labels.labelling import FlowLabels
from netdiff_ray.flow_labels.spans import flow_spans
from netdiff_ray.flows import Windows, assemble_flows
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.duplicates import without_duplicates
from netdiff_ray.packets.headers import header_rows
from netdiff_ray.packets.table import PacketTable
from netdiff_ray.packets.tunnels import counts_by_tunnel
from netdiff_ray.storage.manifest import part_metadata
from netdiff_ray.storage.store import Store

TUNNEL_UNIT = "tunnelled in "
"""Begins the names of the counts of records in which a kind of tunnel was followed."""
UNLABELLED_UNIT = "flows without a label: "
"""Begins the names of the counts of flows that label files give no label, by reason."""

DUPLICATE_UNIT = "packets captured again"
"""Name of the count of packets that are left out, see `packets.duplicates`."""

PART_BYTES = 64 << 20
"""Bytes of captures that one part is made of, unless one capture alone has more."""


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """What decides the rows of an encoded dataset."""

    layout: str
    height: int
    """Most packets of a window."""
    idle_timeout_s: float
    decapsulate: bool = False
    host_key: bytes = b""
    """See `encoded_table`."""


def plan_parts(
    captures: Sequence[Capture], part_bytes: int = PART_BYTES
) -> list[tuple[Capture, ...]]:
    """Group captures, in order, into runs of about `part_bytes` each."""
    parts: list[list[Capture]] = []
    size = part_bytes
    for capture in captures:
        if size + capture.num_bytes > part_bytes:
            parts.append([])
            size = 0
        parts[-1].append(capture)
        size += capture.num_bytes
    return [tuple(part) for part in parts]


def encoded_part_name(number: int) -> str:
    """Return `part-NNNNN.parquet`."""
    return f"part-{number:05d}.parquet"


def encode_part(
    source: Store,
    captures: Sequence[Capture],
    target: Store,
    number: int,
    settings: EncodeSettings,
    config: dict,
    quarantine: Sequence[dict] = (),
    flow_labels: FlowLabels | None = None,
) -> "PartResult":
    """Write one part of an encoded dataset, whole or not at all.

    A capture that cannot be read, or only in part, goes to the quarantine with the reason;
    what could be read of it is encoded.

    Args:
        config: the run's resolved configuration, kept in the part.
        quarantine: records to keep beside those of these captures.
        flow_labels: labels of flows; those of the captures unless given.

    Returns:
        What the part holds.
    """
    with PartWriter(target, number, settings, config, quarantine, flow_labels) as part:
        for capture in captures:
            part.encode_capture(source, capture)
    return part.result()


@dataclass(frozen=True)
class PartResult:
    """What a part that was written holds."""

    counts: dict[str, dict[str, int]]
    """Label to its captures, windows, flows and packets, records by TUNNEL_UNIT, and
    packets by DUPLICATE_UNIT."""
    quarantine: list[dict]
    """A record for each capture that was not read, or not to its end."""
    num_bytes: int
    """Written."""

    @property
    def sums(self) -> dict[str, int]:
        """Over the labels: captures, windows, flows, packets; and quarantined, bytes."""
        sums = {unit: sum(counts[unit] for counts in self.counts.values()) for unit in _UNITS}
        return sums | {"quarantined": len(self.quarantine), "bytes": self.num_bytes}


class PartWriter:
    """A part in the making; it is put into the store when the block ends without an error."""

    def __init__(
        self,
        target: Store,
        number: int,
        settings: EncodeSettings,
        config: dict,
        quarantine: Sequence[dict] = (),
        flow_labels: FlowLabels | None = None,
    ):
        self._target, self._number = target, number
        self._settings, self._config = settings, config
        self._layout = layout_named(settings.layout)
        self._quarantine = list(quarantine)
        self._flow_labels = flow_labels
        self._counts: dict[str, dict[str, int]] = {}
        self._open_flows: dict[str, str] = {}
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(
            self._sink, encoded_schema(self._layout), compression="zstd"
        )
        self._num_bytes = 0

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        self._writer.add_key_value_metadata(
            part_metadata(self._config, files={}, quarantine=self._quarantine, counts=self._counts)
        )
        self._writer.close()
        if kind is not None:
            return
        content = self._sink.getvalue()
        self._target.put(encoded_part_name(self._number), content)
        self._num_bytes = content.size

    def result(self) -> PartResult:
        """Return what was written; call it after the block."""
        return PartResult(self._counts, self._quarantine, self._num_bytes)

    def counts_of(self, label: str) -> dict[str, int]:
        """Return the counts of a label, to add to."""
        return self._counts.setdefault(label, dict.fromkeys(_UNITS, 0))

    def quarantine(self, capture: Capture, reason: str) -> None:
        """Note why a capture was not read, or not to its end."""
        self._quarantine.append({"capture": capture.name, "reason": reason})

    def encode_capture(self, source: Store, capture: Capture) -> None:
        """Add the windows of a whole capture."""

        def opened():
            return open_capture(source, capture, decapsulate=self._settings.decapsulate)

        fault = None
        labels = None
        label = capture.label
        try:
            if self._flow_labels is not None:
                with opened() as reader:
                    chunks = (header_rows(table) for table in reader)
                    label, labels = self.label_flows(capture, chunks, reader.fingerprint)
            self.counts_of(label)["captures"] += 1
            with opened() as reader:
                tables = self._count_tunnels_in(reader, label)
                chunks = (header_rows(table) for table in tables)
                self.encode_rows(capture, chunks, reader.fingerprint, labels)
                fault = reader.fault
        except CaptureError as error:
            fault = error
        if fault is not None:
            self.quarantine(capture, str(fault))

    def label_flows(
        self, capture: Capture, chunks: Iterable[np.ndarray], fingerprint: bytes
    ) -> tuple[str, dict[str, str]]:
        """Return the most frequent label of a capture's flows, that of the capture if none has one,
        and the label of each flow by its id; count those without one by reason."""
        spans = flow_spans(
            without_duplicates(chunks), fingerprint, idle_timeout_s=self._settings.idle_timeout_s
        )
        labels, reasons = self._flow_labels.of_flows(spans, capture.label)
        every = Counter(labels.values())
        label = max(sorted(every), key=every.__getitem__, default=capture.label)
        counts = self.counts_of(label)
        for reason, count in reasons.items():
            unit = UNLABELLED_UNIT + reason
            counts[unit] = counts.get(unit, 0) + count
        return label, labels

    def _count_tunnels_in(self, tables: Iterable[PacketTable], label: str) -> Iterator[PacketTable]:
        """Yield the tables of a capture, their tunnels counted."""
        for table in tables:
            self.count_tunnels(label, counts_by_tunnel(table.tunnels))
            yield table

    def count_tunnels(self, label: str, tunnels: Mapping[str, int]) -> None:
        """Count records of a label in which each kind of tunnel was followed."""
        counts = self.counts_of(label)
        for name, count in tunnels.items():
            unit = TUNNEL_UNIT + name
            counts[unit] = counts.get(unit, 0) + count

    def encode_rows(
        self,
        capture: Capture,
        chunks: Iterable[np.ndarray],
        fingerprint: bytes,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Add the windows of header rows of a capture, without packets that were captured before.

        Args:
            labels: of flows by their ids; others are left out. All are of the capture's label
                unless given.
        """
        for windows in assemble_flows(
            without_duplicates(chunks),
            fingerprint,
            idle_timeout_s=self._settings.idle_timeout_s,
            height=self._settings.height,
        ):
            if labels is None:
                self._write(capture, windows, [capture.label] * len(windows))
            else:
                known = windows.chosen(np.array([i in labels for i in windows.flow_id], np.bool_))
                self._write(capture, known, [labels[i] for i in known.flow_id])

    def _write(self, capture: Capture, windows: Windows, labels: list[str]) -> None:
        """Write windows of a capture with the label of each, and count them."""
        if not len(windows):
            return
        self._writer.write_table(
            encoded_table(
                windows,
                self._layout,
                label=labels,
                capture=capture.name,
                host_key=self._settings.host_key,
                open_flows=self._open_flows,
            )
        )
        packets = np.diff(windows.first).tolist()
        again = np.add.reduceat(windows.rows["duplicates"].astype(np.int64), windows.first[:-1])
        columns = (labels, packets, windows.is_last.tolist(), again.tolist())
        for label, size, is_last, duplicates in zip(*columns, strict=True):
            counts = self.counts_of(label)
            if duplicates:
                counts[DUPLICATE_UNIT] = counts.get(DUPLICATE_UNIT, 0) + duplicates
            counts["windows"] += 1
            counts["flows"] += is_last
            counts["packets"] += size


_UNITS = ("captures", "windows", "flows", "packets")


@contextmanager
def open_capture(
    source: Store,
    capture: Capture,
    byte_range: tuple[int, int] | None = None,
    *,
    decapsulate: bool = False,
) -> Iterator[CaptureReader]:
    """Open a capture of a collection and yield its reader.

    Raises:
        CaptureError: it cannot be opened, or is no capture.
    """
    try:
        file = source.filesystem.open_input_file(source.path(capture.name))
    except OSError as error:
        raise CaptureError(capture.name, f"cannot be opened: {error}") from None
    options = {"byte_range": byte_range, "decapsulate": decapsulate}
    with file, CaptureReader(file, name=capture.name, **options) as reader:
        yield reader
