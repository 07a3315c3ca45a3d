"""Flows: which packets belong together, who is the client, where flows and windows end."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_builders import ETHERNET_IPV4, ETHERNET_IPV6, ipv4, pcap, read, tcp4, udp4

from netdiff_ray.flows import FlowAssembler, assemble_flows
from netdiff_ray.header_bytes import SPORT

FIELDS = ["ts_ns", "version", "protocol", "network_len", "transport_len"]
SYN, ACK, SYN_ACK = 0x02, 0x10, 0x12


def flows_of(tmp_path, packets, *, chunk=None, **options):
    """Return the windows of packets, bytes or (seconds, fraction, bytes), as they are released."""
    reader, _, rows = read(tmp_path / "c.pcap", pcap(packets))
    chunk = chunk or len(rows)
    chunks = (rows[k : k + chunk] for k in range(0, len(rows), chunk))
    return list(assemble_flows(chunks, reader.fingerprint, **options))


def only(batches):
    """Return the only batch that holds windows."""
    (windows,) = [w for w in batches if len(w)]
    return windows


def back(**kwargs):
    """Return the fields of a packet the other way."""
    return {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 80, "dport": 1000, **kwargs}


def test_both_directions_are_one_flow(tmp_path):
    packets = [tcp4(SYN), tcp4(SYN_ACK, **back()), tcp4(ACK), udp4(), tcp4(ACK, b"x", sport=1001)]
    w = only(flows_of(tmp_path, packets))
    assert np.diff(w.first).tolist() == [3, 1, 1]
    assert w.direction.tolist() == [0, 1, 0, 0, 0]
    assert w.interarrival_ns.tolist() == [0, 10**9, 10**9, 0, 0]
    assert w.is_last.all()
    assert len(set(w.flow_id)) == 3


@pytest.mark.parametrize(
    ("packets", "direction"),
    [
        ([tcp4(ACK, **back()), tcp4(ACK)], [0, 1]),  # no SYN: the first sender
        ([tcp4(ACK, **back()), tcp4(SYN)], [1, 0]),  # the SYN's sender
        ([tcp4(SYN_ACK, **back()), tcp4(ACK)], [1, 0]),  # whom the SYN-ACK answers
        ([udp4(source="10.0.0.2", target="10.0.0.1", sport=53, dport=1000), udp4()], [0, 1]),
    ],
)
def test_the_client(tmp_path, packets, direction):
    assert only(flows_of(tmp_path, packets)).direction.tolist() == direction


def test_idle_timeout_splits(tmp_path):
    packets = [(t, 0, udp4()) for t in (0, 60, 121, 122)]
    w = only(flows_of(tmp_path, packets, idle_timeout_s=60))
    assert np.diff(w.first).tolist() == [2, 2]
    assert w.flow_start_ns.tolist() == [0, 121 * 10**9]
    assert w.interarrival_ns.tolist() == [0, 60 * 10**9, 0, 10**9]
    assert len(only(flows_of(tmp_path, packets, idle_timeout_s=61))) == 1


def icmp(kind, identifier, version=4, **ip):
    """Return an ICMP or ICMPv6 frame."""
    body = struct.pack("!BBHHH", kind, 0, 0, identifier, 1)
    if version == 4:
        return ETHERNET_IPV4 + ipv4(
            body, 1, ip.get("source", "1.1.1.1"), ip.get("target", "2.2.2.2")
        )
    head = struct.pack("!IHBB", 6 << 28, len(body), 58, 64) + bytes(15) + b"\1" + bytes(15) + b"\2"
    return ETHERNET_IPV6 + head + body


def test_icmp_goes_by_type_pair_and_identifier(tmp_path):
    reply = icmp(0, 7, source="2.2.2.2", target="1.1.1.1")
    packets = [icmp(8, 7), reply, icmp(8, 9), icmp(13, 7), icmp(128, 7, 6), icmp(129, 7, 6)]
    w = only(flows_of(tmp_path, packets))
    assert np.diff(w.first).tolist() == [2, 1, 1, 2]


def test_fragments_follow_their_first(tmp_path):
    first = udp4(b"a" * 16, identification=5, fragment=0x2000)
    later = ETHERNET_IPV4 + ipv4(b"b" * 16, 17, "10.0.0.1", "10.0.0.2", 5, fragment=0x0003)
    reply = ETHERNET_IPV4 + ipv4(b"b" * 16, 17, "10.0.0.2", "10.0.0.1", 5, fragment=0x0003)
    stray = ETHERNET_IPV4 + ipv4(b"c" * 16, 17, "10.0.0.1", "10.0.0.2", 6, fragment=0x0003)
    w = only(flows_of(tmp_path, [first, later, stray, reply]))
    assert np.diff(w.first).tolist() == [2, 2]
    assert w.rows["fragment"].tolist() == [1, 2, 2, 2]


def test_windows_are_numbered_and_continue(tmp_path):
    packets = [(k, 0, udp4()) for k in range(40)]
    w = only(flows_of(tmp_path, packets, height=16))
    assert np.diff(w.first).tolist() == [16, 16, 8]
    assert w.window.tolist() == [0, 1, 2]
    assert w.is_last.tolist() == [False, False, True]
    assert len(set(w.flow_id)) == 1
    assert w.interarrival_ns.tolist() == [0] + [10**9] * 39
    exact = only(flows_of(tmp_path, packets[:32], height=16))
    assert exact.is_last.tolist() == [False, True]


def test_flow_ids_are_stable_and_tell_captures_apart(tmp_path):
    packets = [udp4(), tcp4(SYN)]
    once = only(flows_of(tmp_path, packets))
    again = only(flows_of(tmp_path, packets))
    other = only(flows_of(tmp_path, [*packets, udp4(b"more")]))
    assert once.flow_id == again.flow_id
    assert not set(once.flow_id) & set(other.flow_id)


def gathered(batches):
    """Return {(flow id, window): (row fields, direction, interarrival, last)} of all batches."""
    windows = {}
    for w in batches:
        for k, (begin, end) in enumerate(zip(w.first[:-1], w.first[1:], strict=True)):
            windows[w.flow_id[k], int(w.window[k])] = (
                w.rows[begin:end][FIELDS].tolist(), w.direction[begin:end].tolist(),
                w.interarrival_ns[begin:end].tolist(), bool(w.is_last[k]),
            )  # fmt: skip
    return windows


events = st.lists(
    st.tuples(
        st.integers(0, 90), st.sampled_from("abc"), st.booleans(), st.sampled_from([SYN, ACK, 0x11])
    ),
    min_size=1,
    max_size=80,
)


@settings(max_examples=60, deadline=None)
@given(events=events, chunk=st.integers(1, 30), release_packets=st.integers(1, 20))
def test_chunks_do_not_matter(tmp_path_factory, events, chunk, release_packets):
    """Flows are the same however the capture is cut and whenever windows are released."""
    packets, now = [], 0
    for gap, who, forward, flags in events:
        now += gap
        way = {"sport": 1000 + ord(who)} if forward else back(dport=1000 + ord(who))
        packets.append((now, 0, tcp4(flags, **way)))
    folder = tmp_path_factory.mktemp("flows")
    whole = gathered(flows_of(folder, packets, height=16))
    batches = flows_of(folder, packets, chunk=chunk, height=16, release_packets=release_packets)
    assert gathered(batches) == whole


def test_memory_follows_open_flows_only(tmp_path):
    """A capture of many short flows, each of two windows, leaves none of them in memory."""
    _, _, rows = read(tmp_path / "c.pcap", pcap([udp4()]))
    ports = np.repeat(np.arange(3_000), 3)
    block = np.repeat(rows, len(ports))
    block["transport"][:, SPORT], block["transport"][:, SPORT + 1] = ports >> 8, ports & 255
    assembler = FlowAssembler(b"x", height=2, release_packets=5_000)
    num_windows = 0
    used = []
    tracemalloc.start()
    for step in range(20):
        block["ts_ns"] = (step * 100 + ports // 1000) * 10**9
        windows = assembler.add(block.copy())
        num_windows += len(windows) if windows is not None else 0
        del windows
        used.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    num_windows += len(assembler.finish())
    assert num_windows == 20 * 2 * 3_000
    assert max(used[10:]) <= 1.1 * max(used[:10])
