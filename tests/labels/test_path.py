"""Paths: times of handshakes, counted, drawn and pinned."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labels.stack_builders import NO_SYN, metadata_of, stack_of, udp_stack
from packet_builders import pcap, read, tcp4

from netdiff_ray.config.pins import PlanPins
from netdiff_ray.errors import ConfigError
from netdiff_ray.flows import assemble_flows
from netdiff_ray.header_bytes import ACK, RST, SYN
from netdiff_ray.labels.flow_plan import plan_flow
from netdiff_ray.labels.path import (
    UNPLANNED_PATH,
    FlowPath,
    PathCount,
    disclosed_paths,
    paths_between,
    round_trip_ns,
    window_paths,
)
from netdiff_ray.labels.pins import pin_metadata
from netdiff_ray.labels.stack import StackCount
from netdiff_ray.labels.statistics import LabelStatistics
from netdiff_ray.nprint.timecode import LEVELS_PER_OCTAVE, MOST_LEVEL, level_of

MS = 1_000_000
CLIENT = {"sport": 40_000, "dport": 443}
SERVER = {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 443, "dport": 40_000}
LEVELS = st.integers(0, MOST_LEVEL)


def level(ms):
    return level_of(ms * MS)


def metadata(paths, stacks=None):
    """Return metadata of a label whose service has flows with the paths."""
    whole = metadata_of(stacks or [StackCount(*stack_of(), 90)])
    service = replace(whole.labels["x"].services["s"], paths=paths)
    whole.labels["x"] = LabelStatistics(services={"s": service})
    return whole


@pytest.mark.parametrize(
    ("packets", "path"),
    [
        (((SYN, 0), (SYN | ACK, 1), (ACK, 0), (ACK, 1)), FlowPath(level(2), level(100))),
        (((SYN, 0), (SYN | ACK, 1)), UNPLANNED_PATH),
        (((SYN, 0), (SYN, 0), (SYN | ACK, 1), (ACK, 0)), UNPLANNED_PATH),
        (((SYN, 0), (RST | ACK, 1), (SYN, 0)), UNPLANNED_PATH),
        (((SYN, 0), (SYN | ACK, 1), (RST, 0)), UNPLANNED_PATH),
        (((ACK, 0), (ACK, 1), (ACK, 0)), UNPLANNED_PATH),
    ],
)
def test_a_path_is_that_of_a_whole_handshake(tmp_path, packets, path):
    ms = [0, 100, 102, 500]
    frames = [
        (at // 1000, at % 1000 * 1000, tcp4(flags, **(SERVER if side else CLIENT)))
        for at, (flags, side) in zip(ms, packets, strict=False)
    ]
    reader, _, rows = read(tmp_path / "c.pcap", pcap(frames))
    (windows,) = assemble_flows([rows], reader.fingerprint)
    levels = np.array([level_of(gap) for gap in windows.interarrival_ns])
    window = np.zeros(len(rows), np.int64)
    assert window_paths(windows.rows, windows.direction, levels, window) == [path]


def test_paths_that_one_flow_has_count_as_the_nearest():
    paths = [FlowPath(8, 80)] * 3 + [FlowPath(9, 83)] + [FlowPath(100, 16)] * 2
    paths += [FlowPath(90, 20), FlowPath(12, 70), UNPLANNED_PATH]
    assert disclosed_paths(paths, 2) == [
        PathCount(8, 11, 80, 83, 5), PathCount(100, 103, 16, 19, 3),
    ]  # fmt: skip


def test_paths_that_are_far_apart_are_not_known():
    near = [FlowPath(40, 80), FlowPath(44, 92)]
    assert disclosed_paths(near, 2) == [PathCount(32, 47, 80, 95, 2)]
    assert disclosed_paths([FlowPath(40, 80), FlowPath(44, 180)], 2) == []


@given(st.lists(st.builds(FlowPath, LEVELS, LEVELS), max_size=30))
def test_no_path_is_of_a_single_flow(paths):
    table = disclosed_paths(paths, 2)
    assert not table or sum(row.flows for row in table) == len(paths) > 1
    assert all(row.flows > 1 for row in table)
    for row in table:
        assert row.client_most - row.client_least < 2 * LEVELS_PER_OCTAVE
        assert any(
            row.client_least <= path.client_level <= row.client_most
            and row.server_least <= path.server_level <= row.server_most
            for path in paths
        )


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (PathCount(9, 8, 0, 3, 5), "paths cannot have .*the least first"),
        (PathCount(0, 3, 0, 256, 5), "paths cannot have"),
        (PathCount(0, 3, 0, 3, 1), "is of at least 2 flows"),
    ],
)
def test_impossible_paths_are_refused(row, sentence):
    with pytest.raises(ValueError, match=sentence):
        metadata([row])


def test_flows_have_paths_as_they_were():
    paths = [PathCount(8, 11, 80, 83, 20), PathCount(100, 103, 16, 19, 60)]
    whole = metadata(paths)
    drawn = [plan_flow(whole, "x", 3, k).path for k in range(800)]
    near = sum(path.client_level < 12 for path in drawn)
    assert 180 < near < 220
    assert {path.server_level for path in drawn} == {*range(80, 84), *range(16, 20)}


@pytest.mark.parametrize(
    "stack",
    [udp_stack(), stack_of(client_options=NO_SYN, server_options=NO_SYN, client_window=-1,
                           server_window=-1)],
)  # fmt: skip
def test_flows_without_a_handshake_have_no_path(stack):
    whole = metadata([PathCount(0, 3, 0, 3, 9)], [StackCount(*stack, 9)])
    assert plan_flow(whole, "x", 3, 0).path == UNPLANNED_PATH


@given(st.builds(FlowPath, LEVELS, LEVELS), st.floats(0.001, 1e5), st.floats(1, 50))
def test_parts_of_paths_have_the_round_trips_that_are_asked_for(path, low_ms, factor):
    row = PathCount(path.client_level, min(path.client_level + 3, MOST_LEVEL),
                    path.server_level, min(path.server_level + 3, MOST_LEVEL), 5)  # fmt: skip
    low, high = int(low_ms * MS), int(low_ms * factor * MS)
    for part in paths_between([row], low, high):
        assert round_trip_ns(part.client_least, part.server_least, 0.0) >= low
        assert round_trip_ns(part.client_most, part.server_most, 1.0) <= high
        assert part.flows >= 2


def test_a_pinned_round_trip():
    paths = [
        PathCount(level(5), level(5) + 3, level(20), level(20) + 3, 30),
        PathCount(level(5), level(5) + 3, level(300), level(300) + 3, 60),
    ]
    stacks = [
        StackCount(*stack_of(), 60),
        StackCount(*stack_of(server_options=NO_SYN, server_window=-1), 30),
    ]
    pinned = pin_metadata(metadata(paths, stacks), ["x"], PlanPins(rtt_ms="20:50"))
    for k in range(200):
        plan = plan_flow(pinned, "x", 1, k)
        assert 20 * MS <= round_trip_ns(*plan.path, 0.0) < round_trip_ns(*plan.path, 1.0) <= 50 * MS
        assert plan.num_packets >= 3
        assert plan.stack.server_options != NO_SYN


@pytest.mark.parametrize("rtt_ms", ["1:2", "4000"])
def test_a_round_trip_that_a_label_never_had_is_refused_with_what_it_had(rtt_ms):
    whole = metadata([PathCount(level(5), level(5) + 3, level(20), level(20) + 3, 30)])
    with pytest.raises(ConfigError, match=r"handshakes of .* ms\); .* handshakes of .* to 3.* ms"):
        pin_metadata(whole, ["x"], PlanPins(rtt_ms=rtt_ms))


def test_labels_without_handshakes_have_no_round_trips():
    with pytest.raises(ConfigError, match="no flow of label 'x' is as pinned"):
        pin_metadata(metadata([], [StackCount(*udp_stack(), 9)]), ["x"], PlanPins(rtt_ms="1:9"))


@pytest.mark.parametrize("rtt_ms", ["fast", "5:3", "-1:4", "0", "1:2:3", "nan", "1e9"])
def test_times_that_are_none(rtt_ms):
    with pytest.raises(ConfigError, match=f"rtt_ms is {rtt_ms!r}; it must be milliseconds"):
        PlanPins(rtt_ms=rtt_ms)
