"""Stacks of hosts, and metadata with them, that tests make."""

from collections import Counter

from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.length_bins import LengthBin
from netdiff_ray.labels.profile import Profile
from netdiff_ray.labels.stack import NO_SYN, UNKNOWN, FlowStack
from netdiff_ray.labels.statistics import LabelStatistics, ServiceStatistics

MAC = "020405b4010303060101080a000000000000000004020000"
"""The SYN of macOS: MSS, NOP, scale, NOP, NOP, timestamps, SACK-permitted, end."""
LINUX = "020405b40402080a000000000000000001030307"
PLAIN = "020405b4"


def stack_of(headers="ipv4 tcp", **changes):
    """Return the stack of a TCP flow between Linux hosts."""
    stack = FlowStack(
        headers=headers, server_port=443, one_way=0, client_port=UNKNOWN,
        client_lifetime=64, client_dont_fragment=1, client_traffic_class=0, client_options=LINUX,
        client_window=64_240,
        server_lifetime=57, server_dont_fragment=1, server_traffic_class=0, server_options=LINUX,
        server_window=65_160,
    )  # fmt: skip
    return stack._replace(**changes)


def udp_stack(**changes):
    return stack_of(
        "ipv4 udp", client_options=NO_SYN, server_options=NO_SYN, client_window=UNKNOWN,
        server_window=UNKNOWN, **{"server_port": 53, **changes},
    )  # fmt: skip


def metadata_of(stacks, lengths=None):
    """Return metadata of the label "x" with a service "s" of the stacks."""
    flows = Counter()
    for row in stacks:
        flows[row.one_way, row.headers] += row.flows
    both, one_way = (
        {key[1]: [LengthBin(9, 9, n)] for key, n in sorted(flows.items()) if key[0] == way}
        for way in (0, 1)
    )
    service = ServiceStatistics(
        num_flows=flows.total(), num_windows=9, num_prompts=1, lengths=lengths or both,
        one_way_lengths=one_way, stacks=stacks, profile=Profile(),
    )  # fmt: skip
    return AdapterMetadata(
        base="b", revision=None, base_digest="0", layout="stateful", max_height=32,
        prompt="{label}", labels={"x": LabelStatistics(services={"s": service})}, trained={},
        version="0",
    )  # fmt: skip
