"""For each compliance rule the records of a made capture that breaks it and no other error."""

import struct

from compliance.compliance_packets import (
    ACK,
    FIN,
    MSS,
    PSH,
    RST,
    SACK,
    SCALE,
    START_NS,
    STEP_NS,
    SYN,
    Segment,
    conversation,
    ether,
    icmp,
    ip4,
    ip6,
    pseudo,
    records,
    stamp,
    timed,
    udp,
    with_checksum,
)

BREAKS = {}
LINKS = {"link_type_raw": 101}
WITH = {"flow_padded": {"udp_checksum"}}
"""A flow filled with broken packets has broken packets."""


def breaks(rule):
    """Register a function that makes the records which break a rule."""

    def register(make):
        assert BREAKS.setdefault(rule, make) is make
        return make

    return register


def segment_rule(rule, which=3, **fields):
    """Break a rule by setting fields of one segment of the valid flow."""

    def make():
        segments = conversation()
        for name, value in fields.items():
            setattr(segments[which], name, value)
        return records(segments)

    breaks(rule)(make)


def byte_rule(rule, which, at, value, resum=None):
    """Break a rule by writing bytes into one frame of the valid flow."""

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
    """Return the valid flow with the acknowledgement of one segment changed."""
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
    """Return the start of a valid flow and one more segment of the client in its place."""
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
    """Return a first segment with other flags."""
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
