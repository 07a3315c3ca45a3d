"""Bad matrices are rejected with their reasons; the rest of the batch goes on."""

import numpy as np
import pytest
from flow_rows import rows_of, udp_header

from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.stack import UNPLANNED
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.repair import RepairContext, plans_of, repair

STATEFUL = layout_named("stateful")


def good(num_packets=3):
    rows, direction = rows_of([(0, udp_header(0, 30), 30)] * num_packets, protocol=17)
    gaps_ns = np.full(num_packets, 5000)
    return encode(rows, STATEFUL, direction=direction, interarrival_ns=gaps_ns)


def spoiled(row, column, value):
    nprint = good()
    nprint[row, column] = value
    return nprint


def without_transport():
    nprint = good()
    for name in STATEFUL.fields:
        if name.startswith("udp"):
            nprint[:, STATEFUL.columns(name)] = -1
    return nprint


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (good()[:, :100], "3 x 100; layout stateful needs rows of 704 columns"),
        (np.zeros(704, np.int8), "the matrix is 704"),
        (good()[:0], "has 0 rows; a flow has 1 to 65,536"),
        (np.repeat(good(), 22_000, axis=0), "has 66,000 rows"),
        (np.full((16, 704), -1, np.int8), "the first row is vacant"),
        (spoiled(2, 64, 7), "row 2, column ipv4_tos_0 holds 7"),
        (spoiled(0, 703, -2), "row 0, column flow_same_gap_7 holds -2"),
        (good().astype(float) * 1.5, "other values than 1, 0 and -1"),
        (np.full((3, 704), np.nan), "other values than 1, 0 and -1"),
        (np.full((3, 704), "x"), "other values than 1, 0 and -1"),
        (without_transport(), "no transport header"),
    ],
)
def test_a_bad_matrix_is_rejected_alone(bad, reason):
    result = repair([good(), bad, good()], STATEFUL, RepairContext(), [1, 2, 3])
    assert [i for i, _ in result.rejected] == [1]
    assert reason in result.rejected[0][1]
    assert result.batch.position.tolist() == [0, 2]
    assert len(result.packets) == 6
    alone = repair([good()], STATEFUL, RepairContext(), [3])
    span = slice(result.packets.starts[3], None)
    np.testing.assert_array_equal(result.packets.data[span], alone.packets.data)


def test_nothing_at_all():
    result = repair([], STATEFUL, RepairContext(), [])
    assert len(result.packets) == 0
    assert not result.rejected


def test_rows_after_the_end_are_dropped_and_counted():
    nprint = np.full((16, 704), -1, np.int8)
    nprint[:3] = good()
    nprint[5:7] = good(2)
    result = repair(nprint[None], STATEFUL, RepairContext(), [1])
    assert len(result.packets) == 3
    assert result.after_end.tolist() == [2]


def test_noise_makes_no_packets_of_padding():
    rng = np.random.default_rng(1)
    nprint = np.full((64, 704), -1, np.int8)
    nprint[:3] = good()
    hit = rng.random(nprint.shape) < 0.2
    nprint = np.where(hit, rng.integers(-1, 2, nprint.shape), nprint).astype(np.int8)
    result = repair([nprint], STATEFUL, RepairContext(), [1])
    assert len(result.packets) == 3


def test_seeds_are_one_a_flow():
    with pytest.raises(ValueError, match="1 nprints need as many seeds"):
        repair([good()], STATEFUL, RepairContext(), [1, 2])
    with pytest.raises(ValueError, match="and plans; there are 1, 1 and 2"):
        repair([good()], STATEFUL, RepairContext(), [1], plans=plans_of([UNPLANNED] * 2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"server_ports": (0,)}, "server_ports holds 0"),
        ({"payload": "words"}, "payload is 'words'; it is one of"),
        ({"interarrival_weights": (1.0,)}, "must be 256 weights"),
        ({"most_packet_bytes": 100}, "most_packet_bytes is 100"),
    ],
)
def test_a_context_is_checked(wrong, message):
    with pytest.raises(ConfigError, match=message):
        RepairContext(**wrong)
