"""The laws of repair: idempotent, a function of each flow alone, valid traffic untouched."""

import numpy as np
import pytest
from flow_rows import matrices, valid_flows
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from windows import DAMAGE, repaired, split

from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.nprint.layouts import LAYOUTS
from netdiff_ray.repair import RepairContext, repair

STATEFUL = layout_named("stateful")
SEEDS = st.integers(0, 2**64 - 1)


def again(result, layout, context):
    return repair(
        split(result, layout), layout, context, result.batch.flows.seed, result.batch.flows.number
    )


def assert_same(one, other):
    np.testing.assert_array_equal(one.packets.data, other.packets.data)
    np.testing.assert_array_equal(one.packets.ts_ns, other.packets.ts_ns)
    np.testing.assert_array_equal(one.packets.wirelen, other.packets.wirelen)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=SEEDS)
def test_idempotent_on_any_matrix(layout, data, seed):
    nprint = data.draw(matrices(layout.width))
    context = RepairContext(server_ports=(53, 443))
    once = repair([nprint], layout, context, [seed])
    if once.rejected:
        return
    twice = again(once, layout, context)
    assert not twice.corrected.any()
    assert_same(once, twice)


@settings(max_examples=200, deadline=None)
@given(flow=valid_flows(), seed=SEEDS)
def test_valid_flows_pass(flow, seed):
    rows, direction, interarrival_ns = flow
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=interarrival_ns)
    result = repair([drawn], STATEFUL, RepairContext(), [seed])
    after, same_gap = result.nprint(STATEFUL), STATEFUL.columns("flow_same_gap")
    # Times are coded in levels: one that is an eighth from another may be on the other side of it.
    assume(np.array_equal(after[:, same_gap], drawn[:, same_gap]))
    wrong = {name: count for name, count in result.corrected_by_rule().items() if count.any()}
    assert not wrong
    assert result.distance == 0
    assigned = STATEFUL.columns("icmp_roh")  # identifier and sequence number of an echo
    after[:, assigned] = drawn[:, assigned]
    np.testing.assert_array_equal(after, drawn)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["stateful", "nprint-1088"])
def test_idempotent_on_damaged_windows(real_windows, name, damage):
    layout = layout_named(name)
    for result in repaired(real_windows, layout, damage):
        ports = tuple(sorted(set(result.batch.flows.server_port.tolist()) - {0}))
        context = RepairContext(server_ports=ports)
        drawn = split(result, layout)
        once = repair(drawn, layout, context, result.batch.flows.seed, result.batch.flows.number)
        twice = again(once, layout, context)
        assert not once.corrected.any()
        assert_same(once, twice)


def test_real_windows_pass_nearly_untouched(real_windows):
    distance = np.concatenate([r.distance for r in repaired(real_windows, STATEFUL)])
    # The rest holds losses, retransmissions and odd stacks, or windows that drain by other
    # acknowledgements than repair chooses, which the layout does not have.
    assert np.mean(distance == 0) > 0.55
    assert distance.mean() < 0.005


@settings(max_examples=25, deadline=None)
@given(flows=st.lists(matrices(STATEFUL.width, 8), min_size=2, max_size=6), seed=SEEDS)
def test_a_flow_does_not_depend_on_its_batch(flows, seed):
    seeds = (np.arange(len(flows), dtype=np.uint64) + np.uint64(seed)).astype(np.uint64)
    whole = repair(flows, STATEFUL, RepairContext(), seeds)
    for k, i in enumerate(whole.batch.position):
        alone = repair([flows[i]], STATEFUL, RepairContext(), seeds[i : i + 1])
        part = slice(*whole.batch.flows.starts[k : k + 2])
        span = slice(*whole.packets.starts[whole.batch.flows.starts[k : k + 2]])
        np.testing.assert_array_equal(alone.packets.data, whole.packets.data[span])
        np.testing.assert_array_equal(alone.packets.ts_ns, whole.packets.ts_ns[part])
        np.testing.assert_array_equal(alone.changed[0], whole.changed[k])
