"""What is drawn of a connection is acted out: losses, retransmissions, acknowledgements."""

import struct

import numpy as np
from flow_rows import ACK, FIN, PSH, SYN, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from netdiff_ray.flow_state import AFTER_HOLE, AGAIN, DUPLICATE, packet_states
from netdiff_ray.header_bytes import IPPROTO_TCP, TCP_ACKN, TCP_FLAGS, TCP_SEQ, TCP_WSIZE, words16
from netdiff_ray.labels.loss import share_bounds
from netdiff_ray.labels.stack import UNPLANNED
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.repair import RepairContext, plans_of, repair
from netdiff_ray.repair.rules.tcp_segments import FILLS

STATEFUL = layout_named("stateful")
MS = 1_000_000
SYN_OPTIONS = bytes([2, 4, 5, 0xB4, 1, 1, 4, 2, 1, 3, 3, 7])
FIRST = (1_000, 4_294_967_000)
"""First numbers of client and server."""


def segment(side, flags, seq, ack, payload_bytes=0, window=501):
    """Return (direction, TCP header, payload bytes); numbers count from the sides' first."""
    ports = (50_000, 443) if side == 0 else (443, 50_000)
    options = SYN_OPTIONS if flags & SYN else b""
    seq, ack = (FIRST[side] + seq) % 2**32, (FIRST[1 - side] + ack) % 2**32
    offset = (20 + len(options)) // 4 << 4
    header = struct.pack("!HHIIBBHHH", *ports, seq, ack, offset, flags, window, 0, 0)
    return side, header + options, payload_bytes


HANDSHAKE = [segment(0, SYN, 0, 0), segment(1, SYN | ACK, 0, 1), segment(0, ACK, 1, 1)]


def play(segments, gap_ms=50, **context):
    """Return the rows, directions and repaired packets of a flow."""
    rows, direction = rows_of(segments)
    gaps_ns = np.full(len(rows), gap_ms * MS)
    nprint = encode(rows, STATEFUL, direction=direction, interarrival_ns=gaps_ns)
    return rows, direction, repair([nprint], STATEFUL, RepairContext(**context), [5])


def numbers(rows, direction):
    """Return (P, 2) int64: sequence and ACK number of each packet, from the first of each side."""
    transport = rows["transport"]
    seq, ack = (
        words16(transport, at) << 16 | words16(transport, at + 2) for at in (TCP_SEQ, TCP_ACKN)
    )
    first = np.array([seq[np.argmax(direction == side)] for side in (0, 1)])
    has_ack = transport[:, TCP_FLAGS] & ACK > 0
    own, other = seq - first[direction], (ack - first[1 - direction]) * has_ack
    return np.stack([own, other], axis=1) % 2**32


def assert_played(segments, **options):
    rows, direction, result = play(segments, **options)
    packets = result.batch.packets
    np.testing.assert_array_equal(numbers(packets.rows, direction), numbers(rows, direction))
    np.testing.assert_array_equal(
        words16(packets.rows["transport"], TCP_WSIZE), words16(rows["transport"], TCP_WSIZE)
    )
    assert not result.corrected.any()
    return result


def test_a_loss_before_the_capture_point():
    lost = [
        segment(0, PSH | ACK, 1, 1, 100),
        segment(0, PSH | ACK, 301, 1, 100),  # 101 to 301 is lost
        segment(1, ACK, 1, 101),
        segment(1, ACK, 1, 101),
        segment(0, ACK, 101, 1, 200),
        segment(1, ACK, 1, 401),
        segment(0, PSH | ACK, 401, 1, 50),
    ]
    result = assert_played([*HANDSHAKE, *lost], payload="random")
    assert result.batch.packets.state["sequence"][4] == AFTER_HOLE


def test_a_retransmission_has_the_same_bytes():
    segments = [
        *HANDSHAKE,
        segment(0, PSH | ACK, 1, 1, 300),
        segment(0, PSH | ACK, 301, 1, 80),
        segment(0, PSH | ACK, 1, 1, 300),
        segment(0, PSH | ACK, 301, 1, 80),
        segment(1, ACK, 1, 381),
    ]
    for payload in ("random", "dialogue"):
        result = assert_played(segments, payload=payload)
        first, second, third, fourth = (result.packets.packet(k)[-80:] for k in (3, 4, 5, 6))
        assert (first, second) == (third, fourth)
        assert first != second
        assert len(set(first)) > 10


def test_a_gap_beyond_the_longest_time_is_not_repeated():
    asked = [
        *HANDSHAKE,
        segment(1, PSH | ACK, 1, 1, 9),
        segment(0, ACK, 1, 10),
        segment(0, ACK, 1, 10),
    ]
    rows, direction = rows_of(asked)
    gaps_ns = np.array([0, 50 * MS, 50 * MS, 3_700_000 * MS, 900_000 * MS, 50 * MS])
    nprint = encode(rows, STATEFUL, direction=direction, interarrival_ns=gaps_ns)
    nprint[5, STATEFUL.columns("flow_same_gap")] = 1
    once = repair([nprint], STATEFUL, RepairContext(), [5])
    assert once.batch.packets.interarrival_ns[5] < 100 * MS
    twice = repair([once.nprint(STATEFUL)], STATEFUL, RepairContext(), [5])
    np.testing.assert_array_equal(once.packets.ts_ns, twice.packets.ts_ns)


