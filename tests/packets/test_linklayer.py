"""From frames of each link type to the IP header, extension headers and fragments."""

import ctypes.util
import struct

import numpy as np
import pytest
from packet_builders import ETHERNET_IPV6, ipv4, pcap, read, udp4

from netdiff_ray.packets import LINK_TYPES, Reason, link_type_name

IP = udp4(b"x" * 20)[14:]
ADDRESSES = bytes(range(16)) + bytes(range(16, 32))
UDP = struct.pack("!HHHH", 5, 6, 8, 0)


def ipv6(next_header, body):
    """Return an IPv6 packet."""
    return struct.pack("!IHBB", 6 << 28, len(body), next_header, 64) + ADDRESSES + body


def read_frame(tmp_path, frame, link_type):
    """Return (columns of the only record, its header rows)."""
    _, columns, rows = read(tmp_path / "c", pcap([frame], link_type=link_type))
    return {name: column[0] for name, column in columns.items()}, rows


MACS = bytes(12)
LABEL, LAST_LABEL = b"\x00\x01\x00\xff", b"\x00\x01\x01\xff"
FRAMES = {
    "ethernet": (1, MACS + b"\x08\x00" + IP, 14),
    "vlan": (1, MACS + b"\x81\x00\x00\x01\x08\x00" + IP, 18),
    "qinq": (1, MACS + b"\x88\xa8\x00\x01\x81\x00\x00\x02\x08\x00" + IP, 22),
    "mpls": (1, MACS + b"\x88\x47" + LABEL + LAST_LABEL + IP, 22),
    "vlan over mpls": (1, MACS + b"\x81\x00\x00\x01\x88\x47" + LAST_LABEL + IP, 22),
    "pppoe": (1, MACS + b"\x88\x64\x11\x00\x00\x01\x00\x20\x00\x21" + IP, 22),
    "snap": (1, MACS + b"\x00\x40\xaa\xaa\x03\x00\x00\x00\x08\x00" + IP, 22),
    "raw": (101, IP, 0),
    "raw 12": (12, IP, 0),
    "ipv4": (228, IP, 0),
    "sll": (113, bytes(14) + b"\x08\x00" + IP, 16),
    "sll vlan": (113, bytes(14) + b"\x81\x00\x00\x01\x08\x00" + IP, 20),
    "sll2": (276, b"\x08\x00" + bytes(18) + IP, 20),
    "null little": (0, struct.pack("<I", 2) + IP, 4),
    "null big": (0, struct.pack(">I", 2) + IP, 4),
    "loop": (108, struct.pack(">I", 2) + IP, 4),
    "ppp": (9, b"\xff\x03\x00\x21" + IP, 4),
    "ppp compressed": (9, b"\x21" + IP, 1),
    "ppp mpls": (9, b"\xff\x03\x02\x81" + LAST_LABEL + IP, 8),
    "ppp hdlc": (50, b"\xff\x03\x00\x21" + IP, 4),
    "c-hdlc": (104, b"\x0f\x00\x08\x00" + IP, 4),
    "pppoe link": (51, b"\x11\x00\x00\x01\x00\x20\x00\x21" + IP, 8),
}


@pytest.mark.parametrize("name", FRAMES)
def test_network_offset(tmp_path, name):
    link_type, frame, offset = FRAMES[name]
    record, rows = read_frame(tmp_path, frame, link_type)
    assert record["reason"] == Reason.OK
    assert record["network"] == offset
    assert record["transport"] == offset + 20
    assert rows["network"][0, :20].tobytes() == IP[:20]


@pytest.mark.parametrize("family", [10, 24, 28, 30])
def test_null_families_of_ipv6(tmp_path, family):
    record, _ = read_frame(tmp_path, struct.pack("<I", family) + ipv6(17, UDP), 0)
    assert (record["version"], record["protocol"]) == (6, 17)


@pytest.mark.parametrize(
    ("link_type", "frame", "reason"),
    [
        (1, MACS, Reason.LINK_CUT),
        (1, MACS + b"\x81\x00\x00", Reason.LINK_CUT),
        (1, MACS + b"\x88\x47" + LABEL * 3, Reason.LINK_CUT),
        (1, MACS + b"\x08\x06" + bytes(28), Reason.NOT_IP),
        (1, MACS + b"\x08\x00" + b"\x65" + bytes(60), Reason.VERSION),
        (1, MACS + b"\x08\x00", Reason.NETWORK_CUT),
        (1, MACS + b"\x08\x00" + IP[:19], Reason.NETWORK_CUT),
        (1, MACS + b"\x86\xdd" + ipv6(17, UDP)[:39], Reason.NETWORK_CUT),
        (1, MACS + b"\x08\x00\x44" + IP[1:], Reason.HEADER_LENGTH),
        (1, MACS + b"\x08\x00" + ipv4(b"", 47, "1.2.3.4", "5.6.7.8"), Reason.PROTOCOL),
        (1, MACS + b"\x86\xdd" + ipv6(0, b"\x11"), Reason.EXTENSION_CUT),
        (105, bytes(60), Reason.LINK_TYPE),
        (101, b"\x00" * 40, Reason.VERSION),
    ],
)
def test_records_without_a_row_say_why(tmp_path, link_type, frame, reason):
    record, rows = read_frame(tmp_path, frame, link_type)
    assert record["reason"] == reason
    assert len(rows) == 0
    assert reason.words


