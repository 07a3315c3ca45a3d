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
from netdiff_ray.header_bytes import FIN, RST, TCP_FLAGS
from netdiff_ray.header_bytes import IPPROTO_ICMP as ICMP
from netdiff_ray.header_bytes import IPPROTO_ICMPV6 as ICMPV6
from netdiff_ray.header_bytes import IPPROTO_TCP as TCP
from netdiff_ray.header_bytes import IPPROTO_UDP as UDP
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
PROTOCOLS = {
    "bulk": {TCP}, "call": {UDP}, "chat": {TCP}, "database": {TCP},
    "dns": {TCP, UDP}, "ldap": {TCP}, "mail": {TCP}, "mqtt": {TCP}, "ntp": {UDP},
    "ping": {ICMP, ICMPV6}, "quic": {UDP}, "snmp": {UDP}, "ssh": {TCP}, "video": {TCP},
    "voip": {TCP, UDP}, "web": {TCP},
}  # fmt: skip


def captures(folder: Path) -> list[Path]:
    """Return the captures of a folder."""
    return sorted(folder.rglob("*.pcap.gz"))


@pytest.fixture(scope="module", params=sorted(MIN_FLOWS))
def split(request):
    """Return (split, {label: {"flows", "ipv6", "packets" of each flow, "protocols", "flags"}})."""
    of_label = {}
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
                flags = np.where(tcp, windows.rows["transport"][:, TCP_FLAGS], 0)
                for seen in np.bitwise_or.reduceat(flags, windows.first[:-1]):
                    mine["endings"]["RST" if seen & RST else "FIN" if seen & FIN else "none"] += 1
        of_label[folder.name] = mine
    return request.param, of_label


def test_labels_and_flows_are_as_many_as_promised(split):
    name, of_label = split
    assert set(of_label) == LABELS
    counts = {label: len(mine["packets"]) for label, mine in of_label.items()}
    assert min(counts.values()) >= MIN_FLOWS[name], counts


def test_each_label_has_its_protocols_and_both_families(split):
    _, of_label = split
    assert {label: of_label[label]["protocols"] for label in LABELS} == PROTOCOLS
    for label, mine in of_label.items():
        assert 0.2 < mine["ipv6"] / len(mine["packets"]) < 0.65, label


def test_connections_end_in_every_way_and_some_are_long(split):
    _, of_label = split
    assert all(of_label["web"]["endings"][way] for way in ("FIN", "RST"))
    total = sum((mine["endings"] for mine in of_label.values()), Counter())
    assert min(total["FIN"], total["RST"]) > 20
    assert (
        sum(of_label[label]["endings"]["none"] for label in LABELS if PROTOCOLS[label] == {TCP}) > 3
    )
    assert max(of_label["bulk"]["packets"]) > 1024


def test_one_packet_flows_are_rare(split):
    _, of_label = split
    for label, mine in of_label.items():
        assert mine["packets"].count(1) <= 0.03 * len(mine["packets"]), label


def test_the_samples_are_small():
    assert sum(path.stat().st_size for path in captures(SAMPLES)) <= MAX_BYTES


def joined(paths: list[Path], target: Path) -> Path:
    """Join captures of the same format and link type into `target`; return it."""
    contents = [gzip.decompress(path.read_bytes()) for path in paths]
    (header,) = {content[:PCAP_HEADER] for content in contents}
    target.write_bytes(header + b"".join(content[PCAP_HEADER:] for content in contents))
    return target


def bad_checksums(path: Path) -> tuple[int, int]:
    """Return how many full-length packets have a bad checksum, and how many only good checksums,
    by tshark."""
    layers = ("ip", "tcp", "udp", "icmp", "icmpv6")
    checks = [part for name in layers[:3] for part in ("-o", f"{name}.check_checksum:TRUE")]
    # Linux writes a sum of 0xffff where tshark expects 0, which is equivalent (RFC 1624).
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
    paths_of = {}
    for path in captures(SAMPLES):
        paths_of.setdefault(path.parent, []).append(path)
    wholes = [joined(paths, tmp_path / "whole.pcap") for paths in paths_of.values()]
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
