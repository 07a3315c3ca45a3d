"""How flows of a label begin and end: aggregates, and nothing of a lone flow."""

import copy
import itertools
from collections import Counter

import numpy as np
import pytest
from repair.flow_rows import ACK, FIN, PSH, SYN, rows_of, tcp_header, udp_header

from netdiff_ray.header_bytes import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP
from netdiff_ray.labels.pace import UNPACED, PaceCount, PacedTimeCount, draw_pace, pace_of
from netdiff_ray.labels.profile import (
    CLOSED,
    LATER,
    OPENING_PACKETS,
    SUPPRESSED,
    LevelCount,
    MssCount,
    PayloadCount,
    PayloadState,
    Profile,
    Succession,
    WindowConduct,
    WindowCount,
    WindowStepCount,
)
from netdiff_ray.labels.profile_counts import count_profile, describe_profile
from netdiff_ray.labels.window_steps import NUM_STEPS, window_step
from netdiff_ray.nprint.timecode import level_of

CLIENT, SERVER = 0, 1
STAMP = bytes([1, 1, 8, 10, *range(8)])


def tcp_flow(sizes, window=501, version=4):
    """Return rows of a flow of (direction, payload bytes), data pushed."""
    packets = [
        (side, tcp_header(side, ACK | (PSH if size else 0), window=window), size)
        for side, size in sizes
    ]
    return rows_of(packets, version=version)


def counted(flows, first=None, levels=None, last=None):
    """Return the counts of flows of one window each."""
    rows = np.concatenate([rows for rows, _ in flows])
    direction = np.concatenate([direction for _, direction in flows])
    window = np.repeat(np.arange(len(flows)), [len(rows) for rows, _ in flows])
    is_first = np.ones(len(flows), bool) if first is None else np.array(first)
    is_last = np.ones(len(flows), bool) if last is None else np.array(last)
    levels = np.full(len(rows), 90) if levels is None else np.concatenate(levels)
    return count_profile(rows, direction, levels, window, is_first[window], is_last[window])


def tcp_payload(packet, side, payload_bytes, flags, flows, ending_flows=0):
    return PayloadCount(
        IPPROTO_TCP, packet, side, payload_bytes, flags, flows=flows, ending_flows=ending_flows
    )


def succession(before, after, flows):
    return Succession(*before[:5], *after[2:5], flows=flows)


def test_payloads_windows_and_successions_are_counted_by_place():
    profile = describe_profile(
        counted([
            tcp_flow([(0, 0), (1, 20), (0, 16)]), tcp_flow([(0, 0), (1, 20), (0, 16)], version=6),
            tcp_flow([(0, 0), (1, 20), (1, 9)]), tcp_flow([(0, 0), (1, 41)]),
        ])
    )  # fmt: skip
    first = tcp_payload(packet=0, side=CLIENT, payload_bytes=0, flags=0, flows=4)
    second = tcp_payload(packet=1, side=SERVER, payload_bytes=20, flags=PSH, flows=3)
    third = tcp_payload(packet=2, side=CLIENT, payload_bytes=16, flags=PSH, flows=2, ending_flows=2)
    assert profile.payloads == [
        first,
        tcp_payload(packet=1, side=SERVER, payload_bytes=SUPPRESSED, flags=0, flows=1),
        second,
        third,
        tcp_payload(packet=2, side=SERVER, payload_bytes=SUPPRESSED, flags=0, flows=1),
    ]
    assert profile.successions == [succession(first, second, 3), succession(second, third, 2)]
    assert profile.windows == [
        WindowCount(packet=0, side=CLIENT, window=501, flows=4),
        WindowCount(packet=1, side=SERVER, window=501, flows=4),
        WindowCount(packet=2, side=CLIENT, window=501, flows=2),
        WindowCount(packet=2, side=SERVER, window=SUPPRESSED, flows=1),
    ]


def test_lengths_are_those_after_the_headers_of_any_transport():
    syn = [(0, tcp_header(0, SYN, options=bytes([2, 4, 5, 0xB4])), 0)] * 2
    dns = [(k, udp_header(k, 30 + k), 30 + k) for k in range(2)]
    echo = [(0, bytes([128, 0, 0, 0, 0, 7, 0, 1]), 56)]
    flows = [
        rows_of(syn), rows_of(dns, version=6, protocol=17), rows_of(dns, protocol=17),
        rows_of(echo, version=6, protocol=58),
    ]  # fmt: skip
    assert set(counted(flows).payloads) == {
        PayloadState(IPPROTO_TCP, packet=0, side=CLIENT, payload_bytes=0, flags=0),
        PayloadState(IPPROTO_TCP, packet=1, side=CLIENT, payload_bytes=0, flags=0),
        PayloadState(IPPROTO_UDP, packet=0, side=CLIENT, payload_bytes=30, flags=0),
        PayloadState(IPPROTO_UDP, packet=1, side=SERVER, payload_bytes=31, flags=0),
        PayloadState(IPPROTO_ICMP, packet=0, side=CLIENT, payload_bytes=56, flags=0),
    }


