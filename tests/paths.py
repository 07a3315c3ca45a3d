"""Paths of the checkout and of the capture collections beside it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_folder(name: str) -> Path:
    """Return a folder of real captures beside the checkout; skip the test if it is missing."""
    path = ROOT.parent / "shared" / name
    if not path.is_dir():
        pytest.skip(f"needs ../shared/{name}, a capture collection")
    return path
