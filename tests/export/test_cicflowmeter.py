"""Features under CICFlowMeter's names: known answers of made flows, and files that are read."""

import numpy as np
import pandas as pd
import pytest
from export.test_merge import made_dataset
from packet_builders import pcap, read, tcp4, udp4

from netdiff_ray.config import ExportConfig
from netdiff_ray.export.cicflowmeter import COLUMNS, features
from netdiff_ray.export.run import export
from netdiff_ray.flow_labels.read import read_labels
from netdiff_ray.flows import Windows
from netdiff_ray.header_bytes import ACK, FIN, PSH, RST, SYN, URG

BACK = {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 80, "dport": 1000}


def features_of(tmp_path, *flows):
    """Return the features of flows of (time in s, direction, frame), by name."""
    packets = [packet for flow in flows for packet in flow]
    frames = [(int(at), round(at % 1 * 1e6), frame) for at, _, frame in packets]
    _, _, rows = read(tmp_path / "c.pcap", pcap(frames))
    n, first = len(flows), np.cumsum([0, *map(len, flows)])
    windows = Windows(
        rows=rows, direction=np.array([side for _, side, _ in packets], np.uint8),
        interarrival_ns=np.zeros(len(rows), np.int64), state=np.zeros(len(rows)), first=first,
        flow_id=[str(k) for k in range(n)], window=np.zeros(n, np.int32),
        is_last=np.ones(n, np.bool_), flow_start_ns=rows["ts_ns"][first[:-1]],
    )  # fmt: skip
    return features(windows)


def tcp(at, side, flags, size=0, window=8192, options=b""):
    """Return a segment of a connection."""
    more = {"window": window, "options": options, **(BACK if side else {})}
    return at, side, tcp4(flags, bytes(size), **more)


CONNECTION = [
    tcp(10, 0, SYN, window=1000, options=bytes([2, 4, 5, 180])),
    tcp(10.1, 1, SYN | ACK, window=2000), tcp(10.3, 0, ACK, window=3000),
    tcp(10.4, 0, PSH | ACK, 100), tcp(12.4, 1, PSH | ACK, 40),
    tcp(20.4, 1, ACK | URG, 60), tcp(20.5, 0, FIN | ACK),
]  # fmt: skip
"""Gaps in s: 0.1, 0.2, 0.1, 2, 8, 0.1. Payloads: 100 up, 40 and 60 down."""

KNOWN = {
    "Flow Duration": 10_500_000, "Total Fwd Packet": 4, "Total Bwd packets": 3,
    "Total Length of Fwd Packet": 100, "Total Length of Bwd Packet": 100,
    "Fwd Packet Length Max": 100, "Fwd Packet Length Min": 0, "Fwd Packet Length Mean": 25,
    "Fwd Packet Length Std": 50, "Bwd Packet Length Max": 60, "Bwd Packet Length Min": 0,
    "Bwd Packet Length Mean": 100 / 3, "Bwd Packet Length Std": np.std([0, 40, 60], ddof=1),
    "Flow Bytes/s": 200 / 10.5, "Flow Packets/s": 7 / 10.5, "Flow IAT Mean": 1_750_000,
    "Flow IAT Std": np.std([1e5, 2e5, 1e5, 2e6, 8e6, 1e5], ddof=1), "Flow IAT Max": 8_000_000,
    "Flow IAT Min": 100_000, "Fwd IAT Total": 10_500_000, "Fwd IAT Mean": 3_500_000,
    "Fwd IAT Std": np.std([3e5, 1e5, 10.1e6], ddof=1), "Fwd IAT Max": 10_100_000,
    "Fwd IAT Min": 100_000, "Bwd IAT Total": 10_300_000, "Bwd IAT Mean": 5_150_000,
    "Bwd IAT Std": np.std([2.3e6, 8e6], ddof=1), "Bwd IAT Max": 8_000_000,
    "Bwd IAT Min": 2_300_000, "Fwd PSH Flags": 1, "Bwd PSH Flags": 1, "Fwd URG Flags": 0,
    "Bwd URG Flags": 1, "Fwd Header Length": 84, "Bwd Header Length": 60,
    "Fwd Packets/s": 4 / 10.5, "Bwd Packets/s": 3 / 10.5, "Packet Length Min": 0,
    "Packet Length Max": 100, "Packet Length Mean": 200 / 7,
    "Packet Length Std": np.std([0, 0, 0, 100, 40, 60, 0], ddof=1),
    "Packet Length Variance": np.var([0, 0, 0, 100, 40, 60, 0], ddof=1), "FIN Flag Count": 1,
    "SYN Flag Count": 2, "RST Flag Count": 0, "PSH Flag Count": 2, "ACK Flag Count": 6,
    "URG Flag Count": 1, "CWR Flag Count": 0, "ECE Flag Count": 0, "Down/Up Ratio": 0.75,
    "Average Packet Size": 200 / 7, "Fwd Segment Size Avg": 25, "Bwd Segment Size Avg": 100 / 3,
    "Fwd Bytes/Bulk Avg": 0, "Fwd Packet/Bulk Avg": 0, "Fwd Bulk Rate Avg": 0,
    "Bwd Bytes/Bulk Avg": 0, "Bwd Packet/Bulk Avg": 0, "Bwd Bulk Rate Avg": 0,
    "Subflow Fwd Packets": 4 / 3, "Subflow Fwd Bytes": 100 / 3, "Subflow Bwd Packets": 1,
    "Subflow Bwd Bytes": 100 / 3, "FWD Init Win Bytes": 1000, "Bwd Init Win Bytes": 2000,
    "Fwd Act Data Pkts": 1, "Fwd Seg Size Min": 20, "Active Mean": 2_400_000, "Active Std": 0,
    "Active Max": 2_400_000, "Active Min": 2_400_000, "Idle Mean": 8_000_000, "Idle Std": 0,
    "Idle Max": 8_000_000, "Idle Min": 8_000_000,
}  # fmt: skip


