"""Packets that were captured before are left out, those that were sent again are not."""

import numpy as np
from packet_builders import ETHERNET_IPV6, pcap, read, tcp4, udp4

from netdiff_ray.packets.duplicates import without_duplicates

TTL = 14 + 8


def routed(frame, hops=1):
    """Return a frame of IPv4 as it leaves a router: with another checksum too."""
    octets = bytearray(frame)
    octets[TTL] -= hops
    octets[TTL + 2 : TTL + 4] = b"\x12\x34"
    return bytes(octets)


def kept(path, packets, cut=None):
    """Return the rows that are kept of frames at times in microseconds; they come in two chunks,
    the second from `cut` on, if that is given."""
    data = pcap([(us // 1_000_000, us % 1_000_000, frame) for us, frame in packets])
    _, _, rows = read(path / "c.pcap", data)
    chunks = [rows] if cut is None else [rows[:cut], rows[cut:]]
    return np.concatenate(list(without_duplicates(chunks)))


def test_a_packet_on_both_sides_of_a_router_stands_once(tmp_path):
    first, other = tcp4(2), tcp4(0x10, b"abc")
    packets = [(0, first), (300, routed(first)), (900, other), (901, routed(other, 2))]
    rows = kept(tmp_path, packets)
    assert rows["ts_ns"].tolist() == [0, 900_000]
    assert rows["duplicates"].tolist() == [1, 1]
    assert rows["duplicate_hops"].tolist() == [1, 2]
    assert rows["duplicate_ns"].tolist() == [300_000, 1_000]


def test_chunks_make_no_difference(tmp_path):
    frames = [tcp4(0x10, bytes(k)) for k in range(20)]
    packets = [(1_000 * k + 10 * j, f) for k, f in enumerate(frames) for j in range(3)]
    whole = kept(tmp_path, packets)
    assert len(whole) == 20
    assert (whole["duplicates"] == 2).all()
    for cut in range(0, len(packets), 7):
        np.testing.assert_array_equal(kept(tmp_path, packets, cut), whole)


def test_what_is_sent_again_stands(tmp_path):
    data = tcp4(0x18, b"abc")
    again = bytearray(data)
    again[14 + 5] += 1  # another identification
    late = [(0, data), (20_001, data)]
    for packets in ([(0, data), (100, bytes(again))], late, [(0, data), (10, tcp4(0x18, b"abcd"))]):
        rows = kept(tmp_path, packets)
        assert len(rows) == 2
        assert not rows["duplicates"].any()


def test_a_late_repetition_is_itself_captured_again(tmp_path):
    data = tcp4(0x18, b"abc")
    rows = kept(tmp_path, [(0, data), (50_000, data), (50_100, routed(data))])
    assert rows["duplicates"].tolist() == [0, 1]


def test_without_an_identification_the_lifetime_tells(tmp_path):
    same = udp4(b"NOTIFY", identification=0)
    assert len(kept(tmp_path, [(0, same), (5, same)])) == 2
    assert len(kept(tmp_path, [(0, same), (5, routed(same))])) == 1
    udp = bytes.fromhex("03e80035000a0000") + b"hi"
    head = bytes.fromhex("60000000000a11") + b"\x40" + bytes(15) + b"\1" + bytes(15) + b"\2"
    frame = ETHERNET_IPV6 + head + udp
    nearer = bytearray(frame)
    nearer[14 + 7] -= 1
    assert len(kept(tmp_path, [(0, frame), (5, frame)])) == 2
    assert len(kept(tmp_path, [(0, frame), (5, bytes(nearer))])) == 1
