"""The flows of captures: which endpoints, from when to when.

Shape letters: F flows, W windows, P packets.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from netdiff_ray.flow_keys import KEY_WORDS
from netdiff_ray.flows import Windows, assemble_flows, keys_and_starts
from netdiff_ray.nprint.layouts import HEIGHTS


@dataclass(frozen=True, kw_only=True)
class FlowSpans:
    """Flows, in the order they ended."""

    flow_id: list[str]
    words: np.ndarray
    """(F, KEY_WORDS) uint64: see `flow_keys`."""
    start_ns: np.ndarray
    """(F,) int64: time of the earliest packet, ns since 1970-01-01 UTC."""
    end_ns: np.ndarray
    """(F,) int64: time of the latest packet."""

    def __len__(self) -> int:
        return len(self.start_ns)


@dataclass
class _Gathered:
    """Flows as they are gathered, window by window."""

    ids: list[str] = field(default_factory=list)
    words: list[np.ndarray] = field(default_factory=list)
    start_ns: list[np.ndarray] = field(default_factory=list)
    end_ns: list[np.ndarray] = field(default_factory=list)
    number: list[np.ndarray] = field(default_factory=list)
    """Of each window's flow."""
    open: dict[str, int] = field(default_factory=dict)
    """Numbers of the flows whose last window has not come."""

    def add(self, windows: Windows) -> None:
        """Add W windows, a flow's in order."""
        if not len(windows):
            return
        opens = windows.window == 0
        number = np.where(opens, len(self.ids) + np.cumsum(opens) - 1, -1)
        for k in np.flatnonzero(~(opens & windows.is_last)).tolist():
            flow_id = windows.flow_id[k]
            if opens[k]:
                self.open[flow_id] = int(number[k])
            else:
                number[k] = self.open[flow_id]
            if windows.is_last[k]:
                del self.open[flow_id]
        begins = windows.first[:-1]
        chosen = np.flatnonzero(opens)
        counts = np.diff(windows.first)[chosen]
        keys = keys_and_starts(windows.rows, begins[chosen], counts)
        self.ids += [windows.flow_id[k] for k in chosen.tolist()]
        self.words.append(keys[:, :KEY_WORDS])
        self.start_ns.append(np.minimum.reduceat(windows.rows["ts_ns"], begins))
        self.end_ns.append(np.maximum.reduceat(windows.rows["ts_ns"], begins))
        self.number.append(number)

    def spans(self) -> FlowSpans:
        """Return the flows."""
        number = np.concatenate([np.empty(0, np.int64), *self.number])
        start = np.full(len(self.ids), np.iinfo(np.int64).max)
        end = np.full(len(self.ids), np.iinfo(np.int64).min)
        np.minimum.at(start, number, np.concatenate([np.empty(0, np.int64), *self.start_ns]))
        np.maximum.at(end, number, np.concatenate([np.empty(0, np.int64), *self.end_ns]))
        words = np.concatenate([np.empty((0, KEY_WORDS), np.uint64), *self.words])
        return FlowSpans(flow_id=self.ids, words=words, start_ns=start, end_ns=end)


def flow_spans(
    chunks: Iterable[np.ndarray], fingerprint: bytes, *, idle_timeout_s: float
) -> FlowSpans:
    """Return the flows of a capture.

    Args:
        chunks: its header rows, in capture order.
        fingerprint: of the capture.
        idle_timeout_s: silence that ends a flow.
    """
    gathered = _Gathered()
    for windows in assemble_flows(
        chunks, fingerprint, idle_timeout_s=idle_timeout_s, height=max(HEIGHTS)
    ):
        gathered.add(windows)
    return gathered.spans()


def joined_spans(spans: Iterable[FlowSpans]) -> FlowSpans:
    """Return the flows of several captures, one after another."""
    parts = list(spans)

    def column(name: str, empty: np.ndarray) -> np.ndarray:
        return np.concatenate([empty, *(getattr(part, name) for part in parts)])

    return FlowSpans(
        flow_id=[flow_id for part in parts for flow_id in part.flow_id],
        words=column("words", np.empty((0, KEY_WORDS), np.uint64)),
        start_ns=column("start_ns", np.empty(0, np.int64)),
        end_ns=column("end_ns", np.empty(0, np.int64)),
    )


def evenly_chosen(spans: FlowSpans, most: int) -> FlowSpans:
    """Return all flows, or `most` of them that are evenly spaced."""
    if len(spans) <= most:
        return spans
    chosen = np.arange(most) * len(spans) // most
    return FlowSpans(
        flow_id=[spans.flow_id[k] for k in chosen.tolist()],
        words=spans.words[chosen], start_ns=spans.start_ns[chosen], end_ns=spans.end_ns[chosen],
    )  # fmt: skip
