"""Metadata of an adapter that knows how flows follow each other, and scenes of it."""

from dataclasses import replace

from labels.stack_builders import metadata_of, stack_of, udp_stack

from netdiff_ray.labels.hosts import HostBin, HostSharing
from netdiff_ray.labels.sessions import FlowSuccession, SessionStart, SessionStatistics
from netdiff_ray.labels.stack import NO_SYN, UNKNOWN, StackCount
from netdiff_ray.labels.statistics import LabelStatistics
from netdiff_ray.scenes.scene import Scene, Site

SHARING = HostSharing(
    client_flows=[HostBin(4, 4, 10, 40)], pair_flows=[HostBin(2, 2, 20, 40)],
    server_clients=[HostBin(2, 2, 8, 16), HostBin(3, 4, 2, 7)],
)  # fmt: skip
SESSIONS = SessionStatistics(
    starts=[SessionStart("dns", "udp-53", 3), SessionStart("web", "tcp-443", 20)],
    follows=[
        FlowSuccession("web", "tcp-443", "web", "tcp-443", 3, 1, 30),
        FlowSuccession("web", "tcp-443", "web", "tcp-443", 11, 0, 20),
        FlowSuccession("dns", "udp-53", "web", "tcp-443", 5, 0, 9),
        FlowSuccession("dns", "udp-53", "dns", "udp-53", 5, 1, 2),
    ],
    session_flows=[HostBin(1, 1, 10, 10), HostBin(3, 8, 10, 50)],
    client_sessions=[HostBin(1, 1, 4, 4), HostBin(2, 8, 4, 20)],
    sessions_per_hour=30.0,
)


def service_of(*stacks):
    return replace(metadata_of(list(stacks)).labels["x"].services["s"], hosts=SHARING)


def metadata(sessions=SESSIONS):
    """Return metadata of web, dns, a ping without ports and clocks with planned ones."""
    ping = stack_of(
        "ipv4 icmp", server_port=0, client_options=NO_SYN, server_options=NO_SYN,
        client_window=UNKNOWN, server_window=UNKNOWN,
    )  # fmt: skip
    labels = {
        "clock": {
            "udp-123": service_of(StackCount(*udp_stack(server_port=123, client_port=123), 9))
        },
        "dns": {"udp-53": service_of(StackCount(*udp_stack(), 30))},
        "ping": {"icmp": service_of(StackCount(*ping, 5))},
        "web": {
            "tcp-443": service_of(
                StackCount(*stack_of(), 40),
                StackCount(*stack_of(client_lifetime=128, server_lifetime=120), 30),
            )
        },
    }
    whole = {label: LabelStatistics(services=services) for label, services in labels.items()}
    return replace(metadata_of([StackCount(*stack_of(), 4)]), labels=whole, sessions=sessions)


def scene(**changes):
    """Return a scene of 100 hosts in IPv4, two groups of them, half an hour."""
    site = Site(name="office", hosts=100, nets=("10.1.0.0/24",), resolvers=2)
    values = {"minutes": 30.0, "sites": (site,), "servers": ("172.16.0.0/12",), **changes}
    return Scene(**values)
