"""The compliance part of a report: what it says of broken, missing and many captures."""

import bz2
import shutil

import pytest
from compliance.compliance_packets import conversation, records, write

from netdiff_ray.compliance.check import summed
from netdiff_ray.evaluate import compliance as section_module
from netdiff_ray.evaluate.compliance import asked_of_tshark, check_units, compliance_part
from netdiff_ray.evaluate.sources import Unit, open_source
from netdiff_ray.storage.store import open_store

HEADLINE = {"valid_packets", "valid_flows", "tshark_errors"}


def part_of(folder):
    """The part of all captures of a folder."""
    side = open_source(folder)
    asked = asked_of_tshark(side.captures)
    found = [check_units(side.place, [unit], asked) for unit in side.captures]
    return compliance_part(summed(found), len(side.captures) - len(asked))


def titles(found):
    return [t["title"] for t in found["tables"]]


@pytest.fixture
def folder(tmp_path):
    """A valid capture and one of which a checksum is wrong."""
    (tmp_path / "web").mkdir()
    sent = records(conversation())
    write(tmp_path / "web" / "good.pcap", sent)
    ts_ns, frame = sent[3]
    broken = bytearray(frame)
    broken[24] ^= 0xFF  # the IPv4 header checksum, behind 14 bytes of Ethernet and 10 of IPv4
    write(tmp_path / "web" / "bad.pcap", [*sent[:3], (ts_ns, bytes(broken)), *sent[4:]])
    return tmp_path


def test_broken_rules_are_named_with_their_capture(folder):
    found = part_of(folder)
    assert found["available"]
    assert set(found["headline"]) == HEADLINE
    num_packets = found["tables"][0]["rows"][0][1]
    assert found["headline"]["valid_packets"] == pytest.approx(1 - 1 / num_packets, abs=1e-5)
    assert found["headline"]["valid_flows"] == 0.5
    broken = next(t for t in found["tables"] if t["title"] == "Rules that were broken")
    row = next(r for r in broken["rows"] if r[0] == "ipv4_checksum")
    assert row[2:4] == [num_packets, 1]
    assert row[-1].startswith("web/bad.pcap, record 4")
    assert found["rules"]["ipv4_checksum"]["broken"] == 1
    if shutil.which("tshark"):
        assert found["headline"]["tshark_errors"] == found["tshark"]["errors"] > 0
        assert found["agreement"]["share"] == 1
        assert "The checker and tshark" in titles(found)


def test_without_tshark_its_counts_are_not_made_up(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = part_of(folder)
    assert found["headline"]["tshark_errors"] is None
    assert "tshark is not installed" in found["notes"][0]
    assert not any("tshark" in title for title in titles(found))


def test_captures_that_cannot_be_read(folder):
    (folder / "web" / "good.pcap.bz2").write_bytes(
        bz2.compress((folder / "web" / "good.pcap").read_bytes()[:-1])
    )
    (folder / "web" / "none.pcap").write_bytes(b"no capture at all")
    found = part_of(folder)
    said = {note.split(": ")[1] for note in found["notes"] if note.startswith("not read")}
    assert said == {"web/good.pcap.bz2", "web/none.pcap"}
    place = open_store(folder)
    missing = compliance_part(check_units(place, [Unit("web/gone.pcap", 1)], frozenset()))
    assert not missing["available"]
    assert set(missing["headline"]) == HEADLINE
    assert "web/gone.pcap: cannot be opened" in missing["reason"]
    assert compliance_part(summed([check_units(place, [Unit("web/none.pcap", 1)], frozenset())]))[
        "reason"
    ].startswith("no IP packet in the captures; web/none.pcap")


def test_of_very_many_captures_tshark_judges_some(folder, monkeypatch):
    monkeypatch.setattr(section_module, "TSHARK_CAPTURES", 1)
    side = open_source(folder)
    assert asked_of_tshark(side.captures) == {"web/bad.pcap"}
    assert asked_of_tshark(()) == frozenset()
    found = part_of(folder)
    if shutil.which("tshark"):
        assert "tshark was asked about 1 captures, evenly spaced among 2" in found["notes"][0]
        assert found["agreement"]["packets"] == found["tables"][0]["rows"][0][1] / 2
