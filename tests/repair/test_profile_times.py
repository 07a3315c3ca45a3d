"""A label's profile corrects the times and windows that were drawn."""

import numpy as np
from flow_rows import STATELESS
from profile_builders import (
    CLIENT,
    COUNT,
    ONE,
    SERVER,
    TALK,
    layout_of,
    profile_of,
    repaired,
    tcp_drawn,
)

from netdiff_ray.header_bytes import (
    TCP_WSIZE,
    words16,
)
from netdiff_ray.labels.pace import PacedTimeCount
from netdiff_ray.labels.profile import (
    OPENING_PACKETS,
    LevelCount,
    Profile,
    WindowCount,
)
from netdiff_ray.labels.stack import UNPLANNED
from netdiff_ray.repair import RepairContext, plans_of, repair


def test_windows_and_times_are_moved_to_those_of_the_profile():
    packets = OPENING_PACKETS
    windows = [
        WindowCount(number, side, window=65_160 if side else 64_240, flows=9, scale=0)
        for number in range(packets)
        for side in (CLIENT, SERVER)
    ]
    levels = [
        LevelCount(number, side, level, packets=9)
        for number in range(packets)
        for side in (CLIENT, SERVER)
        for level in (70, 110)
    ]
    profile = profile_of(ONE, windows=windows, levels=levels)
    drawn = tcp_drawn(
        [*ONE, *[(0, 50)] * 6], level=[74] * 4 + [106] * 8, window=64_241, layout=STATELESS
    )
    result = repaired([drawn] * COUNT, profile)
    window = words16(result.batch.packets.rows["transport"], TCP_WSIZE)
    window, side = window.reshape(COUNT, -1), result.batch.packets.direction.reshape(COUNT, -1)
    first = np.arange(window.shape[1]) < packets
    assert (window[(side == 1) & first] == 65_160).all()
    # A stuck acknowledgement has another window than the one before.
    assert np.mean(window[(side == 0) & first] == 64_240) > 0.9
    level = result.batch.packets.level.reshape(COUNT, -1)
    assert np.mean(level[:, :4] == 70) > 0.95
    assert np.mean(level[:, 4:packets] == 110) > 0.95
    assert (window[:, packets:] == 64_241).all()
    assert (level[:, packets:] == 106).all()
    far = repaired([tcp_drawn(ONE, level=200)], profile)
    assert (far.batch.packets.level == 200).all()  # the profile has none near
    alone = repaired([drawn] * COUNT, Profile(levels=profile.levels)).batch.packets
    assert np.mean(alone.level.reshape(COUNT, -1)[:, :4] == 70) > 0.95
    assert (alone.payload_bytes == result.batch.packets.payload_bytes).mean() > 0.9


def test_stray_times_of_later_packets_are_drawn_again():
    levels = [
        LevelCount(OPENING_PACKETS, side, level, packets)
        for side in (CLIENT, SERVER)
        for level, packets in ((70, 99_990), (150, 10), (110, 100_000))
    ]
    drawn = tcp_drawn(TALK, level=[90] * 8 + [70, 150, 110, 110, 200], layout=STATELESS)
    level = repaired([drawn] * COUNT, Profile(levels=levels)).batch.packets.level.reshape(COUNT, -1)
    assert (level[:, :8] == 90).all()
    assert np.mean(level[:, [8, 10, 11]] == [70, 110, 110]) > 0.98
    for stray in (level[:, 9], level[:, 12]):
        assert np.isin(stray, (70, 110, 150)).all()
        assert 0.3 < np.mean(stray == 70) < 0.7


def paced_profile(levels_of_pace):
    """Return a profile of packets by level in flows of each pace."""
    times = [
        PacedTimeCount(pace, OPENING_PACKETS, side, level, packets)
        for pace, levels in levels_of_pace.items()
        for side in (CLIENT, SERVER)
        for level, packets in levels
    ]
    levels = [LevelCount(*row[1:]) for row in times]
    return Profile(levels=levels, paced_times=times)


def at_pace(drawn, profile, pace):
    """Return the flows that repair makes of COUNT equal drawings with a planned pace."""
    plans = plans_of([UNPLANNED] * COUNT, paces=[pace] * COUNT)
    context = RepairContext(profile=profile, payload="zeros")
    return repair([drawn] * COUNT, layout_of(drawn), context, np.arange(COUNT), plans=plans)


def levels_of(result):
    """Return the levels of each flow behind its first packet."""
    return result.batch.packets.level.reshape(COUNT, -1)[:, 1:]


def test_drawn_times_keep_their_rank_among_those_of_the_planned_pace():
    drawn_levels = [70, 90, 70, 90, 90, 70, 90, 70, 90, 70, 70, 90]
    drawn = tcp_drawn(TALK, level=[0, *drawn_levels], layout=STATELESS)
    profile = paced_profile({5: [(70, 50), (90, 50)], 10: [(150, 50), (175, 50)]})
    # A flow of its planned pace stands, but for times that are taken for stray ones.
    assert np.mean(levels_of(at_pace(drawn, profile, 5)) == drawn_levels) > 0.98
    # 70 and 90 are each a quarter of all times, and the shorter half of them.
    assert np.mean(levels_of(at_pace(drawn, profile, 10)) == 150) > 0.98
    longer = paced_profile({5: [(70, 60), (90, 20)], 10: [(90, 20), (150, 60)]})
    moved = levels_of(at_pace(drawn, longer, 9))
    assert np.mean(moved == drawn_levels) > 0.98, "no flow has had the pace"
    moved = levels_of(at_pace(drawn, longer, 10))
    of_70, of_90 = (moved[:, np.array(drawn_levels) == level] for level in (70, 90))
    # 70 has ranks from 0 to 3/8, 90 those up to 5/8; those below 1/4 become 90, the others 150.
    assert 0.62 < np.mean(of_70 == 90) < 0.72
    assert np.mean(of_90 == 150) > 0.98


def test_a_flow_whose_pace_was_moved_stands():
    drawn = tcp_drawn(TALK, level=[0, *[90, 150, 175, 150] * 3], layout=STATELESS)
    profile = paced_profile({5: [(70, 50), (90, 50)], 10: [(150, 50), (175, 50)]})
    once = at_pace(drawn, profile, 5)
    assert np.mean(np.isin(levels_of(once), (70, 90))) > 0.98
    nprints = once.nprint(STATELESS).reshape(COUNT, -1, STATELESS.width)
    again = repair(
        nprints, STATELESS, RepairContext(profile=profile, payload="zeros"), np.arange(COUNT),
        plans=plans_of([UNPLANNED] * COUNT, paces=[5] * COUNT),
    )  # fmt: skip
    assert np.mean(levels_of(again) == levels_of(once)) > 0.95  # a stray time makes another pace
