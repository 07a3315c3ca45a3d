"""Profiles, and flows that are drawn near them."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
from flow_rows import ACK, PSH, STATELESS, SYN, rows_of, tcp_header

from netdiff_ray.header_bytes import (
    IPPROTO_TCP,
)
from netdiff_ray.labels.profile import (
    LATER,
    PayloadCount,
    Profile,
    Succession,
)
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.repair import RepairContext, repair
from netdiff_ray.repair.rules.flow import LEVEL_STARTS

STATEFUL = layout_named("stateful")
COUNT = 200
CLIENT, SERVER = 0, 1
ONE, OTHER = [(1, 220), (0, 116), (1, 123)], [(0, 341), (1, 341), (0, 106)]
"""What two kinds of flows carry after the handshake."""
TALK = [(side, 100) for _ in range(5) for side in (0, 1)]
HANDSHAKE = [(0, SYN, 0), (1, SYN | ACK, 0), (0, ACK, 0)]


def tcp_drawn(sizes, level=90, window=501, version=4, layout=STATEFUL):
    """Return the nprint of a flow that opens, of what follows the handshake."""
    packets = HANDSHAKE + [(side, ACK | (PSH if size else 0), size) for side, size in sizes]
    headers = [(d, tcp_header(d, flags, window=window), size) for d, flags, size in packets]
    rows, direction = rows_of(headers, version=version)
    levels = np.full(len(rows), level) if np.isscalar(level) else np.array(level)
    return encode(rows, layout, direction=direction, interarrival_ns=LEVEL_STARTS[levels])


def layout_of(nprint):
    """Return which of the two layouts of this module an nprint has."""
    return STATEFUL if nprint.shape[1] == STATEFUL.width else STATELESS


def tcp_payload(packet, side, payload_bytes, flags, flows, ending_flows=0):
    return PayloadCount(
        IPPROTO_TCP, packet, side, payload_bytes, flags, flows=flows, ending_flows=ending_flows
    )


def counted(kinds, first=0):
    """Return the payloads and successions of as many TCP flows of each kind, whose states (side,
    bytes, flags) begin at packet `first`, or end before it if it is LATER."""
    payloads, successions = Counter(), Counter()
    for states in kinds:
        begin = first - len(states) if first == LATER else first
        for packet, state in enumerate(states, begin):
            payloads[packet, *state] += 50
        for packet, (before, after) in enumerate(itertools.pairwise(states), begin):
            successions[IPPROTO_TCP, packet, *before, *after] += 50
    return Profile(
        payloads=[tcp_payload(*state, flows=n) for state, n in sorted(payloads.items())],
        successions=[Succession(*states, flows=n) for states, n in sorted(successions.items())],
    )


def profile_of(*kinds, windows=(), levels=()):
    """Return a profile of as many flows of each kind."""
    handshake = [(side, 0, 0) for side in (CLIENT, SERVER, CLIENT)]
    states = [handshake + [(side, n, PSH * (n > 0)) for side, n in kind] for kind in kinds]
    return replace(counted(states), windows=list(windows), levels=list(levels))


def with_flips(nprint, rows, field, bits, seed):
    """Return the nprint with so many bits of a field wrong in each of those rows."""
    nprint, rng = nprint.copy(), np.random.default_rng(seed)
    columns = layout_of(nprint).columns(field)
    for row in rows:
        at = columns.start + rng.choice(columns.stop - columns.start, bits, replace=False)
        nprint[row, at] ^= 1
    return nprint


def repaired(nprints, profile, **choices):
    context = RepairContext(profile=profile, server_ports=(443,), payload="zeros", **choices)
    return repair(nprints, layout_of(nprints[0]), context, np.arange(len(nprints)))


def carried(result, after=3):
    """Return (side, bytes of payload) of each packet of each flow after the first ones."""
    pairs = list(
        zip(
            result.batch.packets.direction.tolist(),
            result.batch.packets.payload_bytes.tolist(),
            strict=True,
        )
    )
    starts = result.batch.flows.starts
    return [pairs[a + after : b] for a, b in itertools.pairwise(starts)]
