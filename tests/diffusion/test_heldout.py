"""Which windows are held out, and which of them are measured."""

import numpy as np

from netdiff_ray.diffusion.heldout import held_out, measured


def test_whole_flows_of_services_that_can_spare_them_are_held_out():
    rng = np.random.default_rng(0)
    flows_of = {0: 20, 1: 6, 2: 5, 3: 1}
    service = np.concatenate([np.full(3 * n, key) for key, n in flows_of.items()])
    flow = np.concatenate([np.repeat(rng.integers(1 << 62, size=n), 3) for n in flows_of.values()])
    shuffled = rng.permutation(len(flow))
    service, flow = service[shuffled], flow[shuffled]
    is_held_out = held_out(service, flow, 0.1)
    num_flows = {key: len(set(flow[is_held_out & (service == key)])) for key in flows_of}
    assert num_flows == {0: 2, 1: 1, 2: 0, 3: 0}
    assert all(len(set(is_held_out[flow == key])) == 1 for key in flow)
    assert not held_out(service, flow, 0.0).any()


def test_whether_a_flow_is_held_out_does_not_depend_on_the_order_of_windows():
    rng = np.random.default_rng(1)
    service, flow = rng.integers(3, size=200), rng.integers(1 << 62, size=200)
    order = rng.permutation(200)
    before, after = held_out(service, flow, 0.2), held_out(service[order], flow[order], 0.2)
    assert np.array_equal(before[order], after)


def test_services_take_turns_where_fewer_windows_are_measured_than_held_out():
    service = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    is_held_out = np.array([True, True, True, True, True, True, False, True])
    chosen = measured(service, is_held_out, 5)
    assert np.bincount(service[chosen]).tolist() == [2, 2, 1]
    assert not (chosen & ~is_held_out).any()
    assert measured(service, is_held_out, 100).tolist() == is_held_out.tolist()
