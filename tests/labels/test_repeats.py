"""How lengths and times repeat, counted from what packets do."""

from collections import Counter

import numpy as np

from netdiff_ray.flow_state import PACKET_STATE
from netdiff_ray.header_bytes import IPPROTO_TCP, IPPROTO_UDP
from netdiff_ray.labels.repeats import RepeatCount, count_repeats, disclosed_repeats

LENGTH, GAP = 0, 1


def counted(sides, lengths, gaps, window, first_windows, transport=IPPROTO_UDP):
    states = np.zeros(len(sides), PACKET_STATE)
    states["same_length"], states["same_gap"] = lengths, gaps
    window = np.array(window)
    return count_repeats(
        states, np.full(len(sides), transport), np.array(sides), window,
        np.ones(len(sides), bool), np.isin(window, first_windows),
    )  # fmt: skip


def test_packets_count_after_those_of_their_side_and_window():
    packets, flows = counted(
        sides=[0, 1, 0, 1, 0, 0, 0], lengths=[0, 0, 1, 0, 1, 1, 0], gaps=[0] * 7,
        window=[0, 0, 0, 0, 0, 1, 1], first_windows=[0],
    )  # fmt: skip
    of_length = {row[2:]: n for row, n in packets.items() if row[1] == LENGTH}
    assert of_length == {(0, 0, 1): 1, (0, 1, 1): 1, (1, 0, 0): 1, (0, 1, 0): 1}
    assert (IPPROTO_UDP, LENGTH, 0, 1, 0) not in flows, "it is in the flow's second window"
    assert packets[IPPROTO_UDP, GAP, 0, 0, 0] == 3


def test_what_a_single_flow_does_is_not_disclosed():
    packets, flows = counted(
        sides=[0] * 9, lengths=[1, 1, 1, 0, 1, 1, 1, 1, 1], gaps=[0] * 9,
        window=[0] * 4 + [1] * 5, first_windows=[0, 1], transport=IPPROTO_TCP,
    )  # fmt: skip
    rows = disclosed_repeats(packets, flows, 2)
    assert RepeatCount(IPPROTO_TCP, LENGTH, 0, 1, repeating=6, changing=0) in rows
    assert not [row for row in rows if row.field == LENGTH and row.before == 0]
    assert disclosed_repeats(Counter(), Counter(), 2) == []
