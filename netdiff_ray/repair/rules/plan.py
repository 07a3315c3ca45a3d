"""The rule that writes planned headers into the drawn rows, for the rules behind it to settle.

Shape letters: N flows, P packets.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    IPV4_DONT_FRAGMENT,
    IPV4_FLAGS,
    IPV4_TOS,
    IPV6_VER,
    IPV6_VER_TC,
    TCP_DOFF,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_OPT,
    TCP_WSIZE,
    put16,
)
from netdiff_ray.labels.stack import UNKNOWN
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import UNANSWERED, Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.tcp_connection import refuses

_DONT_FRAGMENT = IPV4_DONT_FRAGMENT >> 8
"""In the byte at IPV4_FLAGS."""


def plan(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Assign each side's DF and traffic class, the options and window of its SYN, and the times of
    the handshake, as planned.

    Whether a flow opens, ports, lifetimes and whether segments have timestamps are planned too;
    the rules that settle them see to it. The fields belong to the rules that settle them.
    """
    _plan(batch.flows, batch.packets, batch.plans)


@numba.njit(cache=True)
def _plan(flows, packets, plans):
    network = packets.rows["network"]
    for f in range(len(flows.seed)):
        begin, end = flows.starts[f], flows.starts[f + 1]
        is_ipv4 = flows.version[f] == 4
        for i in range(begin, end):
            side = np.int64(packets.direction[i])
            value = plans.traffic_class[f, side]
            if value != UNKNOWN and is_ipv4:
                network[i, IPV4_TOS] = value
            elif value != UNKNOWN:
                network[i, IPV6_VER] = IPV6_VER_TC | value >> 4
                network[i, IPV6_VER + 1] = (network[i, IPV6_VER + 1] & 0x0F) | (value & 15) << 4
            if is_ipv4 and plans.dont_fragment[f, side] != UNKNOWN:
                network[i, IPV4_FLAGS] = _DONT_FRAGMENT if plans.dont_fragment[f, side] else 0
        if flows.opens[f]:
            num_syns = min(end - begin, 2)
            if end == begin + 2 and refuses(packets.rows["transport"][begin + 1, TCP_FLAGS]):
                num_syns = 1
            for side in range(2):
                k = begin + 2 - side
                if k < end and plans.path[f, side] != UNKNOWN:
                    packets.level[k] = plans.path[f, side]
            for side in range(num_syns):
                _plan_syn(packets, begin + side, side, f, plans)
        elif flows.half[f]:
            for i in range(begin, end if flows.half[f] == UNANSWERED else begin + 1):
                _plan_syn(packets, i, 0, f, plans)


@numba.njit(cache=True)
def _plan_syn(packets, i, side, f, plans):
    """Write the planned options and window of a SYN."""
    transport = packets.rows["transport"]
    if plans.window[f, side] != UNKNOWN:
        put16(transport, i, TCP_WSIZE, plans.window[f, side])
    length = plans.option_bytes[f, side]
    if length == UNKNOWN:
        return
    for k in range(plans.options.shape[2]):
        transport[i, TCP_OPT + k] = plans.options[f, side, k]
    transport[i, TCP_DOFF] = (TCP_HEADER_BYTES + length) // 4 << 4
    packets.option_bytes[i] = length
