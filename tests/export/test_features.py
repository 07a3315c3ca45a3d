"""Features under NFStream's names and IPFIX files, as their own tools have and read them."""

import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from export.test_merge import made_dataset

from netdiff_ray.config import ExportConfig
from netdiff_ray.export.nfstream import COLUMNS
from netdiff_ray.export.run import export


@pytest.fixture
def dataset(tmp_path):
    """Return the folder of a dataset of six flows."""
    return made_dataset(tmp_path)


def test_columns_are_nfstreams_and_add_up(dataset, tmp_path):
    export(ExportConfig(dataset=str(dataset), target=str(tmp_path / "out"), to="nfstream"))
    frame = pd.read_csv(tmp_path / "out/flows.csv", dtype={"flow_id": str})
    assert tuple(frame.columns) == COLUMNS
    assert len(set(COLUMNS)) == len(COLUMNS) == 69 + 2
    index = pd.read_parquet(dataset / "flows").set_index("flow_id").loc[frame["flow_id"]]
    assert (frame["bidirectional_packets"].to_numpy() == index["num_packets"].to_numpy()).all()
    first = index["start_ts_ns"].to_numpy() // 10**6
    last = (index["start_ts_ns"] + index["duration_ns"]).to_numpy() // 10**6
    assert (frame["bidirectional_first_seen_ms"].to_numpy() == first).all()
    assert (frame["bidirectional_duration_ms"].to_numpy() == last - first).all()
    both = frame["src2dst_bytes"] + frame["dst2src_bytes"]
    assert (frame["bidirectional_bytes"] == both).all()
    assert (frame["bidirectional_syn_packets"] == (frame["protocol"] == 6)).all()


def messages_of(path):
    """Return the messages of an IPFIX file, by the length in their headers."""
    content, messages = path.read_bytes(), []
    while content:
        version, length, _, sequence, _ = struct.unpack_from(">HHIII", content)
        assert version == 10
        messages.append((sequence, content[:length]))
        content = content[length:]
    return messages


def test_messages_are_numbered_and_fit_datagrams(dataset, tmp_path):
    export(ExportConfig(dataset=str(dataset), target=str(tmp_path / "out"), to="ipfix"))
    messages = messages_of(tmp_path / "out/flows.ipfix")
    assert [sequence for sequence, _ in messages] == [0, 3]
    assert all(len(message) <= 1400 for _, message in messages)
    assert len(pd.read_csv(tmp_path / "out/labels.csv")) == 6


def test_nfdump_reads_what_was_exported(dataset, tmp_path):
    if not shutil.which("nfcapd") or not shutil.which("nfdump"):
        pytest.skip("needs nfcapd and nfdump")
    export(ExportConfig(dataset=str(dataset), target=str(tmp_path / "out"), to="ipfix"))
    (tmp_path / "nf").mkdir()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    collector = subprocess.Popen(
        ["nfcapd", "-b", "127.0.0.1", "-p", str(port), "-w", str(tmp_path / "nf"), "-t", "3600"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for_port(port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _, message in messages_of(tmp_path / "out/flows.ipfix"):
                sender.sendto(message, ("127.0.0.1", port))
        _wait_for_port(port, "00000000")
    finally:
        collector.terminate()
        collector.wait(60)
    format_ = "fmt:%pr|%sa|%sp|%da|%dp|%pkt|%byt|%flg"
    done = subprocess.run(
        ["nfdump", "-R", str(tmp_path / "nf"), "-q", "-N", "-6", "-o", format_],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    read = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if line]
    flows = pd.read_parquet(dataset / "flows")
    headers = flows["num_packets"] * 14
    expected = [
        [
            str(row.protocol), row.client_ip, str(row.client_port),
            row.server_ip, str(row.server_port), str(row.num_packets),
            str(row.wire_bytes - headers[k]),
        ]
        for k, row in enumerate(flows.itertuples())
    ]  # fmt: skip
    assert sorted(line[:7] for line in read) == sorted(expected)
    assert {line[7] for line in read if line[0] == "6"} == {"...AP.S."}


def _wait_for_port(port, waiting_bytes=""):
    """Wait until a UDP socket of this machine is bound to the port, and has so many bytes to read
    (8 hex digits, any unless given)."""
    for _ in range(300):
        sockets = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
        for _, address, _, _, queues, *_ in sockets:
            if address.endswith(f":{port:04X}") and queues.endswith(waiting_bytes):
                return
        time.sleep(0.1)
    raise AssertionError("nfcapd does not read what is sent to it")
