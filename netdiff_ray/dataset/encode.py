"""Captures to an encoded dataset, part by part; a part depends on its captures alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from netdiff_ray.dataset.captures import Capture
from netdiff_ray.dataset.encoded import encoded_schema, encoded_table
from netdiff_ray.dataset.manifest import part_metadata
from netdiff_ray.dataset.places import Place
from netdiff_ray.errors import CaptureError
from netdiff_ray.flows import assemble_flows
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.headers import header_rows

PART_BYTES = 64 << 20
"""Bytes of captures that one part is made of, unless one capture alone has more."""


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """What decides the rows of an encoded dataset."""

    layout: str
    height: int
    """Most packets of a window."""
    idle_timeout_s: float


def plan_parts(
    captures: Sequence[Capture], part_bytes: int = PART_BYTES
) -> list[tuple[Capture, ...]]:
    """Runs of captures, in order, of about `part_bytes` each."""
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
    """`part-NNNNN.parquet`."""
    return f"part-{number:05d}.parquet"


def encode_part(
    source: Place,
    captures: Sequence[Capture],
    target: Place,
    number: int,
    settings: EncodeSettings,
    config: dict,
    quarantine: Sequence[dict] = (),
) -> dict[str, int]:
    """Write one part of an encoded dataset, whole or not at all.

    A capture that cannot be read, or only in part, goes to the quarantine with the reason;
    what could be read of it is encoded.

    Args:
        config: the run's resolved configuration, kept in the part.
        quarantine: records to keep beside those of these captures.

    Returns:
        Sums over the part: captures, quarantined, windows, flows, packets, bytes written.
    """
    layout = layout_named(settings.layout)
    records = list(quarantine)
    counts: dict[str, dict[str, int]] = {}
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, encoded_schema(layout), compression="zstd") as writer:
        for capture in captures:
            own = counts.setdefault(capture.label, dict.fromkeys(_UNITS, 0))
            try:
                fault = _encode_capture(source, capture, writer, settings, own)
            except CaptureError as error:
                fault = error
            own["captures"] += 1
            if fault is not None:
                records.append({"capture": capture.name, "reason": str(fault)})
        metadata = part_metadata(config, files={}, quarantine=records, counts=counts)
        writer.add_key_value_metadata(metadata)
    content = sink.getvalue()
    target.put(encoded_part_name(number), content)
    sums = {unit: sum(own[unit] for own in counts.values()) for unit in _UNITS}
    return {**sums, "quarantined": len(records), "bytes": content.size}


_UNITS = ("captures", "windows", "flows", "packets")


def _encode_capture(
    source: Place,
    capture: Capture,
    writer: pq.ParquetWriter,
    settings: EncodeSettings,
    counts: dict[str, int],
) -> CaptureError | None:
    """Encode what can be read of a capture; returns why it ended early, if it did."""
    layout = layout_named(settings.layout)
    try:
        file = source.filesystem.open_input_file(source.path(capture.name))
    except OSError as error:
        return CaptureError(capture.name, f"cannot be opened: {error}")
    with file:
        reader = CaptureReader(file, name=capture.name)
        batches = assemble_flows(
            (header_rows(table) for table in reader),
            reader.fingerprint,
            idle_timeout_s=settings.idle_timeout_s,
            height=settings.height,
        )
        for windows in batches:
            if not len(windows):
                continue
            writer.write_table(
                encoded_table(windows, layout, label=capture.label, capture=capture.name)
            )
            counts["windows"] += len(windows)
            counts["flows"] += int(windows.is_last.sum())
            counts["packets"] += len(windows.rows)
    return reader.fault
