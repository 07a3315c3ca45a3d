"""Addresses of planned hosts, in the networks that users give or in private ones."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import NamedTuple

from netdiff_ray.config.nets import Net, parse_nets
from netdiff_ray.config.pins import PlanPins
from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.adapter_metadata import AdapterMetadata, label_statistics
from netdiff_ray.labels.flow_plan import seed_of
from netdiff_ray.labels.host_plan import FlowHosts, block_flows, planned_hosts

SIDES = ("client", "server")
DEFAULT_NETS: tuple[tuple[Net, ...], ...] = (
    (ip_network("10.0.0.0/8"), ip_network("fd00:1::/64")),
    (ip_network("172.16.0.0/12"), ip_network("fd00:2::/64")),
)
"""Networks by side, unless others are given: private ones (RFC 1918, RFC 4193)."""
MOST_COUNTED_FLOWS = 16_384
"""Flows whose hosts are counted where a network has fewer addresses than there are flows."""
_BYTE = 256
"""Addresses of a block of which the first and the last are no hosts', as in a /24."""
_MOST_HOSTS = 1 << 32


class AddressPair(NamedTuple):
    """The packed addresses of a flow's hosts; empty if they are not planned."""

    client: bytes
    server: bytes


UNPLANNED_ADDRESSES = AddressPair(b"", b"")


@dataclass(frozen=True, kw_only=True)
class AddressPlan:
    """Where the hosts of a dataset have their addresses."""

    nets: tuple[tuple[Net, ...], ...] = DEFAULT_NETS
    """By side, of both IP versions."""
    bases: Mapping[tuple[int, str, int], tuple[int, ...]] = field(default_factory=dict)
    """By side, label and IP version: the place in the networks of each block's first host. Hosts of
    others begin anywhere."""


def flow_addresses(
    metadata: AdapterMetadata,
    label: str,
    seed: int,
    first: int = 0,
    plan: AddressPlan = AddressPlan(),
) -> Iterator[AddressPair]:
    """Yield the addresses of a label's flows, from index `first` on, without end.

    Args:
        seed: of the run.
    """
    starts = [seed_of(seed, label, 0, f"{side}s") for side in SIDES]
    num_flows = block_flows(metadata, label)
    for hosts in planned_hosts(metadata, label, seed, first):
        if not hosts.version:
            yield UNPLANNED_ADDRESSES
            continue
        addresses = []
        for side, number in enumerate((hosts.client, hosts.server)):
            bases = plan.bases.get((side, label, hosts.version))
            if bases is None:
                place = starts[side] + hosts.block * num_flows + number
            else:
                place = bases[hosts.block] + number
            addresses.append(address_at(plan.nets[side], hosts.version, place))
        yield AddressPair(*addresses)


def plan_addresses(
    metadata: AdapterMetadata, counts: Mapping[str, int], pins: PlanPins, seed: int
) -> AddressPlan:
    """Return where the hosts of a run have their addresses.

    In networks that are given, different hosts have different addresses.

    Args:
        metadata: of the flows that have what is pinned.
        counts: flows by label.
        pins: with the networks.
        seed: of the run.

    Raises:
        ConfigError: a network is too small for the hosts, or the flows are of another IP version;
            the message says how many hosts, or which version.
    """
    nets, bases = list(DEFAULT_NETS), {}
    for side, name in enumerate(SIDES):
        given = parse_nets(f"{name}_net", getattr(pins, f"{name}_net"))
        if not given:
            continue
        nets[side] = given
        versions = {label: _versions(metadata, label) for label in counts}
        _check_versions(f"{name}_net", given, versions)
        for version in sorted({net.version for net in given}):
            wanted = {label: n for label, n in counts.items() if version in versions[label]}
            of_version = _bases(metadata, side, version, given, wanted, seed)
            bases |= {(side, label, version): of for label, of in of_version.items()}
    return AddressPlan(nets=tuple(nets), bases=bases)


def _versions(metadata: AdapterMetadata, label: str) -> set[int]:
    """Return the IP versions of a label's flows."""
    services = label_statistics(metadata, label).services.values()
    headers = {headers for service in services for headers, _, _ in service.length_bins}
    return {version for version in (4, 6) if any(h.startswith(f"ipv{version}") for h in headers)}


