"""Each rule has a made capture that breaks it and no other error; valid flows break none."""

import ast
import struct
from itertools import pairwise

import pytest
from conftest import ROOT
from evaluate.packet_making import (
    ACK,
    FIN,
    MSS,
    PSH,
    RST,
    SACK,
    SACK_OK,
    SCALE,
    START_NS,
    STEP_NS,
    SYN,
    URG,
    Segment,
    conversation,
    ether,
    icmp,
    ip4,
    ip6,
    ones_sum,
    pseudo,
    records,
    stamp,
    timed,
    udp,
    with_checksum,
    write,
)

from netdiff_ray.evaluate.compliance import check_capture
from netdiff_ray.evaluate.compliance_rules import ERROR, RULES

BREAKS = {}
LINKS = {"link_type_raw": 101}
WITH = {"flow_padded": {"udp_checksum"}}
"""A flow filled with broken packets has broken packets."""


def broken(path, severity=None):
    """Names of the broken rules of a capture."""
    return {
        result.rule.name
        for result in check_capture(path, with_tshark=False).rules
        if result.broken and severity in (None, result.rule.severity)
    }


def breaks(rule):
    """Register a function that makes the records which break a rule."""

    def register(make):
        assert BREAKS.setdefault(rule, make) is make
        return make

    return register


def segment_rule(rule, which=3, **fields):
    """A rule broken by setting fields of one segment of the valid flow."""

    def make():
        segments = conversation()
        for name, value in fields.items():
            setattr(segments[which], name, value)
        return records(segments)

    breaks(rule)(make)


def byte_rule(rule, which, at, value, resum=None):
    """A rule broken by writing bytes into one frame of the valid flow."""

    def make():
        done = records(conversation())
        ts_ns, frame = done[which]
        frame = frame[:at] + value + frame[at + len(value) :]
        if resum == "ip":
            frame = frame[:14] + with_checksum(frame[14:34], 10) + frame[34:]
        if resum == "tcp":
            head = pseudo("cs"[frame[6:12] == b"\2\0\0\0\0\2"], 6, len(frame) - 34)
            frame = frame[:34] + with_checksum(frame[34:], 16, head)
        done[which] = (ts_ns, frame)
        return done

    breaks(rule)(make)


def other_ack(segments, which, change):
    """The valid flow with the acknowledgement of one segment changed."""
    segments[which].ack += change
    return records(segments)


# Frames and IP.


@breaks("frame_length")
def _():
    done = records(conversation())
    return [(t, f, len(f) - 5 if k == 3 else len(f)) for k, (t, f) in enumerate(done)]


byte_rule("ether_source", 3, 6, b"\x03")


@breaks("ether_trailer")
def _():
    return [(t, f + bytes(60) if k == 3 else f) for k, (t, f) in enumerate(records(conversation()))]


@breaks("ip_version")
def _():
    return timed([udp("c"), ether("c", b"\x55" + bytes(60), 0x0800)])


segment_rule("ip_ttl_zero", which=2, ttl=0)


@breaks("port_zero")
def _():
    return timed([udp("c", ports=(40000, 0))])


@breaks("time_backwards")
def _():
    done = timed([udp("c"), udp("s"), udp("c"), udp("s")])
    return [*done[:3], (START_NS - 2 * 10**9, done[3][1])]


@breaks("time_order")
def _():
    done = timed([udp("c"), udp("s"), udp("c"), udp("s")])
    return [*done[:3], (done[2][0] - 1000, done[3][1])]


@breaks("time_plausible")
def _():
    return [(t - START_NS + 10**9, f) for t, f in timed([udp("c"), udp("s")])]


byte_rule("ipv4_header_length", 3, 14, b"\x44", "ip")
byte_rule("ipv4_total_length", 3, 16, b"\xff\x00", "ip")
byte_rule("ipv4_checksum", 3, 24, b"\x12\x34")
segment_rule("ipv4_reserved_flag", ip_flags=0xC000)


@breaks("ipv4_options")
def _():
    body = udp("c")[34:]
    return timed([ether("c", ip4("c", 17, body, options=b"\x07\x09\x04\x00"))])


