"""`.nprint` text: written as nPrint writes it, read with every fault named."""

import numpy as np
import pytest
from packet_builders import pcap, read, tcp4

from netdiff_ray.errors import NprintError
from netdiff_ray.nprint import LAYOUTS, encode
from netdiff_ray.nprint.text import NprintWriter, read_nprint


@pytest.fixture
def written(tmp_path):
    """Return (path, matrix) of a .nprint file of drawn cells."""
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
    layout, blocks, _ = read_nprint(path)
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


@pytest.mark.parametrize(
    ("headers", "left_out"),
    [
        (("ipv4",), {}),
        (("ipv4", "tcp"), {"eth": 112, "payload": 16}),
        (("ipv6", "udp", "icmp"), {"rts": 1}),
        (("ipv4", "ipv6", "tcp", "udp", "icmp"), {"payload": 16_000}),
    ],
)
def test_any_set_of_headers_is_read(tmp_path, headers, left_out):
    """As `nprint -4`, `nprint -e -4 -t -p 2`, `nprint -6 -u -i -R` write it."""
    _, _, rows = read(tmp_path / "c", pcap([tcp4(0x02), tcp4(0x10, options=bytes(4))]))
    layout = LAYOUTS["nprint"]
    nprint = encode(rows, layout)
    has = layout.columns_of(headers)
    names = [n for n, kept in zip(layout.column_names, has, strict=True) if kept]
    columns = dict(zip(names, nprint[:, has].T.tolist(), strict=True))
    before = {f"eth_dhost_{k}": [1, 0] for k in range(left_out.get("eth", 0))}
    after = {f"payload_bit_{k}": [0, -1] for k in range(left_out.get("payload", 0))}
    after |= {"rts": ["0.25", "-7"]} if "rts" in left_out else {}
    columns = {"src_ip": ["10.0.0.1"] * 2, **before, **columns, **after}
    lines = [columns, *zip(*columns.values(), strict=True)]
    path = tmp_path / "some.nprint"
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    read_layout, blocks, named = read_nprint(path)
    assert read_layout is layout
    assert named == left_out
    np.testing.assert_array_equal(np.concatenate(list(blocks)), np.where(has, nprint, -1))


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
