"""Flows that are made one after another, as one capture or archive that grows with them.

What has been written never changes, so that it can be sent on at once.

Shape letters: P packets, R rows, B bits.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np

from netdiff_ray.generation.shard_builder import DEFAULT_START_NS
from netdiff_ray.generation.shard_plan import ShardPlan, ShardSettings, shard_of
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.flow_plan import seed_of
from netdiff_ray.nprint.codec import decode
from netdiff_ray.nprint.layouts import HEIGHTS, Layout
from netdiff_ray.nprint.text import NprintWriter
from netdiff_ray.packets.writer import ETHERNET, CaptureWriter
from netdiff_ray.raster import drop_vacant_tail, write_png

SEQUENTIAL_GAP_NS = 1_000_000
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class MadeFlow:
    """A flow's packets, or why there are none."""

    flow_id: str
    reason: str = ""
    """Why it was set aside; empty for a flow that was made."""
    distance: float = 0.0
    """Share of the drawn cells that repair corrected."""
    data: np.ndarray
    """uint8 that holds the packets, one after another."""
    caplen: np.ndarray
    """(P,) int64 bytes of each."""
    wirelen: np.ndarray
    """(P,) int64 bytes of each on the wire."""
    relative_ns: np.ndarray
    """(P,) int64 times since the first, increasing."""


def flow_order(counts: Mapping[str, int], order: str, seed: int) -> list[tuple[str, int]]:
    """(label, index within the label) of the flows of a capture, in the order they begin.

    Label after label when `sequential`; labels mixed at random when `interleaved`.

    Args:
        counts: flows by label.
    """
    labels = [label for label, count in sorted(counts.items()) for _ in range(count)]
    if order == "interleaved":
        random = np.random.default_rng(seed_of(seed, "", 0, "labels"))
        labels = [labels[k] for k in random.permutation(len(labels))]
    seen = dict.fromkeys(counts, 0)
    flows = []
    for label in labels:
        flows.append((label, seen[label]))
        seen[label] += 1
    return flows


def make_flow(
    facts: AdapterMetadata, label: str, index: int, drawn: np.ndarray, settings: ShardSettings
) -> MadeFlow:
    """The flow that drawn windows become: the packets of it that a shard would hold.

    Args:
        drawn: (R, B) int8, the flow's windows (see `shard_of`).
    """
    shard = shard_of(facts, ShardPlan(number=0, label=label, first=index, count=1), drawn, settings)
    if shard.quarantine:
        record = shard.quarantine[0]
        nothing = np.empty(0, np.int64)
        return MadeFlow(
            flow_id=record["flow_id"], reason=record["reason"], data=np.empty(0, np.uint8),
            caplen=nothing, wirelen=nothing, relative_ns=nothing,
        )  # fmt: skip
    begin, end = int(shard.start[0]), int(shard.start[-1] + shard.caplen[-1])
    return MadeFlow(
        flow_id=shard.flows["flow_id"][0].as_py(),
        distance=shard.flows["repair_distance"][0].as_py(),
        data=shard.data[begin:end],
        caplen=shard.caplen,
        wirelen=shard.wirelen,
        relative_ns=shard.ts_ns - shard.ts_ns[0],
    )


class _Out:
    """A file that is only written to, and read by taking away what was written."""

    def __init__(self):
        self._parts: list[bytes] = []

    def write(self, data) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def flush(self) -> None:
        """Nothing; zipfile asks for it."""

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


