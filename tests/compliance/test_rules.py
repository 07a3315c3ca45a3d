"""Each rule has a made capture that breaks it and no other error; valid flows break none."""

import ast
import struct

import pytest
from broken_captures import BREAKS, LINKS, WITH
from broken_flows import pingpong
from compliance.compliance_packets import (
    ACK,
    RST,
    START_NS,
    STEP_NS,
    URG,
    Segment,
    conversation,
    icmp,
    ones_sum,
    pseudo,
    records,
    stamp,
    timed,
    udp,
    write,
)
from paths import ROOT

from netdiff_ray.compliance.check import check_capture
from netdiff_ray.compliance.rules import ERROR, RULES


def broken(path, severity=None):
    """Return the names of the broken rules of a capture."""
    return {
        result.rule.name
        for result in check_capture(path, with_tshark=False).rules
        if result.broken and severity in (None, result.rule.severity)
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_capture_breaks_exactly_this_rule(rule, tmp_path):
    path = write(tmp_path / "made.pcap", BREAKS[rule.name](), LINKS.get(rule.name, 1))
    if rule.severity == ERROR:
        assert broken(path, ERROR) == {rule.name} | WITH.get(rule.name, set())
    else:
        assert broken(path) == {rule.name}


VALID = {
    "tcp4": lambda: records(conversation()),
    "tcp6": lambda: records(conversation(6)),
    "tcp from the middle": lambda: records(conversation()[5:]),
    "tcp with one side only": lambda: records([s for s in conversation() if s.side == "c"]),
    "tcp ping-pong": lambda: pingpong(20),
    "udp4": lambda: timed([udp("cs"[k % 2]) for k in range(6)]),
    "udp6": lambda: timed([udp("cs"[k % 2], version=6) for k in range(6)]),
    "icmp": lambda: timed([icmp("cs"[k % 2], 8 - 8 * (k % 2), sequence=k // 2) for k in range(8)]),
    "icmpv6": lambda: timed(
        [icmp("cs"[k % 2], 128 + k % 2, sequence=k // 2, version=6) for k in range(8)]
    ),
}


@pytest.mark.parametrize("name", VALID)
def test_a_valid_flow_breaks_nothing(name, tmp_path):
    path = write(tmp_path / "made.pcap", VALID[name]())
    notes = {"tcp with one side only": {"tcp_seq_gap"}}
    assert broken(path) <= notes.get(name, set())
    result = check_capture(path, with_tshark=False)
    assert (result.valid_packets, result.valid_flows) == (result.packets, result.flows)


def test_keep_alives_resets_and_reordering_are_legal(tmp_path):
    segments = conversation()
    last = segments[8]
    probe = Segment("c", last.seq + 49, segments[9].ack, ACK, [stamp(9000, 90180)],
                    last.ts_ns + 10**10, ident=160)  # fmt: skip
    probe.ack = last.ack
    answer = Segment("s", segments[9].seq, segments[9].ack, ACK, [stamp(99000, 9000)],
                     probe.ts_ns + STEP_NS, ttl=52, ident=7100)  # fmt: skip
    reset = Segment("s", segments[9].seq, 0, RST, [], answer.ts_ns + STEP_NS, ttl=52, ident=7101)
    swapped = [*segments[:5], segments[6], segments[5], *segments[7:10]]
    path = write(tmp_path / "made.pcap", records([*swapped, probe, answer, reset]))
    assert broken(path, ERROR) == set()
    assert broken(path) == {"tcp_seq_gap", "tcp_retransmission", "time_order"}


def test_urgent_data_and_fast_open_are_legal(tmp_path):
    segments = conversation()
    segments[3].flags |= URG
    segments[3].urgent = 10
    path = write(tmp_path / "urgent.pcap", records(segments))
    assert broken(path) == set()
    segments = conversation()[:2]
    segments[0].options.append((34, b"cookie12"))
    segments[0].payload = b"hello"
    segments[1].ack += 5
    assert broken(write(tmp_path / "open.pcap", records(segments))) == set()


def test_what_cannot_be_judged_is_said_and_not_counted(tmp_path):
    whole = udp("c")
    cut = (START_NS, whole[:50], len(whole))
    partial = conversation()[3].frame()
    length = len(partial) - 34
    partial_sum = struct.pack(">H", ones_sum(pseudo("c", 6, length)))
    offloaded = (START_NS + 1, partial[:50] + partial_sum + partial[52:])
    absent = udp("s")
    absent = (START_NS + 2, absent[:40] + b"\0\0" + absent[42:])
    path = write(tmp_path / "made.pcap", [cut, offloaded, absent])
    result = check_capture(path, with_tshark=False)
    states = {r.rule.name: r.unjudged for r in result.rules if r.unjudged}
    assert states == {
        "udp_checksum": {"cut": 1, "absent": 1},
        "tcp_checksum": {"offloaded": 1},
    }
    assert (result.packets, result.valid_packets) == (3, 3)


def test_a_header_without_checksum_is_excused_only_beside_an_offloaded_segment(tmp_path):
    frame = conversation()[3].frame()
    bare = frame[:24] + b"\0\0" + frame[26:]
    partial_sum = struct.pack(">H", ones_sum(pseudo("c", 6, len(frame) - 34)))
    left = bare[:50] + partial_sum + bare[52:]
    assert broken(write(tmp_path / "bare.pcap", [(START_NS, bare)])) == {"ipv4_checksum"}
    assert broken(write(tmp_path / "left.pcap", [(START_NS, left)])) == set()


def test_the_checker_shares_no_code_with_what_it_judges():
    paths = list((ROOT / "netdiff_ray" / "compliance").glob("*.py"))
    assert len(paths) > 5
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("netdiff_ray"):
                assert node.module == "netdiff_ray.errors" or node.module.startswith(
                    "netdiff_ray.compliance."
                )


def test_flows_end_after_a_minute_of_silence(tmp_path):
    minute = 60 * 10**9
    frames = [(START_NS + t, udp("cs"[k % 2])) for k, t in enumerate([0, minute, 2 * minute + 1])]
    assert check_capture(write(tmp_path / "made.pcap", frames), with_tshark=False).flows == 2
