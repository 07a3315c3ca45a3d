"""Dialogues in packets: streams cut by segments, kinds by port or plan, opaque flows."""

import dpkt
import numpy as np
import pytest
from flow_rows import ACK, PSH, STATELESS, rows_of, tcp_header, udp_header

from netdiff_ray.dialogue import KINDS
from netdiff_ray.labels.profile import PayloadCount, Profile
from netdiff_ray.labels.stack import UNPLANNED
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.repair import RepairContext, messages, plans_of, repair

STATEFUL = layout_named("stateful")
SECOND_NS = 10**9


def tcp_flow(*segments, port=80, layout=STATEFUL):
    """Return an nprint of (side, bytes, nanoseconds before it, flags) of segments."""
    packets = [
        (side, tcp_header(side, flags, port=port), size) for side, size, _, flags in segments
    ]
    rows, direction = rows_of(packets)
    gaps_ns = np.array([gap_ns for _, _, gap_ns, _ in segments])
    return encode(rows, layout, direction=direction, interarrival_ns=gaps_ns)


def data(side, size, gap_ns=10**6, flags=PSH | ACK):
    return side, size, gap_ns, flags


def payloads(result):
    """Return (side, sequence number, payload) of each packet."""
    sides = result.batch.packets.direction.tolist()
    segments = [
        dpkt.ethernet.Ethernet(result.packets.packet(i)).data.data
        for i in range(len(result.packets))
    ]
    return [(side, s.seq, bytes(s.data)) for side, s in zip(sides, segments, strict=True)]


def kind_of(result):
    return [KINDS[kind].name for kind in result.batch.flows.kind]


def test_segments_cut_messages_anywhere():
    drawn = tcp_flow(
        data(0, 300), data(1, 700), data(1, 1000), data(1, 3), data(0, 100), data(1, 99)
    )
    result = repair([drawn], STATEFUL, RepairContext(), [7])
    assert result.batch.flows.has_dialogue.all()
    assert kind_of(result) == ["http"]
    asked, first, second, third, again, answered = (body for _, _, body in payloads(result))
    assert asked.startswith((b"GET ", b"POST "))
    assert again.startswith((b"GET ", b"POST "))
    assert first.startswith(b"HTTP/1.1 ")
    assert not second.startswith(b"HTTP")
    assert (len(first), len(second), len(third)) == (700, 1000, 3)
    assert answered.startswith(b"HTTP/1.1 ")


def test_messages_know_where_segments_end():
    drawn = tcp_flow(data(0, 300), data(1, 700), data(1, 1000), data(1, 3), data(0, 100))
    found = messages.find_messages(repair([drawn], STATEFUL, RepairContext(), [7]).batch)
    assert found.num_bytes.tolist() == [300, 1703, 100]
    assert found.first_segment.tolist() == [0, 5]
    assert found.segment_bytes.tolist() == [300, 700, 1000, 3, 100]


@pytest.mark.parametrize("layout", [STATEFUL, STATELESS], ids=lambda layout: layout.name)
def test_a_keep_alive_repeats_the_last_byte(layout):
    drawn = tcp_flow(
        data(0, 200), data(1, 300), data(0, 0, flags=ACK), data(0, 1, 20 * SECOND_NS, ACK),
        data(1, 0, flags=ACK), data(0, 200), data(1, 300), layout=layout,
    )  # fmt: skip
    if layout is STATEFUL:
        drawn[3, layout.columns("flow_retransmission")] = 1
    sent = payloads(repair([drawn], layout, RepairContext(), [7]))
    (_, seq, asked), (_, keep_seq, probe), again = sent[0], sent[3], sent[5]
    assert keep_seq == seq + len(asked) - 1
    assert probe == asked[-1:]
    assert again[1] == seq + len(asked)
    assert again[2].startswith((b"GET ", b"POST "))


def test_a_planned_kind_is_spoken_on_any_port():
    drawn = [tcp_flow(data(0, 300), data(1, 700), port=9_999)] * 3
    plans = plans_of([UNPLANNED] * 3, kinds=["http", "", "no such kind"])
    result = repair(drawn, STATEFUL, RepairContext(), [1, 2, 3], plans=plans)
    assert kind_of(result) == ["http", "opaque", "opaque"]
    assert result.batch.flows.has_dialogue.tolist() == [True, False, False]
    bodies = payloads(result)
    assert bodies[0][2].startswith((b"GET ", b"POST "))
    assert bodies[2][2].startswith(b"\xff" * 4)


