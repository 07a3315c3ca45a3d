"""Who takes part in a training: one process, or several that hold a share of the windows each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together; all of them make the same calls."""

    rank: int
    """Its number, from 0."""
    count: int
    """How many there are."""
    add: Callable[[torch.Tensor], torch.Tensor]
    """The sum of the ranks' tensors, which are of one shape and dtype, on the same device."""
    gather: Callable[[Any], list]
    """The ranks' objects, in their order."""

    def part_of(self, count: int) -> slice:
        """Which of `count` things are this rank's: runs that differ by one at most, the first
        ranks having the longer ones."""
        return slice(self._first(count, self.rank), self._first(count, self.rank + 1))

    def _first(self, count: int, rank: int) -> int:
        return rank * (count // self.count) + min(rank, count % self.count)


SINGLE_PROCESS = ProcessGroup(0, 1, lambda tensor: tensor, lambda thing: [thing])
"""One process."""
