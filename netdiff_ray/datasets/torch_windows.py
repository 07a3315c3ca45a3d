"""Windows as torch takes them.

Shape letters: N windows, H rows of a matrix, P packets, B bits.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from netdiff_ray.encoding.windows import unpack
from netdiff_ray.errors import ConfigError
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import Layout


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
        return _filled(self._nprints[k], self._height), int(self._class_of[k])


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """How a stream reads its parts."""

    height: int
    """H."""
    shuffle: bool
    """False for the order of the dataset."""
    seed: int
    """Of the order."""
    parts_at_once: int
    """Parts that are shuffled together, and in memory."""
    rank: int
    """Of this process."""
    num_ranks: int
    """Processes that read the dataset together."""


class TorchWindowStream(IterableDataset[tuple[torch.Tensor, int]]):
    """An iterable dataset of the pairs of `TorchWindows`, read part by part.

    The parts of a dataset are dealt to the workers of all processes. Each worker reads some at a
    time and gives their windows, shuffled together; parts often hold one label alone. The order
    is a function of the seed, the epoch, and the numbers of processes and workers.

    Args:
        part_names: of all parts.
        read_part: returns the windows of a part, rows of `encoded_schema`.
        layout: of the nprints.
        labels: of all windows.
        settings: how they are read.
    """

    def __init__(
        self,
        part_names: Sequence[str],
        read_part: Callable[[str], pa.Table],
        layout: Layout,
        labels: Sequence[str],
        settings: StreamSettings,
    ):
        self.classes: list[str] = sorted(labels)
        """The labels, sorted."""
        self._part_names, self._read_part, self._layout = list(part_names), read_part, layout
        self._settings = settings
        # In shared memory, so that workers that outlive an epoch learn of the next.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass, 0 or above."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        settings = self._settings
        begin = settings.rank * workers + (worker.id if worker else 0)
        names = self._shuffled(self._part_names)[begin :: settings.num_ranks * workers]
        class_of = {label: k for k, label in enumerate(self.classes)}
        for at in range(0, len(names), settings.parts_at_once):
            chosen = names[at : at + settings.parts_at_once]
            table = pa.concat_tables(map(self._read_part, chosen))
            packed, labels = table["nprint"], table["label"].to_pylist()
            for k in self._shuffled(range(len(table)), begin, at):
                nprint = unpack(packed[k].as_py(), self._layout)
                yield _filled(nprint, settings.height), class_of[labels[k]]

    def _shuffled(self, items: Sequence, *where: int) -> Sequence:
        """Return items in the order of this epoch and place."""
        if not self._settings.shuffle:
            return items
        rng = np.random.default_rng([self._settings.seed, int(self._epoch), *where])
        return [items[k] for k in rng.permutation(len(items)).tolist()]


def _filled(nprint: np.ndarray, height: int) -> torch.Tensor:
    """Return an nprint, (P, B) int8, with vacant rows after the last packet, (H, B)."""
    if len(nprint) > height:
        raise ConfigError(f"height {height}: a window has {len(nprint):,} packets")
    padding = ((0, height - len(nprint)), (0, 0))
    return torch.from_numpy(np.pad(nprint, padding, constant_values=VACANT))
