"""`.nprint` text: written as nPrint writes it, read with every fault named."""

import numpy as np
import pytest
from packet_builders import pcap, read, tcp4

from netdiff_ray.errors import NprintError
from netdiff_ray.nprint import LAYOUTS, encode
from netdiff_ray.nprint.text import NprintWriter, read_nprint


@pytest.fixture
def written(tmp_path):
    """(path, matrix) of a .nprint file of drawn cells."""
    _, _, rows = read(tmp_path / "c", pcap([tcp4(0x02)] * 300))
    layout = LAYOUTS["nprint-1088"]
    nprint = encode(rows, layout)
    random = np.random.default_rng(1)
    wrong = random.random(nprint.shape) < 0.05
    nprint[wrong] = random.integers(-1, 2, wrong.sum())
    path = tmp_path / "drawn.nprint"
    with open(path, "wb") as file:
        NprintWriter(file, layout).write(nprint, rows)
    return path, nprint


def test_read_gives_what_was_written(written):
    path, nprint = written
    layout, blocks = read_nprint(path)
    assert layout.name == "nprint-1088"
    np.testing.assert_array_equal(np.concatenate(list(blocks)), nprint)
    assert path.read_text().splitlines()[1].startswith("10.0.0.1,")


def test_blocks_join_without_a_seam(written, monkeypatch):
    path, nprint = written
    monkeypatch.setattr("netdiff_ray.nprint.text._READ_BYTES", 5000)
    np.testing.assert_array_equal(np.concatenate(list(read_nprint(path)[1])), nprint)


def test_windows_line_ends_and_a_missing_last_one(written):
    path, nprint = written
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").rstrip(b"\r\n"))
    np.testing.assert_array_equal(np.concatenate(list(read_nprint(path)[1])), nprint)


def change(path, line, old, new):
    """Replace in one line of a file (counted from 1)."""
    lines = path.read_text().splitlines()
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("line", "old", "new", "words"),
    [
        (1, "ipv4_hl_0,ipv4_hl_1", "ipv4_hl_1,ipv4_hl_0", "column 6 is 'ipv4_hl_1'; layout nprint"),
        (1, ",ipv4_ver_0", "", "column 2 is 'ipv4_ver_1'; layout nprint has 'ipv4_ver_0'"),
        (1, ",icmp_roh_31", "", "1,087 columns of bits; layout nprint-1088 has 1,088"),
        (7, ",-1", ",2", "line 7: column"),
        (7, ",-1", ",", "line 7: column"),
        (9, "10.0.0.1,", "10.0.0.1,1,", "line 9: column 1090"),
    ],
)
def test_faults_are_named(written, line, old, new, words):
    path, _ = written
    change(path, line, old, new)
    with pytest.raises(NprintError, match=words) as caught:
        list(read_nprint(path)[1])
    assert str(path) in str(caught.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(NprintError, match="the first line names no columns"):
        read_nprint(tmp_path / "empty")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 400)
    with pytest.raises(NprintError):
        read_nprint(tmp_path / "binary")
    with pytest.raises(NprintError, match="cannot be opened"):
        read_nprint(tmp_path / "missing")