class CaptureStream:
    """A capture that grows flow by flow; flows are arranged in time as `arrange` does it.

    Args:
        form: "pcap" or "pcapng".
        order: "sequential" or "interleaved".
        flows_per_second: mean rate at which interleaved flows begin.
        seed: of the times at which they begin.
    """

    def __init__(self, form: str, *, order: str, flows_per_second: float, seed: int):
        self._out = _Out()
        self._writer = CaptureWriter(self._out, form)
        self._gap_ns = 1e9 / flows_per_second if order == "interleaved" else None
        self._random = np.random.default_rng(seed)
        self._begin_ns = DEFAULT_START_NS
        self._last_ns = DEFAULT_START_NS - 1
        none = np.empty(0, np.int64)
        self._waiting = (np.empty(0, np.uint8), none, none, none)

    def add(self, flow: MadeFlow) -> bytes:
        """What can be written now that this flow is there, the next to begin."""
        if flow.reason:
            return b""
        if self._gap_ns is None:
            self._write(flow.data, flow.caplen, flow.wirelen, self._begin_ns + flow.relative_ns)
            self._begin_ns = self._last_ns + SEQUENTIAL_GAP_NS
        else:
            self._begin_ns += int(self._random.exponential(self._gap_ns))
            self._flush(self._begin_ns)
            ts_ns = self._begin_ns + flow.relative_ns
            own = (flow.data, flow.caplen, flow.wirelen, ts_ns)
            self._waiting = tuple(map(np.concatenate, zip(self._waiting, own, strict=True)))
        return self._out.take()

    def end(self) -> bytes:
        """The rest of the capture."""
        self._flush(None)
        self._writer.finish()
        return self._out.take()

    def _flush(self, before_ns: int | None) -> None:
        """Write what waits and is earlier than anything that may still come."""
        data, caplen, wirelen, ts_ns = self._waiting
        now = ts_ns < before_ns if before_ns is not None else np.ones(len(ts_ns), bool)
        if not now.any():
            return
        chosen = np.flatnonzero(now)
        chosen = chosen[np.argsort(ts_ns[chosen], kind="stable")]
        step = np.arange(len(chosen))
        ordered = ts_ns[chosen]
        # Packets of two flows may meet in one nanosecond: the later one waits.
        ordered[0] = max(ordered[0], self._last_ns + 1)
        ordered = np.maximum.accumulate(ordered - step) + step
        start = np.cumsum(caplen) - caplen
        self._write_at(data, start[chosen], caplen[chosen], wirelen[chosen], ordered)
        kept = ~now
        self._waiting = (
            data[np.repeat(kept, caplen)], caplen[kept], wirelen[kept], ts_ns[kept],
        )  # fmt: skip

    def _write(self, data, caplen, wirelen, ts_ns) -> None:
        self._write_at(data, np.cumsum(caplen) - caplen, caplen, wirelen, ts_ns)

    def _write_at(self, data, start, caplen, wirelen, ts_ns) -> None:
        self._writer.write(data, start, caplen, wirelen, ts_ns, ETHERNET)
        self._last_ns = int(ts_ns[-1])


class DrawingStream:
    """Drawings as they came from the model, before repair: what `netdiff repair` takes.

    Args:
        form: "png" or "nprint".
        layout: of the drawings.
        archive: whether they become a ZIP archive of `<label>/<flow_id>.<form>`, or, of one
            flow, the file itself.
    """

    def __init__(self, form: str, layout: Layout, *, archive: bool):
        self._form = form
        self._layout = layout
        self._out = _Out()
        self._archive = zipfile.ZipFile(self._out, "w") if archive else None

    def add(self, label: str, flow_id: str, drawn: np.ndarray) -> bytes:
        """What a flow's (R, B) int8 windows add."""
        nprint = drop_vacant_tail(drawn)
        for number, first in enumerate(range(0, max(len(nprint), 1), HEIGHTS[-1])):
            content = self._file(nprint[first : first + HEIGHTS[-1]])
            if self._archive is None:
                self._out.write(content)
                break
            part = f"-{number}" * (number > 0)
            folder = quote(label, safe=" ")
            name = zipfile.ZipInfo(f"{folder}/{flow_id}{part}.{self._form}", _ZIP_TIME)
            self._archive.writestr(name, content)
        return self._out.take()

    def end(self) -> bytes:
        """The rest of the archive."""
        if self._archive is not None:
            self._archive.close()
        return self._out.take()

    def _file(self, nprint: np.ndarray) -> bytes:
        file = io.BytesIO()
        if self._form == "png":
            write_png(file, nprint, self._layout)
        else:
            rows, _, _ = decode(nprint, self._layout)
            NprintWriter(file, self._layout).write(nprint, rows)
        return file.getvalue()
