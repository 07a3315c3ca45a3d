"""Windows with their labels, the input of training.

Shape letters: N windows, P packets, B bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netdiff_ray.errors import DatasetError
from netdiff_ray.labels.duplicates import FlowDuplicates
from netdiff_ray.nprint.layouts import Layout


@dataclass(frozen=True, kw_only=True)
class LabelledWindows:
    """Windows to train on."""

    nprint: Sequence[np.ndarray]
    """N matrices (P, B) int8 of 1, 0, -1, each with its own P."""
    label: Sequence[str]
    """N labels."""
    service: Sequence[str]
    """N services, see `service.window_services`."""
    flow: Sequence[str]
    """N ids of the windows' flows."""
    window: Sequence[int]
    """N numbers of the windows in their flows, from 0."""
    layout: Layout
    """Whose columns B are."""
    kind: Sequence[str] | None = None
    """What the N windows speak, of `dialogue.recognise.SIGNS`; None where no payload was seen."""
    direction: Sequence[np.ndarray] | None = None
    """N arrays (P,) uint8, 0 from the client; needed if the layout lacks it."""
    interarrival_ns: Sequence[np.ndarray] | None = None
    """N arrays (P,) int64; like `direction`."""
    client: Sequence[int | None] | None = None
    """N numbers of the flows' clients, None where a client is not known."""
    server: Sequence[int | None] | None = None
    """N numbers of the flows' servers; like `client`."""
    capture: Sequence[str] | None = None
    """N names of the captures that the windows are of."""
    start_ns: Sequence[int] | None = None
    """N times of the windows' first packets, in nanoseconds since 1970-01-01 UTC."""
    duplicates: Sequence[FlowDuplicates | None] | None = None
    """How the packets of the N windows were captured again, None of those that were captured once.
    """

    def __len__(self) -> int:
        return len(self.nprint)


def check_windows(windows: LabelledWindows, max_height: int) -> None:
    """Raise DatasetError unless a model can be trained on the windows.

    Raises:
        DatasetError: there are none, columns differ in length, a window is empty, too high
            or of another layout, or a label is empty; the text names the first such window.
    """
    num_windows = len(windows.nprint)
    if not num_windows:
        raise DatasetError("there are no windows to train on; encode captures first")
    for name in (
        "label", "service", "kind", "flow", "window", "direction", "interarrival_ns", "client",
        "server", "capture", "start_ns", "duplicates",
    ):  # fmt: skip
        column = getattr(windows, name)
        if column is not None and len(column) != num_windows:
            raise DatasetError(f"{num_windows:,} windows have {len(column):,} values of {name}")
    width = windows.layout.width
    for i, nprint in enumerate(windows.nprint):
        where = f"window {i} (flow {windows.flow[i]}, label {windows.label[i]!r})"
        if not str(windows.label[i]).strip():
            raise DatasetError(f"{where} has an empty label; every window needs one")
        if nprint.ndim != 2 or nprint.shape[1] != width:
            raise DatasetError(
                f"{where} is of shape {nprint.shape}; layout {windows.layout.name} has {width:,} "
                "columns: encode all captures with one layout"
            )
        if not 0 < len(nprint) <= max_height:
            raise DatasetError(
                f"{where} has {len(nprint):,} rows; a window has 1 to {max_height:,}: encode and "
                "train with the same height"
            )
