"""Fixtures of the whole suite."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_folder(name: str) -> Path:
    """A folder of real captures beside the checkout; the test is skipped where it is missing."""
    path = ROOT.parent / "shared" / name
    if not path.is_dir():
        pytest.skip(f"needs the capture collection {name}, which is not beside the checkout")
    return path


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The collection of real captures."""
    return shared_folder("corpus")


@pytest.fixture(scope="session")
def golden() -> Path:
    """nPrint's own output for captures of the corpus."""
    shared_folder("corpus")
    return shared_folder("golden")
