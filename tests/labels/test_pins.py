"""What users fix of the plans: labels' statistics are restricted to it."""

from collections import Counter

import pytest
from labels.stack_builders import metadata_of, stack_of, udp_stack

from netdiff_ray.config.pins import PlanPins
from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.adapter_metadata import metadata_to_json
from netdiff_ray.labels.flow_plan import plan_flow
from netdiff_ray.labels.length_bins import LengthBin
from netdiff_ray.labels.pins import pin_metadata
from netdiff_ray.labels.stack import StackCount
from netdiff_ray.labels.statistics import LabelStatistics


def metadata():
    """Return metadata of a label "x": services of TCP over IPv4 and 6, and of UDP over IPv4."""
    web = metadata_of(
        [
            StackCount(*stack_of(), 60),
            StackCount(*stack_of("ipv6 tcp", client_dont_fragment=-1, server_dont_fragment=-1), 20),
        ],
        {
            "ipv4 tcp": [LengthBin(3, 3, 20), LengthBin(8, 17, 40)],
            "ipv6 tcp": [LengthBin(5, 5, 20)],
        },
    )
    dns = metadata_of([StackCount(*udp_stack(), 20)], {"ipv4 udp": [LengthBin(2, 2, 20)]})
    services = {
        "tcp-443": web.labels["x"].services["s"], "udp-53": dns.labels["x"].services["s"],
    }  # fmt: skip
    web.labels["x"] = LabelStatistics(services=services)
    return web


def plans(pins, number=300):
    pinned = pin_metadata(metadata(), ["x"], pins)
    return [plan_flow(pinned, "x", 1, k) for k in range(number)]


def test_without_pins_nothing_changes():
    assert pin_metadata(metadata(), ["x"], PlanPins()) == metadata()


def test_a_service_is_pinned():
    assert {plan.service for plan in plans(PlanPins(service="udp-53"))} == {"udp-53"}


def test_an_ip_version_is_pinned_with_stacks_and_lengths_of_it():
    drawn = plans(PlanPins(ip_version=6))
    assert {plan.stack.headers for plan in drawn} == {"ipv6 tcp"}
    assert {plan.num_packets for plan in drawn} == {5}


def test_lengths_are_pinned_and_keep_their_proportions():
    drawn = plans(PlanPins(min_packets=3, max_packets=12), 1000)
    lengths = Counter(plan.num_packets for plan in drawn)
    assert set(lengths) == {3, 5, 8, 9, 10, 11, 12}
    # 20 flows of 3 packets, 20 of 5, and half of the 40 of 8 to 17.
    for number in (lengths[3], lengths[5], sum(lengths[k] for k in range(8, 13))):
        assert 260 < number < 410


def test_pins_hold_together():
    drawn = plans(PlanPins(service="tcp-443", ip_version=4, max_packets=3))
    assert {(plan.service, plan.num_packets) for plan in drawn} == {("tcp-443", 3)}


@pytest.mark.parametrize(
    "pins",
    [
        PlanPins(service="tcp-80"), PlanPins(service="udp-53", ip_version=6),
        PlanPins(min_packets=18), PlanPins(service="tcp-443", max_packets=2),
    ],
)  # fmt: skip
def test_what_a_label_never_did_is_refused_with_what_it_did(pins):
    with pytest.raises(ConfigError) as error:
        pin_metadata(metadata(), ["x"], pins)
    assert "tcp-443: IPv4 and IPv6, 3 to 17 packets" in str(error.value)
    assert "udp-53: IPv4, 2 to 2 packets" in str(error.value)


def test_an_unknown_label_is_refused():
    with pytest.raises(ConfigError, match="does not know label 'y'"):
        pin_metadata(metadata(), ["y"], PlanPins(service="udp-53"))


@pytest.mark.parametrize("values", [{"min_packets": 0}, {"min_packets": 4, "max_packets": 3}])
def test_pins_that_contradict_each_other(values):
    with pytest.raises(ConfigError, match="packets is"):
        PlanPins(**values)


def test_pinned_metadata_can_be_written():
    pinned = pin_metadata(metadata(), ["x"], PlanPins(min_packets=9))
    assert metadata_to_json(pinned)["labels"]["x"]["services"].keys() == {"tcp-443"}
