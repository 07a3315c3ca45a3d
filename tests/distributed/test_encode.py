"""Encoding on Ray: the same parts as without it, resumed, refused, with its exit codes."""

import json
from pathlib import Path

import pytest
from making import pcap, tcp4, udp4

from netdiff_ray.cli import main
from netdiff_ray.dataset import open_place
from netdiff_ray.dataset.captures import list_captures
from netdiff_ray.dataset.encode import EncodeSettings, encode_part, encoded_part_name, plan_parts

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def collection(tmp_path):
    """Twenty captures of two labels, one of them damaged."""
    for k in range(20):
        folder = tmp_path / "captures" / ("web" if k % 2 else "dns")
        folder.mkdir(parents=True, exist_ok=True)
        packets = [tcp4(2, sport=k), *[udp4(bytes(k), sport=j) for j in range(k)]]
        (folder / f"{k:02d}.pcap").write_bytes(pcap(packets)[: -3 if k == 7 else None])
    return tmp_path / "captures"


def run(*arguments):
    """The exit code of the command line."""
    return main([str(a) for a in arguments])


def content_of(folder):
    """{name: bytes} of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_parts_are_those_of_plain_functions(collection, tmp_path, capsys, monkeypatch):
    # Parts of some hundred bytes instead of MiB.
    monkeypatch.setattr(
        "netdiff_ray.distributed.encode.plan_parts", lambda c, _: plan_parts(c, 3000)
    )
    target = tmp_path / "encoded"
    assert run("encode", collection, target, "--json") == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["captures"] == 20
    assert counts["quarantined"] == 1
    source, captures, _ = list_captures(str(collection))
    parts = plan_parts(captures, 3000)
    assert counts["parts"] == len(parts) > 4
    plain = open_place(tmp_path / "plain")
    settings = EncodeSettings(layout="timed", height=1024, idle_timeout_s=60.0)
    config = json.loads((target / "manifest.json").read_text())["config"]
    for number, part in enumerate(parts):
        encode_part(source, part, plain, number, settings, config)
        name = encoded_part_name(number)
        assert (target / name).read_bytes() == plain.get(name)

    before = content_of(target)
    (target / encoded_part_name(2)).unlink()
    assert run("encode", collection, target) == 0
    assert content_of(target) == before
    assert run("encode", collection, target, "--height", 64) == 2
    assert "height is 1024 there and 64 asked" in capsys.readouterr().err


def test_the_allowed_fraction_decides_the_exit_code(collection, tmp_path, capsys):
    assert run("encode", collection, tmp_path / "a", "--allow", 0) == 1
    assert "1 captures in quarantine.jsonl" in capsys.readouterr().out
    record = json.loads((Path(tmp_path) / "a" / "quarantine.jsonl").read_text())
    assert record["capture"] == "web/07.pcap"
    assert "the file ends inside a record" in record["reason"]


def test_mistakes_get_a_sentence(tmp_path, capsys):
    assert run("encode", tmp_path / "none", tmp_path / "out") == 2
    assert "no captures there" in capsys.readouterr().err
    assert run("encode", tmp_path, "nowhere://x") == 2
