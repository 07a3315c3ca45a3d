"""A label's profile corrects what was drawn."""

import numpy as np
import pytest
from flow_rows import ACK, FIN, PSH, RST, STATELESS, SYN, rows_of, tcp_header, udp_header
from profile_builders import (
    CLIENT,
    COUNT,
    HANDSHAKE,
    ONE,
    OTHER,
    SERVER,
    STATEFUL,
    TALK,
    carried,
    counted,
    profile_of,
    repaired,
    tcp_drawn,
    tcp_payload,
    with_flips,
)

from netdiff_ray.header_bytes import (
    IPPROTO_ICMP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TCP_FLAGS,
    TCP_OPT,
    TCP_WSIZE,
    words16,
)
from netdiff_ray.labels.profile import (
    CLOSED,
    LATER,
    OPENING_PACKETS,
    SUPPRESSED,
    LevelCount,
    MssCount,
    PayloadCount,
    Profile,
    Succession,
    WindowCount,
)
from netdiff_ray.labels.stack import UNPLANNED
from netdiff_ray.labels.window_kinds import ANY_OCTAVE
from netdiff_ray.nprint import encode
from netdiff_ray.repair import RepairContext, plans_of, repair


@pytest.mark.parametrize("version", [4, 6])
def test_wrong_bits_of_lengths_are_corrected(version):
    field = "ipv4_tl" if version == 4 else "ipv6_len"
    drawn = [
        with_flips(tcp_drawn(kind, version=version), (3, 4, 5), field, 2, seed)
        for seed in range(COUNT)
        for kind in (ONE, OTHER)
    ]
    found = carried(repaired(drawn, profile_of(ONE, OTHER)))
    right = [got == (OTHER if k % 2 else ONE) for k, got in enumerate(found)]
    assert np.mean(right) > 0.95
    assert all(got in (ONE, OTHER) for got in found)
    stands = carried(repaired(drawn, Profile()))
    assert not any(got in (ONE, OTHER) for got in stands)


def test_a_packet_that_says_nothing_follows_the_others():
    one, other = [(0, 100), (1, 7)], [(0, 3), (1, 120)]
    # Half-way between both in its bits, so that the packet before decides.
    drawn = [tcp_drawn([(0, kind[0][1]), (1, 127)]) for kind in (one, other) for _ in range(COUNT)]
    found = carried(repaired(drawn, profile_of(one, other)))
    assert np.mean([got == one for got in found[:COUNT]]) > 0.8
    assert np.mean([got == other for got in found[COUNT:]]) > 0.8


def test_values_are_sampled_as_often_as_the_profile_has_them():
    profile = profile_of([(0, 100)], [(0, 228)])
    common = [
        row._replace(flows=9 * row.flows) if row.payload_bytes == 228 else row
        for row in profile.payloads
    ]
    profile = Profile(payloads=common, successions=profile.successions)
    # 356 = 100 + 256 = 228 + 128: one bit of the total length from either, or two.
    drawn = [tcp_drawn([(0, 100 + 64)])] * 2000
    numbers = [got[0][1] for got in carried(repaired(drawn, profile))]
    near, far = bin(140 ^ 204).count("1"), bin(268 ^ 204).count("1")
    # What follows the handshake is half of each, in flows; the share of 228 is by packets.
    odds = np.exp(0.5 * (near - far)) * (0.98 * 0.5 + 0.02 * 0.9) / (0.98 * 0.5 + 0.02 * 0.1)
    assert np.mean(np.array(numbers) == 228) == pytest.approx(odds / (1 + odds), abs=0.03)


def test_directions_follow_but_in_the_handshake():
    sides = STATEFUL.columns("flow_direction")
    drawn = tcp_drawn(ONE)
    drawn[3, sides] = 1 - drawn[3, sides]
    turned = repaired([drawn] * COUNT, profile_of(ONE, [(1, 220), (1, 900), (1, 901)]))
    assert np.mean([got == ONE for got in carried(turned)]) > 0.9
    first, second, *others = profile_of(ONE).payloads
    swapped = [first._replace(side=SERVER), second._replace(side=CLIENT), *others]
    result = repaired([tcp_drawn(OTHER)], Profile(payloads=swapped))
    assert result.batch.packets.direction[:3].tolist() == [0, 1, 0]


