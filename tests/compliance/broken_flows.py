"""For each rule of connections, flows and captures the records that break it alone."""

import struct
from itertools import pairwise

from broken_captures import breaks, other_ack, segment_rule
from compliance.compliance_packets import (
    ACK,
    PSH,
    RST,
    SACK,
    SACK_OK,
    SCALE,
    START_NS,
    STEP_NS,
    SYN,
    Segment,
    conversation,
    records,
    stamp,
    timed,
    udp,
)

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
    again = conversation(isn=(0x2000, 0x1000), start_ns=START_NS + 20 * STEP_NS)
    for number, segment in enumerate(again):
        segment.ident += 50
        segment.options[0] = stamp(
            struct.unpack(">I", segment.options[0][1][:4])[0] + 10_000,
            struct.unpack(">I", segment.options[0][1][4:])[0] + 10_000 * (number > 0),
        )
    return records(conversation()[:10] + again)  # its SYN in the window of what was sent


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


@breaks("tcp_window_back")
def _():
    segments = conversation()
    segments[7].window -= 1000
    for segment in segments[8:]:
        segment.window -= 1000 * (segment.side == "c")
    return records(segments)


@breaks("tcp_ack_inside")
def _():
    return other_ack(conversation(), 4, -100)


@breaks("tcp_answer_early")
def _():
    segments = conversation()
    for segment in segments[4:]:
        segment.ts_ns -= STEP_NS * 3 // 4
    return records(segments)


@breaks("tcp_retransmission")
def _():
    segments = conversation()
    again = conversation()[3]
    again.ts_ns, again.ident = segments[4].ts_ns - STEP_NS // 2, 131
    return records([*segments[:4], again, *segments[4:]])


# Flows and captures.


def spread(values, **fields):
    """Return a client's datagrams, one for each of the values of a field."""
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
    """Return a flow of 1,024 datagrams whose last quarters are as `tail` makes them."""
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
    """Return data both ways, whose acknowledgements may leave out the last segment."""
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
