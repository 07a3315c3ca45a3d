"""What waits on a cluster, and for what, in words."""

import pytest
from ray.autoscaler.v2.schema import (
    ClusterStatus,
    NodeInfo,
    NodeUsage,
    RayTaskActorDemand,
    ResourceDemandSummary,
    ResourceRequestByCount,
    ResourceUsage,
)

from netdiff_ray.distributed.shortage import shortage_of


def status(nodes, *waiting):
    """Return the status of a cluster of nodes, {kind: (total, used)}, with waiting tasks."""
    usages = [NodeUsage([ResourceUsage(k, *n) for k, n in node.items()], 0) for node in nodes]
    demands = [RayTaskActorDemand([ResourceRequestByCount(bundle, 1)]) for bundle in waiting]
    return ClusterStatus(
        active_nodes=[NodeInfo("", "", "", "", resource_usage=usage) for usage in usages],
        resource_demands=ResourceDemandSummary(ray_task_actor_demand=demands),
    )


ONE, QUARTER, ON_GPU = {"CPU": 1.0}, {"CPU": 0.25}, {"CPU": 1.0, "GPU": 1.0}
TAKEN, HALF = {"CPU": (2.0, 2.0)}, {"CPU": (1.0, 0.5)}


@pytest.mark.parametrize(
    ("nodes", "waiting", "needs", "words"),
    [
        ([TAKEN], [ONE], ONE, "needs 1 CPU; the cluster has 2 CPUs, all taken"),
        ([TAKEN], [QUARTER, ONE], QUARTER, "needs 0.25 CPUs; the cluster has 2 CPUs, all taken"),
        ([HALF, HALF], [ONE], ONE, "needs 1 CPU; the cluster has 2 CPUs, 1 free"),
        ([TAKEN], [ON_GPU], ON_GPU,
         "needs 1 CPU and 1 GPU; the cluster has 2 CPUs, all taken, and no GPU"),
        ([], [ONE], ONE, "needs 1 CPU; the cluster has no CPU"),
        ([TAKEN], [QUARTER], ONE, ""),  # another task waits
        ([TAKEN], [], ONE, ""),  # it has its CPU, and starts
        ([TAKEN, {"CPU": (1.0, 0.1 + 0.2 - 0.3)}], [ONE], ONE, ""),  # about to be given it
    ],
)  # fmt: skip
def test_words_say_what_is_needed_and_what_is_free(nodes, waiting, needs, words):
    assert shortage_of(status(nodes, *waiting), {"CPU": 0.0, "GPU": 0.0, **needs}) == words
