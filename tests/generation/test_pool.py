"""How many denoisers a cluster has room for, and refusals with the numbers."""

import pytest

from netdiff_ray.errors import ClusterError
from netdiff_ray.generation.pool import Pool, PoolRequest, size_pool


def pool(cluster, sizes=None, gpus=None, cpus=0.9, num_shards=100):
    return size_pool(cluster, PoolRequest(sizes=sizes, gpus=gpus, cpus=cpus), num_shards)


def sized(least, most, gpus=0, cpus=0.9):
    return Pool(least=least, most=most, gpus=gpus, cpus=cpus)


def test_unless_said_there_are_as_many_as_there_is_room_for():
    assert pool({"CPU": 2}) == sized(2, 2, 0)
    assert pool({"CPU": 16, "GPU": 4}) == sized(4, 4, 1)
    assert pool({"CPU": 16, "GPU": 4}, gpus=0.5) == sized(8, 8, 0.5)
    assert pool({"CPU": 16, "GPU": 4}, gpus=0) == sized(16, 16, 0)
    assert pool({"CPU": 16}, num_shards=3) == sized(3, 3, 0)


def test_a_pool_may_grow_beyond_the_cluster_but_not_begin_so():
    assert pool({"CPU": 2}, sizes=(1, 8)) == sized(1, 8, 0)
    with pytest.raises(ClusterError, match=r"3 denoisers need 3 CPUs \(0.9 each.*has 2 CPUs"):
        pool({"CPU": 2}, sizes=(3, 8))
    with pytest.raises(
        ClusterError, match=r"need 2 CPUs .* and 2 GPUs; the cluster has 8 CPUs and 1"
    ):
        pool({"CPU": 8, "GPU": 1}, sizes=(2, 2))


def test_where_the_cluster_grows_the_first_waits_for_room():
    assert pool({"CPU": 0}, sizes=(0, 8)) == sized(1, 8, 0)
    assert pool({"CPU": 2}, sizes=(0, 8), gpus=1) == sized(1, 8, 1)


def test_a_whole_cpu_each_leaves_none_for_writing():
    with pytest.raises(ClusterError, match=r"2 denoisers need 2.2 CPUs.*has 2 CPUs"):
        pool({"CPU": 2}, sizes=(2, 2), cpus=1)
    assert pool({"CPU": 2}, cpus=1) == sized(1, 1, 0, 1)


def test_a_cluster_without_room_for_one_is_refused():
    with pytest.raises(ClusterError, match="1 denoiser need"):
        pool({})
