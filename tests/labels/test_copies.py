"""Times of segments that are sent again, counted by how many were before them."""

import numpy as np

from netdiff_ray.flow_state import AGAIN, PACKET_STATE
from netdiff_ray.header_bytes import ACK, FIN, IPPROTO_TCP
from netdiff_ray.labels.copies import MOST_COPIES, count_copies

OCTAVE = 8


def counted(again, sides, levels, window, first_windows, fins=()):
    states = np.zeros(len(sides), PACKET_STATE)
    states["sequence"] = np.where(again, AGAIN, 0)
    flags = np.full(len(sides), ACK)
    flags[list(fins)] |= FIN
    has_data = ~np.isin(np.arange(len(sides)), fins)
    window = np.array(window)
    return count_copies(
        states, np.full(len(sides), IPPROTO_TCP), has_data, flags, np.array(sides),
        np.array(levels), window, np.isin(window, first_windows),
    )  # fmt: skip


def test_copies_are_numbered_until_new_data():
    segments, flows = counted(
        again=[0, 1, 1, 0, 1, 0, 1], sides=[0, 0, 0, 1, 1, 0, 0],
        levels=[0, 40, 48, 0, 16, 0, 41], window=[0] * 7, first_windows=[0],
    )  # fmt: skip
    assert segments == {(0, 5): 2, (1, 6): 1, (0, 2): 1}
    assert flows == {(0, 5): 1, (1, 6): 1, (0, 2): 1}


def test_a_window_begins_anew_and_a_fin_is_sent_again_too():
    segments, flows = counted(
        again=[1, 1, 1, 1], sides=[0] * 4, levels=[8, 16, 24, 32], window=[0, 0, 1, 1],
        first_windows=[0], fins=[1],
    )  # fmt: skip
    assert segments == {(0, 1): 1, (1, 2): 1, (0, 3): 1, (1, 4): 1}
    assert set(flows) == {(0, 1), (1, 2)}


def test_many_copies_count_as_the_last():
    many = MOST_COPIES + 3
    segments, _ = counted(
        again=[0] + [1] * many, sides=[0] * (many + 1), levels=[OCTAVE] * (many + 1),
        window=[0] * (many + 1), first_windows=[0],
    )  # fmt: skip
    assert segments[MOST_COPIES - 1, 1] == 4
