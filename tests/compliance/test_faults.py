"""The faults of NetDiffusion's reconstruction, written as captures, and the rules that name them.

The list is that of the original's repair: wrong transport checksums, padding turned into random
packets, directions that were not drawn, SYN and FIN without a number, acknowledgements without
the length, payload in SYNs, SYN+FIN, overflowing sequence numbers and identifications, guessed
options, jumping TTLs, random ports, UDP lengths, no times, no link layer.
"""

import random
import struct

import pytest
from compliance.compliance_packets import (
    ACK,
    FIN,
    MSS,
    PSH,
    SACK,
    SCALE,
    SYN,
    conversation,
    records,
    timed,
    udp,
    write,
)

from netdiff_ray.compliance.check import check_capture

FAULTS = {}


def fault(*names, link_type=1):
    """Register the records of a fault with the rules that have to name it."""

    def register(make):
        FAULTS[make.__name__] = (make, set(names), link_type)
        return make

    return register


def exchange(rounds=8):
    """Return a flow of data both ways, with handshake and close."""
    script = [("c", SYN, 0), ("s", SYN | ACK, 0), ("c", ACK, 0)]
    script += [("c", PSH | ACK, 120), ("s", ACK, 900), ("s", PSH | ACK, 300)] * rounds
    script += [("c", FIN | ACK, 0), ("s", FIN | ACK, 0), ("c", ACK, 0)]
    return conversation(isn=(1000, 70_000), script=script)


def set_at(frame, at, value):
    return frame[:at] + value + frame[at + len(value) :]


@fault("tcp_checksum")
def tcp_checksums_are_stale():
    return [(t, set_at(f, 50, b"\x5a\x5a")) for t, f in records(exchange())]


@fault("udp_checksum")
def udp_checksums_are_stale():
    return timed([set_at(udp("cs"[k % 2]), 40, b"\x5a\x5a") for k in range(6)])


def noise(chance, segment):
    """Make a segment one of a padding row: what is drawn of it is random."""
    segment.seq, segment.ack = chance.getrandbits(32), chance.getrandbits(32)
    segment.flags, segment.ttl = chance.getrandbits(6), chance.randrange(1, 256)
    segment.raw_options = chance.randbytes(4 * chance.randrange(6))


@fault("flow_padded")
def padding_becomes_random_packets():
    chance = random.Random(7)
    segments = exchange(400)[:1024]
    for segment in segments[40:]:
        noise(chance, segment)
    return records(segments)


@fault("flow_length_constant")
def every_flow_has_one_length():
    frames = [udp("cs"[k % 2], ports=(41000 + flow, 53)) for k in range(64) for flow in range(4)]
    return timed(frames, 10**6)


@fault("tcp_handshake_side", "tcp_ack_backwards")
def direction_is_not_drawn():
    chance = random.Random(3)
    segments = exchange(40)
    for segment in segments[1:]:
        segment.side = chance.choice("cs")
    segments[1].side = "c"
    return records(segments)


@fault("tcp_syn_number", "tcp_handshake_ack", "tcp_fin_number")
def syn_and_fin_take_no_number():
    segments = exchange()
    for segment in segments:
        if not segment.flags & SYN:
            segment.seq -= 1
    segments[1].ack -= 1
    segments[2].ack -= 1
    segments[-1].seq -= 1
    return records(segments)


@fault("tcp_fin_number")
def a_fin_takes_no_number():
    segments = exchange()
    segments[-1].seq -= 1
    return records(segments)


@fault("tcp_ack_short")
def acknowledgements_leave_out_the_length():
    segments = exchange()
    latest = {"c": 0, "s": 0}
    for segment in segments:
        if segment.flags & ACK:
            segment.ack = latest["s" if segment.side == "c" else "c"]
        latest[segment.side] = segment.seq
    return records(segments)


