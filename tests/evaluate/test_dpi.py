"""The section on what nDPI and tshark take flows for."""

import os
import shutil

import pytest
from conversation_builders import capture, datagrams, dns, exchange, frames_of

from netdiff_ray.evaluate import dpi
from netdiff_ray.evaluate.dpi import dpi_section, inspected_captures, merge_recognised, recognise
from netdiff_ray.evaluate.sources import open_source

needs_ndpi = pytest.mark.skipif(shutil.which("ndpiReader") is None, reason="needs ndpiReader")
needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")


def sources(folder):
    """Return a source of DNS and HTTP flows, and one in which half of them are noise."""
    queries = [
        datagrams([("c", 0, dns(k, b"a.example")), ("s", 9, dns(k, b"a.example", answers=1))],
                  flow=k)
        for k in range(8)
    ]  # fmt: skip
    http = (b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",), ((b"HTTP/1.1 200 OK\r\n\r\n",),)
    pages = [frames_of(exchange(*http), flow=k) for k in range(8)]
    bytes_of_none = (b"\xfe" * 40,), ((b"\xfe" * 30,),)
    noise = [frames_of(exchange(*bytes_of_none), flow=k, server_port=4444) for k in range(4)]
    for name, web in (("real", pages), ("synthetic", [*noise, *pages[4:]])):
        for label, flows in (("dns", queries), ("web", web)):
            (folder / name / label).mkdir(parents=True)
            (folder / name / label / "a.pcap").write_bytes(capture(*flows))
    return open_source(folder / "real"), open_source(folder / "synthetic")


@needs_ndpi
def test_the_share_that_ndpi_recognises(tmp_path):
    section = dpi_section(*map(recognise, sources(tmp_path)))
    assert section["headline"]["recognised_ratio"] == 0.5
    assert section["tool"] == "nDPI"
    assert section["flows"]["real"] == {"dns": {"DNS": 8}, "web": {"HTTP": 8}}
    rows = {row[0]: row for row in section["tables"][0]["rows"]}
    assert rows["dns"][1:3] == ["DNS", 1.0]
    assert rows["web"][4] == 0.5


@needs_tshark
def test_tshark_where_ndpi_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    os.symlink(shutil.which("tshark"), tmp_path / "bin" / "tshark")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    section = dpi_section(*map(recognise, sources(tmp_path / "flows")))
    assert section["tool"] == "tshark"
    assert section["headline"] == {"recognised_ratio": 0.5, "protocol_difference": 0.5}
    assert section["tables"][1]["rows"] == [
        ["web", "Unknown", 0.0, 0.5, 0.5], ["web", "http", 1.0, 0.5, 0.5],
        ["dns", "dns", 1.0, 1.0, 0.0],
    ]  # fmt: skip


def test_without_a_tool(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    section = dpi_section(*map(recognise, sources(tmp_path)))
    assert not section["available"]
    assert "neither ndpiReader" in section["reason"]
    assert dpi_section("no packets", recognise(open_source(tmp_path / "real")))["reason"] == (
        "no packets"
    )


@needs_ndpi
def test_captures_cut_by_a_snap_length_are_inspected_whole(tmp_path):
    """NDPI passes over packets that were cut."""
    real, _ = sources(tmp_path)
    path = tmp_path / "real" / "dns" / "a.pcap"
    data = bytearray(path.read_bytes())
    # The last packet's record: cut its last 10 bytes off, as a snap length would.
    at = 24
    while at + 16 + int.from_bytes(data[at + 8 : at + 12], "little") < len(data):
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
    caplen = int.from_bytes(data[at + 8 : at + 12], "little")
    data[at + 8 : at + 12] = (caplen - 10).to_bytes(4, "little")
    path.write_bytes(data[:-10])
    recognised = recognise(real).by_tool
    assert recognised["nDPI"]["dns"]["DNS"] == 8
    assert "dns" not in recognised.get("tshark", {})


@needs_ndpi
def test_a_flow_counts_once_where_its_line_is_broken(tmp_path):
    """NDPI writes the end of the line of an SSH version as it is into its table."""
    version = b"SSH-2.0-OpenSSH_9.6\r\n"
    asked, answered = version + bytes(700), version + bytes(600)
    (tmp_path / "ssh").mkdir()
    shell = frames_of(exchange((asked,), ((answered,),)), server_port=22)
    (tmp_path / "ssh" / "a.pcap").write_bytes(capture(shell))
    assert +recognise(open_source(tmp_path)).by_tool["nDPI"]["ssh"] == {"SSH": 1}


def test_captures_that_cannot_be_inspected(tmp_path, monkeypatch):
    real, _ = sources(tmp_path)
    (tmp_path / "real" / "web" / "b.pcap").write_bytes(b"no capture at all")
    real = open_source(tmp_path / "real")
    recognised = recognise(real)
    if recognised.by_tool:
        assert "web/b.pcap" in next(iter(recognised.notes))
    parts = merge_recognised(recognise(real, [unit]) for unit in real.captures)
    assert parts == recognised
    monkeypatch.setattr(dpi, "DPI_CAPTURES", 2)
    assert len(inspected_captures(real)) == 2
