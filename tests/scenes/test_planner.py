"""Plans of a scene's flows: who, when, with whom, and the same wherever they are planned."""

from collections import Counter, defaultdict
from dataclasses import replace
from ipaddress import ip_address, ip_network

import numpy as np
import pytest
from scenes.scene_builders import metadata, scene

from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.sessions import SessionStatistics
from netdiff_ray.labels.stack import UNKNOWN
from netdiff_ray.scenes.planner import GROUP_INDICES, ScenePlanner
from netdiff_ray.scenes.scene import Incident, Site
from netdiff_ray.scenes.sessions import rank_within


def planned(planner):
    """Return all flows of a scene, by (label, index)."""
    return {
        (label, flow.plan.index): flow
        for label, groups in planner.counts().items()
        for group, count in groups.items()
        for flow in planner.flows(label, group * GROUP_INDICES, count)
    }


@pytest.fixture(scope="module")
def flows():
    mixed = scene(
        labels=(("clock", 1.0), ("dns", 1.0), ("ping", 1.0), ("web", 8.0)),
        incidents=(
            Incident(
                name="flood", label="web", begin_minute=10, minutes=1, flows_per_second=4,
                sources=3,
            ),
        ),
    )  # fmt: skip
    return planned(ScenePlanner(metadata(), mixed, 5))


def test_parts_are_what_the_whole_has_wherever_they_are_planned(flows):
    planner = ScenePlanner(metadata(), scene(), 5)
    whole = planned(planner)
    assert whole == planned(ScenePlanner(metadata(), scene(), 5))
    assert whole != planned(ScenePlanner(metadata(), scene(), 6))
    counts = planner.counts()["web"]
    assert list(counts) == [0, 1]
    for group in (1, 0):
        for first in range(0, counts[group], 50):
            begin = group * GROUP_INDICES + first
            part = ScenePlanner(metadata(), scene(), 5).flows("web", begin, 50)
            assert part == [whole["web", begin + k] for k in range(len(part))]


def test_no_two_flows_have_the_same_endpoints(flows):
    assert len(flows) > 300
    ends = Counter(
        (
            flow.plan.stack.protocols, flow.addresses, flow.plan.stack.server_port,
            flow.client_port if flow.client_port != UNKNOWN else flow.plan.stack.client_port,
        )
        for flow in flows.values()
    )  # fmt: skip
    assert max(ends.values()) == 1
    assert {flow.plan.service for flow in flows.values()} >= {"udp-123", "icmp", "udp-53"}


def test_hosts_are_in_their_networks_and_have_one_lifetime(flows):
    lifetimes = defaultdict(set)
    for flow in flows.values():
        client, server = map(ip_address, flow.addresses)
        assert client in ip_network("10.1.0.0/24")
        at_home = server in ip_network("10.1.0.0/24")
        assert at_home == (flow.plan.service == "udp-53")
        lifetimes[client].add(flow.plan.stack.client_lifetime)
        lifetimes[server].add(flow.plan.stack.server_lifetime)
    assert all(len(of_host) == 1 for of_host in lifetimes.values())
    assert set().union(*lifetimes.values()) == {57, 64, 120, 128}


def test_connections_begin_with_a_lookup_of_their_server(flows):
    planner = ScenePlanner(metadata(), scene(), 5)
    for group in range(2):
        flows = planner.schedule(group)
        is_lookup = planner.tables.is_lookup[flows.service]
        asked = defaultdict(list)
        for at in np.flatnonzero(is_lookup):
            asked[flows.host[at], flows.named[at]].append(flows.start_s[at])
        connections = np.flatnonzero(~is_lookup)
        late = [
            at
            for at in connections
            if not any(
                0 < flows.start_s[at] - when <= 600
                for when in asked[flows.host[at], flows.named[at]]
            )
        ]
        assert len(connections) > 50
        assert len(late) <= 0.02 * len(connections)
    silent = ScenePlanner(metadata(), scene(lookups=0.0, labels=(("web", 1.0),)), 5)
    assert "dns" not in silent.counts()


def test_labels_have_their_weights_and_hosts_their_rate():
    sessions = replace(SessionStatistics(), sessions_per_hour=30.0)
    one = metadata(sessions)
    planner = ScenePlanner(
        one, scene(labels=(("web", 3.0), ("ping", 1.0)), minutes=600.0, lookups=0.0), 1
    )
    counts = {label: sum(of.values()) for label, of in planner.counts().items()}
    assert counts["web"] / counts["ping"] == pytest.approx(3, rel=0.1)
    assert sum(counts.values()) == pytest.approx(100 * 10 * 30 * 4, rel=0.1)


