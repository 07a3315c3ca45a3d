"""Large captures encoded in byte ranges, whose flows are joined bucket by bucket.

A range gives, for each of some buckets of flows, its header rows; the rows of a bucket
from all ranges, in order, give the same windows as the unsplit capture. That ranges meet
without a gap is checked: where resynchronising was deceived, the capture has to be read
as one range.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from netdiff_ray.encoding.collection import Capture
from netdiff_ray.encoding.encode import EncodeSettings, PartResult, PartWriter, open_capture
from netdiff_ray.errors import CaptureError
from netdiff_ray.flow_keys import bucket_of
from netdiff_ray.flow_labels.labelling import FlowLabels
from netdiff_ray.packets.headers import HEADER_ROW, header_rows
from netdiff_ray.packets.tunnels import TUNNELS, counts_by_tunnel
from netdiff_ray.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class RangeRows:
    """The packets of one bucket in one byte range of a capture."""

    range_number: int
    bucket: int
    fingerprint: bytes
    """Of the capture."""
    first_offset: int
    """Where the range's first record stands, -1 if there is none."""
    next_offset: int
    """Where the record after its last one stands."""
    fault: str
    """Why reading ended inside the range; empty if it did not."""
    rows: bytes
    """HEADER_ROW after HEADER_ROW, in capture order."""
    tunnels: list[int]
    """Records of the whole range in which each kind of TUNNELS was followed, in its order."""


def split_ranges(num_bytes: int, range_bytes: int) -> list[tuple[int, int]]:
    """Return byte ranges of about the same size, at most `range_bytes`, that make up a file."""
    count = -(-num_bytes // range_bytes)
    cuts = [num_bytes * k // count for k in range(count + 1)]
    return list(itertools.pairwise(cuts))


def is_splittable(source: Store, capture: Capture) -> bool:
    """Return whether a capture is one whose byte ranges can be read by themselves."""
    try:
        with open_capture(source, capture) as reader:
            return reader.is_splittable
    except CaptureError:
        return False


def read_range(
    source: Store,
    capture: Capture,
    byte_range: tuple[int, int],
    range_number: int,
    buckets: Sequence[int],
    num_buckets: int,
    *,
    decapsulate: bool = False,
) -> list[RangeRows]:
    """Read a byte range; return its rows in each of the requested buckets."""
    parts: list[np.ndarray] = [np.empty(0, HEADER_ROW)]
    tunnels: Counter[str] = Counter()
    with open_capture(source, capture, byte_range, decapsulate=decapsulate) as reader:
        for table in reader:
            parts.append(header_rows(table))
            tunnels.update(counts_by_tunnel(table.tunnels))
        first_offset = -1 if reader.first_offset is None else reader.first_offset
        fault = str(reader.fault or "")
        next_offset, fingerprint = reader.next_offset, reader.fingerprint
    rows = np.concatenate(parts)
    bucket = bucket_of(rows, num_buckets)
    return [
        RangeRows(
            range_number=range_number,
            bucket=wanted,
            fingerprint=fingerprint,
            first_offset=first_offset,
            next_offset=next_offset,
            fault=fault,
            rows=rows[bucket == wanted].tobytes(),
            tunnels=[tunnels[name] for name in TUNNELS.values()],
        )
        for wanted in buckets
    ]


def encode_bucket(
    ranges: Sequence[RangeRows],
    capture: Capture,
    target: Store,
    number: int,
    settings: EncodeSettings,
    config: dict,
    flow_labels: FlowLabels | None = None,
) -> PartResult | None:
    """Write the part of one bucket of a capture, from its rows in every range.

    What an unsplit reading would not have reached, behind a fault, is left out. The first
    bucket's part counts the capture and the tunnels in it, and keeps its fault.

    Returns:
        What the part holds; None, and nothing is written, if the ranges do not meet.
    """
    ranges = sorted(ranges, key=lambda r: r.range_number)
    readable: list[RangeRows] = []
    for piece in ranges:
        if readable and piece.first_offset != readable[-1].next_offset:
            return None
        readable.append(piece)
        if piece.fault:
            break

    def chunks() -> Iterator[np.ndarray]:
        return (np.frombuffer(piece.rows, HEADER_ROW) for piece in readable)

    with PartWriter(target, number, settings, config, flow_labels=flow_labels) as part:
        label, labels = capture.label, None
        if flow_labels is not None:
            label, labels = part.label_flows(capture, chunks(), ranges[0].fingerprint)
        if ranges[0].bucket == 0:
            part.counts_of(label)["captures"] += 1
            for piece in readable:
                counts = zip(TUNNELS.values(), piece.tunnels, strict=True)
                part.count_tunnels(label, {name: n for name, n in counts if n})
            if readable[-1].fault:
                part.quarantine(capture, readable[-1].fault)
        part.encode_rows(capture, chunks(), ranges[0].fingerprint, labels)
    return part.result()