@pytest.mark.parametrize(
    ("kind", "is_its"),
    [
        ("opaque", lambda body: len(set(body)) > 150),
        ("text", lambda body: all(32 <= byte < 127 for byte in body)),
        ("binary", lambda body: body.count(0) > len(body) // 4),
    ],
)
@pytest.mark.parametrize("port", [5222, 9_999])
def test_unknown_protocols_are_as_uneven_as_they_were(kind, is_its, port):
    """What is planned decides, not the port, whose readers take words for XMPP."""
    drawn = [tcp_flow(data(0, 300), data(1, 700), data(0, 500), port=port)]
    result = repair(
        drawn, STATEFUL, RepairContext(), [3], plans=plans_of([UNPLANNED], kinds=[kind])
    )
    assert kind_of(result) == [kind]
    assert not result.batch.flows.has_dialogue.any()
    assert all(is_its(body) for _, _, body in payloads(result)[1:])


def test_a_port_whose_readers_refuse_noise_is_filled_as_they_want_it():
    drawn = [tcp_flow(data(0, 300), data(1, 700), port=500)]
    result = repair(
        drawn, STATEFUL, RepairContext(), [3], plans=plans_of([UNPLANNED], kinds=["opaque"])
    )
    assert {byte for _, _, body in payloads(result) for byte in body} == {0}


def test_a_dialogue_of_other_lengths_than_drawn_becomes_opaque_bytes(monkeypatch):
    monkeypatch.setattr(messages, "write_messages", lambda kind, exchange: [b"GET"])
    result = repair([tcp_flow(data(0, 300), data(1, 700))], STATEFUL, RepairContext(), [7])
    assert kind_of(result) == ["http"]
    assert not result.batch.flows.has_dialogue.any()
    assert [len(body) for _, _, body in payloads(result)] == [300, 700]


def test_a_planned_quic_connection_begins_with_an_initial():
    sizes = [(0, 300), (1, 1200), (0, 90), (1, 700)]
    headers = [(side, udp_header(side, size, 9_443), size) for side, size in sizes]
    rows, direction = rows_of(headers, protocol=17)
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(4, 10**6))
    found = {}
    known = [PayloadCount(17, 0, side, size, 0, 5, 0) for side, size in ((0, 1252), (0, 60))]
    for name, kinds, profile in (
        ("none", [""], Profile()), ("planned", ["quic"], Profile()),
        ("known", ["quic"], Profile(payloads=known)),
    ):  # fmt: skip
        plans = plans_of([UNPLANNED], kinds=kinds)
        result = repair([drawn], STATEFUL, RepairContext(profile=profile), [7], plans=plans)
        found[name] = [body for _, _, body in datagrams(result)]
    assert [len(body) for body in found["none"]] == [300, 1200, 90, 700]
    assert [len(body) for body in found["planned"]] == [1200, 1200, 90, 700]
    assert len(found["known"][0]) == 1252
    for name in ("planned", "known"):
        assert found[name][0][0] & 0xF0 == 0xC0, "a long header of an Initial (RFC 9000 17.2.2)"


def datagrams(result):
    """Return (side, 0, payload) of each datagram."""
    sides = result.batch.packets.direction.tolist()
    found = [
        dpkt.ethernet.Ethernet(result.packets.packet(i)).data.data
        for i in range(len(result.packets))
    ]
    return [(side, 0, bytes(d.data)) for side, d in zip(sides, found, strict=True)]


def test_a_server_that_speaks_first_is_opaque_and_counted():
    drawn = tcp_flow(data(1, 300), data(0, 700))
    drawn = np.concatenate([tcp_flow(data(0, 0, flags=ACK)), drawn])
    result = repair([drawn], STATEFUL, RepairContext(), [7])
    assert kind_of(result) == ["http"]
    assert not result.batch.flows.has_dialogue.any()


@pytest.mark.parametrize("mode", ["zeros", "random", "none"])
def test_other_modes_have_no_dialogues(mode):
    drawn = tcp_flow(data(0, 300), data(1, 700))
    result = repair([drawn], STATEFUL, RepairContext(payload=mode), [7])
    assert not result.batch.flows.has_dialogue.any()


def test_chunks_of_messages_do_not_show(monkeypatch):
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(12):
        sizes = rng.integers(40, 900, 6)
        drawn.append(tcp_flow(*(data(k % 2, int(size)) for k, size in enumerate(sizes))))
    rows, direction = rows_of([(k % 2, udp_header(k % 2, 60), 60) for k in range(4)], protocol=17)
    drawn.append(encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(4, 1000)))
    seeds = np.arange(len(drawn))
    whole = repair(drawn, STATEFUL, RepairContext(), seeds)
    monkeypatch.setattr(messages, "_CHUNK_BYTES", 4_000)
    chunked = repair(drawn, STATEFUL, RepairContext(), seeds)
    np.testing.assert_array_equal(whole.packets.data, chunked.packets.data)
    assert chunked.batch.flows.has_dialogue.all()
