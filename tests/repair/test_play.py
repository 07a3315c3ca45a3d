"""Two endpoints and a path: acknowledgements, windows and times as hosts have them."""

from itertools import pairwise

import numpy as np
import pytest
from flow_rows import ACK, PSH, STATELESS, SYN, rows_of, tcp_flows, tcp_header, udp_header
from hypothesis import given, settings
from hypothesis import strategies as st
from windows import replaced

from netdiff_ray.header_bytes import (
    FIN,
    IPPROTO_UDP,
    RST,
    TCP_ACKN,
    TCP_FLAGS,
    TCP_SEQ,
    TCP_WSIZE,
    words16,
)
from netdiff_ray.labels.profile import (
    SUPPRESSED,
    PayloadCount,
    Profile,
    WindowConduct,
    WindowStepCount,
)
from netdiff_ray.labels.profile import WindowCount as Window
from netdiff_ray.labels.window_steps import window_step
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.nprint.timecode import level_of
from netdiff_ray.repair import RepairContext, repair
from netdiff_ray.repair.batch import NOTHING_NEW
from netdiff_ray.repair.rules.lengths import scales

STATEFUL = layout_named("stateful")
MS = 1_000_000
SYN_OPTIONS = bytes([2, 4, 5, 0xB4, 1, 1, 4, 2, 1, 3, 3, 7])
"""MSS 1460, SACK permitted, window scale 7."""
STEADY = [WindowConduct(side, steady_flows=90, changing_flows=10) for side in (0, 1)]
CHANGING = [WindowConduct(side, steady_flows=0, changing_flows=90) for side in (0, 1)]


def tcp_drawn(packets, windows=501):
    """Return the nprint of a flow that opens, of (direction, flags, payload bytes, ms before).

    A handshake precedes these packets, of which the server takes 100 ms and the client 2 ms;
    `windows` are those of all packets."""
    handshake = [(0, SYN, 0, 0), (1, SYN | ACK, 0, 100), (0, ACK, 0, 2)]
    packets = [*handshake, *packets]
    windows = np.broadcast_to(windows, len(packets))
    headers = [
        (d, tcp_header(d, f, window=int(w), options=SYN_OPTIONS if f & SYN else b""), size)
        for (d, f, size, _), w in zip(packets, windows, strict=True)
    ]
    rows, direction = rows_of(headers)
    gaps_ns = np.array([gap for *_, gap in packets]) * MS
    return encode(rows, STATELESS, direction=direction, interarrival_ns=gaps_ns)


def transfer(count):
    """Return packets of requests and answers, each acknowledged."""
    step = [(0, PSH | ACK, 300, 400), (1, PSH | ACK, 900, 110), (0, ACK, 0, 40)]
    return step * count


def words32(transport, at):
    return words16(transport, at) << 16 | words16(transport, at + 2)


def conversations(result):
    """Yield of each TCP flow its times, directions, flags, bytes that count in sequence numbers,
    sequence numbers, ACK numbers, windows and which packets are stuck."""
    packets = result.batch.packets
    for begin, end in zip(*[result.batch.flows.starts[k:][: len(result.batch)] for k in (0, 1)],
                          strict=True):  # fmt: skip
        part = slice(begin, end)
        transport, side = packets.rows["transport"][part], packets.direction[part].astype(int)
        flags = transport[:, TCP_FLAGS].astype(int)
        seq, ack = words32(transport, TCP_SEQ), words32(transport, TCP_ACKN)
        size = packets.payload_bytes[part] + ((flags & (SYN | FIN)) > 0)
        yield (
            packets.rows["ts_ns"][part],
            side,
            flags,
            size,
            seq,
            ack,
            words16(transport, TCP_WSIZE),
            packets.stuck[part],
        )


def shifts(result):
    """Return the shift of each side's windows, of a flow that opens."""
    packets, flows = result.batch.packets, result.batch.flows
    shift = np.empty(2, np.int64)
    scales(
        flows.starts[0], flows.starts[1], True, packets.rows["transport"],
        packets.rows["transport_len"], shift,
    )  # fmt: skip
    return shift.tolist()


