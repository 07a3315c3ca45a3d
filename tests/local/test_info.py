"""`netdiff info` as a user runs it."""

import json

import pytest
from packet_builders import pcap, udp4
from tiny_models import LABELS

from netdiff_ray.cli import main
from netdiff_ray.config import ConvertConfig
from netdiff_ray.evaluate.report import FORMAT
from netdiff_ray.local.convert import convert


def info_of(capsys, path):
    """Return (text, JSON) of a path."""
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert main(["info", str(path), "--json"]) == 0
    return text, json.loads(capsys.readouterr().out)


def test_a_capture(tmp_path, capsys):
    path = tmp_path / "one.pcap"
    path.write_bytes(pcap([udp4(), udp4(sport=2)]))
    text, description = info_of(capsys, path)
    assert description["kind"] == "capture"
    assert description["num_packets"] == 2
    assert "a capture" in text
    assert "IPv4 UDP" in text


def test_an_adapter_and_its_base(adapter_directory, toy_directory, capsys):
    text, description = info_of(capsys, adapter_directory)
    assert description["kind"] == "adapter"
    assert set(description["labels"]) == set(LABELS)
    assert description["labels"]["chat"]["flows"] == 9
    assert "an adapter" in text
    assert "näme/odd" in text
    assert "trained: steps 4, " in text
    assert "stopped steps" in text
    text, description = info_of(capsys, toy_directory)
    assert description["kind"] == "base"
    assert "SD3Transformer2DModel" in text


def test_a_dataset(tmp_path, capsys):
    (tmp_path / "one.pcap").write_bytes(pcap([udp4(bytes(8), dport=53) for _ in range(3)]))
    drawn = tmp_path / "web" / "one.nprint"
    drawn.parent.mkdir()
    convert(ConvertConfig(source=tmp_path / "one.pcap", target=drawn, layout="stateful"))
    assert main(["repair", str(tmp_path / "web"), str(tmp_path / "out")]) == 0
    capsys.readouterr()
    text, description = info_of(capsys, tmp_path / "out")
    assert description["kind"] == "netdiff-pcap-dataset"
    assert description["counts"]["flows"] == 1
    assert "a dataset of packets, made by repair" in text
    (tmp_path / "out" / "manifest.json").unlink()
    assert main(["info", str(tmp_path / "out")]) == 2
    assert "a run that was not finished" in capsys.readouterr().err


def test_the_embedded_base_by_its_name(capsys):
    text, description = info_of(capsys, "nano")
    assert description["kind"] == "base"
    assert "SD3Transformer2DModel" in text


@pytest.fixture
def report():
    """Return the content of the report.json of an evaluation without figures."""
    sections = {
        name: {"available": False, "reason": "few flows", "headline": {key: None}}
        for name, key in (("fidelity", "jsd"), ("compliance", "valid_flows"))
    }
    sides = {"real": {"source": "held-out"}, "synthetic": {"source": "out"}}
    head = {"format": FORMAT, "netdiff_ray": "1", "settings": {}, "sides": sides, "notes": ["few"]}
    return json.dumps({**head, **sections})


def test_what_a_pipeline_has_made(tmp_path, adapter_directory, report, capsys):
    (tmp_path / "adapter").symlink_to(adapter_directory)
    text, description = info_of(capsys, tmp_path)
    assert description["kind"] == "pipeline"
    assert description["folders"]["dataset"] is None
    assert "dataset: not finished; run the same command again" in text
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text(report)
    text, description = info_of(capsys, tmp_path)
    assert description["folders"]["report"]["kind"] == "report"
    assert f"{tmp_path}/adapter: an adapter" in text
    assert "compliance.valid_flows" in text
    assert "real held-out" in text
    text, description = info_of(capsys, tmp_path / "report")
    assert description["notes"] == ["few"]


@pytest.mark.parametrize("name", ["nowhere", "empty", "text", "other"])
def test_anything_else_gets_a_sentence(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no capture")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("a")
    assert main(["info", str(tmp_path / name)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("netdiff: ")
    assert len(message.splitlines()) == 1
