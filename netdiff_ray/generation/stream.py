"""Captures and archives that grow flow by flow.

Bytes once written never change, so that they can be sent at once.

Shape letters: P packets, R rows, B bits.
"""

import io
import zipfile
from collections.abc import Mapping
from urllib.parse import quote

import numpy as np

from netdiff_ray.config.pins import DEFAULT_START_NS
from netdiff_ray.generation.flow_repair import RepairedFlow
from netdiff_ray.generation.schedule import FlowStarts, separate
from netdiff_ray.labels.flow_plan import seed_of
from netdiff_ray.nprint.codec import decode
from netdiff_ray.nprint.layouts import HEIGHTS, Layout
from netdiff_ray.nprint.text import NprintWriter
from netdiff_ray.packets.linktypes import ETHERNET
from netdiff_ray.packets.writer import CaptureWriter
from netdiff_ray.raster import drop_vacant_tail, write_png

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def flow_order(counts: Mapping[str, int], order: str, seed: int) -> list[tuple[str, int]]:
    """Return (label, index within the label) of a capture's flows, in the order they begin.

    Label after label when `sequential`; labels mixed at random when `interleaved`.

    Args:
        counts: flows by label.
    """
    labels = [label for label, count in sorted(counts.items()) for _ in range(count)]
    if order == "interleaved":
        random = np.random.default_rng(seed_of(seed, "", 0, "labels"))
        labels = [labels[k] for k in random.permutation(len(labels))]
    next_index = dict.fromkeys(counts, 0)
    flows = []
    for label in labels:
        flows.append((label, next_index[label]))
        next_index[label] += 1
    return flows


class _Outbox:
    """A file that is only written to; its content is read by taking it away."""

    def __init__(self):
        self._parts: list[bytes] = []

    def write(self, data) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def flush(self) -> None:
        """Do nothing; zipfile calls it."""

    def take(self) -> bytes:
        """Return the bytes written since the last call."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


class CaptureStream:
    """A capture that grows flow by flow; times are those of `schedule_packets`.

    Args:
        form: "pcap" or "pcapng".
        order: "sequential" or "interleaved".
        flows_per_second: mean rate at which interleaved flows begin.
        seed: of the times at which they begin.
        start_ns: when the first begins, in nanoseconds since 1970-01-01 UTC.
    """

    def __init__(
        self, form: str, *, order: str, flows_per_second: float, seed: int,
        start_ns: int = DEFAULT_START_NS,
    ):  # fmt: skip
        self._outbox = _Outbox()
        self._writer = CaptureWriter(self._outbox, form)
        self._starts = FlowStarts(
            order=order, start_ns=start_ns, flows_per_second=flows_per_second, seed=seed
        )
        self._overlapping = order == "interleaved"
        self._last_ns = start_ns - 1
        empty = np.empty(0, np.int64)
        self._pending = (np.empty(0, np.uint8), empty, empty, empty)

    def add(self, flow: RepairedFlow) -> bytes:
        """Return the bytes that can be written once this flow, the next to begin, is added."""
        if flow.reason:
            return b""
        start_ns = int(self._starts.take(flow.relative_ns[-1:])[0])
        if self._overlapping:
            self._flush(start_ns)
        columns = (flow.data, flow.caplen, flow.wirelen, start_ns + flow.relative_ns)
        self._pending = tuple(map(np.concatenate, zip(self._pending, columns, strict=True)))
        if not self._overlapping:
            self._flush(None)
        return self._outbox.take()

    def end(self) -> bytes:
        """Return the rest of the capture."""
        self._flush(None)
        self._writer.finish()
        return self._outbox.take()

    def _flush(self, before_ns: int | None) -> None:
        """Write the pending packets before `before_ns`, None for all of them."""
        data, caplen, wirelen, ts_ns = self._pending
        ready = ts_ns < before_ns if before_ns is not None else np.ones(len(ts_ns), bool)
        if not ready.any():
            return
        chosen = np.flatnonzero(ready)
        chosen = chosen[np.argsort(ts_ns[chosen], kind="stable")]
        ordered_ns = separate(ts_ns[chosen], self._last_ns)
        start = np.cumsum(caplen) - caplen
        self._writer.write(
            data, start[chosen], caplen[chosen], wirelen[chosen], ordered_ns, ETHERNET
        )
        self._last_ns = int(ordered_ns[-1])
        left = ~ready
        self._pending = (
            data[np.repeat(left, caplen)], caplen[left], wirelen[left], ts_ns[left],
        )  # fmt: skip


class DrawingStream:
    """Drawings of the model before repair, in the formats that `netdiff repair` reads.

    Args:
        form: "png" or "nprint".
        layout: of the drawings.
        archive: write a ZIP archive of `<label>/<flow_id>.<form>`; otherwise the single
            flow's file itself.
    """

    def __init__(self, form: str, layout: Layout, *, archive: bool):
        self._form = form
        self._layout = layout
        self._outbox = _Outbox()
        self._archive = zipfile.ZipFile(self._outbox, "w") if archive else None

    def add(self, label: str, flow_id: str, drawn: np.ndarray) -> bytes:
        """Return the bytes that a flow's (R, B) int8 windows add."""
        nprint = drop_vacant_tail(drawn)
        for number, first in enumerate(range(0, max(len(nprint), 1), HEIGHTS[-1])):
            content = self._file(nprint[first : first + HEIGHTS[-1]])
            if self._archive is None:
                self._outbox.write(content)
                break
            part = f"-{number}" * (number > 0)
            folder = quote(label, safe=" ")
            name = zipfile.ZipInfo(f"{folder}/{flow_id}{part}.{self._form}", _ZIP_TIME)
            self._archive.writestr(name, content)
        return self._outbox.take()

    def end(self) -> bytes:
        """Return the rest of the archive."""
        if self._archive is not None:
            self._archive.close()
        return self._outbox.take()

    def _file(self, nprint: np.ndarray) -> bytes:
        file = io.BytesIO()
        if self._form == "png":
            write_png(file, nprint, self._layout)
        else:
            rows, _, _ = decode(nprint, self._layout)
            NprintWriter(file, self._layout).write(nprint, rows)
        return file.getvalue()
