"""Helpers for what tests observe from outside: files, and conditions that become true."""

import time
from collections.abc import Callable
from pathlib import Path


def content_of(folder: Path) -> dict[str, bytes]:
    """Return {name: bytes} of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def wait_until(true: Callable[[], bool], seconds: float) -> float:
    """Wait until a condition is true and return the seconds it took; fail after `seconds`."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not true after {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - began