def test_later_packets_are_none_of_the_opening():
    flow = tcp_flow([(0, 5)] * OPENING_PACKETS + [(1, 1448)] * 9)
    profile = describe_profile(
        counted([flow, flow, tcp_flow([(1, 77)] * 2)], first=[True, True, False])
    )
    assert sorted({row.packet for row in profile.payloads}) == list(range(LATER + 1))
    later = tcp_payload(LATER, side=SERVER, payload_bytes=1448, flags=PSH, flows=6)
    assert [row for row in profile.payloads if row.packet == LATER] == [later]
    before = {row.packet for row in profile.successions}
    assert before == set(range(LATER - 1)) - {OPENING_PACKETS - 1}
    assert {row.packet for row in profile.windows} == set(range(OPENING_PACKETS))
    packets = [row.packets for row in profile.levels if row.packet == OPENING_PACKETS]
    assert sum(packets) == 9 + 9 + 2


def test_what_a_single_flow_repeats_between_is_not_disclosed():
    common, rare = [(1, 1448)] * 2, [(1, 299)] * 3
    flows = [
        tcp_flow([(0, 5)] * OPENING_PACKETS + between + [(0, 5)] * 6)
        for between in (common, common + rare)
    ]
    payloads = describe_profile(counted(flows)).payloads
    assert [row for row in payloads if row.packet == LATER] == [
        tcp_payload(LATER, side=SERVER, payload_bytes=SUPPRESSED, flags=PSH, flows=3),
        tcp_payload(LATER, side=SERVER, payload_bytes=1448, flags=PSH, flows=4),
    ]


def test_an_ending_has_the_sides_that_closed():
    client, server = CLOSED
    flags = [(1, ACK | PSH, 9), (0, ACK | FIN, 0), (1, ACK, 0), (1, ACK | FIN, 0), (0, ACK, 0)]
    packets = [(0, ACK | PSH, 5)] * OPENING_PACKETS + flags
    flow = rows_of([(side, tcp_header(side, flags), size) for side, flags, size in packets])
    profile = describe_profile(counted([flow, flow]))
    states = [
        (SERVER, 9, PSH), (CLIENT, 0, FIN), (SERVER, 0, client), (SERVER, 0, FIN | client),
        (CLIENT, 0, client | server),
    ]  # fmt: skip
    first = LATER - len(states)
    ending = [tcp_payload(first + k, *state, flows=2) for k, state in enumerate(states)]
    assert [row for row in profile.payloads if row.packet >= OPENING_PACKETS] == ending
    assert [row for row in profile.successions if row.packet >= OPENING_PACKETS] == [
        succession(before, after, 2) for before, after in itertools.pairwise(ending)
    ]
    goes_on = describe_profile(counted([flow, flow], last=[False, False]))
    assert {row.packet for row in goes_on.payloads} == {*range(OPENING_PACKETS), LATER}
    single = describe_profile(counted([flow, tcp_flow([(0, 5)] * 2)]))
    later = [row for row in single.payloads if row.packet > 1]
    assert {(row.payload_bytes, row.flags) for row in later} == {(SUPPRESSED, 0)}


@pytest.mark.parametrize(("largest", "oversized"), [(1448, 0), (1449, 2)])
def test_the_mss_of_either_side_and_whether_segments_keep_to_it(largest, oversized):
    def opened(mss):
        options = bytes([2, 4, *mss.to_bytes(2), *bytes([1] * 4)])
        packets = [(0, tcp_header(0, SYN, options=options), 0)]
        packets += [(1, tcp_header(1, SYN | ACK, options=bytes([2, 4, 4, 196])), 0)]
        packets += [(0, tcp_header(0, ACK), 0), (1, tcp_header(1, ACK, options=STAMP), largest)]
        return rows_of(packets)

    again = rows_of([(0, tcp_header(0, SYN, options=bytes([2, 4, 5, 0])), 0)] * 2)
    flows = [opened(1460), opened(1460), opened(1461)]
    profile = describe_profile(counted([*flows, again]))  # the last: a SYN sent again
    assert profile.mss == [
        MssCount(CLIENT, mss=SUPPRESSED, flows=2), MssCount(CLIENT, mss=1460, flows=2),
        MssCount(SERVER, mss=1220, flows=3),
    ]  # fmt: skip
    assert profile.oversized == oversized


