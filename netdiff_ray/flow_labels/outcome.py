"""What becomes of flows and of label rows when they are joined.

Shape letters: F flows.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

NEARLY = 0.99
"""Share of the longest overlap from which on another label's does as well."""


class Outcome(IntEnum):
    """What became of a flow."""

    LABELLED = 0
    NO_ROW = 1
    OTHER_TIME = 2
    AMBIGUOUS = 3
    NO_LABEL = 4

    @property
    def words(self) -> str:
        """The outcome as a user reads it."""
        return _WORDS[self]


_WORDS = {
    Outcome.LABELLED: "labelled",
    Outcome.NO_ROW: "no row has its endpoints",
    Outcome.OTHER_TIME: "its endpoints have rows at other times only",
    Outcome.AMBIGUOUS: "rows of several labels overlap it equally",
    Outcome.NO_LABEL: "its row has no label",
}

ROW_USED, ROW_NO_FLOW, ROW_OTHER_TIME = range(3)
"""What became of a row: it overlaps a flow; no flow has its endpoints; its endpoints' flows are at
other times."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Which label each flow has."""

    label: np.ndarray
    """(F,) int32: element of the labels, -1 for none."""
    outcome: np.ndarray
    """(F,) uint8: an Outcome."""
    begins: np.ndarray
    """(F,) bool: whether a row begins when the flow does."""
