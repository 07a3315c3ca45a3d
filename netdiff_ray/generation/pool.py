"""How many denoisers a cluster has room for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from netdiff_ray.errors import ClusterError

WRITER_CPUS = 0.1
"""CPUs that Ray reserves for a task that repairs and writes: few enough for it to run beside the
denoisers, which end only with the job."""


@dataclass(frozen=True, kw_only=True)
class PoolRequest:
    """Which denoisers a user asks for."""

    sizes: tuple[int, int] | None = None
    """Least and most; None for as many as fit. With a least of 0 the first may wait until the
    cluster has grown, whatever it has now."""
    gpus: float | None = None
    """Of each; None for 1 where the cluster has any, else 0."""
    cpus: float
    """Of each."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Sizes of an actor pool."""

    least: int
    """Actors at the start."""
    most: int
    """Actors that it may grow to."""
    gpus: float
    """GPUs of each; 0 for denoising on the CPU."""
    cpus: float
    """CPUs of each."""


def size_pool(cluster: Mapping[str, float], request: PoolRequest, num_shards: int) -> Pool:
    """Return the sizes of the pool of denoisers that a cluster has room for, at most one a shard.

    Args:
        cluster: `CPU` and `GPU` that it has, or that it can grow to.

    Raises:
        ClusterError: the least do not fit; says the numbers.
    """
    gpus, cpus = request.gpus, request.cpus
    available = {kind: cluster.get(kind, 0.0) for kind in ("CPU", "GPU")}
    if gpus is None:
        gpus = 1.0 if available["GPU"] >= 1 else 0.0
    room = _room(available["CPU"] / (cpus + WRITER_CPUS))
    if gpus:
        room = min(room, _room(available["GPU"] / gpus))
    least, most = request.sizes or (max(room, 1), max(room, 1))
    least, most = min(least, num_shards), min(most, num_shards)
    if least > room:
        wanted = [f"{least * (cpus + WRITER_CPUS):g} CPUs ({cpus:g} each and {WRITER_CPUS:g} for "
                  "writing)"]  # fmt: skip
        has = [f"{available['CPU']:g} CPUs"]
        if gpus:
            wanted.append(f"{least * gpus:g} GPUs")
            has.append(f"{available['GPU']:g} GPUs")
        raise ClusterError(
            f"{least:,} denoiser{'s' * (least > 1)} need {' and '.join(wanted)}; the cluster has "
            f"{' and '.join(has)}. Add nodes, or lower denoisers, gpus_per_denoiser (0 for the "
            "CPU) or cpus_per_denoiser; where the cluster grows by itself, let denoisers begin at 0"
        )
    return Pool(least=max(least, 1), most=most, gpus=gpus, cpus=cpus)


def _room(share: float) -> int:
    return math.floor(share + 1e-9)
