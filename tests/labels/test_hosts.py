"""Hosts: how a service's flows share them, and which each planned flow has."""

import itertools
import json
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labels.stack_builders import MAC, metadata_of, stack_of, udp_stack
from pydantic import TypeAdapter, ValidationError

from netdiff_ray.errors import ModelError
from netdiff_ray.labels.adapter_metadata import metadata_from_json, metadata_to_json
from netdiff_ray.labels.flow_plan import plan_flow
from netdiff_ray.labels.host_plan import block_flows, planned_hosts
from netdiff_ray.labels.hosts import HostBin, HostSharing, describe_hosts, size_at
from netdiff_ray.labels.length_bins import LengthBin
from netdiff_ray.labels.stack import StackCount
from netdiff_ray.labels.statistics import LabelStatistics

SHARED = [(client, server) for client in range(30) for server in range(client % 5, client % 5 + 3)]
"""Client and server of flows: 30 clients, 90 pairs, servers 0 to 6."""


def metadata(stacks=None, pairs=SHARED):
    """Return metadata of a label whose flows share hosts as those of `pairs` do."""
    stacks = stacks or [
        StackCount(*stack_of(), 40),
        StackCount(*stack_of(client_lifetime=128, client_options=MAC, server_options=MAC), 30),
        StackCount(*stack_of(server_lifetime=119, server_dont_fragment=0), 20),
    ]
    whole = metadata_of(stacks)
    service = whole.labels["x"].services["s"]
    service = replace(service, hosts=describe_hosts(pairs))
    return replace(whole, labels={"x": LabelStatistics(services={"s": service})})


def hosts_of(whole, number, seed=1, first=0):
    return list(itertools.islice(planned_hosts(whole, "x", seed, first), number))


def shares_of(hosts):
    """Return the flows of each client, of each pair, and the clients of each server."""
    pairs = Counter(((h.block, h.client), (h.block, h.server)) for h in hosts)
    clients, servers = Counter(), Counter()
    for (client, server), flows in pairs.items():
        clients[client] += flows
        servers[server] += 1
    return clients, pairs, servers


def test_sizes_are_counted_in_bins_of_several_hosts():
    flows = {0: 1, 1: 1, 2: 2, 3: 3, 4: 3, 5: 3, 6: 20, 7: 40}
    sharing = describe_hosts((client, 9) for client, n in flows.items() for _ in range(n))
    # One client has two flows; it counts with those of one, and the 40 with the 20.
    assert sharing.client_flows == [
        HostBin(1, 2, 3, 4), HostBin(3, 3, 3, 9), HostBin(17, 64, 2, 60),
    ]  # fmt: skip
    assert sharing.pair_flows == sharing.client_flows
    assert sharing.server_clients == [HostBin(8, 8, 1, 8)]


def test_a_single_host_has_what_all_flows_have():
    assert describe_hosts([(1, 2)] * 62).client_flows == [HostBin(33, 64, 1, 62)]
    assert describe_hosts([]) == HostSharing()


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(0, 2**40))
def test_a_drawn_size_is_within_its_bins(sizes, choice):
    flows = ((client, client) for client, size in enumerate(sizes) for _ in range(size))
    bins = describe_hosts(flows).client_flows
    assert sum(row.hosts for row in bins) == len(sizes)
    assert sum(row.total for row in bins) == sum(sizes)
    assert all(row.hosts > 1 for row in bins) or len(bins) == 1
    for place in (0.0, 0.3, 1.0):
        size = size_at(bins, choice, place)
        assert any(row.fewest <= size <= row.most for row in bins)


