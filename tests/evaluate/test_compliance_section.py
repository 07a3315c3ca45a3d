"""The compliance section of a report: broken, missing and many captures."""

import bz2
import shutil

import pytest
from compliance.compliance_packets import conversation, records, write

from netdiff_ray.compliance.result import summed
from netdiff_ray.evaluate import compliance as section_module
from netdiff_ray.evaluate.compliance import captures_for_tshark, check_captures, compliance_section
from netdiff_ray.evaluate.sources import Unit, open_source
from netdiff_ray.storage.store import open_store

HEADLINE = {"valid_packets", "valid_flows", "tshark_errors"}


def section_of(folder):
    """Return the section of all captures of a folder."""
    source = open_source(folder)
    names = captures_for_tshark(source.captures)
    checks = [check_captures(source.store, [unit], names) for unit in source.captures]
    return compliance_section(summed(checks), len(source.captures) - len(names))


def titles(section):
    return [t["title"] for t in section["tables"]]


@pytest.fixture
def folder(tmp_path):
    """Return a valid capture and one of which a checksum is wrong."""
    (tmp_path / "web").mkdir()
    sent = records(conversation())
    write(tmp_path / "web" / "good.pcap", sent)
    ts_ns, frame = sent[3]
    broken = bytearray(frame)
    broken[24] ^= 0xFF  # the IPv4 header checksum, behind 14 bytes of Ethernet and 10 of IPv4
    write(tmp_path / "web" / "bad.pcap", [*sent[:3], (ts_ns, bytes(broken)), *sent[4:]])
    return tmp_path


def test_broken_rules_are_named_with_their_capture(folder):
    section = section_of(folder)
    assert section["available"]
    assert set(section["headline"]) == HEADLINE
    num_packets = section["tables"][0]["rows"][0][1]
    assert section["headline"]["valid_packets"] == pytest.approx(1 - 1 / num_packets, abs=1e-5)
    assert section["headline"]["valid_flows"] == 0.5
    broken = next(t for t in section["tables"] if t["title"] == "Rules that were broken")
    row = next(r for r in broken["rows"] if r[0] == "ipv4_checksum")
    assert row[2:4] == [num_packets, 1]
    assert row[-1].startswith("web/bad.pcap, record 4")
    assert section["rules"]["ipv4_checksum"]["broken"] == 1
    if shutil.which("tshark"):
        assert section["headline"]["tshark_errors"] == section["tshark"]["errors"] > 0
        assert section["agreement"]["share"] == 1
        assert "The checker and tshark" in titles(section)


def test_without_tshark_its_counts_are_not_made_up(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    section = section_of(folder)
    assert section["headline"]["tshark_errors"] is None
    assert "tshark is not installed" in section["notes"][0]
    assert not any("tshark" in title for title in titles(section))


def test_captures_that_cannot_be_read(folder):
    (folder / "web" / "good.pcap.bz2").write_bytes(
        bz2.compress((folder / "web" / "good.pcap").read_bytes()[:-1])
    )
    (folder / "web" / "none.pcap").write_bytes(b"no capture at all")
    section = section_of(folder)
    said = {note.split(": ")[1] for note in section["notes"] if note.startswith("not read")}
    assert said == {"web/good.pcap.bz2", "web/none.pcap"}
    store = open_store(folder)
    missing = compliance_section(check_captures(store, [Unit("web/gone.pcap", 1)], frozenset()))
    assert not missing["available"]
    assert set(missing["headline"]) == HEADLINE
    assert "web/gone.pcap: cannot be opened" in missing["reason"]
    broken = compliance_section(check_captures(store, [Unit("web/none.pcap", 1)], frozenset()))
    assert broken["reason"].startswith("no IP packet in the captures; web/none.pcap")


def test_of_very_many_captures_tshark_judges_some(folder, monkeypatch):
    monkeypatch.setattr(section_module, "TSHARK_CAPTURES", 1)
    source = open_source(folder)
    assert captures_for_tshark(source.captures) == {"web/bad.pcap"}
    assert captures_for_tshark(()) == frozenset()
    section = section_of(folder)
    if shutil.which("tshark"):
        assert "tshark was asked about 1 captures, evenly spaced among 2" in section["notes"][0]
        assert section["agreement"]["packets"] == section["tables"][0]["rows"][0][1] / 2
