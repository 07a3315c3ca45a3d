"""Captures that grow: the bytes of a shard, of which those once written never change."""

import numpy as np
import pytest

from netdiff_ray.config.pins import DEFAULT_START_NS
from netdiff_ray.generation.flow_repair import RepairedFlow
from netdiff_ray.generation.schedule import schedule_packets
from netdiff_ray.generation.stream import CaptureStream, flow_order
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.writer import pcap_header, pcap_records


def made(number, packets, rng):
    """Return a flow of some packets of a length each."""
    caplen = rng.integers(20, 90, packets)
    return RepairedFlow(
        flow_id=str(number),
        data=rng.integers(0, 256, caplen.sum()).astype(np.uint8),
        caplen=caplen,
        wirelen=caplen + 4,
        relative_ns=np.cumsum(rng.integers(1, 2_000_000_000, packets)) * (np.arange(packets) > 0),
    )


def whole(flows, order, rate, seed):
    """Return what `schedule_packets` makes of the flows when all are there."""
    caplen, wirelen, relative_ns = (
        np.concatenate([getattr(flow, name) for flow in flows])
        for name in ("caplen", "wirelen", "relative_ns")
    )
    first = np.cumsum([0, *(len(flow.caplen) for flow in flows)])
    ts_ns, chosen = schedule_packets(
        relative_ns, first, order=order, start_ns=DEFAULT_START_NS, flows_per_second=rate,
        seed=seed,
    )  # fmt: skip
    start = np.cumsum(caplen) - caplen
    data = np.concatenate([flow.data for flow in flows])
    records = pcap_records(data, start[chosen], caplen[chosen], wirelen[chosen], ts_ns[chosen])
    return pcap_header() + records.tobytes()


@pytest.mark.parametrize("order", ["sequential", "interleaved"])
@pytest.mark.parametrize("rate", [0.5, 1e6])
def test_a_capture_that_grows_becomes_the_one_made_at_once(order, rate):
    rng = np.random.default_rng(1)
    flows = [made(k, packets, rng) for k, packets in enumerate((3, 1, 8, 2, 5, 9, 1))]
    stream = CaptureStream("pcap", order=order, flows_per_second=rate, seed=4)
    parts = [stream.add(flow) for flow in flows]
    assert len(b"".join(parts)) > 24 or order == "interleaved"
    parts.append(stream.end())
    assert b"".join(parts) == whole(flows, order, rate, 4)


def test_flows_that_meet_in_a_nanosecond_stay_apart():
    rng = np.random.default_rng(1)
    flows = [made(k, 4, rng) for k in range(50)]
    stream = CaptureStream("pcap", order="interleaved", flows_per_second=1e12, seed=4)
    content = b"".join([*(stream.add(flow) for flow in flows), stream.end()])
    assert content == whole(flows, "interleaved", 1e12, 4)


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_quarantined_flows_leave_no_gap(form, tmp_path):
    rng = np.random.default_rng(1)
    quarantined = RepairedFlow(
        flow_id="x", reason="no", data=np.empty(0, np.uint8), caplen=np.empty(0, int),
        wirelen=np.empty(0, int), relative_ns=np.empty(0, int),
    )  # fmt: skip
    flows = [made(0, 3, rng), made(1, 3, rng)]
    contents = []
    for chosen in ([flows[0], quarantined, flows[1]], flows):
        stream = CaptureStream(form, order="interleaved", flows_per_second=10, seed=4)
        contents.append(b"".join([*(stream.add(flow) for flow in chosen), stream.end()]))
    assert contents[0] == contents[1]
    (tmp_path / "capture").write_bytes(contents[0])
    with CaptureReader(tmp_path / "capture") as reader:
        assert sum(len(table) for table in reader) == 6
    assert reader.fault is None


def test_a_capture_of_nothing_is_one():
    stream = CaptureStream("pcap", order="sequential", flows_per_second=10, seed=0)
    assert stream.end() == pcap_header()


def test_flows_come_label_after_label_or_mixed_by_the_seed():
    counts = {"b": 20, "a": 20}
    one_by_one = flow_order(counts, "sequential", 1)
    assert one_by_one == [(label, k) for label in "ab" for k in range(20)]
    mixed = flow_order(counts, "interleaved", 1)
    assert sorted(mixed) == one_by_one
    assert mixed != one_by_one
    assert mixed != flow_order(counts, "interleaved", 2)
    assert [k for label, k in mixed if label == "a"] == list(range(20))
    assert flow_order({"a": 9}, "interleaved", 1) == [("a", k) for k in range(9)]
