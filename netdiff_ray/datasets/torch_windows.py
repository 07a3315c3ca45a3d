"""Windows as torch takes them.

Shape letters: N windows, H rows of a matrix, P packets, B bits.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from netdiff_ray.nprint.codec import VACANT


class TorchWindows(Dataset[tuple[torch.Tensor, int]]):
    """A map-style dataset of N pairs: an nprint, (H, B) int8 with rows after the last packet
    vacant, and the index of its label in `classes`.

    Args:
        nprints: N matrices (P, B) int8, P at most H.
        labels: (N,) str.
        height: H.
    """

    def __init__(self, nprints: Sequence[np.ndarray], labels: np.ndarray, height: int):
        names, self._class_of = np.unique(labels, return_inverse=True)
        self.classes: list[str] = names.tolist()
        """The labels, sorted."""
        self._nprints = nprints
        self._height = height

    def __len__(self) -> int:
        return len(self._nprints)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, int]:
        nprint = self._nprints[k]
        padding = ((0, self._height - len(nprint)), (0, 0))
        matrix = np.pad(nprint, padding, constant_values=VACANT)
        return torch.from_numpy(matrix), int(self._class_of[k])