def test_drawn_sizes_keep_the_mean():
    bins = [HostBin(1, 1, 6, 6), HostBin(17, 64, 3, 75)]
    drawn = [size_at(bins, k, (k // 9 + 0.5) / 200) for k in range(1800)]
    assert sum(drawn) / len(drawn) == pytest.approx(81 / 9, rel=0.02)


@pytest.mark.parametrize(
    "bins",
    [
        [[2, 1, 2, 3]], [[1, 2, 2, 9]], [[1, 1, 2, 2], [3, 4, 1, 3]], [[0, 1, 2, 1]],
        [[3, 4, 2, 7], [1, 1, 2, 2]],
    ],
)  # fmt: skip
def test_impossible_bins_are_refused(bins):
    edited = {"client_flows": bins, "pair_flows": [], "server_clients": []}
    with pytest.raises(ValidationError, match="client_flows"):
        TypeAdapter(HostSharing).validate_python(edited)


def test_edited_statistics_are_named_with_their_place():
    edited = metadata_to_json(metadata())
    edited["labels"]["x"]["services"]["s"]["hosts"]["server_clients"] = [[5, 1, 2, 6]]
    with pytest.raises(ModelError, match=r"labels.x.services.s.hosts: .*server_clients cannot"):
        metadata_from_json(json.dumps(edited), "adapter.json")


def test_hosts_depend_on_seed_label_and_index_alone():
    whole = metadata()
    hosts = hosts_of(whole, 250)
    for first in (0, 1, 89, 90, 200):
        assert hosts_of(whole, 40, first=first) == hosts[first : first + 40]
    assert hosts_of(whole, 250, seed=2) != hosts


def test_flows_share_hosts_as_training_flows_did():
    hosts = hosts_of(metadata(), 900)
    clients, pairs, servers = shares_of(hosts)
    blocks = 900 // block_flows(metadata(), "x")
    assert 30 * blocks <= len(clients) <= 36 * blocks
    assert set(clients.values()) <= {1, 2, 3}
    assert Counter(clients.values()).most_common(1)[0][0] == 3
    assert 0.8 * 90 * blocks <= len(pairs) <= 90 * blocks
    assert 7 * blocks <= len(servers) <= 10 * blocks


def test_a_host_has_one_stack():
    whole = metadata()
    hosts = hosts_of(whole, 450)
    clients, servers, hops = defaultdict(set), defaultdict(set), defaultdict(set)
    for index, host in enumerate(hosts):
        stack = plan_flow(whole, "x", 1, index).stack
        client, server = (host.block, host.client), (host.block, host.server)
        clients[client].add(
            (stack.client_lifetime, stack.client_dont_fragment, stack.client_options)
        )
        servers[(*server, stack.client_options)].add(
            (stack.server_options, stack.server_dont_fragment)
        )
        hops[client, server].add(stack.server_lifetime)
    for of_host in (clients, servers, hops):
        assert {len(stacks) for stacks in of_host.values()} == {1}


@pytest.mark.parametrize(
    "stack",
    [
        udp_stack(client_port=123, server_port=123),
        udp_stack(server_port=-1),
        stack_of("ipv4 icmp", server_port=0, client_options="-", server_options="-",
                 client_window=-1, server_window=-1),
    ],
)  # fmt: skip
def test_flows_whose_ports_do_not_tell_them_apart_differ_in_their_hosts(stack):
    hosts = hosts_of(metadata([StackCount(*stack, 90)]), 180)
    _, pairs, _ = shares_of(hosts)
    assert set(pairs.values()) == {1}


def test_without_known_hosts_each_flow_has_a_client_of_its_own():
    clients, _, servers = shares_of(hosts_of(metadata(pairs=()), 90))
    assert set(clients.values()) == {1}
    assert max(servers.values()) > 10


def test_a_label_of_one_flow():
    whole = metadata_of([], {"ipv4 udp": [LengthBin(2, 2, 1)]})
    service = replace(whole.labels["x"].services["s"], num_flows=1, hosts=describe_hosts([(1, 2)]))
    whole.labels["x"] = LabelStatistics(services={"s": service})
    assert [(h.block, h.client, h.server) for h in hosts_of(whole, 3)] == [
        (0, 0, 0), (1, 0, 0), (2, 0, 0),
    ]  # fmt: skip


def test_stacks_of_few_flows_keep_their_proportions():
    stacks = [StackCount(*stack_of(client_lifetime=ttl), 30) for ttl in (60, 61, 62)]
    whole = metadata(stacks)
    drawn = Counter(plan_flow(whole, "x", 5, k).stack.client_lifetime for k in range(90))
    assert all(27 <= number <= 33 for number in drawn.values())
