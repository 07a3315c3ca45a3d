"""The windows of a capture, as they are read.

Shape letters: P packets, B bits (columns of the layout).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from netdiff_ray.config.checks import check_flow_settings
from netdiff_ray.errors import CaptureError
from netdiff_ray.flows import DEFAULT_HEIGHT, DEFAULT_IDLE_TIMEOUT_S, Windows, assemble_flows
from netdiff_ray.nprint.codec import encode_windows
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, Layout, layout_named
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.headers import header_rows


@dataclass(frozen=True, kw_only=True)
class Window:
    """A run of packets of a flow."""

    flow_id: str
    """32 hex digits: a hash of capture content, 5-tuple and start."""
    number: int
    """Of the window in its flow, from 0."""
    is_last: bool
    """Whether the flow ends with this window."""
    nprint: np.ndarray
    """(P, B) int8 of 1, 0, -1 (vacant)."""
    ts_ns: np.ndarray
    """(P,) int64: nanoseconds since 1970-01-01 UTC."""
    direction: np.ndarray
    """(P,) uint8: 0 from the client, 1 to it."""
    interarrival_ns: np.ndarray
    """(P,) int64: time since the flow's packet before; 0 for its first."""


class CaptureWindows(Iterator[Window]):
    """The windows of a capture, to be iterated once; memory does not grow with its size."""

    def __init__(
        self, reader: CaptureReader, layout: Layout, *, height: int, idle_timeout_s: float
    ):
        self.layout = layout
        """Of the nprints."""
        self._reader = reader
        chunks = (header_rows(table) for table in reader)
        batches = assemble_flows(
            chunks, reader.fingerprint, idle_timeout_s=idle_timeout_s, height=height
        )
        self._windows = (window for batch in batches for window in _windows_of(batch, layout))

    def __next__(self) -> Window:
        return next(self._windows)

    @property
    def fault(self) -> CaptureError | None:
        """Why reading stopped before the end of the capture; None if it did not."""
        return self._reader.fault

    @property
    def notes(self) -> dict[str, tuple[int, int]]:
        """Oddities that did not stop the reading: words -> (records, byte offset of the first)."""
        return self._reader.notes


def read_capture(
    source: str | os.PathLike | BinaryIO,
    *,
    layout: str = DEFAULT_LAYOUT,
    height: int = DEFAULT_HEIGHT,
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S,
) -> CaptureWindows:
    """Read a capture, pcap or pcapng, compressed or not, as windows of flows.

    Args:
        source: a path, or a seekable binary file.
        layout: name of the layout of the nprints.
        height: most packets of a window.
        idle_timeout_s: silence that ends a flow, in seconds.

    Raises:
        ConfigError: no such height or layout.
        CaptureError: the source cannot be opened or is no capture. A fault further in ends the
            iteration and is left in `fault`.
    """
    check_flow_settings(idle_timeout_s, height)
    chosen = layout_named(layout)
    if isinstance(source, str | os.PathLike):
        source = Path(source)
    return CaptureWindows(
        CaptureReader(source), chosen, height=height, idle_timeout_s=idle_timeout_s
    )


def _windows_of(batch: Windows, layout: Layout) -> Iterator[Window]:
    nprint = encode_windows(batch, layout)
    for k, (begin, end) in enumerate(zip(batch.first[:-1], batch.first[1:], strict=True)):
        yield Window(
            flow_id=batch.flow_id[k],
            number=int(batch.window[k]),
            is_last=bool(batch.is_last[k]),
            nprint=nprint[begin:end],
            ts_ns=batch.rows["ts_ns"][begin:end],
            direction=batch.direction[begin:end],
            interarrival_ns=batch.interarrival_ns[begin:end],
        )
