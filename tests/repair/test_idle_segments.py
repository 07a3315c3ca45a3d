"""Segments that have nothing to say: who sends them, and what they become."""

import itertools

import numpy as np
from flow_rows import ACK, FIN, PSH, SYN, rows_of, tcp_header

from netdiff_ray.flow_state import AGAIN
from netdiff_ray.header_bytes import IPPROTO_TCP, TCP_ACKN, TCP_FLAGS, TCP_WSIZE, words16
from netdiff_ray.labels.profile import CLOSED, LATER, PayloadCount, Profile, Succession
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.repair import RepairContext, repair

STATEFUL = layout_named("stateful")
CLIENT, SERVER = 0, 1
CLIENT_CLOSED, _ = CLOSED
HANDSHAKE = [(CLIENT, SYN, 0), (SERVER, SYN | ACK, 0), (CLIENT, ACK, 0)]
DATA, PLAIN = PSH | ACK, ACK
LEVELS = "flow_acknowledged"


def drawn(packets, silent=(), again=(), window=501):
    """Return the nprint of a flow of (side, flags, bytes); the rows `silent` are drawn to
    acknowledge nothing, those `again` to be sent once more."""
    headers = [
        (side, tcp_header(side, flags, window=window), size) for side, flags, size in packets
    ]
    rows, direction = rows_of(headers)
    gaps_ns = np.full(len(rows), 50_000_000)
    nprint = encode(rows, STATEFUL, direction=direction, interarrival_ns=gaps_ns)
    for row in silent:
        nprint[row, STATEFUL.columns(LEVELS)] = 0
    for row in again:
        nprint[row, STATEFUL.columns("flow_retransmission")] = 1
    return nprint


def payload(packet, side, size, flags, flows=50):
    return PayloadCount(IPPROTO_TCP, packet, side, size, flags, flows=flows, ending_flows=0)


def played(nprint, payloads, successions=()):
    """Return the packets of one flow under a profile."""
    profile = Profile(payloads=sorted(payloads), successions=list(successions))
    context = RepairContext(profile=profile, server_ports=(443,), payload="zeros")
    return repair([nprint], STATEFUL, context, [5]).batch.packets


def acks(packets):
    transport = packets.rows["transport"]
    return (words16(transport, TCP_ACKN).astype(int) << 16) | words16(transport, TCP_ACKN + 2)


def test_the_side_acknowledges_that_has_something_to():
    talk = [(k % 2, DATA, 100) for k in range(8)]
    ahead = [(CLIENT, DATA, 300), (SERVER, PLAIN, 0), (CLIENT, DATA, 300), (CLIENT, PLAIN, 0)]
    row = len(HANDSHAKE) + len(talk) + len(ahead) - 1
    nprint = drawn([*HANDSHAKE, *talk, *ahead, *talk[:6]], silent=[row])
    packets = played(nprint, [payload(0, CLIENT, 0, 0)])
    assert packets.direction[row] == SERVER
    assert acks(packets)[row] > acks(packets)[row - 2], "it acknowledges what came before"
    assert not packets.stuck[row]


def test_an_acknowledgement_without_news_in_an_opening_gives_way_to_another_path():
    states = [(CLIENT, 0, 0), (SERVER, 0, 0), (CLIENT, 0, 0), (CLIENT, 100, PSH)]
    whole, idle = (SERVER, 0, 0), (CLIENT, 0, 0)
    payloads = [payload(k, *state) for k, state in enumerate(states)]
    payloads += [payload(4, *whole), payload(4, *idle)]
    pairs = [(states[k], states[k + 1], k) for k in range(3)]
    pairs += [(states[3], whole, 3), (states[3], idle, 3)]
    successions = [Succession(IPPROTO_TCP, k, *a, *b, flows=50) for a, b, k in pairs]
    packets = [(side, (SYN if k < 2 else 0) | ACK * (k > 0) | flags, size)
               for k, (side, size, flags) in enumerate([*states, idle])]  # fmt: skip
    nprint = drawn(packets, silent=[4])
    assert played(nprint, payloads, successions).direction[4] == SERVER


def test_acknowledgements_of_what_was_not_captured_go_on():
    one_way = [
        (CLIENT, SYN, 0), (CLIENT, PLAIN, 0), (CLIENT, DATA, 40), (CLIENT, PLAIN, 0),
        (CLIENT, PLAIN, 0), (CLIENT, DATA, 30), (CLIENT, PLAIN, 0),
    ]  # fmt: skip
    packets = played(drawn(one_way, silent=[3, 4, 6]), [payload(0, CLIENT, 0, 0)])
    plain = acks(packets)[[1, 3, 4, 6]]
    assert (np.diff(plain) > 0).all()
    assert not packets.stuck.any()


def test_what_is_sent_again_is_acknowledged_again_in_the_same_window():
    flow = [
        *HANDSHAKE, (CLIENT, DATA, 100), (SERVER, PLAIN, 0), (CLIENT, DATA, 100),
        (SERVER, PLAIN, 0), (CLIENT, DATA, 60), (SERVER, PLAIN, 0),
    ]  # fmt: skip
    nprint = drawn(flow, silent=[6], again=[5])
    nprint[6, STATEFUL.columns("tcp_wsize")][-3:] ^= 1
    packets = played(nprint, [])
    assert packets.state["sequence"][5] == AGAIN
    assert acks(packets)[6] == acks(packets)[4]
    windows = words16(packets.rows["transport"], TCP_WSIZE)
    assert windows[6] == windows[4]


def test_a_fin_of_a_side_that_has_closed_is_sent_again():
    talk = [(k % 2, DATA, 100) for k in range(6)]
    ending = [(CLIENT, 0, FIN), (CLIENT, 0, FIN | CLIENT_CLOSED), (CLIENT, 0, FIN | CLIENT_CLOSED)]
    begin = LATER - len(ending)
    payloads = [payload(begin + k, *state) for k, state in enumerate(ending)]
    successions = [
        Succession(IPPROTO_TCP, begin + k, *a, *b, flows=50)
        for k, (a, b) in enumerate(itertools.pairwise(ending))
    ]
    closing = [(CLIENT, FIN | ACK, 0), (CLIENT, PLAIN, 0), (CLIENT, FIN | ACK, 0)]
    packets = played(drawn([*HANDSHAKE, *talk, *closing]), payloads, successions)
    flags = packets.rows["transport"][-3:, TCP_FLAGS] & FIN
    assert flags.all()
    assert packets.state["sequence"][-3:].tolist() == [0, AGAIN, AGAIN]
