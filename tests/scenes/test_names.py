"""Names of servers: each its own, as long as lookups of the label have room for."""

from dataclasses import replace

import pytest
from scenes.scene_builders import metadata, scene

from netdiff_ray.dialogue.dns import wire_name
from netdiff_ray.header_bytes import IPPROTO_UDP
from netdiff_ray.labels.profile import PayloadCount, Profile, Succession
from netdiff_ray.labels.statistics import LabelStatistics
from netdiff_ray.scenes.names import server_name, with_question
from netdiff_ray.scenes.planner import GROUP_INDICES, ScenePlanner

SIZES = (36, 44, 61)


def profile(sizes=SIZES):
    """Return a profile of lookups whose questions have these sizes, and answers 16 bytes more."""
    return Profile(
        payloads=[
            *(PayloadCount(IPPROTO_UDP, 0, 0, size, 0, 4, 0) for size in sizes),
            *(PayloadCount(IPPROTO_UDP, 1, 1, size + 16, 0, 4, 4) for size in sizes),
        ],
        successions=[Succession(IPPROTO_UDP, 0, 0, size, 0, 1, size + 16, 0, 4) for size in sizes],
    )


def with_lookups(sizes):
    whole = metadata()
    service = replace(whole.labels["dns"].services["udp-53"], profile=profile(sizes))
    dns = LabelStatistics(services={"udp-53": service})
    return replace(whole, labels={**whole.labels, "dns": dns})


@pytest.mark.parametrize("question", [0, 35, 40, 90])
def test_no_two_servers_have_the_same_name(question):
    names = {server_name(1, server, question) for server in range(3000)}
    assert len(names) == 3000
    if question:
        assert {12 + len(wire_name(name)) + 4 for name in names} == {question}
    assert names != {server_name(2, server, question) for server in range(3000)}


def test_lookups_and_connections_name_the_same_server():
    planner = ScenePlanner(with_lookups((20, *SIZES, 300)), scene(), 5)
    counts = planner.counts()
    flows = [
        flow
        for label in ("dns", "web")
        for flow in planner.flows(label, 0 * GROUP_INDICES, counts[label][0])
    ]
    lookups = [flow for flow in flows if flow.plan.service == "udp-53"]
    connections = [flow for flow in flows if flow.plan.service == "tcp-443"]
    asked = {flow.named.host: flow.named.addresses for flow in lookups}
    assert {flow.question for flow in lookups} == set(SIZES)
    assert {flow.question for flow in connections} == {0}
    for flow in lookups:
        assert 12 + len(wire_name(flow.named.host)) + 4 == flow.question
    known = [flow for flow in connections if flow.named.host in asked]
    assert len(known) >= 0.95 * len(connections)
    assert all(asked[flow.named.host] == (flow.addresses.server,) for flow in known)


def test_where_no_question_fits_names_are_of_any_length():
    planner = ScenePlanner(with_lookups((20, 300)), scene(), 5)
    count = planner.counts()["dns"][0]
    assert {flow.question for flow in planner.flows("dns", 0, count)} == {0}


def test_a_profile_of_a_question_has_that_question_alone():
    only = with_question(profile(), 44)
    assert [row.payload_bytes for row in only.payloads if row.packet == 0] == [44]
    assert [row.payload_bytes for row in only.payloads if row.packet == 1] == [52, 60, 77]
    assert [row.next_payload_bytes for row in only.successions] == [60]
    assert with_question(profile(), 45) == profile()
