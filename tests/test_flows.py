"""Flows: which packets belong together, who is the client, where flows and windows end."""

import itertools
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_builders import ETHERNET_IPV4, ETHERNET_IPV6, ipv4, pcap, read, tcp4, udp4

from netdiff_ray.compliance.check import check_capture
from netdiff_ray.flow_keys import bucket_of
from netdiff_ray.flows import FlowAssembler, assemble_flows
from netdiff_ray.header_bytes import ACK, FIN, IPPROTO_TCP, RST, SPORT, SYN

SYN_ACK = SYN | ACK
FIELDS = ["ts_ns", "version", "protocol", "network_len", "transport_len"]


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
        ([tcp4(ACK, **back()), tcp4(ACK)], [1, 0]),  # no SYN: the side of the higher port
        # The side of the port that is not registered.
        ([tcp4(ACK, **back(sport=5432, dport=2000)), tcp4(ACK, sport=2000, dport=5432)], [1, 0]),
        ([tcp4(ACK, **back(dport=80)), tcp4(ACK, sport=80)], [0, 1]),  # the first sender
        ([tcp4(ACK, **back()), tcp4(SYN)], [1, 0]),  # the SYN's sender
        ([tcp4(SYN_ACK, **back()), tcp4(ACK)], [1, 0]),  # whom the SYN-ACK answers
        ([udp4(**back(sport=1900, dport=2000)), udp4(sport=2000, dport=1900)], [1, 0]),
        ([udp4(**back(sport=2000, dport=3000)), udp4(sport=3000, dport=2000)], [0, 1]),
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


def connection(start, isn=1000, *, sport=1000, dport=80, reset=False):
    """Return a TCP connection that begins at second `start`: 9 packets with both FINs, 7 with an
    RST."""
    client = {"sport": sport, "dport": dport}
    server = back(sport=dport, dport=sport)
    peer = isn + 5000
    packets = [
        tcp4(SYN, **client, seq=isn),
        tcp4(SYN_ACK, **server, seq=peer, ack=isn + 1),
        tcp4(ACK, **client, seq=isn + 1, ack=peer + 1),
        tcp4(ACK, b"a" * 100, **client, seq=isn + 1, ack=peer + 1),
        tcp4(ACK, b"b" * 200, **server, seq=peer + 1, ack=isn + 101),
        tcp4(ACK, **client, seq=isn + 101, ack=peer + 201),
    ]
    if reset:
        packets.append(tcp4(RST | ACK, **client, seq=isn + 101, ack=peer + 201))
    else:
        packets += [
            tcp4(FIN | ACK, **client, seq=isn + 101, ack=peer + 201),
            tcp4(FIN | ACK, **server, seq=peer + 201, ack=isn + 102),
            tcp4(ACK, **client, seq=isn + 102, ack=peer + 202),
        ]
    return [(start, k, packet) for k, packet in enumerate(packets)]


def lengths(windows):
    """Return the packets of each window."""
    return np.diff(windows.first).tolist()


def test_a_syn_after_the_end_opens_a_flow(tmp_path):
    packets = [*connection(0), *connection(2, 5000, reset=True), *connection(3, 900)]
    w = only(flows_of(tmp_path, packets))
    assert lengths(w) == [9, 7, 9]
    assert check_capture(tmp_path / "c.pcap", with_tshark=False).flows == 3
    assert len(set(w.flow_id)) == 3
    assert w.direction[:5].tolist() == [0, 1, 0, 0, 1]
    # In the same instant too, where start and addresses are the same.
    at_once = [(0, 0, data) for _, _, data in packets]
    w = only(flows_of(tmp_path, at_once))
    assert lengths(w) == [9, 7, 9]
    assert len(set(w.flow_id)) == 3


@pytest.mark.parametrize(
    ("packets", "flows"),
    [
        ([*connection(0), *connection(1)[:1]], [10]),  # the SYN again
        ([*connection(0, reset=True), *connection(1)[:1]], [8]),
        ([*connection(0)[:8], *connection(1, 1200)[:2]], [10]),  # a FIN without its answer
        ([*connection(0)[:8], *connection(1, 1_000_000)[:2]], [8, 2]),
        ([*connection(0)[:6], *connection(1, 1_000_000)[:2]], [6, 2]),
        ([*connection(0)[:6], *connection(1, 900)[:2]], [6, 2]),
        ([*connection(0)[2:6], *connection(1, 900)[:2]], [6]),  # the SYN, seen late
        ([*connection(0)[3:], *connection(1, 900)[:2]], [6, 2]),
        # Both sides open, to each other.
        ([tcp4(SYN, seq=1), tcp4(SYN, **back(), seq=9_000_000), tcp4(ACK, seq=2)], [3]),
        # The SYN's answer captured before it.
        ([*connection(0)[1:2], *connection(0)[:1], *connection(0)[2:]], [9]),
        # The server's turn: its SYN opens a flow whose client it is.
        ([*connection(0), (1, 0, tcp4(SYN, **back(), seq=7))], [9, 1]),
    ],
)  # fmt: skip
def test_which_syn_opens_a_flow(tmp_path, packets, flows):
    assert lengths(only(flows_of(tmp_path, packets))) == flows
    # `check`, which shares no code, cuts flows by the same rule.
    assert check_capture(tmp_path / "c.pcap", with_tshark=False).flows == len(flows)


