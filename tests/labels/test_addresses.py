"""Addresses of planned hosts, and networks that users give."""

import itertools
from ipaddress import ip_address, ip_network

import pytest
from labels.stack_builders import metadata_of, stack_of, udp_stack
from labels.test_hosts import metadata

from netdiff_ray.config.pins import DEFAULT_START_NS, PlanPins
from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.addresses import flow_addresses, plan_addresses
from netdiff_ray.labels.host_plan import planned_hosts
from netdiff_ray.labels.length_bins import LengthBin
from netdiff_ray.labels.stack import StackCount


def both_versions():
    """Return metadata of a label of IPv4 and IPv6 flows."""
    six = stack_of("ipv6 tcp", client_dont_fragment=-1, server_dont_fragment=-1)
    return metadata_of([StackCount(*stack_of(), 60), StackCount(*six, 20)])


def addresses_of(whole, pins, flows, seed=3):
    plan = plan_addresses(whole, {"x": flows}, pins, seed)
    return list(itertools.islice(flow_addresses(whole, "x", seed, plan=plan), flows))


def test_hosts_lie_in_private_networks_unless_others_are_given():
    pairs = addresses_of(both_versions(), PlanPins(), 200)
    nets = [
        {4: ip_network("10.0.0.0/8"), 6: ip_network("fd00:1::/64")},
        {4: ip_network("172.16.0.0/12"), 6: ip_network("fd00:2::/64")},
    ]
    versions = set()
    for pair in pairs:
        for side, packed in enumerate(pair):
            address = ip_address(packed)
            assert address in nets[side][address.version]
            versions.add(address.version)
    assert versions == {4, 6}


@pytest.mark.parametrize("net", ["192.0.2.0/24", "198.18.0.0/20"])
def test_each_host_has_an_address_of_its_own_in_a_given_network(net):
    whole = metadata()
    flows = 500
    pairs = addresses_of(whole, PlanPins(client_net=(net,)), flows)
    hosts = itertools.islice(planned_hosts(whole, "x", 3), flows)
    clients = {(h.block, h.client): pair.client for h, pair in zip(hosts, pairs, strict=True)}
    assert len(set(clients.values())) == len(clients)
    for packed in clients.values():
        assert ip_address(packed) in ip_network(net)
        assert packed[-1] not in (0, 255)


def test_several_networks_of_both_versions():
    pins = PlanPins(client_net=("192.0.2.0/26", "198.51.100.0/24", "2001:db8::/120"), server_net=())
    pairs = addresses_of(both_versions(), pins, 200)
    used = {net for net in map(ip_network, pins.client_net)
            for pair in pairs if ip_address(pair.client) in net}  # fmt: skip
    assert len(used) == 3
    assert len({pair.client for pair in pairs}) == 200  # hosts are not known: as many as flows


def test_labels_do_not_share_hosts():
    whole = metadata()
    whole.labels["y"] = whole.labels["x"]
    plan = plan_addresses(whole, {"x": 90, "y": 90}, PlanPins(client_net=("192.0.2.0/24",)), 0)
    x, y = (
        {pair.client for pair in itertools.islice(flow_addresses(whole, name, 0, plan=plan), 90)}
        for name in "xy"
    )
    assert not x & y


@pytest.mark.parametrize(
    ("pins", "sentence"),
    [
        (PlanPins(client_net=("192.0.2.0/28",)), "has 14 IPv4 addresses of hosts, and the flows"),
        (PlanPins(server_net=("192.0.2.1/32",)), "server_net has 1 IPv4 .* servers: give larger"),
        (PlanPins(client_net=("2001:db8::/64",)), "no IPv4 network, and label 'x' has IPv4 flows"),
        (
            PlanPins(client_net=("10.0.0.0/8", "2001:db8::/64")),
            "2001:db8::/64, and no flow of 'x' is of IPv6",
        ),
    ],
)
def test_networks_that_do_not_fit_the_flows(pins, sentence):
    with pytest.raises(ConfigError, match=sentence):
        plan_addresses(metadata(), {"x": 100}, pins, 0)


def test_a_version_without_a_network_may_be_pinned_away():
    with pytest.raises(ConfigError, match=r"has IPv6 flows: .*, or pin ip_version 4"):
        plan_addresses(both_versions(), {"x": 9}, PlanPins(client_net=("10.0.0.0/8",)), 0)


def test_very_many_flows_need_as_many_addresses():
    small = PlanPins(client_net=("10.0.0.0/16",))
    with pytest.raises(ConfigError, match=r"65,024 .* for 100,000 flows; for more than 16,384"):
        plan_addresses(metadata(), {"x": 100_000}, small, 0)
    plan_addresses(metadata(), {"x": 100_000}, PlanPins(client_net=("10.0.0.0/8",)), 0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"client_net": ("10.0.0.0/33",)}, "client_net has '10.0.0.0/33'; a network is an address"),
        ({"client_net": ("here",)}, "client_net has 'here'; a network is"),
        ({"server_net": ("192.0.2.7/24",)}, "an address in 192.0.2.0/24: name the network"),
        ({"server_net": ("224.0.0.0/8",)}, "no host is in 224.0.0.0/4: multicast"),
        ({"server_net": ("0.0.0.0/0",)}, "no host is in 0.0.0.0/8"),
        ({"client_net": ("10.0.0.0/8", "10.1.0.0/16")}, "which overlap: leave one out"),
        ({"client_net": ("10.0.0.0/8",), "server_net": ("10.1.0.0/16",)}, "be client and server"),
        ({"start": "yesterday"}, "start is 'yesterday'; it must be a time as in"),
        ({"start": "-1"}, "start is '-1'"),
        ({"start": "1969-12-31"}, "start is '1969"),
        ({"start": "nan"}, "start is 'nan'"),
        ({"start": "5e9"}, "start is '5e9'; .* before 2100"),
    ],
)
def test_pins_that_are_no_networks_or_times(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        PlanPins(**values)


@pytest.mark.parametrize(
    ("start", "start_ns"),
    [
        (None, DEFAULT_START_NS),
        ("0", 0),
        ("1700000000.25", 1_700_000_000_250_000_000),
        ("2026-01-31T08:00:00Z", 1_769_846_400_000_000_000),
        ("2026-01-31T08:00:00", 1_769_846_400_000_000_000),
        ("2026-01-31 09:00:00.000001+01:00", 1_769_846_400_000_001_000),
    ],
)
def test_a_start_is_a_time_or_seconds(start, start_ns):
    assert PlanPins(start=start).start_ns() == start_ns


def test_flows_without_planned_headers_have_no_planned_addresses():
    whole = metadata_of([StackCount(*udp_stack(), 9)], {"": [LengthBin(1, 1, 9)]})
    assert addresses_of(whole, PlanPins(), 3) == [(b"", b"")] * 3