def test_what_the_profile_has_passes_unchanged():
    windows = [
        WindowCount(k, side, window=501, flows=9, scale=0) for k in range(7) for side in (0, 1)
    ]
    levels = [LevelCount(k, side, level=90, packets=9) for k in range(7) for side in (0, 1)]
    profile = profile_of(ONE, OTHER, windows=windows, levels=levels)
    drawn = [tcp_drawn(kind) for kind in (ONE, OTHER) for _ in range(20)]
    result = repaired(drawn, profile)
    assert not result.corrected.any()
    again = repaired(np.split(result.nprint(STATEFUL), result.batch.flows.starts[1:-1]), profile)
    np.testing.assert_array_equal(again.packets.data, result.packets.data)
    np.testing.assert_array_equal(again.packets.ts_ns, result.packets.ts_ns)


def test_what_is_drawn_as_suppressed_stands():
    profile = profile_of(ONE)
    suppressed = tcp_payload(3, SERVER, payload_bytes=SUPPRESSED, flags=0, flows=50_000)
    profile.payloads.append(suppressed)
    profile.successions.append(
        Succession(IPPROTO_TCP, 2, CLIENT, 0, 0, *suppressed[2:5], flows=50_000)
    )
    found = carried(repaired([tcp_drawn([(1, 1000)])] * COUNT, profile))
    assert found == [[(1, 1000)]] * COUNT


def test_packets_that_the_profile_lacks_stand():
    found = carried(repaired([tcp_drawn([*ONE, (1, 777), (0, 50)])], profile_of(ONE)))
    assert found == [[*ONE, (1, 777), (0, 50)]]


def test_datagrams_and_echoes_too():
    size = 90
    datagrams = [(k, udp_header(k, size), size) for k in (0, 1)]
    rows, direction = rows_of(datagrams, protocol=17)
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(2, 1000))
    drawn = with_flips(with_flips(drawn, (0, 1), "udp_len", 2, 0), (0, 1), "ipv4_tl", 2, 1)
    profile = Profile(
        payloads=[
            PayloadCount(IPPROTO_UDP, packet, side, payload_bytes, flags=0, flows=5, ending_flows=0)
            for packet, side, payload_bytes in ((0, 0, size), (1, 1, size), (1, 1, 300))
        ]
    )
    assert carried(repaired([drawn] * 20, profile), after=0) == [[(0, size), (1, size)]] * 20
    echo = [(0, bytes([8, 0, 0, 0, 0, 7, 0, 1]), 56), (1, bytes([0, 0, 0, 0, 0, 7, 0, 1]), 56)]
    rows, direction = rows_of(echo, protocol=1)
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(2, 1000))
    profile = Profile(
        payloads=[
            PayloadCount(
                IPPROTO_ICMP, k, side=k, payload_bytes=56, flags=0, flows=5, ending_flows=0
            )
            for k in range(2)
        ]
    )
    drawn = with_flips(drawn, (0, 1), "ipv4_tl", 3, 3)
    assert carried(repaired([drawn], profile), after=0) == [[(0, 56), (1, 56)]]


CLIENT_CLOSED, SERVER_CLOSED = CLOSED
GOODBYES = (
    [
        (CLIENT, 0, FIN),
        (SERVER, 0, CLIENT_CLOSED),
        (SERVER, 0, FIN | CLIENT_CLOSED),
        (CLIENT, 0, CLIENT_CLOSED | SERVER_CLOSED),
    ],
    [(SERVER, 0, RST), *[(CLIENT, 0, SERVER_CLOSED)] * 3],
)
"""States of two kinds of endings: a FIN from either side, and a reset."""


