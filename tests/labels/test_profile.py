"""What flows of a label begin and end with: aggregates, and nothing of a lone flow."""

import itertools
from collections import Counter

import numpy as np
import pytest
from repair.flow_rows import ACK, FIN, PSH, SYN, rows_of, tcp_header, udp_header

from netdiff_ray.labels.profile import (
    CLOSED,
    LATER,
    OPENING_PACKETS,
    SUPPRESSED,
    Profile,
    count_profiles,
    describe_profile,
)

STAMP = bytes([1, 1, 8, 10, *range(8)])


def tcp_flow(sizes, window=501, version=4):
    """Rows of a flow of (direction, payload bytes), data pushed."""
    packets = [
        (side, tcp_header(side, ACK | (PSH if size else 0), window=window), size)
        for side, size in sizes
    ]
    return rows_of(packets, version=version)


def counted(flows, first=None, levels=None, last=None):
    """Counts of flows of one window each."""
    rows = np.concatenate([rows for rows, _ in flows])
    direction = np.concatenate([direction for _, direction in flows])
    window = np.repeat(np.arange(len(flows)), [len(rows) for rows, _ in flows])
    is_first = np.ones(len(flows), bool) if first is None else np.array(first)
    is_last = np.ones(len(flows), bool) if last is None else np.array(last)
    levels = np.full(len(rows), 90) if levels is None else np.concatenate(levels)
    return count_profiles(rows, direction, levels, window, is_first[window], is_last[window])


def described(counts):
    by_what = {}
    for (what, value), number in counts.items():
        by_what.setdefault(what, {})[value] = number
    return describe_profile(by_what)


def test_payloads_windows_and_successions_are_counted_by_place():
    profile = described(
        counted([
            tcp_flow([(0, 0), (1, 20), (0, 16)]), tcp_flow([(0, 0), (1, 20), (0, 16)], version=6),
            tcp_flow([(0, 0), (1, 20), (1, 9)]), tcp_flow([(0, 0), (1, 41)]),
        ])
    )  # fmt: skip
    assert profile.payloads == [
        [6, 0, 0, 0, 0, 4, 0],
        [6, 1, 1, SUPPRESSED, 0, 1, 0], [6, 1, 1, 20, PSH, 3, 0],
        [6, 2, 0, 16, PSH, 2, 2], [6, 2, 1, SUPPRESSED, 0, 1, 0],
    ]  # fmt: skip
    assert profile.successions == [
        [6, 0, 0, 0, 0, 1, 20, PSH, 3], [6, 1, 1, 20, PSH, 0, 16, PSH, 2],
    ]  # fmt: skip
    assert profile.windows == [
        [0, 0, 501, 4],
        [1, 1, 501, 4],
        [2, 0, 501, 2],
        [2, 1, SUPPRESSED, 1],
    ]


def test_lengths_are_those_after_the_headers_of_any_transport():
    syn = [(0, tcp_header(0, SYN, options=bytes([2, 4, 5, 0xB4])), 0)] * 2
    dns = [(k, udp_header(k, 30 + k), 30 + k) for k in range(2)]
    echo = [(0, bytes([128, 0, 0, 0, 0, 7, 0, 1]), 56)]
    flows = [
        rows_of(syn), rows_of(dns, version=6, protocol=17), rows_of(dns, protocol=17),
        rows_of(echo, version=6, protocol=58),
    ]  # fmt: skip
    found = {value for what, value in counted(flows) if what == "payload"}
    assert found == {
        (6, 0, 0, 0, 0), (6, 1, 0, 0, 0), (17, 0, 0, 30, 0), (17, 1, 1, 31, 0), (1, 0, 0, 56, 0),
    }  # fmt: skip


def test_later_packets_are_none_of_the_opening():
    flow = tcp_flow([(0, 5)] * OPENING_PACKETS + [(1, 1448)] * 9)
    profile = described(counted([flow, flow, tcp_flow([(1, 77)] * 2)], first=[True, True, False]))
    numbers = [row[1] for row in profile.payloads]
    assert sorted(set(numbers)) == list(range(LATER + 1))
    assert [row for row in profile.payloads if row[1] == LATER] == [[6, LATER, 1, 1448, PSH, 6, 0]]
    before = {row[1] for row in profile.successions}
    assert before == set(range(LATER - 1)) - {OPENING_PACKETS - 1}
    assert {row[0] for row in profile.windows} == set(range(OPENING_PACKETS))
    assert sum(n for number, *_, n in profile.levels if number == OPENING_PACKETS) == 9 + 9 + 2


