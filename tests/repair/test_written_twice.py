"""Flows that are captured twice: every packet stands twice, and is the same conversation."""

import dpkt
import numpy as np
from flow_rows import ACK, PSH, SYN, rows_of, tcp_header

from netdiff_ray.labels.duplicates import FlowDuplicates, bounds_ns
from netdiff_ray.labels.stack import UNPLANNED
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.repair import RepairContext, plans_of, repair

STATEFUL = layout_named("stateful")
TWICE = FlowDuplicates(hops=1, octave=9)


def flows():
    """Return the nprints of two flows of five packets."""
    packets = [(0, SYN, 0), (1, SYN | ACK, 0), (0, ACK, 0), (0, PSH | ACK, 70), (1, ACK, 0)]
    rows, direction = rows_of([(side, tcp_header(side, f), size) for side, f, size in packets])
    gaps_ns = np.full(len(rows), 20_000_000)
    return [encode(rows, STATEFUL, direction=direction, interarrival_ns=gaps_ns)] * 2


def planned(*duplicates):
    """Return plans of flows of which only this is planned."""
    return plans_of([UNPLANNED] * len(duplicates), duplicates=duplicates)


def test_packets_stand_twice_and_nothing_else_changes():
    context = RepairContext(payload="zeros")
    once = repair(flows(), STATEFUL, context, [11, 12])
    twice = repair(flows(), STATEFUL, context, [11, 12], plans=planned(None, TWICE))
    assert twice.first.tolist() == [0, 5, 15]
    np.testing.assert_array_equal(twice.changed, once.changed)
    np.testing.assert_array_equal(twice.packets.ts_ns[:5], once.packets.ts_ns[:5])
    np.testing.assert_array_equal(twice.packets.ts_ns[5::2], once.packets.ts_ns[5:])
    least, most = bounds_ns(TWICE)
    later_ns = twice.packets.ts_ns[6::2] - twice.packets.ts_ns[5::2]
    assert ((later_ns >= least) & (later_ns <= most)).all()
    assert len(set(later_ns.tolist())) == 5
    for k in range(5):
        assert twice.packets.packet(k) == once.packets.packet(k)
        first, again = (
            dpkt.ethernet.Ethernet(twice.packets.packet(5 + 2 * k + j)).data for j in (0, 1)
        )
        assert bytes(first) == bytes(dpkt.ethernet.Ethernet(once.packets.packet(5 + k)).data)
        assert again.ttl == first.ttl - 1
        header = bytes(again)[:10] + bytes(2) + bytes(again)[12:20]
        assert dpkt.in_cksum(header) == again.sum
        assert bytes(again)[12:] == bytes(first)[12:]


def test_times_increase_whatever_is_planned():
    slow = FlowDuplicates(hops=0, octave=20)
    context = RepairContext(payload="zeros")
    result = repair(flows(), STATEFUL, context, [11, 12], plans=planned(slow, None))
    assert (np.diff(result.packets.ts_ns[:10]) > 0).all()
    at_once = repair(
        flows(), STATEFUL, context, [11, 12], plans=planned(FlowDuplicates(0, 0), None)
    )
    assert (np.diff(at_once.packets.ts_ns[:10]) > 0).all()
    assert np.diff(at_once.packets.ts_ns[:10])[::2].max() < 4_000
