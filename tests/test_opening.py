"""What flows of a label begin with: aggregates, and nothing of a lone flow."""

from collections import Counter

import numpy as np
import pytest
from repair.made import ACK, PSH, SYN, rows_of, tcp_header, udp_header

from netdiff_ray.opening import (
    OPENING_PACKETS,
    UNLISTED,
    Opening,
    count_openings,
    describe_opening,
)


def tcp_flow(sizes, window=501, version=4):
    """Rows of a flow of (direction, payload bytes), data pushed."""
    packets = [
        (side, tcp_header(side, ACK | (PSH if size else 0), window=window), size)
        for side, size in sizes
    ]
    return rows_of(packets, version=version)


def counted(flows, first=None, levels=None):
    """Counts of flows of one window each."""
    rows = np.concatenate([rows for rows, _ in flows])
    direction = np.concatenate([direction for _, direction in flows])
    window = np.repeat(np.arange(len(flows)), [len(rows) for rows, _ in flows])
    is_first = np.ones(len(flows), bool) if first is None else np.array(first)
    levels = np.full(len(rows), 90) if levels is None else np.concatenate(levels)
    return count_openings(rows, direction, levels, window, is_first[window])


def described(counts):
    by_what = {}
    for (what, value), number in counts.items():
        by_what.setdefault(what, {})[value] = number
    return describe_opening(by_what)


def test_payloads_windows_and_successions_are_counted_by_place():
    opening = described(
        counted([
            tcp_flow([(0, 0), (1, 20), (0, 16)]), tcp_flow([(0, 0), (1, 20), (0, 16)], version=6),
            tcp_flow([(0, 0), (1, 20), (1, 9)]), tcp_flow([(0, 0), (1, 41)]),
        ])
    )  # fmt: skip
    assert opening.payloads == [
        [6, 0, 0, 0, 0, 4],
        [6, 1, 1, UNLISTED, 0, 1], [6, 1, 1, 20, 1, 3],
        [6, 2, 0, 16, 1, 2], [6, 2, 1, UNLISTED, 0, 1],
    ]  # fmt: skip
    assert opening.successions == [[6, 0, 0, 0, 0, 1, 20, 1, 3], [6, 1, 1, 20, 1, 0, 16, 1, 2]]
    assert opening.windows == [[0, 0, 501, 4], [1, 1, 501, 4], [2, 0, 501, 2], [2, 1, UNLISTED, 1]]


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
    flow = tcp_flow([(0, 5)] * OPENING_PACKETS + [(1, 1448)] * 3)
    opening = described(counted([flow, flow, tcp_flow([(1, 77)] * 2)], first=[True, True, False]))
    assert {row[1] for row in opening.payloads} == set(range(OPENING_PACKETS))
    assert all(row[1] < OPENING_PACKETS - 1 for row in opening.successions)
    assert {row[0] for row in opening.windows} == set(range(OPENING_PACKETS))
    assert sum(n for number, *_, n in opening.levels if number == OPENING_PACKETS) == 3 + 3 + 2


def test_a_level_of_one_flow_is_counted_with_later_packets():
    flows = [tcp_flow([(0, 5), (1, 5)])] * 3
    opening = described(counted(flows, levels=[[0, 80], [0, 80], [0, 123]]))
    assert opening.levels == [[0, 0, 0, 3], [1, 1, 80, 2], [OPENING_PACKETS, 1, 123, 1]]


def test_rare_values_beyond_the_commonest_are_not_told():
    flows = [tcp_flow([(0, size)]) for size in range(1, 101) for _ in range(2 + (size <= 3))]
    payloads = described(counted(flows)).payloads
    assert len(payloads) == 65
    told = {size: packets for _, _, _, size, _, packets in payloads}
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
        ({"payloads": [[6, 0, 0, 20, 1]]}, r"payloads cannot have \[6, 0, 0, 20, 1\]"),
        ({"payloads": [[9, 0, 0, 20, 1, 2]]}, "payloads cannot have"),
        ({"windows": [[8, 0, 501, 2]]}, "windows cannot have"),
        ({"levels": [[8, 2, 17, 2]]}, "levels cannot have"),
        ({"levels": [[8, 1, 256, 2]]}, "levels cannot have"),
        (
            {"payloads": [[17, 0, 0, 9, 0, 2]], "successions": [[17, 0, 0, 9, 0, 1, 8, 0, 2]]},
            r"\[17, 1, 1, 8, 0\], which payloads lack",
        ),
    ],
)
def test_tables_that_make_no_sense_are_refused(tables, said):
    with pytest.raises(ValueError, match=said):
        Opening(**tables)
