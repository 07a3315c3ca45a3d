"""What several flows of a size share, each a row of an octave, a value and a number of flows.

The octave of a window is how many binary digits its number of packets has.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np


def size_octave(num_packets: int, max_height: int | None = None) -> int:
    """Return how many binary digits a window's number of packets has.

    Args:
        num_packets: of a flow or a window.
        max_height: packets of a flow's windows but the last; no limit unless given.
    """
    return min(num_packets, max_height or num_packets).bit_length()


def fold_rare(flows: Mapping[tuple[int, int], int], least: int) -> Counter[tuple[int, int]]:
    """Fold values that fewer than `least` flows have into the nearest that more have.

    Args:
        flows: by octave and value.

    Returns:
        Flows by octave and value, without cells of fewer flows: these are counted with the nearest
        value of the octave, or not at all. Empty if no value has enough flows.
    """
    kept = kept_values(flows, least)
    if not kept:
        return Counter()
    cells: Counter[tuple[int, int]] = Counter()
    for (octave, value), number in flows.items():
        cells[octave, nearest(value, kept)] += number
    shared = sorted(cell for cell, number in cells.items() if number >= least)
    table: Counter[tuple[int, int]] = Counter()
    for (octave, value), number in cells.items():
        of_octave = [v for o, v in shared if o == octave]
        if of_octave:
            table[octave, nearest(value, of_octave)] += number
    return table


def kept_values(flows: Mapping[tuple[int, int], int], least: int) -> list[int]:
    """Return the values that at least `least` flows have, whatever their octaves, ascending."""
    of_value: Counter[int] = Counter()
    for (_, value), number in flows.items():
        of_value[value] += number
    return sorted(value for value, number in of_value.items() if number >= least)


def nearest(value: int, kept: Sequence[int]) -> int:
    """Return the value of `kept`, ascending, that is nearest; the smaller of two."""
    return min(kept, key=lambda other: (abs(other - value), other))


def draw_by_size(
    rows: Sequence[tuple[int, int, int]], num_packets: int, max_height: int, seed: int
) -> int:
    """Draw a value from those of flows of a flow's size, or of the nearest that is known.

    Args:
        rows: octave, value and flows; at least one.
        num_packets: of the flow.
        max_height: packets of its windows but the last.
        seed: a number of 63 bits.
    """
    octave = nearest(size_octave(num_packets, max_height), sorted({row[0] for row in rows}))
    alike = [row for row in rows if row[0] == octave]
    ends = np.cumsum([flows for _, _, flows in alike])
    return alike[int(np.searchsorted(ends, seed % int(ends[-1]), side="right"))][1]
