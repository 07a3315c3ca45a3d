"""Keys that flows and label rows share: a hash of their endpoints, whichever is named first.

Shape letters: N flows or label rows.
"""

from typing import NamedTuple

import numpy as np

from netdiff_ray.flow_keys import MIX
from netdiff_ray.header_bytes import IPPROTO_TCP, IPPROTO_UDP

_SHIFT = np.uint64(32)
_WORD_16 = np.uint64(0xFFFF)


class KeyParts(NamedTuple):
    """What a label table says of a flow's endpoints beside their addresses."""

    ports: bool
    protocol: bool


class Endpoints(NamedTuple):
    """Endpoints of N flows or label rows. An IPv4 address stands in the low word."""

    src_high: np.ndarray
    """(N,) uint64: the first 64 bits of the address."""
    src_low: np.ndarray
    dst_high: np.ndarray
    dst_low: np.ndarray
    sport: np.ndarray
    """(N,) uint64."""
    dport: np.ndarray
    protocol: np.ndarray
    """(N,) uint64: IP protocol number."""


def endpoint_keys(ends: Endpoints, parts: KeyParts) -> np.ndarray:
    """Return (N,) uint64: equal for equal endpoints, in either order.

    Ports count for TCP and UDP alone: tools write types, codes or nothing there for ICMP.
    """
    has_ports = (ends.protocol == IPPROTO_TCP) | (ends.protocol == IPPROTO_UDP)
    if not parts.protocol:
        has_ports[:] = True
    if not parts.ports:
        has_ports[:] = False
    sport, dport = (np.where(has_ports, port, np.uint64(0)) for port in (ends.sport, ends.dport))
    same_high = ends.src_high == ends.dst_high
    swap = (ends.src_high > ends.dst_high) | (same_high & (ends.src_low > ends.dst_low))
    swap |= same_high & (ends.src_low == ends.dst_low) & (sport > dport)
    pairs = (
        (ends.src_high, ends.dst_high),
        (ends.src_low, ends.dst_low),
        (sport, dport),
    )
    key = ends.protocol.copy() if parts.protocol else np.zeros(len(swap), np.uint64)
    for first, second in pairs:
        for word in (np.where(swap, second, first), np.where(swap, first, second)):
            key ^= word
            key *= MIX
            key ^= key >> _SHIFT
    return key


def keys_of_flows(words: np.ndarray, parts: KeyParts) -> np.ndarray:
    """Return (N,) uint64 keys of flows.

    Args:
        words: (N, KEY_WORDS) uint64, see `flow_keys`.
        parts: of the label table.
    """
    last = words[:, 4]
    protocol = (last >> np.uint64(8)) & np.uint64(0xFF)
    sport, dport = (last >> _SHIFT) & _WORD_16, (last >> np.uint64(16)) & _WORD_16
    if not parts.protocol:  # an ICMP flow has its type and identifier there
        is_datagram = (protocol == IPPROTO_TCP) | (protocol == IPPROTO_UDP)
        sport, dport = (np.where(is_datagram, port, np.uint64(0)) for port in (sport, dport))
    addresses = (np.ascontiguousarray(words[:, k]) for k in range(4))
    return endpoint_keys(Endpoints(*addresses, sport, dport, protocol), parts)
