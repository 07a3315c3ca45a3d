"""Rules of ports and addresses: the drawn server, and an address plan for what no model draws.

Shape letters: N flows, P packets.
"""

import zlib
from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    DPORT,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_DST,
    IPV4_SRC,
    IPV6_ADDRESS_BYTES,
    IPV6_DST,
    IPV6_SRC,
    SPORT,
    distance,
    get16,
    put16,
)
from netdiff_ray.labels.stack_counts import FIRST_DYNAMIC_PORT
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.splitmix import FOR_HOST, draw_below, mix

_DISSECTED = {51820, 57000, 57621, 58009, 60000, 64738, 65535}
EPHEMERAL = np.array(
    [p for p in range(FIRST_DYNAMIC_PORT, 65_536) if p not in _DISSECTED], np.int64
)
"""Client ports: the dynamic range (RFC 6335 section 6), without those that a tool dissects as
a particular protocol."""

_CLIENT_HOSTS = 256 * 256 * 254
_CLIENTS = _CLIENT_HOSTS * len(EPHEMERAL)
_STRIDE = 15_485_863
"""A prime: steps of it visit each of the clients once."""
assert _CLIENTS % _STRIDE
SERVERS = 32
"""Servers of a label."""


def ports(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle the port of each side of a TCP or UDP flow.

    As planned; a client's that is not planned is ephemeral, and so is that of a layout without
    direction if it is the server's too, as the ports say who sends. Where neither is planned, the
    server's is the bitwise majority of its rows, snapped to the label's ports by Hamming distance,
    and the client's is the same if both sides were drawn with the same.
    """
    choices = _PortChoices(
        np.array(context.server_ports, np.int64), EPHEMERAL, any_side=layout.needs_flow
    )
    _ports(batch.flows, batch.packets, batch.plans.port, choices)


class _PortChoices(NamedTuple):
    """Ports of flows without plans, for the kernel."""

    server: np.ndarray
    """int64: the label's."""
    ephemeral: np.ndarray
    """int64: EPHEMERAL."""
    any_side: bool
    """Whether both sides may have the same port whoever sends."""


@numba.njit(cache=True)
def _client_of(number):
    """Return a client's index in 0.._CLIENTS-1, one to one for numbers below _CLIENTS."""
    whole = np.uint64(_CLIENTS)
    return np.int64(((number % whole) * np.uint64(_STRIDE)) % whole)


@numba.njit(cache=True)
def _ports(flows, packets, planned, choices):
    """Write the ports; `planned` is (N, 2) int64."""
    transport, direction = packets.rows["transport"], packets.direction
    server_port, client_port = flows.server_port, flows.client_port
    ephemeral = choices.ephemeral
    for f in range(len(flows.seed)):
        client_port[f] = ephemeral[_client_of(flows.number[f]) % len(ephemeral)]
        server_port[f] = 0
        if flows.protocol[f] not in (IPPROTO_TCP, IPPROTO_UDP):
            continue
        begin, end = flows.starts[f], flows.starts[f + 1]
        if planned[f, 1] > 0:
            server_port[f] = planned[f, 1]
        else:
            server_port[f], same = _drawn_port(begin, end, packets, choices)
            if same:
                client_port[f] = server_port[f]
        if planned[f, 0] > 0 and (choices.any_side or planned[f, 0] != server_port[f]):
            client_port[f] = planned[f, 0]
        for i in range(begin, end):
            put16(transport, i, DPORT if direction[i] == 0 else SPORT, server_port[f])
            put16(transport, i, SPORT if direction[i] == 0 else DPORT, client_port[f])


@numba.njit(cache=True)
def _drawn_port(begin, end, packets, choices):
    """Return the server's port that packets `begin` to `end` drew, and whether the client's is the
    same."""
    transport, direction = packets.rows["transport"], packets.direction
    server_votes = np.zeros(16, np.int64)
    client_votes = np.zeros(16, np.int64)
    for i in range(begin, end):
        server = get16(transport, i, DPORT if direction[i] == 0 else SPORT)
        client = get16(transport, i, SPORT if direction[i] == 0 else DPORT)
        for b in range(16):
            server_votes[b] += (server >> b) & 1
            client_votes[b] += (client >> b) & 1
    server, client = np.int64(0), np.int64(0)
    for b in range(16):
        server |= np.int64(2 * server_votes[b] > end - begin) << b
        client |= np.int64(2 * client_votes[b] > end - begin) << b
    same = server == client and server != 0
    if not choices.any_side:
        same &= not direction[begin:end].any()
    best, chosen = 17, server if server else np.int64(9)
    for port in choices.server:
        apart = distance(server, port)
        if apart < best:
            best, chosen = apart, port
    return chosen, same


def addresses(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle the address of each side: as planned, or from private ranges.

    There clients are in 10.0.0.0/8 and fd00:1::/64, servers in 172.16.0.0/12 and fd00:2::/64
    (RFC 1918, RFC 4193). Flows with different numbers below 2**37 differ in the client's
    address or port, if the port is ephemeral; those with another port in the address as long as
    their numbers are within 16,646,144 of each other. A label has 32 servers.
    """
    label = np.uint64(zlib.crc32(context.label.encode()))
    _addresses(batch.flows, batch.packets, len(EPHEMERAL), label)
    _planned_addresses(batch.flows, batch.packets, batch.plans)


@numba.njit(cache=True)
def _planned_addresses(flows, packets, plans):
    network, direction = packets.rows["network"], packets.direction
    for f in range(len(flows.seed)):
        source_at = IPV4_SRC if flows.version[f] == 4 else IPV6_SRC
        target_at = IPV4_DST if flows.version[f] == 4 else IPV6_DST
        for side in range(2):
            num_bytes = plans.address_bytes[f, side]
            for i in range(flows.starts[f], flows.starts[f + 1]):
                at = source_at if direction[i] == side else target_at
                for k in range(num_bytes):
                    network[i, at + k] = plans.address[f, side, k]


@numba.njit(cache=True)
def _addresses(flows, packets, num_ephemeral, label):
    network, direction = packets.rows["network"], packets.direction
    for f in range(len(flows.seed)):
        host = _client_of(flows.number[f]) // num_ephemeral
        if 0 < flows.client_port[f] < FIRST_DYNAMIC_PORT:
            host = _client_of(flows.number[f]) % _CLIENT_HOSTS
        client = (host // 254 << 8) | (host % 254 + 1)
        word = mix(label + np.uint64(draw_below(flows.seed[f], FOR_HOST, 0, SERVERS)))
        server = np.int64(word % np.uint64(16 * 256 * 254))
        server = (server // 254 << 8) | (server % 254 + 1)
        for i in range(flows.starts[f], flows.starts[f + 1]):
            if flows.version[f] == 4:
                client_at = IPV4_SRC if direction[i] == 0 else IPV4_DST
                server_at = IPV4_DST if direction[i] == 0 else IPV4_SRC
                network[i, client_at] = 10
                network[i, client_at + 1] = client >> 16
                put16(network, i, client_at + 2, client)
                network[i, server_at] = 172
                network[i, server_at + 1] = 16 + (server >> 16)
                put16(network, i, server_at + 2, server)
            else:
                client_at = IPV6_SRC if direction[i] == 0 else IPV6_DST
                server_at = IPV6_DST if direction[i] == 0 else IPV6_SRC
                for at in (client_at, server_at):
                    for k in range(IPV6_ADDRESS_BYTES):
                        network[i, at + k] = 0
                    network[i, at] = 0xFD
                    host = client if at == client_at else server
                    network[i, at + 3] = 1 if at == client_at else 2
                    network[i, at + 13] = (host >> 16) & 255
                    put16(network, i, at + 14, host)