@breaks("ipv4_df_fragment")
def _():
    return timed([ether("c", ip4("c", 17, udp("c")[34:], flags=0x6000)), udp("s")])


@breaks("ipv6_payload_length")
def _():
    frame = udp("c", version=6)
    return timed([frame[:18] + b"\x01\x00" + frame[20:]])


@breaks("ipv6_extension")
def _():
    return timed([ether("c", ip6("c", 17, b"", extensions=b"\x11\x09" + bytes(6), first=60))])


# TCP segments.

byte_rule("tcp_header_length", 2, 46, b"\x40", "tcp")
byte_rule("tcp_checksum", 3, 50, b"\x12\x34")
segment_rule("tcp_reserved", reserved=0b010)


def added(flags, ack=None, **fields):
    """The start of a valid flow and one more segment of the client in its place."""
    segments = conversation()[:10]
    last = segments[8]
    segments.append(
        Segment("c", last.seq + 50, last.ack if ack is None else ack, flags,
                [stamp(6000, 90000 + 20 * 9)], last.ts_ns + 2 * STEP_NS, ident=200, **fields)
    )  # fmt: skip
    return records(segments)


@breaks("tcp_flags_none")
def _():
    return added(0, ack=0)


@breaks("tcp_ack_flag")
def _():
    return added(PSH, ack=0)


@breaks("tcp_fin_rst")
def _():
    return added(FIN | RST | ACK)


@breaks("tcp_syn_fin")
def _():
    return records([opening(SYN | FIN)])


@breaks("tcp_syn_rst")
def _():
    return records([opening(SYN | RST)])


def opening(flags):
    """A first segment with other flags."""
    segment = conversation()[0]
    segment.flags = flags
    return segment


@breaks("tcp_syn_data")
def _():
    segment = opening(SYN)
    segment.payload = b"early"
    return records([segment])


segment_rule("tcp_urgent", urgent=5)


@breaks("tcp_ack_field")
def _():
    segments = conversation()
    segments[0].ack = 77
    return records(segments)


segment_rule("tcp_options", which=2, raw_options=b"\x05\x0a" + b"\x01\x01\x01\x01\x01\x01")
segment_rule(
    "tcp_option_twice", which=2, options=[stamp(5040, 90020), stamp(5040, 90020)]
)  # fmt: skip
segment_rule(
    "tcp_option_on_syn", options=[stamp(5060, 90020), (MSS, b"\x05\xb4"), (SCALE, b"\x07")]
)


@breaks("tcp_option_values")
def _():
    segments = conversation()
    for segment in segments[:2]:
        segment.options = [(k, b"\x0f" if k == SCALE else v) for k, v in segment.options]
    return records(segments)


segment_rule("tcp_padding", raw_options=b"\x08\x0a" + struct.pack(">II", 5060, 90020) + b"\x00\x07")


@breaks("tcp_sack_blocks")
def _():
    segments = conversation()
    ack = segments[7].ack % 2**32
    segments[7].options.append((SACK, struct.pack(">II", ack - 100, ack - 200)))
    return records(segments)


@breaks("tcp_syn_echo")
def _():
    segments = conversation()
    segments[0].options[0] = stamp(5000, 1)
    return records(segments)


# UDP and ICMP.


@breaks("udp_length")
def _():
    return timed([udp("c", length=20), udp("s")])


@breaks("udp_checksum")
def _():
    frame = udp("c")
    return timed([frame[:-1] + b"y"])


@breaks("icmp_length")
def _():
    return timed([icmp("s", 3, 1, 0, 0, b"short")])


@breaks("icmp_type")
def _():
    return timed([icmp("c", 8, 3)])


@breaks("icmp_checksum")
def _():
    return timed([icmp("c", 8)[:-1] + b"q"])


@breaks("icmpv6_length")
def _():
    return timed([icmp("s", 1, 0, 0, 0, b"short", version=6)])


@breaks("icmpv6_type")
def _():
    return timed([icmp("c", 127, version=6)])


@breaks("icmpv6_checksum")
def _():
    return timed([icmp("c", 128, version=6)[:-1] + b"q"])


