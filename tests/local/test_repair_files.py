"""`netdiff repair` and `netdiff verify` as a user runs them."""

import json

import numpy as np
import pytest
from fs_helpers import content_of
from packet_builders import pcap, read, tcp4, udp4

from netdiff_ray import raster
from netdiff_ray.cli import main
from netdiff_ray.flows import assemble_flows
from netdiff_ray.nprint import LAYOUTS, encode_windows
from netdiff_ray.nprint.text import NprintWriter
from netdiff_ray.packets import CaptureReader

BACK = {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 80, "dport": 1000}
TCP = [tcp4(2), tcp4(0x12, **BACK), tcp4(0x10), tcp4(0x18, b"x" * 90), tcp4(0x10, **BACK)]
UDP = [udp4(b"a" * 30), udp4(b"b" * 80, source="10.0.0.2", target="10.0.0.1", sport=53, dport=1000)]


@pytest.fixture
def drawn(tmp_path):
    """Make a folder of drawings of two labels, noise in their cells, one file broken."""
    random = np.random.default_rng(5)
    folder = tmp_path / "drawn"
    for label, packets in (("web", TCP), ("dns", UDP)):
        (folder / label).mkdir(parents=True)
        reader, _, rows = read(tmp_path / "c.pcap", pcap(packets))
        (windows,) = assemble_flows([rows], reader.fingerprint)
        for k in range(4):
            layout = LAYOUTS["stateful" if label == "web" else "nprint-1088"]
            nprint = encode_windows(windows, layout)
            wrong = random.random(nprint.shape) < 0.02 * (k > 0)
            nprint[wrong] = random.integers(-1, 2, wrong.sum())
            if k % 2:
                raster.write_png(folder / label / f"{k}.png", nprint, layout)
            else:
                with open(folder / label / f"{k}.nprint", "wb") as file:
                    NprintWriter(file, layout).write(nprint, windows.rows)
    (folder / "web" / "broken.png").write_bytes(b"no picture")
    return folder


def run(*arguments):
    """Return the exit code of the command line."""
    return main([str(a) for a in arguments])


def test_a_folder_becomes_a_dataset(drawn, tmp_path, capsys):
    target = tmp_path / "dataset"
    assert run("repair", drawn, target, "--flows-per-shard", 3) == 1
    printed = capsys.readouterr()
    assert "8 flows" in printed.out
    assert "quarantined web/broken.png" in printed.err
    assert run("verify", target) == 0
    assert "whole;" in capsys.readouterr().out
    counts = json.loads((target / "manifest.json").read_text())["counts"]
    assert set(counts["labels"]) == {"dns", "web"}
    assert counts["parts"] == 4
    assert counts["labels"]["web"]["repair_distance"] > 0
    before = content_of(target)
    for name in ("label=web/part-00003.pcap", "label=dns/part-00000.pcap"):
        (target / name).unlink()
    assert run("verify", target) == 1
    assert run("repair", drawn, target, "--flows-per-shard", 3, "--max-quarantined-share", 0.2) == 0
    assert "2 shards were there already" in capsys.readouterr().out
    assert content_of(target) == before
    assert run("repair", drawn, target, "--flows-per-shard", 3, "--seed", 9) == 2
    assert "seed is 0 there and 9 requested" in capsys.readouterr().err


def test_flows_do_not_depend_on_their_neighbours(drawn, tmp_path):
    """The same drawing under the same name gives the same packets alone or among others."""
    run("repair", drawn, tmp_path / "all", "--pcap-per-flow")
    (drawn / "web" / "0.nprint").unlink()
    run("repair", drawn, tmp_path / "fewer", "--pcap-per-flow")
    captures = sorted(p.relative_to(tmp_path / "fewer") for p in tmp_path.glob("fewer/*/*/*.pcap"))
    assert len(captures) == 7
    for name in captures:
        alone, among = (
            [(t.wirelen.tolist(), np.diff(t.ts_ns).tolist()) for t in CaptureReader(folder / name)]
            for folder in (tmp_path / "all", tmp_path / "fewer")
        )
        assert alone == among


def test_a_file_becomes_a_capture(drawn, tmp_path, capsys):
    for suffix in ("pcap", "pcapng"):
        target = tmp_path / f"one.{suffix}"
        assert run("repair", drawn / "web" / "1.png", target) == 0
        (table,) = CaptureReader(target)
        assert len(table) == 5
        assert (table.reason == 0).all()
        assert (np.diff(table.ts_ns) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("repair", "EMPTY", "OUT"), "no .nprint or .png files"),
        (("repair", "none.png", "OUT"), "no such file"),
        (("repair", "x.txt", "OUT"), "a drawn file ends in .nprint or .png"),
        (("repair", "EMPTY", "OUT", "--label", "a/b"), "letters, digits, dot"),
        (("repair", "EMPTY", "OUT", "--max-quarantined-share", "2"), "a share, from 0 to 1"),
        (("verify", "EMPTY"), "no manifest.json"),
    ],
)
def test_mistakes_get_a_sentence(tmp_path, capsys, arguments, words):
    (tmp_path / "empty").mkdir()
    names = {"EMPTY": tmp_path / "empty", "OUT": tmp_path / "out"}
    assert run(*[names.get(a, a) for a in arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_drawing_that_was_changed_is_repaired_again(drawn, tmp_path, capsys):
    target, first = tmp_path / "dataset", drawn / "dns" / "0.nprint"
    assert run("repair", drawn, target, "--flows-per-shard", 2) == 1
    before, drawing = content_of(target), first.read_bytes()
    capsys.readouterr()
    first.write_bytes((drawn / "dns" / "2.nprint").read_bytes())
    assert run("repair", drawn, target, "--flows-per-shard", 2) == 1
    assert "4 shards were there already" in capsys.readouterr().out
    after = content_of(target)
    assert {name for name in after if after[name] != before[name]} >= {"flows/part-00000.parquet"}
    assert after["flows/part-00002.parquet"] == before["flows/part-00002.parquet"]

    first.write_bytes(drawing)
    (drawn / "web" / "broken.png").unlink()
    assert run("repair", drawn, target, "--flows-per-shard", 2) == 0
    after = content_of(target)
    assert run("verify", target) == 0
    assert "flows/part-00004.parquet" not in after
    assert after["flows/part-00000.parquet"] == before["flows/part-00000.parquet"]


def test_columns_that_are_left_out_are_named(drawn, tmp_path, capsys):
    for k in (0, 2):
        path = drawn / "dns" / f"{k}.nprint"
        head, *rows = path.read_text().splitlines()
        cells = [row.split(",", 1) for row in rows]
        lines = [head.replace(",", ",eth_dhost_0,", 1)]
        path.write_text("\n".join(lines + [f"{index},1,{rest}" for index, rest in cells]) + "\n")
    for target in ("dataset", "flows.pcap"):
        run("repair", drawn, tmp_path / target)
        assert capsys.readouterr().out.rstrip().endswith(", eth columns of 2 files left out")
