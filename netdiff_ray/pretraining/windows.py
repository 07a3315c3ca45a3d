"""Read the windows of labelled captures to pretrain on."""

from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from netdiff_ray.errors import DatasetError
from netdiff_ray.flows import assemble_flows
from netdiff_ray.labels.labelled_windows import LabelledWindows, check_windows
from netdiff_ray.labels.service import window_services
from netdiff_ray.nprint.codec import encode_windows
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.container import has_capture_suffix
from netdiff_ray.packets.headers import header_rows


def read_windows(
    folder: Path,
    layout: Layout,
    max_height: int,
    *,
    per_label: int,
    leave_out: Collection[str] = (),
) -> LabelledWindows:
    """Read the windows of the captures in `folder`.

    Args:
        folder: with a folder of captures for each label.
        layout: of the windows.
        max_height: rows of a full window.
        per_label: most flows of a label; the first ones, by name of their capture, are taken.
        leave_out: labels to pass over.

    Raises:
        DatasetError: no label's folder holds a capture.
        CaptureError: a file is not a capture.
    """
    columns: dict[str, list] = {"nprint": [], "label": [], "service": [], "flow": [], "window": []}
    for label_folder in sorted(p for p in folder.glob("*") if p.is_dir()):
        if label_folder.name in leave_out:
            continue
        flows: set[str] = set()
        for flow, window, service, nprint in _windows_below(label_folder, layout, max_height):
            if flow not in flows and len(flows) >= per_label:
                continue
            flows.add(flow)
            columns["nprint"].append(nprint)
            columns["label"].append(label_folder.name)
            columns["service"].append(service)
            columns["flow"].append(flow)
            columns["window"].append(window)
    windows = LabelledWindows(**columns, layout=layout)
    if not len(windows):
        raise DatasetError(
            f"{folder} holds no folder of captures for a label; give a folder with a folder of "
            "captures for each label"
        )
    check_windows(windows, max_height)
    return windows


def _windows_below(
    folder: Path, layout: Layout, max_height: int
) -> Iterator[tuple[str, int, str, np.ndarray]]:
    """Yield flow id, number, service and nprint of the windows of all captures below a folder."""
    captures = sorted(p for p in folder.rglob("*") if p.is_file() and has_capture_suffix(p.name))
    for path in captures:
        reader = CaptureReader(path)
        rows = (header_rows(table) for table in reader)
        for windows in assemble_flows(rows, reader.fingerprint, height=max_height):
            nprint = encode_windows(windows, layout)
            spans = pairwise(windows.first.tolist())
            services = window_services(windows.rows, windows.direction, windows.first)
            for flow, window, service, (begin, end) in zip(
                windows.flow_id, windows.window.tolist(), services, spans, strict=True
            ):
                yield flow, window, service, nprint[begin:end].copy()