def test_what_one_flow_has_again_and_again_between_is_not_told():
    common, rare = [(1, 1448)] * 2, [(1, 777)] * 3
    flows = [
        tcp_flow([(0, 5)] * OPENING_PACKETS + between + [(0, 5)] * 6)
        for between in (common, common + rare)
    ]
    later = [row[3:] for row in described(counted(flows)).payloads if row[1] == LATER]
    assert later == [[SUPPRESSED, PSH, 3, 0], [1448, PSH, 4, 0]]


def test_an_ending_says_who_has_closed():
    client, server = CLOSED
    flags = [(1, ACK | PSH, 9), (0, ACK | FIN, 0), (1, ACK, 0), (1, ACK | FIN, 0), (0, ACK, 0)]
    packets = [(0, ACK | PSH, 5)] * OPENING_PACKETS + flags
    flow = rows_of([(side, tcp_header(side, flags), size) for side, flags, size in packets])
    told = described(counted([flow, flow]))
    states = [
        (1, 9, PSH), (0, 0, FIN), (1, 0, client), (1, 0, FIN | client), (0, 0, client | server),
    ]  # fmt: skip
    first = LATER - len(states)
    assert [row for row in told.payloads if row[1] >= OPENING_PACKETS] == [
        [6, first + k, *state, 2, 0] for k, state in enumerate(states)
    ]
    assert [row for row in told.successions if row[1] >= OPENING_PACKETS] == [
        [6, first + k, *pair[0], *pair[1], 2] for k, pair in enumerate(itertools.pairwise(states))
    ]
    goes_on = described(counted([flow, flow], last=[False, False]))
    assert {row[1] for row in goes_on.payloads} == {*range(OPENING_PACKETS), LATER}
    of_one = described(counted([flow, tcp_flow([(0, 5)] * 2)]))
    assert all(row[3] == SUPPRESSED and row[4] == 0 for row in of_one.payloads if row[1] > 1)


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
    told = described(counted([*flows, again]))  # the last: a SYN sent again
    assert told.mss == [[0, SUPPRESSED, 2], [0, 1460, 2], [1, 1220, 3]]
    assert told.oversized == oversized


def test_a_level_of_one_flow_is_counted_with_later_packets():
    flows = [tcp_flow([(0, 5), (1, 5)])] * 3
    profile = described(counted(flows, levels=[[0, 80], [0, 80], [0, 123]]))
    assert profile.levels == [[0, 0, 0, 3], [1, 1, 80, 2], [OPENING_PACKETS, 1, 123, 1]]


def test_rare_values_beyond_the_commonest_are_not_told():
    flows = [tcp_flow([(0, size)]) for size in range(1, 101) for _ in range(2 + (size <= 3))]
    payloads = described(counted(flows)).payloads
    assert len(payloads) == 65
    told = {size: flows for _, _, _, size, _, flows, _ in payloads}
    assert told[1] == told[2] == told[3] == 3
    assert sum(told.values()) == len(flows)


def test_parts_add_up():
    rng = np.random.default_rng(0)
    flows = [
        tcp_flow([(int(rng.integers(2)), int(rng.integers(3))) for _ in range(12)])
        for _ in range(9)
    ]
    parts = Counter(counted(flows[:4]))
    parts.update(counted(flows[4:]))
    assert parts == counted(flows)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"payloads": [[6, 0, 0, 20, 8, 2]]}, r"payloads cannot have \[6, 0, 0, 20, 8, 2\]"),
        ({"payloads": [[9, 0, 0, 20, 8, 2, 0]]}, "payloads cannot have"),
        ({"windows": [[8, 0, 501, 2]]}, "windows cannot have"),
        ({"windows": [[]]}, r"windows cannot have \[\]"),
        ({"windows": [[7, 0, 65_536, 2]]}, "windows cannot have"),
        ({"mss": [[2, 1460, 5]]}, "mss cannot have"),
        ({"payloads": [[6, 0, 0, -2, 8, 2, 0]]}, "payloads cannot have"),
        ({"levels": [[8, 2, 17, 2]]}, "levels cannot have"),
        ({"levels": [[8, 1, 256, 2]]}, "levels cannot have"),
        (
            {"payloads": [[17, 0, 0, 9, 0, 2, 0]], "successions": [[17, 0, 0, 9, 0, 1, 8, 0, 2]]},
            r"\[17, 1, 1, 8, 0\], which payloads lack",
        ),
    ],
)
def test_tables_that_make_no_sense_are_refused(tables, said):
    with pytest.raises(ValueError, match=said):
        Profile(**tables)