def test_a_day_is_as_busy_as_its_profile_says():
    daily = tuple(4.0 if 8 <= hour < 20 else 1.0 for hour in range(24))
    planner = ScenePlanner(
        metadata(), scene(minutes=1440.0, daily=daily, start="2026-03-02T06:30:00Z"), 1
    )
    starts = np.concatenate([planner.schedule(group).start_s for group in range(2)])
    hours = ((starts + 6.5 * 3600) // 3600).astype(int) % 24
    by_day = np.isin(hours, range(8, 20)).mean()
    assert by_day == pytest.approx(0.8, abs=0.04)
    assert np.all(np.diff(planner.schedule(0).start_s) >= 0)


def test_incidents_add_flows_or_suppress_them():
    calm = ScenePlanner(metadata(), scene(), 5)
    within = lambda flows: (flows.start_s >= 600) & (flows.start_s < 900)  # noqa: E731
    web = np.array([key.label == "web" for key in calm.tables.services])

    def number(incident):
        planner = ScenePlanner(metadata(), scene(incidents=(incident,)), 5)
        schedules = [planner.schedule(group) for group in range(2)]
        web = np.array([key.label == "web" for key in planner.tables.services])
        return [
            sum((within(s) & web[s.service]).sum() for s in schedules),
            sum((s.incident == 0).sum() for s in schedules),
        ]

    before = sum((within(s) & web[s.service]).sum() for s in map(calm.schedule, range(2)))
    span = {"begin_minute": 10, "minutes": 5, "label": "web"}
    assert number(Incident(name="outage", factor=0.0, **span)) == [0, 0]
    rushed, marked = number(Incident(name="rush", factor=4.0, **span))
    assert rushed > 2.5 * before
    assert marked > 1.5 * before
    flooded, marked = number(Incident(name="flood", flows_per_second=2, sources=70, **span))
    assert marked == pytest.approx(600, rel=0.2)
    assert flooded - before == pytest.approx(marked, rel=0.2)


def test_a_flood_has_its_sources_and_a_scan_its_targets():
    for sources, targets in ((5, 1), (1, 8)):
        incident = Incident(
            name="i", begin_minute=3, minutes=2, label="web", flows_per_second=3, sources=sources,
            targets=targets,
        )  # fmt: skip
        planner = ScenePlanner(metadata(), scene(incidents=(incident,)), 5)
        of = [(s, s.incident == 0) for s in map(planner.schedule, range(2))]
        web = [key.service == "tcp-443" for key in planner.tables.services].index(True)
        assert len({h for s, k in of for h in s.host[k].tolist()}) == sources
        servers = {t for s, k in of for t in s.server[k & (s.service == web)].tolist()}
        assert len(servers) == targets


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": (("webb", 1.0),)}, "does not know label 'webb'; it knows clock, dns"),
        (
            {"incidents": (Incident(name="i", begin_minute=0, minutes=1, label="web", factor=0.0,
                                    service="tcp-1"),)},
            "label 'web' has no service 'tcp-1'; it has tcp-443",
        ),
        ({"servers": ("172.16.0.0/28",)}, "servers has room for 14 IPv4 .* larger networks"),
    ],
)  # fmt: skip
def test_what_an_adapter_does_not_have_is_said(changes, words):
    with pytest.raises(ConfigError, match=words):
        ScenePlanner(metadata(), scene(**changes), 1)


def test_a_host_that_would_take_a_port_again_is_refused():
    incident = Incident(
        name="flood", begin_minute=0, minutes=30, label="web", flows_per_second=20.0
    )
    planner = ScenePlanner(metadata(), scene(incidents=(incident,)), 1)
    counts = planner.counts()["web"]
    group = max(counts, key=counts.get)
    with pytest.raises(ConfigError, match=r"more than 16,377 ports .* more sources or targets"):
        planner.flows("web", group * GROUP_INDICES, 1)


def test_ranks_count_equals_before():
    keys = np.array([4, 2, 4, 4, 2, 9])
    assert rank_within(keys).tolist() == [0, 0, 1, 2, 1, 0]
    assert rank_within(np.empty(0, np.int64)).tolist() == []


def test_sites_have_their_own_labels_and_rates():
    sites = (
        Site(name="a", hosts=70, nets=("10.1.0.0/24",), labels=(("web", 1.0),)),
        Site(name="b", hosts=30, nets=("10.2.0.0/24",), sessions_per_hour=0.0),
    )
    whole = planned(ScenePlanner(metadata(), scene(sites=sites), 5))
    assert {flow.host.partition("-")[0] for flow in whole.values()} == {"a"}
    assert {ip_address(flow.addresses.client) in ip_network("10.1.0.0/24")
            for flow in whole.values()} == {True}  # fmt: skip
