"""Networks as users write them."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network

from netdiff_ray.errors import ConfigError

Net = IPv4Network | IPv6Network

_OF_NO_HOST = {
    ip_network("0.0.0.0/8"): "this network (RFC 1122)", ip_network("127.0.0.0/8"): "loopback",
    ip_network("224.0.0.0/4"): "multicast", ip_network("240.0.0.0/4"): "reserved",
    ip_network("::/127"): "unspecified and loopback", ip_network("ff00::/8"): "multicast",
}  # fmt: skip


def parse_nets(name: str, texts: Sequence[str]) -> tuple[Net, ...]:
    """Return the networks of texts as in 192.0.2.0/24 or 2001:db8::/64.

    Args:
        name: of the field that has them.

    Raises:
        ConfigError: a text is no network, a network has addresses that no host has, or two overlap.
    """
    nets: list[Net] = []
    for text in texts:
        try:
            net = ip_network(text)
        except ValueError:
            raise ConfigError(f"{name} has {text!r}; {_hint(text)}") from None
        for other, what in _OF_NO_HOST.items():
            if overlap(other, net):
                raise ConfigError(f"{name} has {text!r}, and no host is in {other}: {what}")
        known = next((known for known in nets if overlap(known, net)), None)
        if known is not None:
            raise ConfigError(f"{name} has {known} and {net}, which overlap: leave one out")
        nets.append(net)
    return tuple(nets)


def overlap(net: Net, other: Net) -> bool:
    """Return whether two networks have an address in common."""
    return net.version == other.version and net.overlaps(other)


def _hint(text: str) -> str:
    """Return what is right in the place of a text that is no network."""
    try:
        return f"that is an address in {ip_interface(text).network}: name the network"
    except ValueError:
        return "a network is an address and a length, as in 192.0.2.0/24 or 2001:db8::/64"
