"""What a task or an actor waits for, in words."""

from collections.abc import Mapping

import ray
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RpcError

_KINDS = ("CPU", "GPU")


def shortage(cpus: float, gpus: float) -> str:
    """Return what a task or an actor of this size waits for, as in `needs 1 CPU; the cluster has 2
    CPUs, all taken`; empty if a node has room for it, if none of this size waits, or if the
    cluster does not say.

    For a process on the cluster that is connected to Ray.
    """
    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
    except RpcError:
        return ""
    return shortage_of(status, {"CPU": cpus, "GPU": gpus})


def shortage_of(status: ClusterStatus, needs: Mapping[str, float]) -> str:
    """Return `shortage` in a cluster of this status.

    Args:
        needs: number by `CPU` and `GPU`.
    """
    nodes = [*status.active_nodes, *status.idle_nodes]
    totals = [_numbers(node.total_resources()) for node in nodes]
    free = [_numbers(node.available_resources()) for node in nodes]
    waiting = [
        _numbers(request.bundle)
        for demand in status.resource_demands.ray_task_actor_demand
        for request in demand.bundles_by_count
    ]
    has_room = any(all(node[kind] >= needs[kind] for kind in _KINDS) for node in free)
    if has_room or _numbers(needs) not in waiting:
        return ""
    needed = [kind for kind in _KINDS if needs[kind]]
    amounts = " and ".join(_amount(needs[kind], kind) for kind in needed)
    has = [
        _there(kind, sum(node[kind] for node in totals), sum(node[kind] for node in free))
        for kind in needed
    ]
    return f"needs {amounts}; the cluster has {', and '.join(has)}"


def _numbers(resources: Mapping[str, float]) -> dict[str, float]:
    """Return the number of each kind, as exactly as Ray counts."""
    return {kind: round(resources.get(kind, 0.0), 4) for kind in _KINDS}


def _amount(number: float, kind: str) -> str:
    return f"{number:g} {kind}{'s' * (number != 1)}"


def _there(kind: str, total: float, free: float) -> str:
    if not total:
        return f"no {kind}"
    return f"{_amount(total, kind)}, {f'{free:g} free' if free else 'all taken'}"
