"""The windows of a dataset as a Ray dataset, read by the workers."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import ray.data

from netdiff_ray.encoding.windows import unpack_all


def windows_dataset(
    part_names: Sequence[str], read_part: Callable[[str], pa.Table]
) -> ray.data.Dataset:
    """Return a Ray dataset of the windows of parts, a block or more a part.

    Args:
        part_names: of all parts.
        read_part: returns the windows of a part, rows of `encoded_schema`.
    """
    return ray.data.from_items(
        [{"name": name} for name in part_names], override_num_blocks=len(part_names)
    ).map_batches(_unpacked, fn_kwargs={"read_part": read_part}, batch_size=1)


def _unpacked(batch: dict, read_part: Callable[[str], pa.Table]) -> dict[str, np.ndarray]:
    """Return the columns of a part, nprints as (P, B) int8 matrices."""
    table = read_part(batch["name"][0])
    columns = {name: table[name].to_numpy() for name in table.column_names}
    nprints = np.empty(len(table), object)
    nprints[:] = unpack_all(table)
    return {**columns, "nprint": nprints}
