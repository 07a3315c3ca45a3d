"""Datasets as arrays, and as the datasets of torch, pandas and Ray.

Shape letters: N windows, P packets, B bits (columns of the layout).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, overload

import numpy as np
import pyarrow as pa

from netdiff_ray.config.checks import check_flow_settings, require
from netdiff_ray.datasets.parts import read_encoded_part, read_shard
from netdiff_ray.encoding.windows import layout_of_table, unpack, unpack_all
from netdiff_ray.errors import ConfigError, DatasetError
from netdiff_ray.flows import DEFAULT_HEIGHT, DEFAULT_IDLE_TIMEOUT_S
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, Layout, layout_named
from netdiff_ray.storage.manifest import (
    ENCODED_DATASET,
    MANIFESTS,
    PCAP_DATASET,
    kind_of,
    open_dataset,
)
from netdiff_ray.storage.store import open_store

if TYPE_CHECKING:
    import pandas as pd
    import ray.data

    from netdiff_ray.datasets.torch_windows import TorchWindows, TorchWindowStream


class Nprints(Sequence[np.ndarray]):
    """N matrices (P, B) int8 of 1, 0, -1 (vacant), each unpacked when it is asked for."""

    def __init__(self, packed: pa.ChunkedArray, layout: Layout):
        self._packed = packed
        self._layout = layout

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, k: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, k: slice) -> list[np.ndarray]: ...

    def __getitem__(self, k: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        if not -len(self) <= k < len(self):
            raise IndexError(f"window {k} of {len(self):,}")
        return unpack(self._packed[k % len(self)].as_py(), self._layout)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (unpack(packed.as_py(), self._layout) for packed in self._packed)


@dataclass(frozen=True, kw_only=True)
class NprintDataset:
    """The windows of a dataset. They are read at first use, and stay packed in memory."""

    uri: str
    """Where the dataset is, without credentials."""
    kind: str
    """The `format` of its manifest: netdiff-encoded-dataset or netdiff-pcap-dataset."""
    manifest: dict
    """Configuration of the run, counts, and the hash of every file."""
    layout: Layout
    """Of the nprints."""
    part_names: tuple[str, ...]
    """Names of the parts, in order."""
    read_part: Callable[[str], pa.Table]
    """Returns the windows of a part, rows of `encoded_schema`."""

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def table(self) -> pa.Table:
        """All windows, a row each: flow_id, label, capture, window (its number in the flow),
        num_packets, start_ts_ns, protocol, nprint (packed), direction, interarrival_ns.

        Raises:
            DatasetError: a part is missing or damaged.
        """
        return pa.concat_tables(map(self.read_part, self.part_names))

    @property
    def nprints(self) -> Nprints:
        """N matrices (P, B) int8 of 1, 0, -1 (vacant)."""
        return Nprints(self.table["nprint"], self.layout)

    @property
    def labels(self) -> np.ndarray:
        """(N,) str."""
        return self._column("label").astype(np.str_)

    @property
    def flow_ids(self) -> np.ndarray:
        """(N,) str: which flow each window is of."""
        return self._column("flow_id").astype(np.str_)

    @property
    def window_numbers(self) -> np.ndarray:
        """(N,) int32: number of each window in its flow, from 0."""
        return self._column("window")

    @property
    def synthetic(self) -> np.ndarray:
        """(N,) bool: whether each window is drawn: what the column of that name of an augmented
        dataset says; of other encoded datasets none is, and of pcap datasets all are."""
        if "synthetic" in self.table.column_names:
            return self._column("synthetic")
        return np.full(len(self), self.kind == PCAP_DATASET)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the header fields, in column order."""
        return self.layout.fields

    @property
    def column_names(self) -> tuple[str, ...]:
        """B names, `<field>_<k>`, k counting from the most significant bit."""
        return self.layout.column_names

    def _column(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy()

    def to_torch(self, height: int | None = None) -> "TorchWindows":
        """Return a map-style torch Dataset of (nprint, class) pairs.

        Args:
            height: rows of each matrix, missing ones filled with -1 (vacant); those of the
                longest window unless given.

        Raises:
            ConfigError: a window has more packets than `height`.
        """
        from netdiff_ray.datasets.torch_windows import TorchWindows

        longest = int(self._column("num_packets").max(initial=0))
        if height is not None and height < longest:
            raise ConfigError(f"height {height}: a window has {longest:,} packets")
        return TorchWindows(self.nprints, self.labels, height or longest)

    def to_torch_stream(
        self,
        height: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        parts_at_once: int = 8,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> "TorchWindowStream":
        """Return an iterable torch dataset of (nprint, class) pairs, which never holds the whole
        dataset in memory.

        Args:
            height: rows of each matrix, missing ones filled with -1 (vacant).
            shuffle: the order of parts, and that of the windows of parts that are read at once;
                `set_epoch` of the result gives another order. False for that of the dataset.
            seed: of the order.
            parts_at_once: that a worker of a DataLoader holds in memory.
            rank: of this process.
            num_ranks: processes that read the dataset together, each its share of the parts.

        Raises:
            ConfigError: a number is out of range.
        """
        from netdiff_ray.datasets.torch_windows import StreamSettings, TorchWindowStream

        require(height >= 1, "height", height, "at least 1")
        require(parts_at_once >= 1, "parts_at_once", parts_at_once, "at least 1")
        require(0 <= rank < num_ranks, "rank", rank, f"from 0 to {num_ranks - 1}")
        counts = self.manifest["counts"]["labels"]
        return TorchWindowStream(
            self.part_names, self.read_part, self.layout,
            [label for label, of_label in counts.items() if of_label["packets"]],
            StreamSettings(
                height=height, shuffle=shuffle, seed=seed, parts_at_once=parts_at_once, rank=rank,
                num_ranks=num_ranks,
            ),
        )  # fmt: skip

    def to_pandas(self) -> "pd.DataFrame":
        """Return a frame with the columns of `table`, nprints as (P, B) int8 matrices."""
        frame = self.table.to_pandas()
        frame["nprint"] = unpack_all(self.table)
        return frame

    def to_ray(self) -> "ray.data.Dataset":
        """Return a Ray dataset with the columns of `table`, nprints as (P, B) int8 matrices.

        The parts are read by Ray's workers, when the dataset is consumed.
        """
        from netdiff_ray.distributed.datasets import windows_dataset

        return windows_dataset(self.part_names, self.read_part)


def load(
    uri: str | os.PathLike, *, layout: str | None = None, height: int | None = None
) -> NprintDataset:
    """Open an encoded or a pcap dataset.

    Args:
        uri: folder or URI of the dataset.
        layout: of a pcap dataset: name of the layout to encode its packets in; `stateful`
            unless given.
        height: of a pcap dataset: most packets of a window; 1,024 unless given.

    Raises:
        DatasetError: it is no complete dataset.
        ConfigError: no such layout or height, or the dataset is encoded already.
    """
    store = open_store(uri)
    kind = kind_of(store)
    if kind is None:
        raise DatasetError(
            f"{store.uri}: neither {' nor '.join(MANIFESTS.values())} is in it; a dataset is "
            "complete when its manifest is written"
        )
    dataset = open_dataset(store, kind)
    if kind == ENCODED_DATASET:
        if layout is not None or height is not None:
            raise ConfigError(f"layout and height: {store.uri} is encoded already")
        read_part = partial(read_encoded_part, store=store)
        chosen = layout_of_table(read_part(dataset.part_names[0]).schema)
    else:
        assert kind == PCAP_DATASET
        chosen = layout_named(DEFAULT_LAYOUT if layout is None else layout)
        height = DEFAULT_HEIGHT if height is None else height
        check_flow_settings(DEFAULT_IDLE_TIMEOUT_S, height)
        read_part = partial(read_shard, store=store, layout=chosen, height=height)
    return NprintDataset(
        uri=store.uri,
        kind=kind,
        manifest=dataset.manifest,
        layout=chosen,
        part_names=tuple(dataset.part_names),
        read_part=read_part,
    )
