"""What is sent again comes after the label's times."""

import numpy as np
from flow_rows import ACK, PSH, SYN, rows_of, tcp_header

from netdiff_ray.flow_state import AGAIN
from netdiff_ray.labels.copies import CopyTimeCount
from netdiff_ray.labels.profile import Profile
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.nprint.timecode import LEVELS_PER_OCTAVE
from netdiff_ray.repair import RepairContext, repair
from netdiff_ray.repair.rules.flow import LEVEL_STARTS

STATEFUL = layout_named("stateful")
BACKOFF = [CopyTimeCount(copy=k, octave=19 + k, segments=5) for k in range(3)]
"""Half a second, a second, two."""
COPIES = [4, 5, 6]


def repaired(gap_ms, copy_times):
    """Return the repaired flow of a client whose data is sent three times more."""
    packets = [
        (0, SYN, 0), (1, SYN | ACK, 0), (0, ACK, 0), (0, PSH | ACK, 70), *[(0, PSH | ACK, 70)] * 3,
        (1, ACK, 0),
    ]  # fmt: skip
    rows, direction = rows_of([(side, tcp_header(side, f), size) for side, f, size in packets])
    gaps_ns = np.full(len(rows), 20_000_000)
    gaps_ns[COPIES] = gap_ms * 1_000_000
    nprint = encode(rows, STATEFUL, direction=direction, interarrival_ns=gaps_ns.astype(np.int64))
    nprint[COPIES, STATEFUL.columns("flow_retransmission")] = 1
    context = RepairContext(profile=Profile(copy_times=copy_times), payload="zeros")
    return repair([nprint], STATEFUL, context, [11])


def test_a_timer_waits_longer_each_time():
    packets = repaired(0.02, BACKOFF).batch.packets
    assert (packets.state["sequence"][COPIES] == AGAIN).all()
    for k, gap_ns in enumerate(packets.interarrival_ns[COPIES].tolist()):
        first = (19 + k) * LEVELS_PER_OCTAVE
        assert LEVEL_STARTS[first] <= gap_ns <= LEVEL_STARTS[first + LEVELS_PER_OCTAVE]
    assert (np.diff(packets.rows["ts_ns"]) > 0).all()
    unknown = repaired(0.02, []).batch.packets
    assert (unknown.interarrival_ns[COPIES] < 1_000_000).all()


def test_times_of_the_label_stand_and_what_is_settled_stands():
    once = repaired(0.02, BACKOFF)
    context = RepairContext(profile=Profile(copy_times=BACKOFF), payload="zeros")
    twice = repair([once.nprint(STATEFUL)], STATEFUL, context, [11])
    np.testing.assert_array_equal(once.packets.ts_ns, twice.packets.ts_ns)
    captured_twice = [CopyTimeCount(copy=k, octave=0, segments=5) for k in range(3)]
    for k in range(8):
        captured_twice += [CopyTimeCount(copy=c, octave=k + 1, segments=5) for c in range(3)]
    stands = repaired(0.02, captured_twice).batch.packets
    alone = repaired(0.02, []).batch.packets
    np.testing.assert_array_equal(stands.interarrival_ns, alone.interarrival_ns)
