"""Lengths of flows by their hosts: counted, drawn and pinned."""

from dataclasses import replace

import pytest
from stack_builders import metadata_of, stack_of

from netdiff_ray.config.pins import PlanPins
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.flow_plan import plan_flow
from netdiff_ray.labels.host_lengths import (
    HostLength,
    check_host_length,
    count_host_lengths,
    host_kind,
)
from netdiff_ray.labels.length_bins import LengthBin
from netdiff_ray.labels.pins import pin_metadata
from netdiff_ray.labels.stack import NO_SYN, StackCount

OPENED = stack_of()
LATER = stack_of(client_options=NO_SYN, server_options=NO_SYN)
FAR = stack_of(server_lifetime=40)


def lengths_of(metadata: AdapterMetadata, num_flows=60) -> dict[int, set[int]]:
    """Return the packets of planned flows by whether a handshake opens them."""
    plans = [plan_flow(metadata, "x", 3, index) for index in range(num_flows)]
    return {k: {plan.num_packets for plan in plans if plan.stack.opens == k} for k in (0, 1)}


def two_kinds() -> AdapterMetadata:
    """Return metadata of flows of 20 to 40 packets that a handshake opens, and others of 5."""
    flows = [(OPENED, n) for n in (20, 30, 40) * 3] + [(LATER, 5)] * 6
    whole = metadata_of(
        [StackCount(*OPENED, 9), StackCount(*LATER, 6)],
        lengths={"ipv4 tcp": [LengthBin(5, 5, 6), LengthBin(20, 40, 9)]},
    )
    service = replace(whole.labels["x"].services["s"], host_lengths=count_host_lengths(flows))
    labels = {"x": replace(whole.labels["x"], services={"s": service})}
    return replace(whole, labels=labels)


def test_hosts_with_few_flows_are_left_out():
    flows = [(OPENED, 9)] * 5 + [(OPENED, 100)] + [(FAR, 7)] * 5
    assert count_host_lengths(flows) == [
        HostLength(*host_kind(OPENED), 9, 9, 5), HostLength(*host_kind(OPENED), 97, 105, 1),
    ]  # fmt: skip


def test_lengths_are_those_of_the_hosts():
    lengths = lengths_of(two_kinds())
    assert lengths[0] == {5}
    assert min(lengths[1]) == 20
    assert max(lengths[1]) > 30


def test_pinned_lengths_hold_for_all_hosts():
    longer = pin_metadata(two_kinds(), {"x"}, PlanPins(min_packets=30))
    assert all(min(of, default=30) >= 30 for of in lengths_of(longer).values())
    shorter = pin_metadata(two_kinds(), {"x"}, PlanPins(max_packets=25))
    assert all(max(of, default=25) <= 25 for of in lengths_of(shorter).values())


@pytest.mark.parametrize(
    ("headers", "length"),
    [("ipv9", (1, 2, 3)), ("ipv4 tcp", (0, 2, 3)), ("ipv4 tcp", (3, 2, 3))],
)
def test_impossible_rows_are_refused(headers, length):
    wrong = "ipv9" if headers == "ipv9" else "at least one has 1 or more"
    with pytest.raises(ValueError, match=wrong):
        check_host_length(HostLength(headers, 0, 1, 64, 64, *length))
