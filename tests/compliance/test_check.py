"""`netdiff check`, what it reads, what it says of bad input, and tshark beside it."""

import bz2
import gzip
import json
import lzma
import os
import shutil
import struct
import subprocess
import tracemalloc

import pytest
from backports import zstd
from compliance.compliance_packets import (
    ACK,
    START_NS,
    SYN,
    conversation,
    ether,
    icmp,
    ip4,
    records,
    timed,
    udp,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_builders import block, enhanced, interface, pcap, section, udp4

from netdiff_ray.cli import main
from netdiff_ray.compliance import tshark as tshark_module
from netdiff_ray.compliance.check import ERRORS, check_capture
from netdiff_ray.compliance.flows import Flow, Run, flow_key
from netdiff_ray.compliance.parse import judge_record
from netdiff_ray.compliance.read import read_records
from netdiff_ray.compliance.result import summed
from netdiff_ray.errors import CaptureError

HOUR_NS = 3600 * 10**9
needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")


@pytest.fixture
def without_tshark(monkeypatch):
    """Make this a machine without tshark."""
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def valid(tmp_path):
    """Return a capture of three valid flows."""
    done = records(conversation()) + timed([udp("c"), udp("s"), icmp("c", 8), icmp("s", 0)])
    return write(tmp_path / "valid.pcap", sorted(done))


@pytest.fixture
def invalid(tmp_path):
    """Return a capture with one wrong checksum in 14 packets."""
    done = records(conversation()) + timed([udp("c")[:-1] + b"?"])
    return write(tmp_path / "invalid.pcap", sorted(done))


def test_exit_codes(valid, invalid, tmp_path, capsys, without_tshark):
    assert main(["check", str(valid)]) == 0
    text = capsys.readouterr().out
    assert "valid packets: 17 of 17 (100.00 %)" in text
    assert "valid flows: 3 of 3 (100.00 %)" in text
    assert "tshark: not asked" in text
    assert main(["check", str(valid), str(invalid)]) == 1
    text = capsys.readouterr().out
    assert "udp_checksum: right, or 0 under IPv4" in text
    assert "valid packets: 30 of 31 (96.77 %)" in text
    assert main(["check", str(invalid), "--max-invalid-share", "0.4"]) == 1  # one of two flows
    assert main(["check", str(invalid), "--max-invalid-share", "0.5"]) == 0
    (tmp_path / "cut.pcap").write_bytes(valid.read_bytes()[:-3])
    assert main(["check", str(tmp_path / "cut.pcap")]) == 2
    assert "the file ends inside record 17" in capsys.readouterr().err


def test_json(invalid, capsys, without_tshark):
    assert main(["check", "--json", str(invalid)]) == 1
    said = json.loads(capsys.readouterr().out)
    (one,) = said["captures"]
    assert one["rules"]["udp_checksum"]["broken"] == 1
    assert one["rules"]["udp_checksum"]["examples"][0].startswith("record ")
    assert said["total"]["headline"]["valid_flows"] == 0.5
    assert said["total"]["headline"]["valid_packets"] == pytest.approx(13 / 14)


# Without the time of compression: both of pytest-xdist's processes must call the test the same.
zipped = gzip.compress(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 9, 1), mtime=0)[:-9]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes where a magic number"),
        (b"# text\n", "neither pcap nor pcapng"),
        (struct.pack("<I", 0xA1B2C3D4) + bytes(5), "inside its header"),
        (struct.pack("<IHHiIIIIIII", 0xA1B2C3D4, 2, 4, 0, 0, 9, 1, 0, 0, 1 << 30, 9), "claims"),
        (struct.pack("<IHHiIIIII", 0xA1B2C3D4, 2, 4, 0, 0, 9, 1, 0, 0), "header of record 1"),
        (section() + block(6, bytes(20)), "names no interface"),
        (section() + interface() + block(6, bytes(4)), "shorter than its block type"),
        (section() + b"\1\0\0\0\7\0\0\0", "impossible length 7"),
        (section() + b"\1\0\0", "ends inside a block"),
        (zipped, "compressed stream"),
        (write, "no IP packet to judge"),
    ],
)
def test_bad_input_gets_a_sentence(data, words, tmp_path, capsys, without_tshark):
    path = tmp_path / "bad.pcap"
    if data is write:
        write(path, [(1, bytes(12) + b"\x08\x06" + bytes(28))])
    else:
        path.write_bytes(data)
    assert main(["check", str(path)]) == 2
    assert words in capsys.readouterr().err


