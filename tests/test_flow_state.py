"""What packets do in their flows, by made conversations and by whole and cut real ones."""

import numpy as np
import pytest
from packet_builders import pcap, read, tcp4, udp4
from paths import ROOT

from netdiff_ray.flow_state import (
    AFTER_HOLE,
    AGAIN,
    COUNT_STARTS,
    DUPLICATE,
    IN_ORDER,
    NO_NEWS,
    ack_level,
)
from netdiff_ray.flows import assemble_flows
from netdiff_ray.header_bytes import ACK, FIN, PSH, RST, SYN
from netdiff_ray.packets import CaptureReader, header_rows

ONE, TWO = ack_level(1), ack_level(2)


def client(flags, seq, ack=0, payload=b"", window=500):
    return tcp4(flags, payload, seq=seq, ack=ack, window=window)


def server(flags, seq, ack=0, payload=b"", window=500):
    ends = {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 80, "dport": 1000}
    return tcp4(flags, payload, seq=seq, ack=ack, window=window, **ends)


def states(tmp_path, packets):
    """Return the states of the packets of a flow."""
    reader, _, rows = read(tmp_path / "c.pcap", pcap(packets))
    (windows,) = assemble_flows([rows], reader.fingerprint)
    assert len(windows) == 1
    return windows.state


def test_a_connection_with_a_loss(tmp_path):
    data = bytes(100)
    top = 1 << 32
    state = states(
        tmp_path,
        [
            client(SYN, top - 50),
            server(SYN | ACK, 7000, top - 49),
            client(ACK, top - 49, 7001),
            client(ACK, top - 49, 7001, data),  # over the end of the numbers
            client(ACK, 151, 7001, data),  # 51 to 151 was lost
            server(ACK, 7001, 51),
            server(ACK, 7001, 51),  # for what lies behind the hole
            client(ACK, 51, 7001, data),
            server(ACK, 7001, 251),
            server(ACK, 7001, 251, window=700),  # a window update
            client(PSH | ACK, 151, 7001, data),  # for nothing
            server(ACK, 7001, 251, window=700),
            client(ACK, 250, 7001),  # a keep-alive
            client(FIN | ACK, 251, 7001),
            server(RST | ACK, 7001, 252),
        ],
    )
    again = [0] * 7 + [AGAIN] + [0, 0, AGAIN, 0, AGAIN, 0, 0]
    again[4] = AFTER_HOLE
    assert state["sequence"].tolist() == again
    assert state["acknowledged"].tolist() == [
        NO_NEWS, ONE, ONE, NO_NEWS, NO_NEWS, ONE, DUPLICATE, NO_NEWS, TWO, NO_NEWS, NO_NEWS,
        DUPLICATE, NO_NEWS, NO_NEWS, ONE,
    ]  # fmt: skip
    assert state["same_length"].tolist() == [0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1]
    assert state["same_window"].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0]


def test_the_middle_of_a_connection(tmp_path):
    state = states(
        tmp_path,
        [
            server(ACK, 5000, 900),
            client(ACK, 1000, 5000, bytes(10)),
            server(ACK, 5000, 950),  # of what was sent before the capture
            server(ACK, 5000, 1004),  # inside a segment
            server(ACK, 5000, 900),  # late
        ],
    )
    assert not state["sequence"].any()
    assert state["acknowledged"].tolist() == [ONE, NO_NEWS, ONE, ONE, NO_NEWS]


def test_gaps_are_of_a_side_and_within_an_eighth(tmp_path):
    times = [0, 20, 21, 40, 62, 80, 95]
    sides = [0, 0, 1, 0, 1, 0, 0]
    ends = ({}, {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 53, "dport": 1000})
    packets = [
        (0, 10**6 * t, udp4(bytes(9 + t // 80), **ends[s]))
        for t, s in zip(times, sides, strict=True)
    ]
    reader, _, rows = read(tmp_path / "c.pcap", pcap(packets, magic=0xA1B23C4D))
    (windows,) = assemble_flows([rows], reader.fingerprint)
    state = windows.state
    # The gaps of the client are 20, 20, 40 and 15 ms.
    assert windows.direction.tolist() == sides
    assert state["same_gap"].tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert state["same_length"].tolist() == [0, 1, 0, 1, 1, 0, 1]
    for name in ("sequence", "acknowledged", "same_window"):
        assert not state[name].any()


def test_levels_of_acknowledged_segments():
    counts = np.arange(COUNT_STARTS[-1] + 10)
    levels = np.array([ack_level(count) for count in counts])
    assert levels[0] == NO_NEWS
    assert levels[1] == DUPLICATE + 1
    assert (np.diff(levels[1:]) >= 0).all()
    assert (np.diff(levels[1:]) <= 1).all()
    assert levels[-1] == 15
    assert IN_ORDER == NO_NEWS == 0


@pytest.mark.parametrize("label", ["bulk", "voip"])
def test_windows_of_a_flow_go_on_where_the_last_ended(label):
    capture = sorted((ROOT / "samples" / "train" / label).iterdir())[0]

    def by_flow(**options):
        rows = (header_rows(table) for table in CaptureReader(capture))
        found = {}
        for windows in assemble_flows(rows, b"", **options):
            for k, flow in enumerate(windows.flow_id):
                span = slice(windows.first[k], windows.first[k + 1])
                found.setdefault(flow, []).append((windows.window[k], windows.state[span]))
        return {
            f: np.concatenate([s for _, s in sorted(p, key=lambda w: w[0])])
            for f, p in found.items()
        }

    whole, cut = by_flow(height=1 << 20), by_flow(height=16, release_packets=100)
    assert whole.keys() == cut.keys()
    assert any(len(state) > 200 for state in whole.values())
    for flow, state in whole.items():
        np.testing.assert_array_equal(cut[flow], state)