def test_the_features_of_a_connection(tmp_path):
    alone = features_of(tmp_path, CONNECTION)
    assert set(alone) == set(KNOWN)
    assert {name: column[0] for name, column in alone.items()} == pytest.approx(KNOWN)
    between = features_of(tmp_path, [tcp(9, 0, RST)], CONNECTION, [tcp(30, 1, RST, 7)])
    assert {name: column[1] for name, column in between.items()} == pytest.approx(KNOWN)


def test_a_packet_alone(tmp_path):
    found = {k: v[0] for k, v in features_of(tmp_path, [tcp(3, 1, RST | ACK, 5)]).items()}
    sizes = {f"{name} {m}" for name in ("Bwd Packet Length", "Packet Length")
             for m in ("Min", "Max", "Mean")}  # fmt: skip
    assert {name: value for name, value in found.items() if value} == {
        **dict.fromkeys(sizes, 5), "Total Bwd packets": 1, "Total Length of Bwd Packet": 5,
        "Bwd Header Length": 20, "RST Flag Count": 1, "ACK Flag Count": 1,
        "Average Packet Size": 5, "Bwd Segment Size Avg": 5, "Subflow Bwd Packets": 1,
        "Subflow Bwd Bytes": 5, "Bwd Init Win Bytes": 8192,
    }  # fmt: skip


def test_bulks_are_runs_of_four_packets_with_payload(tmp_path):
    sizes = [(0, 10, 0.0), (0, 20, 0.1), (1, 0, 0.15), (0, 30, 0.2), (0, 40, 0.3), (0, 50, 0.4)]
    broken = [(1, 9, 0.5), (0, 60, 0.6), (0, 60, 0.7), (0, 60, 0.8), (1, 9, 0.9)]
    slow = [(1, 8, 1.0), (1, 8, 1.1), (1, 8, 2.2)]
    second = [(0, 5, 3.0), (0, 5, 3.1), (0, 5, 3.2), (0, 5, 3.3)]
    found = features_of(
        tmp_path, [tcp(at, side, ACK, size) for side, size, at in sizes + broken + slow + second]
    )
    assert found["Fwd Packet/Bulk Avg"][0] == 4.5
    assert found["Fwd Bytes/Bulk Avg"][0] == (150 + 20) / 2
    assert found["Fwd Bulk Rate Avg"][0] == pytest.approx((150 + 20) / 0.7)
    assert found["Bwd Packet/Bulk Avg"][0] == found["Bwd Bulk Rate Avg"][0] == 0


def test_active_times_are_those_before_idle_ones(tmp_path):
    times = (0, 1, 2, 10, 20, 23, 40, 41)
    found = features_of(tmp_path, [(at, 0, udp4(b"abc")) for at in times])
    active, idle = [2e6, 3e6], [8e6, 10e6, 17e6]
    for name, values in (("Active", active), ("Idle", idle)):
        of = [min(values), np.mean(values), np.std(values, ddof=1), max(values)]
        assert [found[f"{name} {m}"][0] for m in ("Min", "Mean", "Std", "Max")] == pytest.approx(of)
    assert found["Fwd Header Length"][0] == 8 * len(times)
    assert found["Subflow Fwd Packets"][0] == len(times) / 5


def test_a_dataset_is_exported_and_its_labels_are_read_back(tmp_path):
    dataset = made_dataset(tmp_path)
    export(ExportConfig(dataset=str(dataset), target=str(tmp_path / "out"), to="cicflowmeter"))
    frame = pd.read_csv(tmp_path / "out/flows.csv", dtype={"flow_id": str})
    assert tuple(frame.columns) == COLUMNS
    assert len(set(COLUMNS)) == len(COLUMNS) == 84 + 1
    index = pd.read_parquet(dataset / "flows").set_index("flow_id").loc[frame["flow_id"]]
    assert (frame["Src Port"].to_numpy() == index["client_port"].to_numpy()).all()
    packets = frame["Total Fwd Packet"] + frame["Total Bwd packets"]
    assert (packets.to_numpy() == index["num_packets"].to_numpy()).all()
    first = index["start_ts_ns"].to_numpy() // 1000
    last = (index["start_ts_ns"] + index["duration_ns"]).to_numpy() // 1000
    assert (frame["Flow Duration"].to_numpy() == last - first).all()
    assert frame.drop(columns=["Label", "Timestamp"]).notna().all(axis=None)
    table = read_labels([str(tmp_path / "out/flows.csv")])
    assert len(table) == len(frame)
    assert list(table.labels) == ["web"]
