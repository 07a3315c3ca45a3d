"""Session statistics: what follows what at a client, and what is never said of a single one."""

import json
from dataclasses import replace

import pytest
from labels.stack_builders import metadata_of, stack_of

from netdiff_ray.labels.adapter_metadata import metadata_from_json, metadata_to_json
from netdiff_ray.labels.counts import LabelCounts
from netdiff_ray.labels.hosts import HostBin
from netdiff_ray.labels.service import LabelService
from netdiff_ray.labels.sessions import (
    FlowSuccession,
    SessionStart,
    SessionStatistics,
    describe_sessions,
    gap_level,
)
from netdiff_ray.labels.stack import StackCount

DNS, WEB = LabelService("web", "udp-53"), LabelService("web", "tcp-443")
S = 10**9


def counted(flows):
    """Return the counts of (service, capture, start in seconds, client, server)."""
    counts = {}
    for number, (service, capture, start_s, client, server) in enumerate(flows):
        own = counts.setdefault(service, LabelCounts())
        own.starts[str(number)] = capture, int(start_s * S)
        own.hosts[str(number)] = client, server
    return counts


def visit(client, start_s, pages=1):
    """Return the flows of a session: for each page a lookup, and two connections to a server."""
    for page in range(pages):
        at = start_s + 5 * page
        yield DNS, "monday", at, client, 1
        yield WEB, "monday", at + 0.05, client, 50 + page
        yield WEB, "monday", at + 0.06, client, 50 + page


def test_sessions_of_several_clients_are_told():
    flows = [f for client in (7, 8) for at in (0, 1800, 3600) for f in visit(client, at, 2)]
    sessions = describe_sessions(counted(flows))
    assert sessions.starts == [SessionStart("web", "udp-53", 6)]
    assert sessions.follows == [
        FlowSuccession("web", "tcp-443", "web", "tcp-443", gap_level(10**7), 1, 12),
        FlowSuccession("web", "tcp-443", "web", "udp-53", gap_level(4_940_000_000), 0, 6),
        FlowSuccession("web", "udp-53", "web", "tcp-443", gap_level(5 * 10**7), 0, 12),
    ]
    assert sessions.session_flows == [HostBin(5, 8, 6, 36)]
    assert sessions.client_sessions == [HostBin(3, 4, 2, 6)]
    assert sessions.sessions_per_hour == pytest.approx(3, rel=0.01)
    assert sessions.hours == [4, 2] + [0] * 22


def test_nothing_is_said_of_a_single_client():
    alone = [f for at in (0, 600, 1200) for f in visit(7, at)]
    assert describe_sessions(counted(alone)) == SessionStatistics()
    both = describe_sessions(counted([*alone, *visit(8, 0)]))
    assert both.starts == [SessionStart("web", "udp-53", 4)]
    again = describe_sessions(counted([*alone, (WEB, "monday", 9000, 8, 50)]))
    assert again.follows == []
    assert again.starts == []


def test_rare_gaps_of_several_clients_are_joined():
    flows = [
        (WEB, "monday", at, client, 9) for client, gap in ((1, 0.003), (2, 8)) for at in (0, gap)
    ]
    (row,) = describe_sessions(counted(flows)).follows
    assert row == FlowSuccession("web", "tcp-443", "web", "tcp-443", gap_level(8 * S), 1, 2)


def test_the_order_of_flows_and_captures_apart_do_not_matter():
    flows = [f for client in (7, 8, 9) for f in visit(client, client * 100, 3)]
    assert describe_sessions(counted(flows)) == describe_sessions(counted(flows[::-1]))
    other = [(service, f"c{client}", *rest) for service, _, *rest in flows for client in [rest[1]]]
    assert describe_sessions(counted(other)).follows == describe_sessions(counted(flows)).follows


def test_json_keeps_sessions_and_adapters_without_them_are_read():
    flows = [f for client in (7, 8) for f in visit(client, 0, 2)]
    metadata = metadata_of([StackCount(*stack_of(), 4)])
    told = replace(metadata, sessions=describe_sessions(counted(flows)))
    content = metadata_to_json(told)
    assert metadata_from_json(json.dumps(content), "a") == told
    del content["sessions"]
    assert metadata_from_json(json.dumps(content), "a").sessions == SessionStatistics()


@pytest.mark.parametrize(
    "change",
    [
        {"starts": [SessionStart("a", "tcp-1", 1)]},
        {"follows": [FlowSuccession("a", "s", "a", "s", 3, 0, 1)]},
        {"session_flows": [HostBin(1, 1, 1, 1)]},
        {"hours": [1, 2]},
        {"sessions_per_hour": float("nan")},
    ],
)
def test_what_is_of_a_single_client_or_impossible_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SessionStatistics(**change)