def test_nothing_is_probed_before_there_is_data():
    asked = [*HANDSHAKE, segment(0, ACK, 1, 1), segment(0, PSH | ACK, 1, 1, 100)]
    rows, direction = rows_of(asked)
    gaps_ns = np.full(len(rows), 50 * MS)
    nprint = encode(rows, STATEFUL, direction=direction, interarrival_ns=gaps_ns)
    nprint[3, STATEFUL.columns("flow_retransmission")] = 1
    packets = repair([nprint], STATEFUL, RepairContext(), [5]).batch.packets
    assert numbers(packets.rows, direction)[:, 0].tolist() == [0, 0, 1, 1, 1]


def test_keep_alives_window_updates_and_a_fin_sent_again():
    segments = [
        *HANDSHAKE,
        segment(0, PSH | ACK, 1, 1, 30),
        segment(1, ACK, 1, 31),
        segment(1, ACK, 1, 31, window=600),
        segment(0, ACK, 30, 1),
        segment(1, ACK, 1, 31, window=600),
        segment(0, FIN | ACK, 31, 1),
        segment(0, FIN | ACK, 31, 1),
        segment(1, ACK, 1, 32, window=600),
    ]
    result = assert_played(segments)
    state = packet_states(
        result.batch.packets.rows, result.batch.packets.direction,
        result.batch.packets.interarrival_ns, np.array([0, len(segments)]),
    )  # fmt: skip
    assert np.flatnonzero(state["sequence"] == AGAIN).tolist() == [6, 9]
    assert np.flatnonzero(state["acknowledged"] == DUPLICATE).tolist() == [7]


@st.composite
def lossy_flows(draw):
    """Return the segments of a transfer of which some are lost before the capture point, some
    behind it: all come again, and the other side says what it misses. Nothing acknowledges more
    than four segments, of which levels are exact."""
    segments = list(HANDSHAKE)
    sent = acked = 1
    for _ in range(draw(st.integers(1, 12))):
        sizes = draw(st.lists(st.integers(60, 1400), min_size=1, max_size=4, unique=True))
        lost = draw(st.one_of(st.none(), st.integers(0, len(sizes) - 1)))
        hidden = lost is not None and lost < len(sizes) - 1 and draw(st.booleans())
        starts = [sent + sum(sizes[:k]) for k in range(len(sizes) + 1)]
        for k, size in enumerate(sizes):
            if not (hidden and k == lost):
                segments.append(segment(0, PSH | ACK, starts[k], 1, size))
        sent = starts[-1]
        if lost is not None:
            if starts[lost] > acked:
                acked = starts[lost]
                segments.append(segment(1, ACK, 1, acked))
            segments += [segment(1, ACK, 1, acked)] * draw(st.integers(0, 3))
            segments.append(segment(0, PSH | ACK, starts[lost], 1, sizes[lost]))
        acked = sent
        segments.append(segment(1, ACK, 1, acked))
    return segments


@settings(max_examples=60, deadline=None)
@given(segments=lossy_flows())
def test_lossy_transfers_come_back(segments):
    rows, direction, result = play(segments)
    np.testing.assert_array_equal(
        numbers(result.batch.packets.rows, direction), numbers(rows, direction)
    )


def test_most_real_connections_come_back(real_windows):
    windows = [window for window in real_windows if window.protocol == IPPROTO_TCP]
    ports = tuple({window.server_port for window in windows})
    context = RepairContext(server_ports=ports, payload="zeros")
    drawn = [window.nprint(STATEFUL) for window in windows]
    result = repair(drawn, STATEFUL, context, np.arange(len(windows)))
    packets, starts = result.batch.packets, result.batch.flows.starts
    same = []
    for k, position in enumerate(result.batch.position):
        part, window = slice(starts[k], starts[k + 1]), windows[position]
        played = numbers(packets.rows[part], packets.direction[part])
        real = numbers(window.rows, window.direction)
        same.append(np.array_equal(played, real))
    assert np.mean(same) > 0.6


def transfer(num_segments, seed):
    """Return a transfer whose segments are as long as the seed says, each acknowledged."""
    rng = np.random.default_rng(seed)
    sent, segments = 1, []
    for size in rng.integers(2, 1_400, num_segments).tolist():
        segments += [segment(0, PSH | ACK, sent, 1, size), segment(1, ACK, 1, sent + size)]
        sent += size
    return [*HANDSHAKE, *segments]


@settings(max_examples=30)
@given(
    num_segments=st.integers(1, 40), seed=st.integers(0, 99), loss=st.integers(0, 8),
    drawn=st.lists(st.integers(3, 80), max_size=20),
)  # fmt: skip
def test_a_planned_loss_is_that_of_the_flow(num_segments, seed, loss, drawn):
    rows, direction = rows_of(transfer(num_segments, seed))
    state = packet_states(rows, direction, np.full(len(rows), 50 * MS), np.array([0, len(rows)]))
    for i in drawn:
        if i < len(rows):
            state["sequence"][i] = 1 + i % 2
    gaps_ns = np.full(len(rows), 50 * MS)
    nprint = encode(rows, STATEFUL, direction=direction, interarrival_ns=gaps_ns, state=state)
    plans = plans_of([UNPLANNED], losses=[loss])
    result = repair([nprint], STATEFUL, RepairContext(), [seed], plans=plans)
    packets = result.batch.packets
    copies = np.isin(packets.state["sequence"], (AGAIN, FILLS)) & (packets.payload_bytes > 1)
    copies &= packets.stuck == 0
    segments, number = int((packets.payload_bytes > 0).sum()), int(copies.sum())
    if loss == 0:
        assert number == 0
    elif segments >= 2 and loss < 8:
        least, most = share_bounds(loss)
        assert least * segments - 1 <= number <= max(1, most * segments + 1)
    repaired = result.nprint(STATEFUL)
    again = repair([repaired], STATEFUL, RepairContext(), [seed], plans=plans)
    np.testing.assert_array_equal(again.nprint(STATEFUL), repaired)
