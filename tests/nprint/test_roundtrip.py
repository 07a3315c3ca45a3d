"""The round-trip laws: every header bit that a layout keeps comes back."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from packet_builders import pcap, read
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netdiff_ray import raster
from netdiff_ray.errors import NprintError
from netdiff_ray.flow_state import PACKET_STATE
from netdiff_ray.nprint import LAYOUTS, decode, encode
from netdiff_ray.packets.frames import header_frames
from netdiff_ray.packets.writer import pcap_header, pcap_records

u8, u16, u32 = (st.integers(0, 2**n - 1) for n in (8, 16, 32))
tcp_option = st.one_of(
    st.just(("NOP", None)),
    st.tuples(st.just("MSS"), u16),
    st.tuples(st.just("WScale"), u8),
    st.just(("SAckOK", b"")),
    st.tuples(st.just("Timestamp"), st.tuples(u32, u32)),
    st.integers(1, 4).flatmap(lambda n: st.tuples(st.just("SAck"), st.tuples(*[u32] * (2 * n)))),
    st.tuples(st.integers(30, 254), st.binary(min_size=0, max_size=20)),
)
ip_options = st.binary(max_size=40).map(lambda b: b[: len(b) // 4 * 4])


@st.composite
def transports(draw):
    """Draw a transport header with some payload."""
    kind = draw(st.sampled_from(["tcp", "udp", "icmp"]))
    payload = Raw(draw(st.binary(max_size=30)))
    if kind == "udp":
        return UDP(sport=draw(u16), dport=draw(u16)) / payload
    if kind == "icmp":
        return ICMP(type=draw(u8), code=draw(u8), id=draw(u16), seq=draw(u16)) / payload
    tcp = TCP(
        sport=draw(u16), dport=draw(u16), seq=draw(u32), ack=draw(u32), window=draw(u16),
        urgptr=draw(u16), flags=draw(st.integers(0, 511)), reserved=draw(st.integers(0, 7)),
        options=draw(st.lists(tcp_option, max_size=4)),
    )  # fmt: skip
    assume(len(bytes(tcp)) <= 60)
    return tcp / payload


@st.composite
def frames(draw):
    """Draw the bytes of an Ethernet frame, whole or cut."""
    body = draw(transports())
    if draw(st.booleans()):
        packet = IP(
            src="10.1.2.3", dst="10.3.2.1", id=draw(u16), tos=draw(u8), ttl=draw(u8),
            flags=draw(st.integers(0, 7)), frag=draw(st.sampled_from([0, 0, 0, 5])),
        ) / body  # fmt: skip
        data = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)
        options = draw(ip_options)
        if options:
            words = 5 + len(options) // 4
            data = data[:14] + bytes([0x40 | words]) + data[15:34] + options + data[34:]
    else:
        if isinstance(body, ICMP):
            body = ICMPv6EchoRequest(id=draw(u16), seq=draw(u16))
        for extension in draw(
            st.lists(
                st.sampled_from(
                    [
                        IPv6ExtHdrHopByHop(),
                        IPv6ExtHdrDestOpt(),
                        IPv6ExtHdrRouting(),
                        IPv6ExtHdrFragment(id=9),
                    ]
                ),
                max_size=3,
            )
        ):
            body = extension / body
        packet = IPv6(src="fd00::1", dst="fd00::2", tc=draw(u8), fl=draw(st.integers(0, 2**20 - 1)),
                      hlim=draw(u8)) / body  # fmt: skip
        data = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)
    return data[: draw(st.integers(34, len(data)))] if draw(st.booleans()) else data


def encoded(rows, layout):
    """Return the nprint of rows, with invented directions, times and states if the layout has
    them."""
    if not layout.needs_flow:
        return encode(rows, layout)
    n = len(rows)
    state = np.zeros(n, PACKET_STATE)
    for k, name in enumerate(PACKET_STATE.names):
        state[name] = (np.arange(n) + k) % (3 if name == "sequence" else 2)
    return encode(
        rows, layout, direction=np.arange(n, dtype=np.uint8) % 2,
        interarrival_ns=np.geomspace(1, 3e12, n).astype(np.int64), state=state,
    )  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=120, deadline=None)
@given(packets=st.lists(frames(), min_size=1, max_size=8))
def test_packets_to_nprint_to_packets(tmp_path_factory, name, packets):
    layout = LAYOUTS[name]
    path = tmp_path_factory.getbasetemp() / "round.pcap"
    _, _, rows = read(path, pcap(packets))
    assume(len(rows))
    nprint = encoded(rows, layout)
    back, _, _ = decode(nprint, layout)
    # Through the bytes of a capture and its reading.
    data, start, caplen, wirelen = header_frames(back)
    records = pcap_records(data, start, caplen, wirelen, np.maximum(back["ts_ns"], 0))
    _, columns, again = read(path, pcap_header() + records.tobytes())
    assert (columns["reason"] == 0).all()
    np.testing.assert_array_equal(encoded(again, layout), nprint)
    if name == "nprint":
        for field in ("network", "network_len", "transport", "transport_len", "version"):
            np.testing.assert_array_equal(back[field], rows[field])


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=40, deadline=None)
@given(packets=st.lists(frames(), min_size=1, max_size=8))
def test_nprint_to_raster_to_nprint(tmp_path_factory, name, packets):
    layout = LAYOUTS[name]
    path = tmp_path_factory.getbasetemp() / "raster.pcap"
    _, _, rows = read(path, pcap(packets))
    nprint = encoded(rows, layout)
    back, distance = raster.from_rgb(raster.to_rgb(nprint))
    assert distance.max() == 0
    np.testing.assert_array_equal(raster.drop_vacant_tail(back), nprint)


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_any_cells_decode_to_frames_that_read(tmp_path_factory, data):
    """Random cells, as a drawing may have them, decode too."""
    layout = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]
    seed = data.draw(u32)
    random = np.random.default_rng(seed)
    nprint = random.integers(-1, 2, (20, layout.width)).astype(np.int8)
    rows, direction, interarrival_ns = decode(nprint, layout)
    assert set(direction.tolist()) <= {0, 1}
    assert (interarrival_ns >= 0).all()
    frames, start, caplen, wirelen = header_frames(rows)
    assert (caplen <= wirelen).all()
    records = pcap_records(frames, start, caplen, wirelen, rows["ts_ns"])
    path = tmp_path_factory.getbasetemp() / "any.pcap"
    reader, columns, _ = read(path, pcap_header() + records.tobytes())
    assert reader.fault is None
    assert len(columns["reason"]) == 20


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.zeros((3, 703), np.int8), "3 x 703; layout stateful needs rows of 704"),
        (np.zeros(704, np.int8), "the matrix is 704;"),
        (np.full((2, 704), 2, np.int8), "row 0, column flow_retransmission_0 holds 2"),
    ],
)
def test_wrong_matrices_are_refused(matrix, words):
    with pytest.raises(NprintError, match=words):
        decode(matrix, LAYOUTS["stateful"])
