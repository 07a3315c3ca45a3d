"""Parts of a dataset that are written independently of each other, a Ray task a part."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TypeVar

import ray.data

from netdiff_ray.distributed.cluster import connected, require_cpus, results_apart
from netdiff_ray.distributed.columns import record_of

TaskT = TypeVar("TaskT")

_MAX_BLOCKS = 10_000


def write_parts(
    tasks: Sequence[TaskT], write: Callable[[TaskT], int], address: str | None
) -> Iterator[int]:
    """Yield what `write` returns of each task, in no certain order.

    Args:
        tasks: what to write, records of one dataclass.
        write: writes a part, in a worker.
        address: Ray cluster to run on; a local one unless given.

    Raises:
        NetdiffError: what `write` raised.
        ClusterError: no cluster, or no CPUs.
    """
    if not tasks:
        return
    with connected(address), results_apart():
        require_cpus(1)
        parts = ray.data.from_items(
            [asdict(task) for task in tasks], override_num_blocks=min(len(tasks), _MAX_BLOCKS)
        ).map(_written, fn_kwargs={"write": write, "kind": type(tasks[0])})
        parts.context.raise_original_map_exception = True
        for row in parts.iter_rows():
            yield row["written"]


def _written(row: dict, write: Callable[[TaskT], int], kind: type[TaskT]) -> dict:
    return {"written": write(record_of(kind, row))}
