"""The walkthrough is run as it stands in the repository, at toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "walkthrough.ipynb"


def cells(kind):
    """Return the cells of a kind, in order."""
    every = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in every if cell["cell_type"] == kind]


def test_it_is_committed_without_outputs():
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells("code"))
    assert cells("markdown")


@pytest.mark.slow
def test_every_cell_runs(tmp_path):
    code = "\n\n".join("".join(cell["source"]) for cell in cells("code"))
    (tmp_path / "walkthrough.py").write_text(code)
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    env = os.environ | {
        "NETDIFF_TOY": "1", "NETDIFF_SAMPLES": str(ROOT / "samples"), "MPLBACKEND": "agg",
        "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "work"),
        "HOME": str(tmp_path / "home"), "RAY_TMPDIR": "/tmp", "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(tmp_path / "walkthrough.py")], env=env, capture_output=True,
        text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "problems: []" in done.stdout
    assert "fidelity.jsd" in done.stdout