@pytest.mark.parametrize(
    ("opening", "silence_s", "direction"),
    [
        (connection(0, sport=1000, dport=2000)[:5], 200, [1, 0]),  # remembered
        (connection(0, sport=1000, dport=2000)[:5], 8000, [0, 1]),  # too long ago: by the ports
        (connection(0, sport=1000, dport=2000), 200, [0, 1]),  # it had ended
        (connection(0, sport=1000, dport=2000)[2:5], 200, [0, 1]),  # no SYN
    ],
)
def test_the_client_is_remembered_over_silences(tmp_path, opening, silence_s, direction):
    later = [
        (silence_s, 0, tcp4(ACK, **back(sport=2000), seq=7000)),
        (silence_s, 1, tcp4(ACK, dport=2000, seq=2000)),
    ]
    noise = [(silence_s - 1, k, udp4(sport=k + 1)) for k in range(5000)]  # makes the table anew
    batches = flows_of(tmp_path, [*opening, *noise, *later], chunk=1000, release_packets=1)
    assert batches[-1].rows["protocol"][-2:].tolist() == [IPPROTO_TCP] * 2
    assert batches[-1].direction[-2:].tolist() == direction


def test_the_client_of_udp_is_remembered(tmp_path):
    there, here = udp4(sport=3000, dport=2000), udp4(**back(sport=2000, dport=3000))
    w = only(flows_of(tmp_path, [(0, 0, there), (0, 1, here), (100, 0, here), (100, 1, there)]))
    assert w.direction.tolist() == [0, 1, 1, 0]


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


def fragments(identification, way, sport=1000):
    """Return a UDP datagram in three fragments, first to last, from 10.0.0.1 or back."""
    hosts = ("10.0.0.1", "10.0.0.2") if way else ("10.0.0.2", "10.0.0.1")
    ports = {"sport": sport, "dport": 53} if way else {"sport": 53, "dport": sport}
    first = udp4(b"a" * 16, *hosts, **ports, identification=identification, fragment=0x2000)
    later = [
        ETHERNET_IPV4 + ipv4(b"b" * 16, 17, *hosts, identification, fragment=fragment)
        for fragment in (0x2003, 0x0005)
    ]
    return [first, *later]


def test_fragments_follow_their_first(tmp_path):
    first, later, _ = fragments(5, True)
    _, reply, _ = fragments(5, False)
    _, stray, _ = fragments(6, True)
    w = only(flows_of(tmp_path, [first, later, stray, reply]))
    assert np.diff(w.first).tolist() == [2, 2]
    assert w.rows["fragment"].tolist() == [1, 2, 2, 2]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_fragments_before_their_first_join_it(tmp_path, order):
    datagram, answer = fragments(5, True), udp4(**back(sport=53))
    packets = [*(datagram[k] for k in order), answer]
    w = only(flows_of(tmp_path, packets))
    assert lengths(w) == [4]
    assert w.direction.tolist() == [0, 0, 0, 1]
    in_order = only(flows_of(tmp_path, [*datagram, answer]))
    assert w.rows["ts_ns"].tolist() == in_order.rows["ts_ns"].tolist()
    # Whatever the chunks, and however early windows are released.
    assert only(flows_of(tmp_path, packets, chunk=1, release_packets=1)).flow_id == w.flow_id


def test_fragments_do_not_wait_for_ever(tmp_path):
    first, later, last = fragments(5, True)
    packets = [(0, 0, later), (59, 0, last), (61, 0, first), (62, 0, later)]
    w = only(flows_of(tmp_path, packets))
    assert lengths(w) == [2, 2]
    _, _, rows = read(tmp_path / "c.pcap", pcap([(k, 0, later) for k in range(1000)]))
    assembler = FlowAssembler(b"x", height=16, release_packets=10)
    released = [assembler.add(rows[k : k + 10]) for k in range(0, 1000, 10)]
    most = 200  # packets that wait, with what the growing threshold adds
    assert sum(len(w.rows) for w in released if w is not None) >= 1000 - most


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
        st.sampled_from([0, 0, 1, 30, 90]),
        st.sampled_from("abc"),
        st.booleans(),
        st.one_of(
            st.tuples(
                st.sampled_from([SYN, SYN, SYN_ACK, ACK, FIN | ACK, RST]),
                st.sampled_from([1, 2, 1 << 20]),
            ),
            st.tuples(st.sampled_from(["first", "later"]), st.integers(1, 3)),
        ),
    ),
    min_size=1,
    max_size=80,
)


def packets_of(events):
    """Return the packets of (gap, tuple, way, (flags, number) or (fragment, identification))."""
    packets, now = [], 0
    for gap, who, forward, (kind, number) in events:
        now += gap
        port = 1000 + 40 * ord(who)  # 53 and 80 are registered, 4920 to 5000 are not
        if isinstance(kind, str):
            packets.append((now, 0, fragments(number, forward, port)[kind == "later"]))
        elif who == "c":  # of other hosts
            packets.append((now, 0, tcp4(kind, source="10.9.0.1", seq=number)))
        else:
            way = {"sport": port, "dport": 5000} if forward else back(sport=5000, dport=port)
            packets.append((now, 0, tcp4(kind, **way, seq=number, ack=number)))
    return packets


@settings(max_examples=100, deadline=None)
@given(events=events, chunk=st.integers(1, 30), release_packets=st.integers(1, 20))
def test_chunks_do_not_matter(tmp_path_factory, events, chunk, release_packets):
    """Flows are the same however the capture is cut and whenever windows are released."""
    packets = packets_of(events)
    folder = tmp_path_factory.mktemp("flows")
    batches = flows_of(folder, packets, height=4)
    whole = gathered(batches)
    assert len(whole) == sum(map(len, batches))  # no id twice
    batches = flows_of(folder, packets, chunk=chunk, height=4, release_packets=release_packets)
    assert gathered(batches) == whole
    reader, _, rows = read(folder / "c.pcap", pcap(packets))
    buckets = bucket_of(rows, 3)
    parts = [assemble_flows([rows[buckets == k]], reader.fingerprint, height=4) for k in range(3)]
    assert gathered(itertools.chain(*parts)) == whole


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