def ending_of(*kinds):
    """Return a profile whose flows end with as many of each kind."""
    return counted(kinds, first=LATER)


def closing_drawn(states):
    """Return the nprint of a flow that opens, talks, and ends with states."""
    packets = [(side, ACK | (PSH if size else 0), size) for side, size in TALK]
    packets += [(side, ACK | flags & 0xFF, size) for side, size, flags in states]
    headers = [(d, tcp_header(d, flags), size) for d, flags, size in HANDSHAKE + packets]
    rows, direction = rows_of(headers)
    return encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(len(rows), 1000))


def goodbyes(result, count=4):
    """Return (side, bytes, FIN and RST) of the last packets of each flow."""
    flags = result.batch.packets.rows["transport"][:, TCP_FLAGS] & (FIN | RST)
    states = list(
        zip(
            result.batch.packets.direction.tolist(),
            result.batch.packets.payload_bytes.tolist(),
            flags.tolist(),
            strict=True,
        )
    )  # fmt: skip
    return [states[end - count : end] for end in result.batch.flows.starts[1:]]


def seen_of(states):
    return [(side, size, flags & (FIN | RST)) for side, size, flags in states]


def test_wrong_flags_of_an_ending_are_corrected():
    whole = closing_drawn(GOODBYES[0])
    last = len(whole) - 1
    drawn = [
        with_flips(with_flips(whole, [last - k % 4], "tcp_fin", 1, k), [last], "ipv4_tl", 2, k)
        for k in range(COUNT)
    ]
    found = goodbyes(repaired(drawn, ending_of(*GOODBYES)))
    assert np.mean([got == seen_of(GOODBYES[0]) for got in found]) > 0.95
    reset = goodbyes(repaired([closing_drawn(GOODBYES[1])], ending_of(*GOODBYES)))[0]
    assert reset[0] == (1, 0, RST)
    assert not any(flags & FIN for *_, flags in reset)


def test_an_ending_of_the_profile_passes_unchanged():
    drawn = closing_drawn(GOODBYES[0])
    result = repaired([drawn], ending_of(*GOODBYES))
    assert not result.corrected.any()


def test_what_comes_before_an_ending_agrees_with_it():
    # The ending says that the server has closed before: it has its FIN with its last data.
    tail = [
        (CLIENT, 0, SERVER_CLOSED), (CLIENT, 0, FIN | SERVER_CLOSED),
        (SERVER, 0, CLIENT_CLOSED | SERVER_CLOSED),
    ]  # fmt: skip
    profile = ending_of(tail)
    result = repaired([closing_drawn(tail)], profile)
    fins = np.flatnonzero(result.batch.packets.rows["transport"][:, TCP_FLAGS] & FIN)
    assert result.batch.packets.direction[fins].tolist() == [1, 0]
    assert fins[0] == len(HANDSHAKE) + len(TALK) - 1
    # And none where it says that nobody has.
    drawn = closing_drawn(GOODBYES[0])
    drawn[11:13, STATEFUL.columns("tcp_fin")] = 1
    result = repaired([drawn], ending_of(GOODBYES[0]))
    assert np.flatnonzero(result.batch.packets.rows["transport"][:, TCP_FLAGS] & FIN).tolist() == [
        13,
        15,
    ]


def test_a_short_flow_ends_within_its_opening():
    short = [(0, 40), (1, 0)]
    states = [*[(side, 0, 0) for side in (0, 1, 0)], (0, 40, PSH), (1, 0, 0)]
    open_end = [tcp_payload(k, *state, flows=50) for k, state in enumerate(states)]
    open_end += [tcp_payload(4, SERVER, 0, FIN, flows=50, ending_flows=50)]
    pairs = [Succession(IPPROTO_TCP, k, *states[k], *states[k + 1], flows=50) for k in range(4)]
    pairs += [Succession(IPPROTO_TCP, 3, *states[3], SERVER, 0, FIN, flows=50)]
    profile = Profile(payloads=open_end, successions=pairs)
    ends = [flags for ((*_, flags),) in goodbyes(repaired([noisy(short)] * COUNT, profile), 1)]
    goes_on = repaired([noisy([*short, (0, 40)])] * COUNT, profile).batch.packets.rows["transport"]
    assert np.mean(np.array(ends) == FIN) > 0.9
    assert np.mean(goes_on[:, TCP_FLAGS].reshape(COUNT, -1)[:, 4] & FIN == 0) > 0.9


