"""Windows between other hosts: what a plan says changes, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labels.stack_builders import LINUX, MAC, PLAIN
from repair.flow_rows import ACK, PSH, STAMP, SYN, rows_of, tcp_flows, tcp_header, valid_flows

from netdiff_ray.labels.counts import count_windows
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.path import FlowPath
from netdiff_ray.labels.planned_cells import OPEN, planned_values
from netdiff_ray.labels.service import LabelService
from netdiff_ray.labels.stack import UNKNOWN, check_stack, options_text
from netdiff_ray.labels.window_plans import captured_plans, planned_window
from netdiff_ray.nprint.codec import decode, encode
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.nprint.timecode import LEVELS_PER_OCTAVE
from netdiff_ray.pretraining.random_stacks import most_option_octets, with_random_stack
from netdiff_ray.pretraining.restack import (
    field_values,
    packet_options,
    restack,
    without_timestamps,
)

STATEFUL = layout_named("stateful")
SERVICE = LabelService("x", "tcp-443")
MS = 1_000_000
SACK = bytes([1, 1, 5, 10]) + bytes(range(8))


def planned(nprint, number=0):
    """Return the plan of a window that was captured."""
    windows = LabelledWindows(
        nprint=[nprint], label=["x"], service=["tcp-443"], flow=["f"], window=[0], layout=STATEFUL
    )
    plan = captured_plans(count_windows(windows, 256))[SERVICE, "f"]
    return planned_window(SERVICE, plan, number, len(nprint))


def conversation(options=LINUX, later=STAMP, segment=1000, version=4):
    """Return the nprint of a handshake, a request and its answer."""
    options = bytes.fromhex(options)
    packets = [
        (0, tcp_header(0, SYN, options=options, window=64_240), 0),
        (1, tcp_header(1, SYN | ACK, options=options, window=65_160), 0),
        (0, tcp_header(0, ACK, options=later), 0),
        (0, tcp_header(0, PSH | ACK, options=later), 300),
        (1, tcp_header(1, ACK, options=later, window=509), 0),
        (1, tcp_header(1, PSH | ACK, options=later, window=509), segment),
        (0, tcp_header(0, ACK, options=later, window=495), 0),
    ]
    rows, direction = rows_of(packets, version=version)
    times = np.array([0, 20, 5, 1, 20, 3, 5]) * MS
    return encode(rows, STATEFUL, direction=direction, interarrival_ns=times)


def changed_fields(before, after):
    """Return the fields of which cells differ."""
    differs = (before != after).any(0)
    return {name for name in STATEFUL.fields if differs[STATEFUL.columns(name)].any()}


def restacked(nprint, **changes):
    """Return a window between hosts that differ by changes of their stacks."""
    sample = planned(nprint)
    after = dict(stack=sample.stack._replace(**changes))
    return restack(nprint, STATEFUL, sample, type(sample)(**{**vars(sample), **after}))


def with_path(nprint, path, number=0):
    sample = planned(nprint, number)
    return restack(nprint, STATEFUL, sample, type(sample)(**{**vars(sample), "path": path}))


def times_ms(nprint):
    return decode(nprint, STATEFUL)[2] / MS


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, set()),
        ({"client_lifetime": 113}, {"ipv4_ttl"}),
        ({"server_dont_fragment": 0}, {"ipv4_dfbit"}),
        ({"client_traffic_class": 32}, {"ipv4_tos"}),
        ({"server_window": 28_960}, {"tcp_wsize"}),
        ({"client_options": LINUX.replace("05b4", "0564")}, {"tcp_opt"}),
        ({"client_options": LINUX[:-1] + "9"}, {"tcp_opt", "tcp_wsize"}),
        ({"client_options": MAC}, {"tcp_opt", "tcp_doff", "tcp_wsize", "ipv4_tl"}),
        (
            {"client_options": PLAIN, "server_options": PLAIN},
            {"tcp_opt", "tcp_doff", "tcp_wsize", "ipv4_tl"},
        ),
    ],
)
def test_only_what_a_stack_says_changes(changes, fields):
    before = conversation()
    after = restacked(before, **changes)
    assert changed_fields(before, after) == fields
    sent_by_client = field_values(before, STATEFUL, "flow_direction") == 0
    untouched = "server" if all(name.startswith("client") for name in changes) else "client"
    if len({name.partition("_")[0] for name in changes}) == 1 and "options" not in str(changes):
        rows = ~sent_by_client if untouched == "server" else sent_by_client
        assert np.array_equal(before[rows], after[rows])


def test_lifetimes_of_a_route_that_changes_keep_their_difference():
    before = conversation()
    before[3, STATEFUL.columns("ipv4_ttl")] = np.unpackbits(np.array([62], np.uint8))
    after = restacked(before, client_lifetime=128)
    assert field_values(after, STATEFUL, "ipv4_ttl").tolist() == [128, 57, 128, 126, 57, 57, 128]


def test_windows_keep_their_proportion_to_the_first_one_in_bytes():
    after = restacked(conversation(), client_window=32_120, client_options=LINUX[:-1] + "6")
    windows = field_values(after, STATEFUL, "tcp_wsize").tolist()
    assert windows == [32_120, 65_160, 501, 501, 509, 509, 495]
    unscaled = restacked(conversation(), server_options=PLAIN)
    assert field_values(unscaled, STATEFUL, "tcp_wsize").tolist()[2:5] == [
        501 << 7,
        501 << 7,
        65_152,
    ]


@pytest.mark.parametrize("version", [4, 6])
def test_timestamps_come_and_go_with_the_handshake(version):
    with_stamps, bare = conversation(version=version), conversation(PLAIN, b"", version=version)
    stack = planned(with_stamps).stack
    fields = ("headers", "client_options", "server_options")
    wanted = {name: getattr(planned(bare).stack, name) for name in fields}
    gone = restacked(with_stamps, **wanted)
    assert [len(options) for options in packet_options(gone, STATEFUL)] == [4, 4, 0, 0, 0, 0, 0]
    back = restacked(gone, **{name: getattr(stack, name) for name in fields})
    assert changed_fields(with_stamps, back) <= {"tcp_wsize"}  # windows above 65,535 were cut
    length = "ipv4_tl" if version == 4 else "ipv6_len"
    lost = field_values(with_stamps, STATEFUL, length) - field_values(gone, STATEFUL, length)
    assert lost.tolist() == [16, 16, 12, 12, 12, 12, 12]


def test_sack_blocks_stay_when_timestamps_go():
    assert without_timestamps(STAMP + SACK) == without_timestamps(SACK) == SACK
    assert without_timestamps(STAMP) == b""
    broken = bytes([8, 1, 0, 0])
    assert without_timestamps(broken) == broken


def test_gaps_that_waited_for_a_side_follow_the_path():
    before = conversation()
    assert changed_fields(before, with_path(before, planned(before).path)) == set()
    sample = planned(before)
    slow = FlowPath(sample.path.client_level, sample.path.server_level + 2 * LEVELS_PER_OCTAVE)
    after = with_path(before, slow)
    assert changed_fields(before, after) == {"flow_interarrival"}
    assert times_ms(after) == pytest.approx([0, 80, 5, 1, 80, 3, 5], rel=0.1)
    later = with_path(before, slow, number=1)
    assert times_ms(later)[4] == pytest.approx(80, rel=0.1)
    near = FlowPath(sample.path.client_level - 3 * LEVELS_PER_OCTAVE, sample.path.server_level)
    assert times_ms(with_path(before, near))[[2, 6]] == pytest.approx([5 / 8, 5 / 8], rel=0.1)


@pytest.mark.parametrize("longest", [64, 4096])
def test_repeated_windows_and_gaps_are_those_of_the_packets(longest):
    rng = np.random.default_rng(longest)
    packets = [
        (0, tcp_header(0, SYN, options=bytes.fromhex(LINUX), window=64_240), 0),
        (1, tcp_header(1, SYN | ACK, options=bytes.fromhex(LINUX), window=65_160), 0),
    ]
    for side in (0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1):
        window = 500 + int(rng.integers(4))
        packets.append((side, tcp_header(side, ACK, options=STAMP, window=window), 0))
    rows, direction = rows_of(packets)
    times = rng.integers(1, longest, len(rows)) * MS
    before = encode(rows, STATEFUL, direction=direction, interarrival_ns=times)
    sample = planned(before)
    seen = []
    for seed in range(40):
        after, _ = with_random_stack(before, sample, STATEFUL, np.random.default_rng(seed))
        windows = field_values(after, STATEFUL, "tcp_wsize")
        same = field_values(after, STATEFUL, "flow_same_window")
        for side in (0, 1):
            of_side = np.flatnonzero(direction == side)
            repeated = windows[of_side[1:]] == windows[of_side[:-1]]
            assert (same[of_side[1:]] == 255 * repeated).all()
        stands = field_values(before, STATEFUL, "flow_same_window")
        seen += [(same > stands).any(), (changed_gaps(before, after) != 0).any()]
        untouched = restack(before, STATEFUL, sample, sample)
        assert np.array_equal(before, untouched)
    assert any(seen[::2])
    assert any(seen[1::2])


def changed_gaps(before, after):
    """Return how repeated gaps differ."""
    old, new = (field_values(cells, STATEFUL, "flow_same_gap") for cells in (before, after))
    return old - new


def check_plan(nprint, sample):
    """Check that a raster has the values that its plan gives to cells."""
    values = planned_values(sample, STATEFUL)[: len(nprint)]
    assert np.array_equal(nprint[values != OPEN], values[values != OPEN])
    check_stack(sample.stack)


@given(
    flow=st.one_of(tcp_flows().map(lambda flow: (*flow, None)), valid_flows()),
    seed=st.integers(0, 99),
)
def test_random_stacks_make_valid_windows_that_their_plans_describe(flow, seed):
    rows, direction, times = flow
    times = np.full(len(rows), MS) if times is None else times
    before = encode(rows, STATEFUL, direction=direction, interarrival_ns=times)
    sample = planned(before)
    check_plan(before, sample)
    after, other = with_random_stack(before, sample, STATEFUL, np.random.default_rng(seed))
    check_plan(after, other)
    assert changed_fields(before, after) <= {
        "ipv4_ttl", "ipv4_tos", "ipv4_dfbit", "ipv4_tl", "ipv6_hl", "ipv6_tc", "ipv6_len",
        "tcp_opt", "tcp_doff", "tcp_wsize", "flow_interarrival", "flow_same_window",
        "flow_same_gap",
    }  # fmt: skip
    old, new = (decode(nprint, STATEFUL)[0] for nprint in (before, after))
    headers = [row["network_len"] + row["transport_len"] for row in (old, new)]
    assert np.array_equal(old["wirelen"] - headers[0], new["wirelen"] - headers[1])  # payload
    doff = field_values(after, STATEFUL, "tcp_doff")
    options = packet_options(after, STATEFUL)
    is_syn = field_values(after, STATEFUL, "tcp_syn") == 1
    for row in np.flatnonzero(doff != UNKNOWN):
        assert len(options[row]) == 4 * doff[row] - 20
        if is_syn[row]:
            assert options_text(options[row]) == options[row].hex()
    same, again = with_random_stack(before, sample, STATEFUL, np.random.default_rng(seed))
    assert np.array_equal(after, same)
    assert again == other


def test_random_stacks_differ_and_keep_to_what_a_window_shows():
    full = conversation(segment=1448)
    sacked = conversation(later=STAMP + SACK)
    texts = set()
    for seed in range(200):
        _, of_full = with_random_stack(full, planned(full), STATEFUL, np.random.default_rng(seed))
        assert "020405b4" in of_full.stack.client_options
        assert "080a" in of_full.stack.server_options
        _, other = with_random_stack(sacked, planned(sacked), STATEFUL, np.random.default_rng(seed))
        assert "0402" in other.stack.client_options
        nprint, any_stack = with_random_stack(
            conversation(), planned(conversation()), STATEFUL, np.random.default_rng(seed)
        )
        assert most_option_octets([nprint], STATEFUL) <= 24
        texts.add(any_stack.stack.client_options)
    assert len(texts) > 100