def test_rare_payloads_are_counted_in_bins_or_with_the_nearest():
    sizes = [100, 101, 700, 700, 1300, 9000, 20]
    profile = describe_profile(counted([tcp_flow([(0, size)]) for size in sizes]))
    # Of a quarter of an octave: 100 and 101 lie in the bin from 91 to 107.
    assert [(row.payload_bytes, row.flows) for row in profile.payloads] == [
        (SUPPRESSED, 2), (99, 2), (700, 3),
    ]  # fmt: skip
    later = [tcp_flow([(0, 5)] * 8 + [(1, n) for n in some] + [(0, 5)] * 6) for some in SOME]
    payloads = describe_profile(counted(later)).payloads
    found = {row.payload_bytes: row.flows for row in payloads if row.packet == LATER}
    assert found == {99: 3, SUPPRESSED: 2}, "two flows have 100 to 101, a single flow 900 to 901"


SOME = ([100, 900, 901], [101, 101])
"""Payloads between opening and ending."""


def paced(*gaps):
    """Return the counts of UDP-like flows with levels of time, a flow for each list of gaps."""
    flows = [tcp_flow([(k % 2, 5) for k in range(len(of_flow) + 1)]) for of_flow in gaps]
    return describe_profile(counted(flows, levels=[[0, *of_flow] for of_flow in gaps]))