@fault("tcp_ack_unsent")
def acknowledgements_are_random():
    chance = random.Random(5)
    segments = exchange(40)
    for segment in segments[3:]:
        segment.ack = chance.getrandbits(32)
    return records(segments)


@fault("tcp_ack_backwards")
def acknowledgements_fall():
    segments = exchange()
    segments[12].ack -= 1500
    return records(segments)


@fault("tcp_syn_data")
def a_syn_carries_payload():
    segments = exchange()
    segments[0].payload = b"payload"
    return records(segments)


@fault("tcp_syn_fin")
def syn_and_fin_together():
    segments = exchange()
    segments[0].flags |= FIN
    return records(segments)


@fault("tcp_seq_window")
def a_sequence_overflow_writes_33_bits():
    segments = conversation(isn=(0xFFFFFF00, 9000))
    for segment in segments:
        if segment.side == "c" and not segment.flags & SYN:
            counted = segment.seq
            if counted >= 2**32:
                segment.seq = counted >> 1
                segment.ack = (counted & 1) << 31 | segment.ack & 0x7FFFFFFF
    return records(segments)


@fault("ipv4_reserved_flag")
def an_identification_overflow_writes_17_bits():
    segments = exchange()
    for number, segment in enumerate(segments):
        counted = 65_530 + number
        overflow = counted >= 65_536
        segment.ident = counted >> overflow
        segment.ip_flags = 0x4000 | (counted & 1) << 15 if overflow else 0x4000
    return records(segments)


@fault("tcp_option_on_syn")
def mss_and_window_scale_stand_on_ordinary_segments():
    segments = exchange()
    segments[5].options = [(MSS, struct.pack(">H", 1460)), (SCALE, b"\x02")]
    return records(segments)


@fault("tcp_options")
def a_sack_says_ten_bytes_in_a_slot_of_five():
    segments = exchange()
    segments[5].raw_options = b"\x01\x01\x01" + bytes([SACK, 10, 1, 2, 3])
    return records(segments)


@fault("ip_ttl_constant")
def ttls_differ_from_packet_to_packet():
    chance = random.Random(1)
    segments = exchange()
    for segment in segments:
        segment.ttl = chance.randrange(1, 256)
    return records(segments)


@fault("flow_ports")
def ports_are_random():
    chance = random.Random(1)
    segments = exchange()
    for segment in segments:
        segment.ports = (chance.randrange(1024, 65536), chance.randrange(1024, 65536))
    return records(segments)


@fault("udp_length")
def udp_length_disagrees_with_ip_length():
    return timed([udp("cs"[k % 2], length=300 + k) for k in range(4)])


@fault("time_zero", "link_type_raw", link_type=101)
def no_times_and_no_link_layer():
    return [(0, frame[14:]) for _, frame in records(exchange())]


@fault(
    "flow_padded", "tcp_checksum", "tcp_syn_data", "tcp_options", "ip_ttl_constant", "time_zero",
    "link_type_raw", "tcp_handshake_ack", link_type=101,
)  # fmt: skip
def all_at_once():
    chance = random.Random(11)
    segments = exchange(400)[:1024]
    segments[0].payload = b"payload"
    segments[1].ack -= 1
    for segment in segments[40:]:
        noise(chance, segment)
    return [(0, set_at(frame[14:], 36, b"\x11\x22")) for _, frame in records(segments)]


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_named(name, tmp_path):
    make, names, link_type = FAULTS[name]
    result = check_capture(write(tmp_path / "made.pcap", make(), link_type), with_tshark=False)
    assert names <= {r.rule.name for r in result.rules if r.broken}


def test_the_flow_that_the_faults_are_made_of_is_valid(tmp_path):
    for number, flow in enumerate((exchange(), exchange(400)[:1024])):
        path = write(tmp_path / f"{number}.pcap", records(flow))
        result = check_capture(path, with_tshark=False)
        assert not [r.rule.name for r in result.rules if r.broken]
        assert (result.valid_packets, result.valid_flows) == (len(flow), 1)
