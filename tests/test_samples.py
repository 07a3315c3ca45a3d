"""The samples: every file readable, labels and counts as promised; a fresh tiny recording."""

import gzip
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from netdiff_ray.flows import assemble_flows
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.headers import header_rows

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
LABELS = {
    "bulk", "call", "chat", "database", "dns", "ldap", "mail", "mqtt", "ntp", "ping",
    "quic", "snmp", "ssh", "video", "voip", "web",
}  # fmt: skip
MIN_FLOWS = {"train": 200, "heldout": 60}
MAX_BYTES = 8_000_000
PCAP_HEADER = 24
MTU_BYTES = 1500
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
PROTOCOLS = {
    "bulk": {TCP}, "call": {UDP}, "chat": {TCP}, "database": {TCP},
    "dns": {TCP, UDP}, "ldap": {TCP}, "mail": {TCP}, "mqtt": {TCP}, "ntp": {UDP},
    "ping": {ICMP, ICMPV6}, "quic": {UDP}, "snmp": {UDP}, "ssh": {TCP}, "video": {TCP},
    "voip": {TCP, UDP}, "web": {TCP},
}  # fmt: skip


def captures(folder: Path) -> list[Path]:
    """The captures of one folder."""
    return sorted(folder.rglob("*.pcap.gz"))


@pytest.fixture(scope="module", params=sorted(MIN_FLOWS))
def split(request):
    """(split, {label: {"flows", "ipv6", "packets" of each flow, "protocols", "flags"}})."""
    facts = {}
    for folder in sorted((SAMPLES / request.param).iterdir()):
        mine = {"packets": [], "ipv6": 0, "protocols": set(), "endings": Counter()}
        for path in captures(folder):
            with CaptureReader(path) as reader:
                chunks = []
                for table in reader:
                    assert (table.reason == 0).all(), f"{path}: a record that is no packet"
                    assert table.wirelen.max() <= MTU_BYTES, f"{path}: a packet above the MTU"
                    chunks.append(header_rows(table))
                assert reader.fault is None
                assert reader.notes == {}
            for windows in assemble_flows(chunks, reader.fingerprint, height=1 << 20):
                mine["packets"] += np.diff(windows.first).tolist()
                mine["ipv6"] += int((windows.rows["version"][windows.first[:-1]] == 6).sum())
                mine["protocols"] |= set(np.unique(windows.rows["protocol"]).tolist())
                tcp = windows.rows["protocol"] == TCP
                flags = np.where(tcp, windows.rows["transport"][:, 13], 0)
                for bits in np.bitwise_or.reduceat(flags, windows.first[:-1]):
                    mine["endings"]["RST" if bits & 4 else "FIN" if bits & 1 else "none"] += 1
        facts[folder.name] = mine
    return request.param, facts


def test_labels_and_flows_are_as_many_as_promised(split):
    name, facts = split
    assert set(facts) == LABELS
    counts = {label: len(mine["packets"]) for label, mine in facts.items()}
    assert min(counts.values()) >= MIN_FLOWS[name], counts


def test_each_label_has_its_protocols_and_both_families(split):
    _, facts = split
    assert {label: facts[label]["protocols"] for label in LABELS} == PROTOCOLS
    for label, mine in facts.items():
        assert 0.2 < mine["ipv6"] / len(mine["packets"]) < 0.65, label


def test_connections_end_in_every_way_and_some_are_long(split):
    _, facts = split
    assert all(facts["web"]["endings"][way] for way in ("FIN", "RST"))
    total = sum((mine["endings"] for mine in facts.values()), Counter())
    assert min(total["FIN"], total["RST"]) > 20
    assert sum(facts[label]["endings"]["none"] for label in LABELS if PROTOCOLS[label] == {TCP}) > 3
    assert max(facts["bulk"]["packets"]) > 1024


def test_one_packet_flows_are_rare(split):
    _, facts = split
    for label, mine in facts.items():
        assert mine["packets"].count(1) <= 0.03 * len(mine["packets"]), label


def test_the_samples_are_small():
    assert sum(path.stat().st_size for path in captures(SAMPLES)) <= MAX_BYTES


def joined(paths: list[Path], target: Path) -> Path:
    """One capture of the records of several, which are of one format and link type."""
    contents = [gzip.decompress(path.read_bytes()) for path in paths]
    (header,) = {content[:PCAP_HEADER] for content in contents}
    target.write_bytes(header + b"".join(content[PCAP_HEADER:] for content in contents))
    return target


def bad_checksums(path: Path) -> tuple[int, int]:
    """How many full-length packets of a capture have a bad checksum, and how many all-good ones
    there are, as tshark sees it."""
    layers = ("ip", "tcp", "udp", "icmp", "icmpv6")
    checks = [part for name in layers[:3] for part in ("-o", f"{name}.check_checksum:TRUE")]
    # Linux lets a sum of 0xffff stand where tshark wants 0, which is the same (RFC 1624).
    shown = "frame.cap_len == frame.len && !(tcp.checksum == 0xffff)"
    fields = [part for name in layers for part in ("-e", f"{name}.checksum.status")]
    text = subprocess.run(
        ["tshark", "-n", "-r", str(path), *checks, "-Y", shown,
         "-T", "fields", *fields],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    states = [set(line.replace(",", "\t").split()) for line in text.splitlines()]
    bad = sum(bool(state & {"0", "Bad"}) for state in states)
    good = sum(state <= {"1", "Good"} and bool(state) for state in states)
    return bad, good


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
def test_tshark_finds_no_bad_checksum_in_the_samples(tmp_path):
    of_label = {}
    for path in captures(SAMPLES):
        of_label.setdefault(path.parent, []).append(path)
    wholes = [joined(paths, tmp_path / "whole.pcap") for paths in of_label.values()]
    assert len(wholes) == 2 * len(LABELS)
    counts = np.array([bad_checksums(whole) for whole in wholes])
    assert counts[:, 0].sum() == 0
    assert counts[:, 1].sum() > 10_000


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
def test_a_fresh_recording_has_good_checksums(tmp_path):
    labels = ["dns", "ping", "web"]
    done = subprocess.run(
        [sys.executable, str(SAMPLES / "record" / "record.py"), "--split", "tiny", "--seed", "3",
         "--out", str(tmp_path), "--labels", *labels, "--flows", "12", "--clients", "4",
         "--servers", "2", "--parallel", "3"],
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    if done.returncode == 2:
        pytest.skip(f"the recorder cannot run here: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == labels
    for label in labels:
        counts = np.array([bad_checksums(path) for path in captures(tmp_path / label)])
        assert counts[:, 0].sum() == 0, label
        assert counts[:, 1].sum() > 10, label