@settings(max_examples=30, deadline=None)
@given(
    flow=tcp_flows(), noise=st.sampled_from([0.0, 0.05, 0.2]), seed=st.integers(0, 2**32 - 1),
    steady=st.booleans(), layout=st.sampled_from([STATEFUL, STATELESS]),
)  # fmt: skip
def test_hosts_acknowledge_segments_and_never_take_back_what_they_offered(
    flow, noise, seed, steady, layout
):
    rows, direction = flow
    gaps_ns = 10 ** np.random.default_rng(seed).uniform(3, 9, len(rows))
    nprint = encode(rows, layout, direction=direction, interarrival_ns=gaps_ns.astype(np.int64))
    profile = Profile(conduct=STEADY if steady else CHANGING)
    result = repair([replaced(nprint, noise, seed)], layout, RepairContext(profile=profile), [seed])
    for ts_ns, side, flags, size, seq, ack, window, _ in conversations(result):
        opens = flags[0] == SYN
        answered = len(flags) > 2 and flags[1] & SYN and not flags[2] & RST
        ends, edge = [{}, {}], [None, None]
        early = 0
        for i, me in enumerate(side):
            end = (seq[i] + size[i]) % 2**32
            if size[i] and edge[1 - me] is not None and not flags[i] & RST:
                assert (edge[1 - me] - end) % 2**32 < 2**31, "sends beyond the window"
            if flags[i] & ACK and not flags[i] & (SYN | RST):
                seen_ns = ends[1 - me].get(ack[i])
                assert not opens or seen_ns is not None, "acknowledges the inside of a segment"
                shift = 14
                if opens:
                    shift = shifts(result)[me]
                offered = (ack[i] + (window[i] << shift)) % 2**32
                if edge[me] is not None and flags[i] & FIN == 0:
                    back = (edge[me] - offered) % 2**32
                    assert back == 0 or back > 2**31 or back < 1 << shift
                edge[me] = offered
                if opens and answered and i > 2 and seen_ns is not None:
                    trip_ns = ts_ns[1] - ts_ns[0] if me else ts_ns[2] - ts_ns[1]
                    early += 2 * (ts_ns[i] - seen_ns) < trip_ns
            ends[me].setdefault(end, ts_ns[i])
        assert early <= 0.05 * len(side)


def test_an_acknowledgement_waits_for_what_it_answers():
    packets = [(0, PSH | ACK, 300, 400), (1, ACK, 0, 5), (1, PSH | ACK, 900, 400), (0, ACK, 0, 40)]
    drawn = tcp_drawn(packets)
    result = repair([drawn], STATELESS, RepairContext(), [3])
    ((ts_ns, _, _, size, seq, ack, _, _),) = conversations(result)
    assert ack[4] == seq[3] + size[3]
    trip_ns = ts_ns[1] - ts_ns[0]
    assert 0.5 * trip_ns <= ts_ns[4] - ts_ns[3] < 0.6 * trip_ns
    levels = [level_of(gap * MS) for gap in (0, 100, 2, 400, 5, 400, 40)]
    assert np.flatnonzero(result.batch.packets.level != levels).tolist() == [4]
    changed = result.corrected_by_rule()
    assert changed["time"] > 0
    assert sum(changed.values()) == changed["time"]


def test_a_few_early_acknowledgements_stand():
    drawn = tcp_drawn([(0, PSH | ACK, 300, 400), (1, ACK, 0, 5), *transfer(6)])
    assert not repair([drawn], STATELESS, RepairContext(), [3]).corrected.any()


def test_segments_without_data_share_what_they_acknowledge():
    burst = [(1, ACK, 1000, 1)] * 4
    drawn = tcp_drawn([(0, PSH | ACK, 300, 400), *burst, (0, ACK, 0, 40), (0, ACK, 0, 1)])
    result = repair([drawn], STATELESS, RepairContext(), [3])
    ((_, _, _, size, seq, ack, _, stuck),) = conversations(result)
    assert ack[-2:].tolist() == (seq[[5, 7]] + size[[5, 7]]).tolist()
    assert not stuck.any()