def noisy(sizes):
    """Return a flow whose fifth packet is not of the profile: its length has a wrong bit."""
    return with_flips(tcp_drawn(sizes, layout=STATELESS), [4], "ipv4_tl", 1, 0)


def test_payloads_between_are_of_the_profile_and_no_larger():
    later = [
        tcp_payload(LATER, side, size, flags=PSH * (size > 0), flows=50)
        for side in (CLIENT, SERVER)
        for size in (0, 300)
    ]
    suppressed = tcp_payload(LATER, CLIENT, SUPPRESSED, flags=PSH, flows=10_000)
    profile = Profile(payloads=[*later, suppressed])
    between = [(0, 300), (1, 0), (0, 0), (1, 301), (0, 299), (0, 2000)]
    drawn = tcp_drawn([*TALK[:5], *between, *TALK[:6]])
    found = carried(repaired([drawn] * COUNT, profile), after=8)
    assert [pair[:4] for pair in found] == [[(0, 300), (1, 0), (0, 0), (1, 300)]] * COUNT
    small, large = zip(*[pair[4:6] for pair in found], strict=True)
    assert set(small) == {(0, 299)}
    assert set(large) <= {(0, 300), (1, 0)}  # without data, the server acknowledges


def test_segments_that_have_nothing_to_acknowledge_have_data_if_the_label_has_such():
    later = [
        tcp_payload(LATER, side, size, flags=PSH * (size > 0), flows=50)
        for side in (CLIENT, SERVER)
        for size in (0, 300)
    ]
    between = [(0, 300), (1, 0), (1, 0), (0, 0), (0, 300), (0, 0)]
    drawn = tcp_drawn([*TALK[:5], *between, *TALK[:6]])
    drawn[10, STATEFUL.columns("flow_acknowledged")] = 0
    drawn[13, STATEFUL.columns("flow_acknowledged")] = 0  # nothing, not even once more
    found = carried(repaired([drawn] * COUNT, Profile(payloads=later)), after=8)
    second, other, asked, idle = zip(*[pair[2:6] for pair in found], strict=True)
    assert {pair[:2] for pair in map(tuple, found)} == {((0, 300), (1, 0))}
    assert second.count((1, 300)) > 0.4 * COUNT
    assert idle.count((0, 300)) > 0.4 * COUNT
    assert set(asked) == {(0, 300)}
    assert [pair for pair in zip(second, other, strict=True) if pair[0] == (1, 300)] == [
        ((1, 300), (0, 0))
    ] * second.count((1, 300))


def test_segments_keep_to_the_mss_of_the_profile():
    option = bytes([2, 4, *(1380).to_bytes(2)])
    headers = [(0, tcp_header(0, SYN, options=option), 0), (1, tcp_header(1, SYN | ACK), 0)]
    headers += [(0, tcp_header(0, ACK), 0)]
    headers += [(side, tcp_header(side, ACK | PSH), 1400) for side in (0, 1)]
    rows, direction = rows_of(headers)
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(5, 1000))
    wrong = drawn.copy()
    wrong[0, STATEFUL.columns("tcp_opt").start + 31] ^= 1  # 1381
    profile = Profile(mss=[MssCount(CLIENT, mss, flows=50) for mss in (1380, 536)])
    for nprint in (drawn, wrong):
        result = repaired([nprint], profile)
        # The server, whose SYN has no MSS, takes 536 bytes over IPv4 (RFC 9293 section 3.7.1).
        assert result.batch.packets.payload_bytes.tolist() == [0, 0, 0, 536, 1380]
        assert result.batch.packets.rows["transport"][0, TCP_OPT : TCP_OPT + 4].tolist() == list(
            option
        )
    larger = repaired([drawn], Profile(mss=profile.mss, oversized=2))
    assert larger.batch.packets.payload_bytes.tolist() == [0, 0, 0, 1400, 1400]
    assert repaired([drawn], Profile()).batch.packets.payload_bytes.tolist() == [
        0,
        0,
        0,
        1400,
        1400,
    ]


