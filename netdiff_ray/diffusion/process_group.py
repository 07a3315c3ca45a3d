"""The processes that train together, each holding some of the windows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together; all of them make the same calls."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """Number of processes."""
    all_reduce: Callable[[torch.Tensor], torch.Tensor]
    """Returns the sum of the ranks' tensors, which have one shape and dtype, on the device of
    the argument."""
    all_gather: Callable[[Any], list]
    """Returns the ranks' objects, in the order of the ranks."""

    def part_of(self, count: int) -> slice:
        """Return this rank's slice of `count` things.

        The slices of all ranks make up the whole; their lengths differ by at most 1, the first
        ranks having the longer ones.
        """
        return slice(self._first(count, self.rank), self._first(count, self.rank + 1))

    def _first(self, count: int, rank: int) -> int:
        return rank * (count // self.size) + min(rank, count % self.size)


SINGLE_PROCESS = ProcessGroup(0, 1, lambda tensor: tensor, lambda thing: [thing])
"""A training in this process alone."""