def test_what_has_nothing_to_acknowledge_updates_the_window_by_the_least():
    drawn = tcp_drawn([*transfer(2), (0, ACK, 0, 5), *transfer(2)])
    free = repair([drawn], STATELESS, RepairContext(), [3])
    steady = repair([drawn], STATELESS, RepairContext(profile=Profile(conduct=STEADY)), [3])
    for result in (free, steady):
        ((_, side, _, _, _, _, window, stuck),) = conversations(result)
        assert np.flatnonzero(stuck == NOTHING_NEW).tolist() == [9]
        client = np.diff(window[2:][side[2:] == 0])
        assert client[:4].tolist() == [0, 0, 0, 0]
        assert client[4] == 1
        assert client[5:].tolist() == ([0, 0, 0, 0] if result is steady else [0, -1, 0, 0])


def test_a_side_keeps_the_window_that_most_of_its_bits_show():
    packets = transfer(8)
    windows = np.full(3 + len(packets), 501)
    windows[[4, 7, 10, 13]] ^= [1 << 15, 1 << 9, 3, 1 << 12]
    known = [Window(k, side, window=501, flows=9) for k in range(2, 8) for side in (0, 1)]
    profile = Profile(windows=known, conduct=STEADY)
    result = repair([tcp_drawn(packets, windows)], STATELESS, RepairContext(profile=profile), [3])
    ((_, _, _, _, _, _, window, _),) = conversations(result)
    assert (window == 501).all()
    twice = repair([result.nprint(STATELESS)], STATELESS, RepairContext(profile=profile), [3])
    assert not twice.corrected.any()
    without = repair([tcp_drawn(packets, windows)], STATELESS, RepairContext(), [3])
    assert without.corrected.any()


def test_a_window_that_changes_steps_as_the_profile_has_it():
    packets = transfer(8)
    windows = 501 + 8 * np.arange(3 + len(packets))
    windows[[11, 14]] = 60_000, 900
    growth = window_step(501, 525)
    steps = [WindowStepCount(side, step, steps=90) for side in (0, 1) for step in (0, growth)]
    profile = Profile(conduct=CHANGING, steps=steps)
    result = repair([tcp_drawn(packets, windows)], STATELESS, RepairContext(profile=profile), [3])
    ((_, side, _, _, _, _, window, _),) = conversations(result)
    changed = np.flatnonzero(window != windows)
    assert set(changed.tolist()) >= {11, 14}
    for me in (0, 1):
        taken = window[3:][side[3:] == me]
        assert {window_step(a, b) for a, b in pairwise(taken)} <= {0, growth}


@pytest.mark.parametrize("empties", [False, True])
def test_no_datagram_is_empty_unless_the_label_has_such(empties):
    rows, direction = rows_of([(k, udp_header(k, 0, port=9999), 0) for k in (0, 1)], protocol=17)
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(2, MS))
    sizes = [(0, 40), (0, 600), (1, 90), *([(0, 0), (1, 0)] if empties else [])]
    payloads = [PayloadCount(IPPROTO_UDP, 7, side, size, 0, 9, 0) for side, size in sizes]
    context = RepairContext(profile=Profile(payloads=payloads), payload="zeros")
    result = repair([drawn], STATEFUL, context, [1])
    assert result.batch.packets.payload_bytes.tolist() == ([0, 0] if empties else [40, 90])


def test_no_datagram_is_empty_where_no_length_is_disclosed():
    rows, direction = rows_of([(k, udp_header(k, 0, port=9999), 0) for k in (0, 1)], protocol=17)
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(2, MS))
    payloads = [PayloadCount(IPPROTO_UDP, 7, side, SUPPRESSED, 0, 9, 0) for side in (0, 1)]
    context = RepairContext(profile=Profile(payloads=payloads), payload="zeros")
    once = repair([drawn], STATEFUL, context, [1])
    assert once.batch.packets.payload_bytes.tolist() == [1, 1]
    twice = repair([once.nprint(STATEFUL)], STATEFUL, context, [1])
    np.testing.assert_array_equal(twice.packets.data, once.packets.data)