def test_paces_are_those_of_means_of_times():
    fast, slow = level_of(3_000_000), level_of(900_000_000)
    assert [pace_of(np.array(levels)) for levels in ([0], [0, fast], [9, slow])] == [
        UNPACED, fast // 16, slow // 16,
    ]  # fmt: skip
    # A long silence among many short ones makes the mean.
    assert pace_of(np.array([0, slow, *[fast] * 31])) == level_of(31_000_000) // 16
    profile = paced([fast, fast], [fast, fast], [slow, slow], [slow, slow])
    assert profile.paces == [PaceCount(2, fast // 16, 2), PaceCount(2, slow // 16, 2)]
    for pace, level in ((fast // 16, fast), (slow // 16, slow)):
        rows = [row for row in profile.paced_times if row.pace == pace]
        assert {(row.packet, row.side, row.level) for row in rows} == {
            (0, CLIENT, 0), (1, SERVER, level), (2, CLIENT, level),
        }  # fmt: skip


def test_a_pace_of_a_single_flow_is_not_disclosed():
    fast, odd, slow = 90, 130, 190
    profile = paced([fast] * 2, [fast] * 2, [odd] * 2, [slow] * 2, [slow] * 2, [slow] * 2)
    assert {row.pace for row in profile.paced_times} == {fast // 16, slow // 16}
    assert [(row.pace, row.flows) for row in profile.paces] == [(fast // 16, 3), (slow // 16, 3)]
    assert paced([fast] * 2, [slow] * 2).paces == []
    # Two flows have either pace, but a single flow of each size.
    assert paced([fast] * 2, [slow] * 2, [fast] * 5, [slow] * 5).paces == []


def test_paces_are_drawn_as_they_were_for_flows_of_the_size():
    rows = [PaceCount(2, 5, 30), PaceCount(2, 9, 10), PaceCount(5, 7, 4)]
    drawn = Counter(draw_pace(rows, 3, 64, seed) for seed in range(400))
    assert drawn == {5: 300, 9: 100}
    assert {draw_pace(rows, n, 64, 1) for n in (20, 5000)} == {7}, "the nearest size is known"
    assert draw_pace([], 9, 64, 1) == draw_pace(rows, 1, 64, 1) == UNPACED


def test_a_level_of_a_single_flow_is_counted_with_later_packets():
    flows = [tcp_flow([(0, 5), (1, 5)])] * 3
    profile = describe_profile(counted(flows, levels=[[0, 80], [0, 80], [0, 123]]))
    assert profile.levels == [
        LevelCount(packet=0, side=CLIENT, level=0, packets=3),
        LevelCount(packet=1, side=SERVER, level=80, packets=2),
        LevelCount(packet=OPENING_PACKETS, side=SERVER, level=123, packets=1),
    ]


def test_values_beyond_the_most_frequent_are_not_disclosed():
    flows = [tcp_flow([(0, size)]) for size in range(1, 101) for _ in range(2 + (size <= 3))]
    payloads = describe_profile(counted(flows)).payloads
    assert len(payloads) == 65
    by_size = {row.payload_bytes: row.flows for row in payloads}
    assert by_size[1] == by_size[2] == by_size[3] == 3
    assert sum(by_size.values()) == len(flows)


def windows_flow(*windows, handshake=True):
    """Return rows of a flow of client windows, after a SYN that has another."""
    syn = [(CLIENT, tcp_header(CLIENT, SYN, window=64_240), 0)] if handshake else []
    packets = [(CLIENT, tcp_header(CLIENT, ACK, window=window), 0) for window in windows]
    return rows_of([*syn, *packets])


def test_how_windows_go_on_is_counted_by_flows():
    flows = [windows_flow(501, 501, 501)] * 3 + [windows_flow(501, 501, 498)] * 2
    flows += [windows_flow(501, 1_200, 30)]  # steps that no other flow has
    flows += [windows_flow(501), windows_flow(501, handshake=False)]  # no steps at all
    profile = describe_profile(counted(flows))
    assert profile.conduct == [WindowConduct(CLIENT, steady_flows=3, changing_flows=3)]
    assert profile.steps == [
        WindowStepCount(CLIENT, step=0, steps=2),
        WindowStepCount(CLIENT, step=window_step(501, 498), steps=2),
    ]
    later = describe_profile(counted(flows, first=[False] * len(flows)))
    assert later.conduct == later.steps == []
    alone = describe_profile(counted(flows[2:4]))
    assert alone.conduct == alone.steps == []


def test_steps_of_windows_have_classes_of_their_size():
    sizes = [502, 520, 560, 800, 5_000]
    grows = [window_step(501, size) for size in sizes]
    shrinks = [window_step(size, 501) for size in sizes]
    assert len({0, *grows, *shrinks}) == NUM_STEPS
    assert max(grows + shrinks) == NUM_STEPS - 1
    assert window_step(0, 0) == 0


def test_parts_add_up():
    rng = np.random.default_rng(0)
    flows = [
        tcp_flow([(int(rng.integers(2)), int(rng.integers(3))) for _ in range(12)])
        for _ in range(9)
    ]
    parts = copy.deepcopy(counted(flows[:4]))
    parts.update(counted(flows[4:]))
    assert parts == counted(flows)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"payloads": [PayloadCount(9, 0, 0, 20, 8, 2, 0)]}, r"cannot have .*transport=9"),
        ({"payloads": [tcp_payload(LATER + 1, 0, 20, 8, 2)]}, "payloads cannot have .*packet=15"),
        ({"payloads": [tcp_payload(0, 0, -2, 8, 2)]}, "payloads cannot have .*bytes=-2"),
        ({"payloads": [tcp_payload(0, 0, 20, 8, 0)]}, "payloads cannot have .*flows=0"),
        ({"payloads": [tcp_payload(0, 0, 20, 8, 2, -1)]}, "cannot have .*ending_flows=-1"),
        ({"windows": [WindowCount(8, 0, 501, 2)]}, "windows cannot have .*packet=8"),
        ({"windows": [WindowCount(7, 0, 65_536, 2)]}, "windows cannot have .*window=65536"),
        ({"conduct": [WindowConduct(0, -1, 5)]}, "conduct cannot have .*steady_flows=-1"),
        ({"steps": [WindowStepCount(0, NUM_STEPS, 5)]}, "steps cannot have .*step=11"),
        ({"mss": [MssCount(2, 1460, 5)]}, "mss cannot have .*side=2"),
        ({"levels": [LevelCount(8, 2, 17, 2)]}, "levels cannot have .*side=2"),
        ({"levels": [LevelCount(8, 1, 256, 2)]}, "levels cannot have .*level=256"),
        ({"paces": [PaceCount(0, 3, 2)]}, "paces cannot have .*octave=0"),
        ({"paces": [PaceCount(2, 3, 2)]}, "paces have .*which paced_times lack"),
        ({"paced_times": [PacedTimeCount(16, 1, 0, 9, 2)]}, "paced_times cannot have .*pace=16"),
        (
            {
                "payloads": [PayloadCount(IPPROTO_UDP, 0, 0, 9, 0, 2, 0)],
                "successions": [Succession(IPPROTO_UDP, 0, 0, 9, 0, 1, 8, 0, 2)],
            },
            r"transport=17, packet=1, side=1, payload_bytes=8, flags=0\), which payloads lack",
        ),
    ],
)
def test_tables_that_make_no_sense_are_refused(tables, said):
    with pytest.raises(ValueError, match=said):
        Profile(**tables)