def test_what_is_not_ip_is_named(tmp_path):
    record, _ = read_frame(tmp_path, MACS + b"\x08\x06" + bytes(28), 1)
    assert record["ether_type"] == 0x0806
    assert link_type_name(105) == "IEEE802_11"
    assert link_type_name(65000) == "LINKTYPE_65000"


def test_link_types_have_the_names_of_the_registry():
    names = {
        0: "NULL", 1: "ETHERNET", 9: "PPP", 101: "RAW", 127: "IEEE802_11_RADIOTAP",
        242: "IPOIB", 243: "MPEG_2_TS", 247: "INFINIBAND", 248: "SCTP", 276: "LINUX_SLL2",
        283: "IEEE802_15_4_TAP", 284: "DSA_TAG_DSA", 285: "DSA_TAG_EDSA",
    }  # fmt: skip
    assert {number: link_type_name(number) for number in names} == names


LIBPCAP = ctypes.util.find_library("pcap")
SAME_IN_LIBPCAP_FROM = 104
OTHER_IN_LIBPCAP = {
    119: "PRISM_HEADER", 127: "IEEE802_11_RADIO", 163: "IEEE802_11_RADIO_AVS", 195: "IEEE802_15_4",
}  # fmt: skip
"""Link types that libpcap gives another name as DLT_ than as LINKTYPE_."""


@pytest.mark.skipif(LIBPCAP is None, reason="needs libpcap")
def test_link_types_have_the_names_of_libpcap():
    name_of = ctypes.CDLL(LIBPCAP).pcap_datalink_val_to_name
    name_of.restype = ctypes.c_char_p
    wrong = {}
    for number in range(SAME_IN_LIBPCAP_FROM, max(LINK_TYPES) + 1):
        name = name_of(number)
        expected = OTHER_IN_LIBPCAP.get(number, link_type_name(number))
        if name is not None and name.decode() != expected:
            wrong[number] = name.decode()
    assert wrong == {}


def test_ipv6_extension_headers_are_walked(tmp_path):
    hop = bytes([43, 0, 1, 4, 0, 0, 0, 0])
    routing = bytes([51, 1]) + bytes(14)
    authentication = bytes([60, 4]) + bytes(22)
    options = bytes([17, 0, 1, 4, 0, 0, 0, 0])
    chain = hop + routing + authentication + options
    record, rows = read_frame(tmp_path, ETHERNET_IPV6 + ipv6(0, chain + UDP), 1)
    assert record["protocol"] == 17
    assert record["transport"] == 14 + 40 + len(chain)
    assert rows["transport"][0, :8].tobytes() == UDP


@pytest.mark.parametrize(("offset", "more", "kind"), [(0, 0, 0), (0, 1, 1), (8, 1, 2), (8, 0, 2)])
def test_fragments_are_recognised(tmp_path, offset, more, kind):
    v4 = udp4(b"y" * 8, identification=77, fragment=(more << 13) | (offset // 8))
    v6 = ETHERNET_IPV6 + ipv6(44, struct.pack("!BBHI", 17, 0, offset | more, 77) + UDP)
    for frame in (v4, v6):
        record, rows = read_frame(tmp_path, frame, 1)
        assert record["reason"] == Reason.OK
        assert record["fragment"] == kind
        assert rows["fragment_id"][0] == (77 if kind else 0)
        assert (record["transport"] == -1) == (kind == 2)
        assert rows["transport_len"][0] == (0 if kind == 2 else 8)


def test_cut_transport_headers_keep_what_is_there(tmp_path):
    whole = udp4(b"z" * 30)
    for cut in range(34, len(whole)):
        record, rows = read_frame(tmp_path, whole[:cut], 1)
        assert record["reason"] == Reason.OK
        assert rows["transport_len"][0] == min(cut - 34, 8)


def test_random_frames_never_leave_their_record(tmp_path):
    random = np.random.default_rng(7)
    for link_type in (0, 1, 9, 50, 51, 101, 104, 108, 113, 228, 229, 276):
        frames = [random.bytes(int(n)) for n in random.integers(0, 90, 400)]
        for data in frames:
            frames[frames.index(data)] = bytes([0x45 if random.random() < 0.5 else 0x60]) + data
        _, columns, rows = read(tmp_path / "c", pcap(frames, link_type=link_type))
        located = columns["reason"] == 0
        assert (columns["network"][located] + 20 <= columns["caplen"][located]).all()
        assert len(rows) == located.sum()
