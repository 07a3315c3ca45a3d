"""What classifiers see: flow statistics, sizes and times, header values, of hand-made flows."""

import numpy as np
import pytest
from packet_builders import pcap, read, tcp4

from netdiff_ray.evaluate.flow_blocks import blocks_of_windows, joined_blocks, text_hashes
from netdiff_ray.evaluate.flow_statistics import STATISTICS
from netdiff_ray.evaluate.packet_views import header_values, sizes_and_times
from netdiff_ray.evaluate.summary import summarise
from netdiff_ray.flows import assemble_flows

BACK = {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 80, "dport": 1000}


@pytest.fixture
def block(tmp_path):
    """Return a flow of 40, 50, 100 and 45 bytes at 0, 1, 3 and 3.5 s; client and server in turn."""
    packets = [
        (0, 0, tcp4(2)), (1, 0, tcp4(0x12, bytes(10), **BACK)), (3, 0, tcp4(0x18, bytes(60))),
        (3, 500_000, tcp4(0x11, bytes(5), **BACK)),
    ]  # fmt: skip
    reader, _, rows = read(tmp_path / "c.pcap", pcap(packets))
    windows = list(assemble_flows([rows], reader.fingerprint))
    (block,) = joined_blocks(blocks_of_windows(windows, "web", "c.pcap"))
    return block


def test_statistics_as_nfstream_defines_them(block):
    found = dict(zip(STATISTICS, block.statistics[0], strict=True))
    sizes = [40, 50, 100, 45]
    wanted = {
        "protocol": 6, "bidirectional_packets": 4, "src2dst_packets": 2, "dst2src_packets": 2,
        "bidirectional_bytes": 235, "src2dst_bytes": 140, "dst2src_bytes": 95,
        "bidirectional_duration_ms": 3500, "src2dst_duration_ms": 3000,
        "dst2src_duration_ms": 2500, "bidirectional_min_ps": 40,
        "bidirectional_mean_ps": np.mean(sizes), "bidirectional_max_ps": 100,
        "bidirectional_stddev_ps": np.std(sizes, ddof=1),
        "src2dst_stddev_ps": np.std([40, 100], ddof=1), "dst2src_min_ps": 45,
        "bidirectional_min_piat_ms": 500, "bidirectional_max_piat_ms": 2000,
        "bidirectional_mean_piat_ms": 3500 / 3,
        "bidirectional_stddev_piat_ms": np.std([1000, 2000, 500], ddof=1),
        "src2dst_min_piat_ms": 3000, "src2dst_stddev_piat_ms": 0, "dst2src_mean_piat_ms": 2500,
        "bidirectional_syn_packets": 2, "src2dst_syn_packets": 1, "dst2src_syn_packets": 1,
        "bidirectional_ack_packets": 3, "dst2src_fin_packets": 1, "src2dst_psh_packets": 1,
        "bidirectional_rst_packets": 0,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


def test_a_flow_of_one_packet_has_no_times(tmp_path):
    reader, _, rows = read(tmp_path / "c.pcap", pcap([(0, 0, tcp4(2))]))
    windows = list(assemble_flows([rows], reader.fingerprint))
    (block,) = joined_blocks(blocks_of_windows(windows, "web"))
    found = dict(zip(STATISTICS, block.statistics[0], strict=True))
    assert found["bidirectional_packets"] == 1
    assert not any(value for name, value in found.items() if "piat" in name or "stddev" in name)
    assert not any(value for name, value in found.items() if name.startswith("dst2src"))


def test_endpoints_and_capture_of_a_flow(block):
    assert block.server_port.tolist() == [80]
    client, server = text_hashes([bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])])
    assert block.hosts.tolist() == [[client, server]]
    assert block.capture.tolist() == text_hashes(["c.pcap"]).tolist()


def test_sizes_directions_and_times_of_first_packets(block):
    row = sizes_and_times(summarise([block]).sample)[0].reshape(-1, 2)
    assert row[:5, 0].tolist() == [40, -50, 100, -45, 0]
    assert row[0, 1] == 0
    # The time code has eight levels an octave: a time is known to a twelfth.
    assert 10.0 ** row[1:4, 1] == pytest.approx([1, 2, 0.5], rel=0.1)
    assert (row[4:, 1] == -9).all()


def test_header_values_of_first_packets(block):
    rows = header_values(summarise([block]).sample)[0].reshape(8, -1)
    direction, ttl, hop_limit, length = rows[0, :4].tolist()
    assert (direction, hop_limit, length) == (1, -1, 40)
    assert ttl > 0
    assert rows[:4, 0].tolist() == [1, -1, 1, -1]
    assert (rows[4:] == -2).all()
    assert rows[0, -6:].tolist() == [-1, -1, -1, -1, 0, 0]


def test_options_of_a_syn(tmp_path):
    # MSS 1460, SACK permitted, no-operation, window scale 7.
    options = bytes([2, 4, 5, 180, 4, 2, 1, 3, 3, 7, 0, 0])
    frame = bytearray(tcp4(2, options))
    at = 14 + 20 + 12
    frame[at] = 8 << 4
    reader, _, rows = read(tmp_path / "c.pcap", pcap([(0, 0, bytes(frame))]))
    windows = list(assemble_flows([rows], reader.fingerprint))
    sample = summarise(blocks_of_windows(windows, "web")).sample
    mss, scale, sack, timestamps, count, _ = header_values(sample)[0].reshape(8, -1)[0, -6:]
    assert (mss, scale, sack, timestamps, count) == (1460, 7, 1, -1, 5)
