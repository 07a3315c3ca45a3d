"""The packets themselves, read by dpkt and held against the RFCs by a second hand."""

import struct

import dpkt
import numpy as np
import pytest
from flow_rows import rows_of, tcp_header
from windows import repaired

from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.repair import RepairContext, repair
from netdiff_ray.repair.rules.flow import LEVEL_STARTS

STATEFUL = layout_named("stateful")
FIN, SYN, RST, ACK = 1, 2, 4, 16


@pytest.fixture(scope="module", params=["none", "blur", "5 %", "20 %"])
def results(real_windows, request):
    return repaired(real_windows[:120], STATEFUL, request.param)


def flows(results, protocol=None):
    """Yield (times, directions, parsed Ethernet frames) of each flow."""
    for result in results:
        for k in range(len(result.batch)):
            if protocol is None or result.batch.flows.protocol[k] == protocol:
                part = range(*result.batch.flows.starts[k : k + 2])
                frames = [dpkt.ethernet.Ethernet(result.packets.packet(i)) for i in part]
                yield (
                    result.packets.ts_ns[part.start : part.stop],
                    result.batch.packets.direction[part.start : part.stop],
                    frames,
                )


def options_of(segment):
    return dict(dpkt.tcp.parse_opts(segment.opts))


def test_checksums_are_dpkts(results):
    for _, _, frames in flows(results):
        for frame in frames[:20]:
            before = bytes(frame)
            ip = frame.data
            if isinstance(ip, dpkt.ip.IP):
                ip.sum = 0
            if not isinstance(ip.data, bytes):
                ip.data.sum = 0
            # dpkt fills in what is 0 when it packs.
            assert bytes(frame) == before


def test_times_grow_and_stay_in_their_levels(results):
    for ts_ns, _, _ in flows(results):
        assert (np.diff(ts_ns) > 0).all()
    for result in results:
        level = result.batch.packets.level.astype(int)
        gaps_ns = result.batch.packets.interarrival_ns
        assert (LEVEL_STARTS[level] <= gaps_ns).all()
        assert (gaps_ns < LEVEL_STARTS[level + 1]).all()


def test_no_silence_is_longer_than_the_longest_known_of_the_label():
    rows, direction = rows_of([(k % 2, tcp_header(k % 2, ACK), 100) for k in range(4)])
    times_ns = np.array([0, 3_000_000, 50_000_000, 40 * 60 * 10**9])
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=times_ns)
    weights = np.zeros(256)
    weights[[10, 120]] = 1
    known = RepairContext(interarrival_weights=tuple(weights))
    gaps, free = (
        repair([drawn], STATEFUL, context, [1]).batch.packets.interarrival_ns
        for context in (known, RepairContext())
    )
    assert (LEVEL_STARTS[120] <= gaps[2:]).all()
    assert (gaps[2:] < LEVEL_STARTS[121]).all()
    assert np.array_equal(gaps[:2], free[:2])
    assert free[3] > 39 * 60 * 10**9


def test_one_host_pair_and_lifetime_a_direction(results):
    for _, direction, frames in flows(results):
        for side in (0, 1):
            ips = [f.data for f, d in zip(frames, direction, strict=True) if d == side]
            kind = "hlim" if ips and isinstance(ips[0], dpkt.ip6.IP6) else "ttl"
            assert len({(ip.src, ip.dst, getattr(ip, kind)) for ip in ips}) <= 1


def test_tcp_sequence_space(results):
    for _, direction, frames in flows(results, 6):
        segments = [f.data.data for f in frames]
        opens = segments[0].flags & SYN
        sent, acked, closed = [None, None], [None, None], [False, False]
        for k, (segment, side) in enumerate(zip(segments, direction, strict=True)):
            peer = 1 - side
            flags, size = segment.flags, len(segment.data)
            assert bool(flags & SYN) <= (opens and k < 2)
            assert not (flags & (SYN | RST) and size)
            assert not (closed[side] and (size or flags & FIN) and not flags & RST)
            refusal = flags & RST and k == 1 and opens
            if sent[side] is not None and not refusal:
                early = (sent[side] - segment.seq) % 2**32
                assert early == 0 or (early == 1 and size <= 1)  # a keep-alive
                keep_alive = early == 1
            else:
                keep_alive = False
            if not flags & ACK:
                assert segment.ack == 0
                assert k == 0 or flags & RST
            elif sent[peer] is not None:
                assert (sent[peer] - segment.ack) % 2**32 < 2**31, "acknowledges the unsent"
            if flags & ACK:
                if acked[side] is not None:
                    assert (segment.ack - acked[side]) % 2**32 < 2**31, "goes back"
                acked[side] = segment.ack
            if not keep_alive and not refusal:
                grown = size + bool(flags & SYN) + bool(flags & FIN)
                sent[side] = (segment.seq + grown) % 2**32
            closed[side] |= bool(flags & (FIN | RST))
            assert bool(flags & 32) == bool(segment.urp)


def test_tcp_options(results):
    for _, direction, frames in flows(results, 6):
        segments = [f.data.data for f in frames]
        opens = segments[0].flags & SYN
        held = [options_of(segment) for segment in segments]
        for segment, options in zip(segments, held, strict=True):
            allowed = {0, 1, 8} | ({2, 3, 4} if segment.flags & SYN else set())
            assert set(options) <= allowed
            assert b"\1\1\1\1" not in segment.opts[:4]
        plain = [8 in o for s, o in zip(segments, held, strict=True) if not s.flags & (SYN | RST)]
        assert len(set(plain)) <= 1
        if opens and len(segments) > 1 and segments[1].flags & SYN:
            assert {3, 4, 8} & set(held[1]) <= set(held[0])
            if plain:
                assert (8 in held[0] and 8 in held[1]) == plain[0]
        heard = [None, None]
        for side, options in zip(direction, held, strict=True):
            if 8 in options:
                value, echo = (int.from_bytes(options[8][at : at + 4]) for at in (0, 4))
                if heard[side] is not None:
                    assert echo == heard[side]
                heard[1 - side] = value


