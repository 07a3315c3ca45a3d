"""Where the project lies, and what may lie beside it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_folder(name: str) -> Path:
    """A folder of real captures beside the checkout; the test is skipped where it is missing."""
    path = ROOT.parent / "shared" / name
    if not path.is_dir():
        pytest.skip(f"needs the capture collection {name}, which is not beside the checkout")
    return path
