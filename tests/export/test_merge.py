"""Merged captures: every packet once, in time order, with little memory, cut where asked."""

import struct

import numpy as np
import pandas as pd
import pytest
from storage.dataset_builders import CONFIG, NAMES, made_shard

from netdiff_ray.config import ExportConfig
from netdiff_ray.errors import ConfigError, DatasetError
from netdiff_ray.export import merge
from netdiff_ray.export.run import export
from netdiff_ray.packets import CaptureReader
from netdiff_ray.packets.writer import pcap_header, pcap_records
from netdiff_ray.storage.manifest import PCAP_DATASET, commit
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import open_store


def made_dataset(tmp_path, **options):
    """Return the folder of a committed dataset of two shards."""
    store = open_store(tmp_path / "d")
    for number in range(2):
        write_shard(store, made_shard(tmp_path, number, order="interleaved"), CONFIG, **options)
    commit(store, PCAP_DATASET, CONFIG, NAMES)
    return tmp_path / "d"


def packets_of(*paths):
    """Return the (time, bytes) of each packet of captures, in file order."""
    return [
        (int(ts), table.packet(k))
        for path in paths
        for table in CaptureReader(path)
        for k, ts in enumerate(table.ts_ns)
    ]


@pytest.mark.parametrize("pcap_per_flow", [False, True])
def test_every_packet_is_merged_once_in_time_order(tmp_path, pcap_per_flow):
    dataset = made_dataset(tmp_path, pcap_per_flow=pcap_per_flow)
    done = export(ExportConfig(dataset=str(dataset), target=str(tmp_path / "out"), merge=True))
    assert set(done.files) == {"capture-00000.pcap", "labels.csv"}
    merged = packets_of(tmp_path / "out/capture-00000.pcap")
    assert len(merged) == 18
    assert [ts for ts, _ in merged] == sorted(ts for ts, _ in merged)
    assert sorted(merged) == sorted(packets_of(*sorted(dataset.rglob("*.pcap"))))
    labels = pd.read_csv(tmp_path / "out/labels.csv")
    written = [pd.read_csv(path) for path in sorted((dataset / "labels").glob("*.csv"))]
    pd.testing.assert_frame_equal(labels, pd.concat(written, ignore_index=True))


def test_a_merged_capture_is_cut_by_size_and_by_duration(tmp_path, monkeypatch):
    dataset = str(made_dataset(tmp_path))
    whole = ExportConfig(dataset=dataset, target=str(tmp_path / "whole"), merge=True)
    export(whole)
    expected = packets_of(tmp_path / "whole/capture-00000.pcap")
    monkeypatch.setattr("netdiff_ray.config.export._LEAST_PART_BYTES", 1)
    for limits in ({"part_bytes": 300}, {"part_seconds": 0.3}, {"part_bytes": 30}):
        target = tmp_path / f"parts-{limits}"
        export(ExportConfig(dataset=dataset, target=str(target), merge=True, **limits))
        parts = sorted(target.glob("*.pcap"))
        assert len(parts) > 2
        assert packets_of(*parts) == expected
        for part in parts:
            packets = packets_of(part)
            if "part_bytes" in limits:
                fits = part.stat().st_size <= limits["part_bytes"]
                assert fits or len(packets) == 1
            else:
                assert packets[-1][0] - packets[0][0] < 0.3e9


def capture_of(path, times, sizes):
    """Write a capture of packets of zeros; return its span."""
    times, sizes = np.asarray(times, np.int64), np.asarray(sizes, np.int64)
    data = np.zeros(int(sizes.max()), np.uint8)
    records = pcap_records(data, np.zeros(len(sizes), np.int64), sizes, sizes, times)
    path.write_bytes(pcap_header() + records.tobytes())
    return merge.CaptureSpan(path.name, path.stat().st_size, int(times[0]), int(times[-1]))


def times_in(records):
    """Return the times of records."""
    found, at = [], 0
    while at < len(records):
        seconds, fraction, caplen, _ = struct.unpack_from("<IIII", records, at)
        found.append(seconds * 10**9 + fraction)
        at += 16 + caplen
    return found


def test_captures_are_read_in_small_chunks_while_they_are_due(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    monkeypatch.setattr(merge, "_LEAST_CHUNK", 256)
    monkeypatch.setattr(merge, "MEMORY_BYTES", 1)
    monkeypatch.setattr(merge, "_OUT_BYTES", 4000)
    spans, expected = [], []
    for k in range(40):
        times = np.sort(random.integers(k * 100, k * 100 + 250, 30)) + 10**18
        expected += times.tolist()
        spans.append(capture_of(tmp_path / f"{k}.pcap", times, random.integers(20, 600, 30)))
    starts = np.array([s.first_ns for s in spans])
    ends = np.array([s.last_ns for s in spans])
    assert merge._most_overlapping(starts, ends) <= 4
    pieces = merge.merged_records(open_store(tmp_path), spans)
    assert [ts for piece in pieces for ts in times_in(bytes(piece.records))] == sorted(expected)


@pytest.mark.parametrize("damage", ["cut", "header", "gone", "late"])
def test_a_capture_that_is_not_what_its_index_says_is_named(tmp_path, damage):
    span = capture_of(tmp_path / "a.pcap", [5, 6, 7], [60, 60, 60])
    content = (tmp_path / "a.pcap").read_bytes()
    if damage == "cut":
        (tmp_path / "a.pcap").write_bytes(content[:-3])
        span = span._replace(num_bytes=len(content) - 3)
    elif damage == "header":
        (tmp_path / "a.pcap").write_bytes(b"\0" + content[1:])
    elif damage == "late":
        span = span._replace(first_ns=6)
    else:
        (tmp_path / "a.pcap").unlink()
    with pytest.raises(DatasetError, match=r"a\.pcap is (missing|not the capture)"):
        list(merge.merged_records(open_store(tmp_path), [span]))


def test_a_target_with_other_files_is_refused_and_an_earlier_export_replaced(tmp_path):
    dataset, target = str(made_dataset(tmp_path)), tmp_path / "out"
    export(ExportConfig(dataset=dataset, target=str(target), merge=True))
    export(ExportConfig(dataset=dataset, target=str(target), to="zeek"))
    assert {path.name for path in target.iterdir()} == {"conn.log", "export.json"}
    (target / "export.json").unlink()
    with pytest.raises(ConfigError, match=r"holds other files \(conn\.log"):
        export(ExportConfig(dataset=dataset, target=str(target), to="zeek"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "choose what to write"),
        ({"to": "zeek", "merge": True}, "choose what to write"),
        ({"to": "zeek", "part_bytes": 10_000}, "it needs merge"),
        ({"merge": True, "part_bytes": 10}, "part_bytes is 10; it must be at least 4,096"),
        ({"merge": True, "part_seconds": 0.0}, "part_seconds is 0.0; it must be above 0"),
    ],
)
def test_what_cannot_be_written_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        ExportConfig(dataset="d", target="t", **settings)
