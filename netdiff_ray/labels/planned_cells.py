"""The values that a flow's plan gives to cells of its rasters.

Shape letters: H x W cells.
"""

from collections.abc import Mapping

import numpy as np

from netdiff_ray.fields import FIELD_NAMED
from netdiff_ray.header_bytes import (
    IPPROTO_TCP,
    IPPROTO_UDP,
    TCP_HEADER_BYTES,
    TCP_OPTION_TIMESTAMPS,
)
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.labels.stack import (
    NO_SYN,
    OPTION_BYTES,
    UNKNOWN,
    UNKNOWN_OPTIONS,
    FlowStack,
    option_places,
)
from netdiff_ray.nprint.codec import FIRST_UNPRIVILEGED_PORT
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.nprint.timecode import CODE_BYTES

OPEN = -1
"""Stands for cells whose values are not planned."""
_HANDSHAKE = (0, 1, 0)
"""Sides that send the first packets of a flow that a handshake opens."""
_DIRECTION = (0, (1 << FIELD_NAMED["flow_direction"].width) - 1)
"""Cells of the direction of a packet from each side."""


def syn_options(sample: PlannedWindow) -> list[bytes | None]:
    """Return the planned options of the window's first two packets, None where they are not planned
    or the packet is no SYN."""
    if sample.window or sample.stack.opens != 1 or "tcp" not in sample.headers:
        return []
    num_syns = min(sample.length, 1 if sample.stack.sends_one_way else 2)
    texts = (sample.stack.client_options, sample.stack.server_options)[:num_syns]
    return [None if text in (NO_SYN, UNKNOWN_OPTIONS) else bytes.fromhex(text) for text in texts]


def planned_values(sample: PlannedWindow, layout: Layout) -> np.ndarray:
    """Return (H, W) int8 of 0, 1 and OPEN: the values of cells that the sample's plan decides.

    Who sends a packet is drawn unless only the client does, so that in most rows only bits that
    both sides have alike are planned: of ports, lifetimes, DF and traffic class. The first row of a
    flow has all of these of who sends it, if that is planned, and the first three rows of a flow
    that a handshake opens have them, the second and third the times of its path, and its SYNs
    options, windows and flags.
    """
    values = np.full((sample.height, layout.width), OPEN, np.int8)
    if " ".join(sample.headers) != sample.stack.headers or not sample.headers:
        return values
    client, server = (_of_side(sample, side, layout) for side in range(2))
    if sample.stack.sends_one_way:
        values[: sample.length] = client
        for row in values[: sample.length]:
            _put(row, layout, {"flow_direction": _DIRECTION[0]})
    else:
        values[: sample.length] = np.where(client == server, client, OPEN)
    first_side_stands = layout.needs_flow and sample.stack.first_side != UNKNOWN
    if sample.window == 0 and first_side_stands:
        values[0] = (client, server)[sample.stack.first_side]
        _put(values[0], layout, {"flow_direction": _DIRECTION[sample.stack.first_side]})
    if sample.window == 0 and sample.stack.opens == 1 and not sample.stack.sends_one_way:
        for row, side in enumerate(_HANDSHAKE[: sample.length]):
            values[row] = (client, server)[side]
            _put(values[row], layout, {"flow_direction": _DIRECTION[side]})
        for row, level in ((1, sample.path.server_level), (2, sample.path.client_level)):
            if level != UNKNOWN and row < sample.length and "flow_interarrival" in layout.fields:
                values[row, layout.columns("flow_interarrival")] = np.unpackbits(CODE_BYTES[level])
    for row, options in enumerate(syn_options(sample)):
        if options is not None:
            _put_syn(values[row], layout, sample.stack, row)
    return values


def _of_side(sample: PlannedWindow, side: int, layout: Layout) -> np.ndarray:
    """Return (W,) int8: the values in packets of a side that hold for the whole flow."""
    stack = sample.stack
    version, protocol = stack.protocols
    lifetime, dont_fragment, traffic_class = (
        (stack.client_lifetime, stack.client_dont_fragment, stack.client_traffic_class),
        (stack.server_lifetime, stack.server_dont_fragment, stack.server_traffic_class),
    )[side]
    client_port = stack.client_port
    is_zeroed = client_port >= FIRST_UNPRIVILEGED_PORT and client_port != stack.server_port
    if not layout.needs_flow and client_port == stack.server_port:
        client_port = UNKNOWN  # the ports say who sends
    if layout.zeroes_assigned and (client_port == UNKNOWN or is_zeroed):
        client_port = 0
    ports = (client_port, stack.server_port)
    fields = {
        "ipv4_ttl" if version == 4 else "ipv6_hl": lifetime,
        "ipv4_tos" if version == 4 else "ipv6_tc": traffic_class,
    }
    if version == 4:
        fields["ipv4_dfbit"] = dont_fragment
    if protocol == IPPROTO_TCP:
        fields |= {"tcp_sprt": ports[side], "tcp_dprt": ports[1 - side]}
    elif protocol == IPPROTO_UDP:
        fields |= {"udp_sport": ports[side], "udp_dport": ports[1 - side]}
    values = np.full(layout.width, OPEN, np.int8)
    _put(values, layout, fields)
    return values


def _put_syn(values: np.ndarray, layout: Layout, stack: FlowStack, side: int) -> None:
    """Write the planned options, window and flags of a side's SYN into a row, (W,) int8."""
    options, window = (
        (stack.client_options, stack.client_window),
        (stack.server_options, stack.server_window),
    )[side]
    content = bytes.fromhex(options)
    fields = {"tcp_syn": 1, "tcp_ackf": side, "tcp_rst": 0, "tcp_fin": 0, "tcp_wsize": window}
    fields["tcp_doff"] = (TCP_HEADER_BYTES + len(content)) // 4
    _put(values, layout, fields)
    first = layout.columns("tcp_opt").start
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    values[first : first + len(bits)] = bits
    at = option_places(options).get(TCP_OPTION_TIMESTAMPS)
    if at is not None and not layout.zeroes_assigned:
        end = at + OPTION_BYTES[TCP_OPTION_TIMESTAMPS]
        values[first + 8 * (at + 2) : first + 8 * end] = OPEN


def _put(values: np.ndarray, layout: Layout, fields: Mapping[str, int]) -> None:
    """Write the values of fields that the layout has into a row, (W,) int8; not those that are
    UNKNOWN."""
    for name, value in fields.items():
        if name in layout.fields and value != UNKNOWN:
            width = FIELD_NAMED[name].width
            values[layout.columns(name)] = value >> np.arange(width)[::-1] & 1