def test_mistakes_in_the_request(capsys):
    assert main(["check", "none.pcap"]) == 2
    assert "none.pcap: cannot be opened" in capsys.readouterr().err
    assert main(["check", "x.pcap", "--max-invalid-share", "2"]) == 2
    assert "a share, from 0 to 1" in capsys.readouterr().err


def test_frame_check_bits_are_no_part_of_the_link_type(tmp_path):
    (tmp_path / "c.pcap").write_bytes(pcap([udp4()], link_type=0x2400_0001))
    assert [record.link_type for record in read_records(tmp_path / "c.pcap")] == [1]


def test_forms_of_captures_read_alike(tmp_path):
    done = records(conversation())
    expected = [(t // 1000 * 1000, f) for t, f in done]
    pcapng = section(">") + interface(order=">")
    for t, f in done:
        pcapng += enhanced(t // 1000, f, order=">")
    nanoseconds = interface(options=struct.pack("<HHBxxx", 9, 1, 9))
    fine = section() + nanoseconds + b"".join(enhanced(t, f) for t, f in done)
    pcap = struct.pack(">IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for t, f in done:
        pcap += struct.pack(">IIII", t // 10**9, t % 10**9 // 1000, len(f), len(f)) + f
    for name, data, records_ in (
        ("big.pcapng", pcapng, expected),
        ("fine.pcapng", fine, done),
        ("big.pcap", pcap, expected),
        ("zipped.pcap.gz", gzip.compress(pcap), expected),
        ("zipped.pcap.bz2", bz2.compress(pcap), expected),
        ("zipped.pcap.xz", lzma.compress(pcap), expected),
        ("zipped.pcap.zst", zstd.compress(pcap), expected),
        ("zipped.pcapng.zst", zstd.compress(pcapng), expected),
    ):
        (tmp_path / name).write_bytes(data)
        assert [(r.ts_ns, r.data) for r in read_records(tmp_path / name)] == records_


def test_a_pipe_is_read(tmp_path):
    capture = write(tmp_path / "made.pcap", records(conversation()))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cp", capture, pipe]) as process:
        result = check_capture(pipe)
    assert process.returncode == 0
    assert (result.packets, result.flows, result.faults) == (13, 1, ())


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd.compress])
def test_damaged_and_repeated_compression_is_named(compress, tmp_path):
    data = write(tmp_path / "made.pcap", records(conversation())).read_bytes()
    (tmp_path / "cut").write_bytes(compress(data)[:-9])
    (fault,) = check_capture(tmp_path / "cut").faults
    assert "the compressed stream cannot be read after record" in fault
    (tmp_path / "twice").write_bytes(compress(compress(data)))
    (fault,) = check_capture(tmp_path / "twice").faults
    assert "compressed twice" in fault


def simple_and_timed_blocks(order):
    """Return a section of a datagram with a time between two without."""
    frames = [udp("cs"[k % 2]) for k in range(3)]
    simple = [block(3, struct.pack(order + "I", len(f)) + f, order) for f in frames]
    timed_block = enhanced(START_NS // 1000, frames[1], order=order)
    return section(order) + interface(order=order) + simple[0] + timed_block + simple[2]


def test_records_without_a_time_are_judged_by_no_rule_of_times(tmp_path):
    path = tmp_path / "simple.pcapng"
    path.write_bytes(simple_and_timed_blocks("<") + simple_and_timed_blocks(">"))
    result = check_capture(path, with_tshark=False)
    assert [(r.rule.name) for r in result.rules if r.broken] == []
    assert (result.packets, result.valid_packets) == (6, 6)
    assert (result.flows, result.valid_flows) == (1, 1)
    rules = {r.rule.name: r for r in result.rules}
    for name in ("time_backwards", "time_order", "time_plausible"):
        assert (rules[name].judged, rules[name].unjudged) == (2, {"untimed": 4})
    frames = [udp("c"), udp("s")]
    path.write_bytes(section() + interface() + b"".join(
        block(3, struct.pack("<I", len(f)) + f) for f in frames))  # fmt: skip
    rules = {r.rule.name: r for r in check_capture(path, with_tshark=False).rules}
    assert rules["time_zero"].unjudged == {"untimed": 1}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_fragments_are_of_one_flow_in_any_order(order, tmp_path):
    datagram = udp("c", b"x" * 1200)[34:]
    first = ether("c", ip4("c", 17, datagram[:800], flags=0x2000, ident=7))
    last = ether("c", ip4("c", 17, datagram[800:], flags=100, ident=7))
    frames = [(first, last)[k] for k in order] + [udp("s"), udp("c")]
    result = check_capture(write(tmp_path / "made.pcap", timed(frames)), with_tshark=False)
    assert (result.packets, result.flows, result.valid_flows) == (4, 1, 1)


def test_memory_does_not_grow_with_the_packets_of_a_flow(tmp_path):
    script = [("c", SYN, 0), ("s", SYN | ACK, 0)] + [("c", ACK, 10), ("s", ACK, 10)] * 3000
    segments = records(conversation(script=script))
    peaks = []
    for count in (2000, 6000):
        path = write(tmp_path / f"{count}.pcap", segments[:count])
        tracemalloc.start()
        result = check_capture(path, with_tshark=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (result.packets, result.valid_packets, result.flows) == (count, count, 1)
    assert peaks[1] - peaks[0] < 4000 * 50  # bytes


def test_a_rule_that_both_senders_break_is_broken_once_in_a_flow(tmp_path, capsys):
    frames = [udp("cs"[k % 2], flags=0, ident=5, ttl=60 + k // 2) for k in range(6)]
    path = write(tmp_path / "both.pcap", timed(frames))
    (rule,) = (
        r for r in check_capture(path, with_tshark=False).rules if r.rule.name == "ipv4_id_repeated"
    )
    assert (rule.judged, rule.broken, rule.passed) == (1, 1, 0)
    assert main(["check", str(path)]) == 0
    assert "-100" not in capsys.readouterr().out


@pytest.mark.parametrize("fcs_bits", [0x04000000, 0x24000000, 0x10000000, 0xFFFF0000])
def test_bits_about_the_frame_check_sequence_are_no_link_type(fcs_bits, tmp_path):
    path = write(tmp_path / "fcs.pcap", records(conversation()), link_type=1 | fcs_bits)
    result = check_capture(path, with_tshark=False)
    assert (result.packets, result.valid_packets, result.flows) == (13, 13, 1)


BASE = records(conversation()) + timed([udp("c", version=6), icmp("s", 0), icmp("c", 135)])


@settings(max_examples=200, deadline=None)
@given(
    which=st.integers(0, len(BASE) - 1),
    at=st.integers(0, 70),
    value=st.binary(min_size=1, max_size=6),
    cut=st.integers(0, 120),
    link_type=st.sampled_from([1, 101, 113, 276, 0, 9, 104]),
)
def test_no_bytes_make_it_fall(tmp_path_factory, which, at, value, cut, link_type):
    done = list(BASE)
    ts_ns, frame = done[which]
    done[which] = (ts_ns, (frame[:at] + value + frame[at + len(value) :])[: cut or None])
    path = write(tmp_path_factory.getbasetemp() / "any.pcap", done, link_type)
    result = check_capture(path, with_tshark=False)
    assert result.records == len(done)
    assert not result.faults
    assert all(0 <= rule.broken <= rule.judged for rule in result.rules)


def test_a_tshark_that_fails_is_told_and_changes_no_exit_code(valid, tmp_path, capsys, monkeypatch):
    (tmp_path / "tshark").write_text("#!/bin/sh\necho 'tshark: no such thing' >&2\nexit 2\n")
    (tmp_path / "tshark").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(tshark_module, "_other_protocols", lambda: "")
    monkeypatch.setattr(tshark_module, "_version", lambda: "0")
    assert main(["check", str(valid)]) == 0
    text = capsys.readouterr().out
    assert f"tshark did not read all: {valid}: tshark: no such thing" in text
    assert main(["check", "--json", str(valid)]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["faults"] == []


@needs_tshark
def test_tshark_stands_beside(valid, invalid):
    fine, bad = check_capture(valid), check_capture(invalid)
    assert (fine.tshark.errors, fine.tshark.warnings, fine.agreement.share) == (0, 0, 1)
    assert (bad.tshark.bad_checksums, bad.agreement.both_invalid, bad.agreement.share) == (1, 1, 1)
    both = summed([fine, bad])
    assert (both.agreement.packets, both.tshark.errors) == (31, 1)


@needs_tshark
def test_disagreements_are_listed_by_kind(tmp_path):
    segments = conversation()
    segments[3].reserved = 2
    result = check_capture(write(tmp_path / "made.pcap", records(segments)))
    assert result.agreement.disagreements == {"checker only: tcp_reserved": 1}
    assert result.agreement.examples == {"checker only: tcp_reserved": "record 4"}


@needs_tshark
@pytest.mark.slow
def test_real_captures_agree_with_tshark(corpus, tmp_path):
    """The checker and tshark agree on at least 99.9 % of the packets of real captures.

    Invalid to tshark is an expert item of severity error or warning on a link, network or
    transport header, apart from its sequence analysis (holes, resets, full windows speak of
    the network, not of the packet). Where the capturing host left a checksum to its network
    card, that objection is set aside. What is left: a RST of a middlebox that sets all three
    reserved bits of the TCP header, which RFC 9293 forbids and tshark lets pass.
    """
    merged = joined(sorted((corpus / "labelled").glob("*/*.pcap")), tmp_path)
    total = summed(map(check_capture, merged))
    assert not total.faults
    assert total.packets > 70_000
    assert total.agreement.share >= 0.999
    assert total.agreement.disagreements == {"checker only: tcp_reserved": 1}
    assert total.valid_flows / total.flows > 0.99


def joined(captures, folder):
    """Join the captures of each link type, one after another in time: tshark starts slowly."""
    records_of, end_ns = {}, START_NS
    for capture in captures:
        found = list(read_records(capture))
        shift_ns = end_ns + HOUR_NS - min(r.ts_ns for r in found)
        for r in found:
            shifted = (r.ts_ns + shift_ns, r.data, r.wire_bytes)
            records_of.setdefault(r.link_type, []).append(shifted)
        end_ns = max(r.ts_ns for r in found) + shift_ns
    return [write(folder / f"{link}.pcap", found, link) for link, found in records_of.items()]


REAL_FAULTS = {"ether_source", "ipv4_checksum", "tcp_reserved", "tcp_checksum", "udp_checksum"}
"""What single packets of the real captures break, whatever is done to their flows."""


def broken_in_pieces(path, rows):
    """Return the names of rules that flows break, cut into pieces of at most so many packets."""
    broken, pieces = set(), {}
    late = lambda flow, packet, rule, detail: broken.add(rule)  # noqa: E731
    for packet in filter(None, map(judge_record, read_records(path))):
        if packet.whole:
            key = flow_key(packet)
            piece = pieces.get(key)
            if piece is None or piece.packets == rows or piece.is_silent(packet.ts_ns):
                broken |= {name for name, _ in piece.end()} if piece else set()
                piece = pieces[key] = Flow(packet, Run(), late)
            piece.add(packet)
            packet.counted = True
            broken |= {name for name, _ in packet.faults}
    return broken.union(*({name for name, _ in piece.end()} for piece in pieces.values()))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [5, 16, 64])
def test_real_flows_break_nothing_more_where_they_are_cut(corpus, rows):
    """A piece from the middle of a connection is as valid as the whole."""
    captures = sorted((corpus / "labelled").glob("*/*.pcap"))
    broken = set().union(*(broken_in_pieces(path, rows) for path in captures))
    assert broken & ERRORS == REAL_FAULTS


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["hostile", "formats"])
def test_odd_captures_get_a_result_or_a_sentence(corpus, folder):
    for path in sorted((corpus / folder).rglob("*")):
        if path.is_dir():
            continue
        result = check_capture(path, with_tshark=False)
        assert result.valid_packets <= result.packets <= result.records
        assert all(str(path) in fault for fault in result.faults)


def test_a_fault_is_an_error_of_the_package(tmp_path):
    with pytest.raises(CaptureError, match="cannot be opened"):
        list(read_records(tmp_path / "none.pcap"))