@breaks("icmpv6_hop_limit")
def _():
    return timed([icmp("c", 135, 0, 0, 0, bytes(16), version=6, ttl=64)])


@breaks("icmp_echo_pair")
def _():
    return timed([icmp("c", 8), icmp("s", 0), icmp("c", 8, sequence=2), icmp("s", 0, 0, 77, 2)])


@breaks("icmp_echo_sequence")
def _():
    return timed([icmp("c", 8, sequence=9000), icmp("s", 0, sequence=9000), icmp("c", 8)])


# TCP connections.


@breaks("tcp_syn_number")
def _():
    segments = conversation()
    for segment in segments:
        segment.seq -= segment.side == "c" and not segment.flags & SYN
    segments = segments[:3]
    return records(segments)


@breaks("tcp_fin_number")
def _():
    segments = conversation()
    segments[12].seq -= 1
    return records(segments)


segment_rule("tcp_seq_window", which=8, seq=0x40000000)


@breaks("tcp_handshake_ack")
def _():
    return other_ack(conversation(), 1, -1)


@breaks("tcp_handshake_side")
def _():
    segments = conversation()[:2]
    segments[1].side, segments[1].ident, segments[1].ttl = "c", 102, 64
    segments[1].seq = segments[0].seq
    return records(segments)


@breaks("tcp_data_early")
def _():
    segments = conversation()[:4]
    segments[3].ts_ns, segments[1].ts_ns = segments[1].ts_ns, segments[3].ts_ns
    segments[3].ident, segments[2].ident = segments[2].ident, segments[3].ident
    segments[3].options = [stamp(5020, 0)]
    return records([segments[0], segments[3], segments[1]])


@breaks("tcp_syn_late")
def _():
    segments = conversation()[:10]
    last = segments[9]
    late = Segment("s", last.seq + 9999, last.ack, SYN | ACK, [stamp(91000, 5160)],
                   last.ts_ns + STEP_NS, ttl=52, ident=7200)  # fmt: skip
    return records([*segments, late])


@breaks("tcp_new_connection")
def _():
    again = conversation(isn=(5000, 6000), start_ns=START_NS + 20 * STEP_NS)
    for number, segment in enumerate(again):
        segment.ident += 50
        segment.options[0] = stamp(
            struct.unpack(">I", segment.options[0][1][:4])[0] + 10_000,
            struct.unpack(">I", segment.options[0][1][4:])[0] + 10_000 * (number > 0),
        )
    return records(conversation() + again)


@breaks("tcp_ack_unsent")
def _():
    return other_ack(conversation(), 4, 30)


@breaks("tcp_ack_unseen")
def _():
    # The last data of the server is lost to the capture, its acknowledgement is not.
    segments = conversation(script=[
        ("c", SYN, 0), ("s", SYN | ACK, 0), ("c", ACK, 0), ("c", PSH | ACK, 400), ("s", ACK, 0),
        ("s", ACK, 1000), ("c", ACK, 0),
    ])  # fmt: skip
    return records(segments[:5] + segments[6:])


@breaks("tcp_ack_backwards")
def _():
    return other_ack(conversation(), 8, -700)


@breaks("tcp_data_after_fin")
def _():
    segments = conversation()
    last = segments[12]
    more = Segment("c", last.seq, last.ack, PSH | ACK, [stamp(5300, 90220)],
                   last.ts_ns + STEP_NS, b"more", ident=150)  # fmt: skip
    return records([*segments, more])


@breaks("tcp_data_after_rst")
def _():
    segments = conversation()[:10]
    last = segments[8]
    common = {"options": [stamp(5300, 90180)], "ident": 151}
    reset = Segment("c", last.seq + 50, last.ack, RST | ACK, ts_ns=last.ts_ns + 2 * STEP_NS,
                    **common)  # fmt: skip
    more = Segment("c", last.seq + 50, last.ack, PSH | ACK, ts_ns=last.ts_ns + 3 * STEP_NS,
                   payload=b"more", **common)  # fmt: skip
    more.ident += 1
    return records([*segments, reset, more])


@breaks("tcp_timestamp_echo")
def _():
    segments = conversation()
    segments[7].options = [stamp(5140, 99999)]
    return records(segments)


