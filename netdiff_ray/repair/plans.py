"""Plans of flows as arrays for the kernels.

Shape letters: N flows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from netdiff_ray.dialogue import KINDS, OPAQUE
from netdiff_ray.header_bytes import IPV6_ADDRESS_BYTES
from netdiff_ray.labels.addresses import UNPLANNED_ADDRESSES, AddressPair
from netdiff_ray.labels.duplicates import FlowDuplicates
from netdiff_ray.labels.loss import UNPLANNED_LOSS
from netdiff_ray.labels.pace import UNPACED
from netdiff_ray.labels.path import UNPLANNED_PATH, FlowPath
from netdiff_ray.labels.stack import (
    MAX_OPTION_BYTES,
    NO_SYN,
    UNKNOWN,
    UNKNOWN_OPTIONS,
    UNPLANNED,
    FlowStack,
)

_ONCE = (1, 0, 0)


class Plans(NamedTuple):
    """What is planned of N flows; UNKNOWN where what is drawn stands. Of arrays (N, 2) the columns
    are client and server."""

    version: np.ndarray
    """(N,) int64: 4 or 6."""
    protocol: np.ndarray
    """(N,) int64: of FlowColumns."""
    opens: np.ndarray
    """(N,) int64: whether the flow begins with a handshake."""
    one_way: np.ndarray
    """(N,) int64: 1 where all packets are the client's."""
    first_side: np.ndarray
    """(N,) int64: who sends the first packet."""
    has_timestamps: np.ndarray
    """(N,) int64: whether the sides agree on timestamps."""
    kind: np.ndarray
    """(N,) int64: what the flow speaks, an index into `dialogue.KINDS`."""
    port: np.ndarray
    """(N, 2) int64: the client's is UNKNOWN if it chooses one for each flow."""
    lifetime: np.ndarray
    """(N, 2) int64: TTL or hop limit."""
    dont_fragment: np.ndarray
    """(N, 2) int64: the DF bit."""
    traffic_class: np.ndarray
    """(N, 2) int64: DSCP and ECN."""
    window: np.ndarray
    """(N, 2) int64: of the SYN."""
    option_bytes: np.ndarray
    """(N, 2) int64: bytes of the SYN's options."""
    options: np.ndarray
    """(N, 2, MAX_OPTION_BYTES) uint8: them, zeros behind."""
    path: np.ndarray
    """(N, 2) int64: levels of the times that the handshake takes on each side."""
    address_bytes: np.ndarray
    """(N, 2) int64: bytes of the address, 0 if it is not planned."""
    address: np.ndarray
    """(N, 2, IPV6_ADDRESS_BYTES) uint8: them, zeros behind."""
    pace: np.ndarray
    """(N,) int64: see `labels.pace`; UNPACED where drawn times stand."""
    loss: np.ndarray
    """(N,) int64: see `labels.loss`; UNPLANNED_LOSS where what is drawn stands."""
    captured: np.ndarray
    """(N, 3) int64: how often packets are captured, once or twice; and of those that are captured
    twice, hops and octave of `labels.duplicates`."""

    def of_flows(self, chosen: np.ndarray) -> "Plans":
        """Return the plans of the flows at positions `chosen`, int64."""
        return Plans(*(column[chosen] for column in self))


def plans_of(
    stacks: Sequence[FlowStack],
    addresses: Sequence[AddressPair] | None = None,
    paths: Sequence[FlowPath] | None = None,
    paces: Sequence[int] | None = None,
    kinds: Sequence[str] | None = None,
    losses: Sequence[int] | None = None,
    duplicates: Sequence[FlowDuplicates | None] | None = None,
) -> Plans:
    """Return the plans of N flows with the stacks, addresses, paths, paces, kinds (names, empty
    where the port says what is spoken), losses and duplicates; all but stacks are not planned
    unless given."""
    numbers = {"": UNKNOWN} | {kind.name: k for k, kind in enumerate(KINDS)}
    opaque = numbers[OPAQUE]
    columns = dict(zip(FlowStack._fields, zip(*stacks, strict=True), strict=True))
    pairs = {
        name: np.array([columns[f"client_{name}"], columns[f"server_{name}"]], np.int64).T.copy()
        for name in ("port", "lifetime", "dont_fragment", "traffic_class", "window")
    }
    options = np.zeros((len(stacks), 2, MAX_OPTION_BYTES), np.uint8)
    option_bytes = np.full((len(stacks), 2), UNKNOWN)
    for side, name in enumerate(("client_options", "server_options")):
        for i, text in enumerate(columns[name]):
            if text not in (UNKNOWN_OPTIONS, NO_SYN):
                content = np.frombuffer(bytes.fromhex(text), np.uint8)
                options[i, side, : len(content)] = content
                option_bytes[i, side] = len(content)
    pairs_of_addresses = [UNPLANNED_ADDRESSES] * len(stacks) if addresses is None else addresses
    address = np.zeros((len(stacks), 2, IPV6_ADDRESS_BYTES), np.uint8)
    address_bytes = np.zeros((len(stacks), 2), np.int64)
    for i, pair in enumerate(pairs_of_addresses):
        for side, packed in enumerate(pair):
            address[i, side, : len(packed)] = np.frombuffer(packed, np.uint8)
            address_bytes[i, side] = len(packed)
    protocols = np.array([stack.protocols for stack in stacks], np.int64)
    protocols[protocols == 0] = UNKNOWN
    return Plans(
        version=protocols[:, 0].copy(),
        protocol=protocols[:, 1].copy(),
        opens=np.array([stack.opens for stack in stacks], np.int64),
        one_way=np.array([stack.sends_one_way for stack in stacks], np.int64),
        first_side=np.array(columns["first_side"], np.int64),
        has_timestamps=np.array([stack.has_timestamps for stack in stacks], np.int64),
        kind=np.array(
            [numbers.get(kind, opaque) for kind in kinds or [""] * len(stacks)], np.int64
        ),
        option_bytes=option_bytes,
        options=options,
        path=np.array([UNPLANNED_PATH] * len(stacks) if paths is None else paths, np.int64),
        address_bytes=address_bytes,
        address=address,
        pace=np.array([UNPACED] * len(stacks) if paces is None else paces, np.int64),
        loss=np.array([UNPLANNED_LOSS] * len(stacks) if losses is None else losses, np.int64),
        captured=np.array(
            [_ONCE if own is None else (2, *own) for own in duplicates or [None] * len(stacks)],
            np.int64,
        ),
        **pairs,
    )


def no_plans(num_flows: int) -> Plans:
    """Return plans of N flows of which nothing is planned."""
    plans = plans_of([UNPLANNED])
    return Plans(*(np.repeat(column, num_flows, axis=0) for column in plans))
