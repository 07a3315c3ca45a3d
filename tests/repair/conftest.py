"""Fixtures of the tests of repair."""

import shutil

import pytest
from windows import SOURCES, Window, all_windows, chosen, source


@pytest.fixture(scope="session")
def real_windows() -> list[Window]:
    """Return a few hundred real windows, of every protocol there is."""
    place = source()
    if place is None:
        pytest.skip(f"needs labelled captures in one of {', '.join(map(str, SOURCES))}")
    return chosen(all_windows(place), 300)


@pytest.fixture(scope="session")
def tshark() -> None:
    if shutil.which("tshark") is None:
        pytest.skip("needs tshark")