def test_every_change_is_counted_under_the_rule_that_owns_the_field():
    drawn = with_flips(tcp_drawn(ONE), (3, 4, 5), "ipv4_tl", 2, 1)
    result = repaired([drawn], profile_of(ONE))
    by_rule = {name: int(n[0]) for name, n in result.corrected_by_rule().items() if n[0]}
    assert by_rule == {"lengths": 6}


@pytest.mark.parametrize("drawn_window", [431, 20_000])
def test_windows_are_those_of_hosts_with_the_same_scale_and_first_window(drawn_window):
    told = {(0, 15): 16_384, (0, 13): 5_840, (7, 16): 431}
    windows = [
        WindowCount(number, side, window, 9, scale, octave)
        for number in range(2, OPENING_PACKETS)
        for side in (CLIENT, SERVER)
        for (scale, octave), window in told.items()
    ]
    windows += [
        row._replace(octave=ANY_OCTAVE) for row in windows if (row.scale, row.octave) != (0, 13)
    ]
    profile = profile_of(windows=windows)
    scaled = "020405b401030307"
    plain = UNPLANNED._replace(headers="ipv4 tcp", client_options="", server_options="")
    stacks = [
        plain._replace(client_window=16_384, server_window=5_840),
        plain._replace(client_window=64_000, server_window=17_000),  # of no known octave
        plain._replace(client_options=scaled, server_options=scaled, client_window=64_240,
                       server_window=65_160),
    ]  # fmt: skip
    packets = [(1, 220), (0, 116), (1, 123), (0, 9)]
    drawn = tcp_drawn(packets, window=drawn_window, layout=STATELESS)
    context = RepairContext(profile=profile, server_ports=(443,), payload="zeros")
    result = repair([drawn] * 3, STATELESS, context, np.arange(3), plans=plans_of(stacks))
    window = words16(result.batch.packets.rows["transport"], TCP_WSIZE).reshape(3, -1)[:, 2:]
    side = result.batch.packets.direction.reshape(3, -1)[:, 2:]
    expected = np.array([[16_384, 5_840], [16_384, 16_384], [431, 431]])
    np.testing.assert_array_equal(window, expected[np.arange(3)[:, None], side])


def test_a_flow_does_not_depend_on_its_batch():
    rng = np.random.default_rng(4)
    drawn = [
        np.where(
            rng.random((12, STATEFUL.width)) < 0.02, 1, tcp_drawn([*ONE, *OTHER, *ONE])
        ).astype(np.int8)
        for _ in range(30)
    ]
    windows = [
        WindowCount(k, side, window=600 + k, flows=9, scale=0) for k in range(8) for side in (0, 1)
    ]
    levels = [LevelCount(k, side, level=80 + k, packets=9) for k in range(8) for side in (0, 1)]
    context = RepairContext(profile=profile_of(ONE, OTHER, windows=windows, levels=levels))
    seeds = np.arange(30, dtype=np.uint64)
    whole = repair(drawn, STATEFUL, context, seeds)
    for k, i in enumerate(whole.batch.position):
        alone = repair([drawn[i]], STATEFUL, context, seeds[i : i + 1])
        span = slice(*whole.packets.starts[whole.batch.flows.starts[k : k + 2]])
        np.testing.assert_array_equal(alone.packets.data, whole.packets.data[span])
        np.testing.assert_array_equal(alone.changed[0], whole.changed[k])