def _check_versions(name: str, nets: tuple[Net, ...], versions: Mapping[str, set[int]]) -> None:
    """Raise ConfigError unless the networks are of the IP versions that the labels' flows have."""
    given = {net.version for net in nets}
    for label, wanted in versions.items():
        for version in sorted(wanted - given):
            others = "" if wanted == {version} else f", or pin ip_version {min(wanted & given)}"
            raise ConfigError(
                f"{name} has no IPv{version} network, and label {label!r} has IPv{version} flows: "
                f"add a network of theirs{others}"
            )
    for version in sorted(given - set().union(*versions.values())):
        net = next(net for net in nets if net.version == version)
        raise ConfigError(
            f"{name} has {net}, and no flow of {', '.join(map(repr, versions))} is of "
            f"IPv{version}: leave it out"
        )


def _bases(
    metadata: AdapterMetadata,
    side: int,
    version: int,
    nets: tuple[Net, ...],
    counts: Mapping[str, int],
    seed: int,
) -> dict[str, tuple[int, ...]]:
    """Return the place of the first host of each block, by label."""
    room, flows = num_hosts(nets, version), sum(counts.values())
    bases: dict[str, tuple[int, ...]] = {}
    begin = 0
    for label, count in sorted(counts.items()):
        num_flows = block_flows(metadata, label)
        num_blocks = -(-count // num_flows)
        if flows <= room:  # as many hosts as flows fit
            bases[label] = tuple(begin + num_flows * block for block in range(num_blocks))
            begin += count
            continue
        if flows > MOST_COUNTED_FLOWS:
            raise ConfigError(
                f"{SIDES[side]}_net has {room:,} IPv{version} addresses of hosts for {flows:,} "
                f"flows; for more than {MOST_COUNTED_FLOWS:,} flows it needs as many as flows"
            )
        hosts = itertools.islice(planned_hosts(metadata, label, seed), count)
        numbers = _counted(hosts, side, version, num_blocks)
        bases[label] = tuple(begin + before for before in itertools.accumulate(numbers, initial=0))
        begin = bases[label][-1]
    if begin > room and flows > room:
        raise ConfigError(
            f"{SIDES[side]}_net has {room:,} IPv{version} addresses of hosts, and the flows have "
            f"{begin:,} {SIDES[side]}s: give larger networks or more of them, or draw fewer flows"
        )
    return bases


def _counted(hosts: Iterator[FlowHosts], side: int, version: int, num_blocks: int) -> list[int]:
    """Return how many hosts of a side flows have in each of the first blocks."""
    numbers = [0] * num_blocks
    for flow in hosts:
        if flow.version == version:
            number = (flow.client, flow.server)[side]
            numbers[flow.block] = max(numbers[flow.block], number + 1)
    return numbers


def num_hosts(nets: tuple[Net, ...], version: int) -> int:
    """Return how many hosts networks of a version have room for."""
    return sum(_hosts_of(net) for net in nets if net.version == version)


def _hosts_of(net: Net) -> int:
    """Return how many hosts have an address in a network: of IPv4 no first and last of each 256, of
    IPv6 no first (RFC 4291 section 2.6.1)."""
    if net.num_addresses <= 2:
        return net.num_addresses
    if net.version == 6:
        return min(net.num_addresses - 1, _MOST_HOSTS)
    blocks = max(net.num_addresses // _BYTE, 1)
    return net.num_addresses - 2 * blocks


def address_at(nets: tuple[Net, ...], version: int, place: int) -> bytes:
    """Return the address at a place among the hosts of networks, which come again behind the
    last."""
    place %= num_hosts(nets, version)
    for net in nets:
        if net.version != version:
            continue
        if place < _hosts_of(net):
            break
        place -= _hosts_of(net)
    if net.num_addresses > 2:
        per_block = min(net.num_addresses, _BYTE) - 2
        place += 1 + (2 * (place // per_block) if version == 4 else 0)
    return net[place].packed
