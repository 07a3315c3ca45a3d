"""What tests look at from outside: files, and things that come about."""

import time
from collections.abc import Callable
from pathlib import Path


def content_of(folder: Path) -> dict[str, bytes]:
    """{name: bytes} of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def wait_until(true: Callable[[], bool], seconds: float) -> float:
    """The seconds it took until something became true; the test fails when it takes more."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it did not come about"
        time.sleep(0.1)
    return time.monotonic() - began
