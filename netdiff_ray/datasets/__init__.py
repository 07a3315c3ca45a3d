"""Captures and datasets as arrays: `read_capture` and `load` of the Python API."""

from netdiff_ray.datasets.capture import CaptureWindows, Window, read_capture
from netdiff_ray.datasets.dataset import NprintDataset, load

__all__ = ["CaptureWindows", "NprintDataset", "Window", "load", "read_capture"]
