"""How flows were captured twice: counted, disclosed and drawn."""

from collections import Counter
from dataclasses import replace

import pytest
from stack_builders import metadata_of, stack_of

from netdiff_ray.config.pins import PlanPins
from netdiff_ray.labels.duplicates import (
    CapturedHosts,
    DuplicateCount,
    FlowDuplicates,
    bounds_ns,
    captured_hosts,
    check_duplicate_count,
    disclosed_duplicates,
    draw_duplicates,
    duplicates_of,
)
from netdiff_ray.labels.flow_plan import plan_flow
from netdiff_ray.labels.loss import LOSSLESS, LossCount
from netdiff_ray.labels.pins import pin_metadata
from netdiff_ray.labels.stack import UNKNOWN, StackCount
from netdiff_ray.labels.statistics import LabelStatistics

HOSTS, OTHERS = CapturedHosts(1, 64, 58), CapturedHosts(0, 128, 128)


def test_times_lie_in_their_octave():
    for later_ns in (0, 1_500, 300_000, 20_000_000):
        own = duplicates_of(1, later_ns)
        least, most = bounds_ns(own)
        assert least <= later_ns <= most
        assert most <= max(2 * later_ns, 2_048)


def test_rare_ways_count_as_the_nearest():
    near, far, rare = FlowDuplicates(1, 9), FlowDuplicates(0, 0), FlowDuplicates(1, 11)
    flows = [near] * 5 + [far] * 3 + [rare] + [None] * 7
    assert disclosed_duplicates([(HOSTS, own) for own in flows], 2) == [
        DuplicateCount(*HOSTS, 1, 0, 0, 7), DuplicateCount(*HOSTS, 2, 0, 0, 3),
        DuplicateCount(*HOSTS, 2, 1, 9, 6),
    ]  # fmt: skip
    assert disclosed_duplicates([(HOSTS, own) for own in [rare, near] + [None] * 9], 2) == []
    assert disclosed_duplicates([(HOSTS, None)] * 9, 2) == []


def test_rare_hosts_count_together():
    near = FlowDuplicates(1, 9)
    flows = [(HOSTS._replace(client_lifetime=k), near) for k in range(60, 64)]
    flows += [(HOSTS, None)] * 3 + [(OTHERS, None)]
    any_hosts = CapturedHosts(UNKNOWN, UNKNOWN, UNKNOWN)
    rows = disclosed_duplicates(flows, 2)
    assert rows == [DuplicateCount(*any_hosts, 2, 1, 9, 4), DuplicateCount(*HOSTS, 1, 0, 0, 3)]
    assert {draw_duplicates(rows, HOSTS, seed) for seed in range(20)} == {None}
    assert {draw_duplicates(rows, OTHERS, seed) for seed in range(20)} == {near}


def test_flows_are_drawn_in_proportion():
    rows = [DuplicateCount(*HOSTS, 1, 0, 0, 30), DuplicateCount(*HOSTS, 2, 1, 9, 10)]
    for hosts in (HOSTS, OTHERS):
        drawn = Counter(draw_duplicates(rows, hosts, seed) for seed in range(400))
        assert drawn == {None: 300, FlowDuplicates(1, 9): 100}
    assert draw_duplicates([], HOSTS, 5) is None


@pytest.mark.parametrize(
    "row", [(3, 0, 0, 9), (1, 1, 0, 9), (2, 200, 0, 9), (2, 0, 99, 9), (1, 0, 0, 1)]
)
def test_impossible_rows_are_refused(row):
    with pytest.raises(ValueError, match="duplicates cannot have"):
        check_duplicate_count(DuplicateCount(*HOSTS, *row), 2)
    with pytest.raises(ValueError, match="duplicates cannot have"):
        check_duplicate_count(DuplicateCount(1, 300, 64, 1, 0, 0, 9), 2)


@pytest.mark.parametrize(
    ("pins", "is_twice"),
    [
        (PlanPins(), True), (PlanPins(min_packets=2), False), (PlanPins(max_packets=9), False),
        (PlanPins(loss="0"), False),
    ],
)  # fmt: skip
def test_pinned_lengths_and_losses_count_packets_once(pins, is_twice):
    stack = stack_of()
    whole = metadata_of([StackCount(*stack, 9)])
    service = replace(
        whole.labels["x"].services["s"],
        duplicates=[DuplicateCount(*captured_hosts(stack), 2, 1, 9, 9)],
        losses=[LossCount(4, LOSSLESS, 9)],
    )
    whole = replace(whole, labels={"x": LabelStatistics(services={"s": service})})
    metadata = whole if pins == PlanPins() else pin_metadata(whole, {"x"}, pins)
    plan = plan_flow(metadata, "x", 0, 0)
    assert plan.duplicates == (FlowDuplicates(1, 9) if is_twice else None)