def test_tcp_windows_hold_what_is_sent(results):
    for _, direction, frames in flows(results, 6):
        segments = [f.data.data for f in frames]
        scale = [14, 14]
        if segments[0].flags & SYN:
            scale = [0, 0]
            if len(segments) > 1 and segments[1].flags & SYN:
                both = [options_of(s) for s in segments[:2]]
                if 3 in both[0] and 3 in both[1]:
                    scale = [o[3][0] for o in both]
        edge = [None, None]
        for segment, side in zip(segments, direction, strict=True):
            if edge[1 - side] is not None and segment.data:
                over = segment.seq + len(segment.data) - edge[1 - side]
                assert (over + 2**31) % 2**32 < 2**31, "sends past the window"
            if segment.flags & ACK:
                shift = 0 if segment.flags & SYN else scale[side]
                edge[side] = segment.ack + (segment.win << shift)
            if not segment.flags & (SYN | FIN | RST):
                assert segment.win > 0


@pytest.mark.parametrize(("payload_bytes", "shut"), [(1, False), (2, True)])
def test_no_lone_byte_follows_a_shut_window(payload_bytes, shut):
    """Wireshark calls a byte that is sent into a window of 0 a probe, even if a RST had it."""
    packets = [
        (0, tcp_header(0, ACK, port=8080), 100),
        (1, tcp_header(1, ACK, port=8080), 100),
        (0, tcp_header(0, RST, window=0, port=8080), 0),
        (1, tcp_header(1, ACK, port=8080), payload_bytes),
    ]
    rows, direction = rows_of(packets)
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(4, 5000))
    result = repair([drawn], STATEFUL, RepairContext(), [1])
    ((_, _, frames),) = flows([result])
    segments = [frame.data.data for frame in frames]
    assert [len(segment.data) for segment in segments] == [100, 100, 0, payload_bytes]
    assert (segments[2].flags, segments[2].win == 0) == (RST, shut)
    assert result.distance.any() != shut


def test_no_clock_is_written_over_padding():
    padding = bytes([1, 1]) + bytes(10)  # as long as timestamps, after as many NOPs
    options = [b"", b"", padding, b""]
    packets = [(k % 2, tcp_header(k % 2, ACK, options=o), 100) for k, o in enumerate(options)]
    rows, direction = rows_of(packets)
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(4, 5000))
    ((_, _, frames),) = flows([repair([drawn], STATEFUL, RepairContext(), [1])])
    assert [frame.data.data.opts for frame in frames] == options


@pytest.mark.parametrize("payload", ["dialogue", "zeros", "random", "none"])
def test_payload_modes_keep_the_lengths(real_windows, payload):
    drawn = [w.nprint(STATEFUL) for w in real_windows[:40]]
    seeds = np.arange(len(drawn))
    result = repair(drawn, STATEFUL, RepairContext(payload=payload), seeds)
    captured = np.diff(result.packets.starts)
    if payload == "none":
        assert (captured == result.packets.wirelen - result.batch.packets.payload_bytes).all()
    else:
        assert (captured == result.packets.wirelen).all()
    other = repair(drawn, STATEFUL, RepairContext(payload="zeros"), seeds)
    if payload != "dialogue":
        np.testing.assert_array_equal(result.packets.wirelen, other.packets.wirelen)


def test_flows_have_clients_of_their_own(real_windows):
    drawn = [w.nprint(STATEFUL) for w in real_windows if w.protocol == 6][:50]
    result = repair(drawn, STATEFUL, RepairContext(), np.zeros(len(drawn)), np.arange(len(drawn)))
    clients = set()
    for _, _, frames in flows([result]):
        clients.add((frames[0].data.src, frames[0].data.data.sport))
    assert len(clients) == len(drawn)


@pytest.mark.parametrize(("size", "begin"), [(56, 16), (12, 0), (16, 16), (0, 0)])
def test_echo_data_is_what_ping_writes(size, begin):
    packets = [
        (k % 2, struct.pack("!BBHHH", 8 - 8 * (k % 2), 0, 0, 7, k // 2), size) for k in range(4)
    ]
    rows, direction = rows_of(packets, protocol=1)
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(4, 10**8))
    result = repair([drawn], STATEFUL, RepairContext(), [1])
    ((_, _, frames),) = flows([result])
    data = [bytes(frame.data.data.data.data) for frame in frames]
    assert data[0] == data[1]
    assert data[2] == data[3]
    for body in data:
        assert body[begin:] == bytes(range(begin, size))
    if begin:
        for body, ts_ns in zip(data[::2], result.packets.ts_ns[::2], strict=True):
            seconds, microseconds = struct.unpack("<qq", body[:16])
            assert (seconds, microseconds) == divmod(int(ts_ns) // 1000, 10**6)


def test_echo_data_of_windows_are_letters():
    rows, direction = rows_of([(0, struct.pack("!BBHHH", 8, 0, 0, 7, 1), 32)], protocol=1)
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(1, 10**8))
    ((_, _, frames),) = flows([repair([drawn], STATEFUL, RepairContext(), [1])])
    assert bytes(frames[0].data.data.data.data) == b"abcdefghijklmnopqrstuvwabcdefghi"