@breaks("tcp_timestamp_order")
def _():
    segments = conversation()
    segments[8].options = [stamp(4000, 90120)]
    return records(segments)


segment_rule("tcp_timestamp_absent", options=[])


@breaks("tcp_sack_agreed")
def _():
    segments = conversation()
    for segment in segments[:2]:
        segment.options = [o for o in segment.options if o[0] != SACK_OK]
    ack = segments[5].seq % 2**32
    segments[7].ack = ack
    segments[7].options.append(
        (SACK, struct.pack(">II", (ack + 1000) % 2**32, (ack + 1500) % 2**32))
    )
    return records(segments)


@breaks("tcp_scale_agreed")
def _():
    segments = conversation()
    segments[0].options = [o for o in segments[0].options if o[0] != SCALE]
    return records(segments)


@breaks("tcp_seq_gap")
def _():
    segments = conversation()
    return records(segments[:5] + segments[6:7])


@breaks("tcp_retransmission")
def _():
    segments = conversation()
    again = conversation()[3]
    again.ts_ns, again.ident = segments[4].ts_ns - STEP_NS // 2, 131
    return records([*segments[:4], again, *segments[4:]])


# Flows and captures.


def spread(values, **fields):
    """A client's datagrams, one for each of the values of a field."""
    (name,) = fields
    return timed([udp("c", **{name: value}) for value in values])


@breaks("ip_ttl_constant")
def _():
    return spread([64, 128, 30, 255, 77, 12], ttl=0)


@breaks("ip_ttl_change")
def _():
    return spread([64, 64, 64, 63, 63], ttl=0)


@breaks("time_zero")
def _():
    return [(0, udp("c")), (0, udp("s"))]


@breaks("time_constant")
def _():
    return [(START_NS, udp("cs"[k % 2])) for k in range(8)]


def padded(tail):
    """A flow of 1,024 datagrams whose last quarters are as `tail` makes them."""
    return timed([udp("c") if k < 500 else tail(k) for k in range(1024)])


@breaks("flow_padded")
def _():
    return padded(lambda k: udp("c")[:-1] + bytes([k % 100]))


@breaks("flow_ports")
def _():
    segments = []
    for number in range(12):
        segment = conversation(ports=(30011 + 97 * number, 20023 + 89 * number))[4]
        segment.ts_ns += number * STEP_NS
        segments.append(segment)
    return records(segments)


@breaks("port_dynamic")
def _():
    return timed([udp("c", ports=(50000, 60000)), udp("s", ports=(50000, 60000))])


@breaks("ipv4_id_repeated")
def _():
    return timed([udp("c", flags=0, ident=5), udp("c", flags=0, ident=5)])


def pingpong(rounds, short=False):
    """An exchange of data in which a side's acknowledgements may leave out the last segment."""
    script = [("c", SYN, 0), ("s", SYN | ACK, 0), ("c", ACK, 0)]
    script += [("c", PSH | ACK, 100), ("s", PSH | ACK, 200)] * rounds
    segments = conversation(script=script)
    for before, segment in pairwise(segments[3:]):
        if short and segment.side == "s":
            segment.ack = before.seq
    return records(segments)


@breaks("tcp_ack_short")
def _():
    return pingpong(6, short=True)


@breaks("link_type_raw")
def _():
    return [(t, f[14:]) for t, f in timed([udp("c"), udp("s")])]


@breaks("flow_length_constant")
def _():
    frames = [udp("cs"[k % 2], ports=(40000 + flow, 53)) for k in range(10) for flow in range(3)]
    return timed(frames)


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
    for path in (ROOT / "netdiff_ray" / "evaluate").glob("compliance*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("netdiff_ray"):
                assert node.module == "netdiff_ray.errors" or node.module.startswith(
                    "netdiff_ray.evaluate.compliance"
                )


def test_flows_end_after_a_minute_of_silence(tmp_path):
    minute = 60 * 10**9
    frames = [(START_NS + t, udp("cs"[k % 2])) for k, t in enumerate([0, minute, 2 * minute + 1])]
    assert check_capture(write(tmp_path / "made.pcap", frames), with_tshark=False).flows == 2
