"""Runs of one length and one gap, as a label's flows have them."""

import numpy as np
import pytest
from flow_rows import rows_of, udp_header

from netdiff_ray.header_bytes import IPPROTO_UDP
from netdiff_ray.labels.profile import OPENING_PACKETS, Profile
from netdiff_ray.labels.repeats import REPEATED_FIELDS, RepeatCount
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.repair import RepairContext, repair

STATEFUL = layout_named("stateful")
PACKETS = 60
CODEC = [
    RepeatCount(IPPROTO_UDP, field, 0, 1, repeating=9_990, changing=10)
    for field in range(len(REPEATED_FIELDS))
]
ALTERNATING = [
    RepeatCount(IPPROTO_UDP, field, 0, before, repeating=repeating, changing=100 - repeating)
    for field in range(len(REPEATED_FIELDS)) for before, repeating in ((0, 90), (1, 10))
]  # fmt: skip


def call(sizes, gaps_ms):
    """Return the nprint of a flow whose client alone sends."""
    packets = [(0, udp_header(0, size, port=6000), size) for size in sizes]
    rows, direction = rows_of(packets, protocol=IPPROTO_UDP)
    gaps_ns = np.array(gaps_ms) * 1_000_000
    return encode(rows, STATEFUL, direction=direction, interarrival_ns=gaps_ns)


def played(nprint, repeats):
    context = RepairContext(profile=Profile(repeats=repeats), payload="zeros")
    return repair([nprint], STATEFUL, context, [3]).batch.packets


def broken_call():
    """Return a codec's flow in which a packet in six is drawn as of another length and gap."""
    nprint = call([172] * PACKETS, [20] * PACKETS)
    for i in range(OPENING_PACKETS + 2, PACKETS, 6):
        nprint[i, STATEFUL.columns("flow_same_length")] = 0
        nprint[i, STATEFUL.columns("flow_same_gap")] = 0
        nprint[i, STATEFUL.columns("ipv4_tl")][-4:] ^= 1
        nprint[i, STATEFUL.columns("udp_len")][-4:] ^= 1
    return nprint


def test_a_codec_keeps_its_size_and_its_gap():
    packets = played(broken_call(), CODEC)
    assert len(set(packets.payload_bytes.tolist())) == 1
    gaps_ns = packets.interarrival_ns[OPENING_PACKETS:]
    assert len(set(gaps_ns.tolist())) == 1
    unknown = played(broken_call(), [])
    assert len(set(unknown.payload_bytes.tolist())) > 1


@pytest.mark.parametrize("repeats", [CODEC, ALTERNATING])
def test_a_flow_like_its_labels_stands_as_drawn(repeats):
    sizes, gaps = [172] * PACKETS, [20] * PACKETS
    if repeats is ALTERNATING:
        sizes = [100 + k // 2 for k in range(PACKETS)]
        gaps = [20 + 10 * (k // 2 % 2) for k in range(PACKETS)]
    packets = played(call(sizes, gaps), repeats)
    assert packets.payload_bytes.tolist() == sizes
    alone = played(call(sizes, gaps), [])
    np.testing.assert_array_equal(packets.interarrival_ns, alone.interarrival_ns)


def test_what_is_settled_stands_the_second_time():
    once = repair(
        [broken_call()], STATEFUL,
        RepairContext(profile=Profile(repeats=CODEC), payload="zeros"), [3],
    )  # fmt: skip
    again = played(once.nprint(STATEFUL), CODEC)
    np.testing.assert_array_equal(once.batch.packets.payload_bytes, again.payload_bytes)
    np.testing.assert_array_equal(once.batch.packets.interarrival_ns, again.interarrival_ns)
