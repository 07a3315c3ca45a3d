"""The walkthrough is run as it stands in the repository, at toy size."""

import json
import re
import tempfile

import pytest
from paths import ROOT

NOTEBOOK = ROOT / "notebooks" / "walkthrough.ipynb"


def cells(kind):
    """Return the cells of a kind, in order."""
    every = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in every if cell["cell_type"] == kind]


def test_it_is_committed_without_outputs():
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells("code"))
    assert cells("markdown")


@pytest.mark.slow
def test_every_cell_runs(local_ray, tmp_path, monkeypatch, capsys):
    code = "\n\n".join("".join(cell["source"]) for cell in cells("code"))
    code, replaced = re.subn(r"^ray\.(init|shutdown)\(.*\)$", "", code, flags=re.M)  # it runs
    assert replaced == 2
    monkeypatch.setenv("NETDIFF_TOY", "1")
    monkeypatch.setenv("NETDIFF_SAMPLES", str(ROOT / "samples"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    exec(compile(code, NOTEBOOK.name, "exec"), {"__name__": "walkthrough"})
    said = capsys.readouterr().out
    assert "problems: []" in said
    assert "fidelity.jsd" in said
