"""Packets arrive at the other end of a wire as they are in a dataset or capture, at their times."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from packet_builders import pcap, tcp4, udp4
from storage.dataset_builders import CONFIG, made_shard

from netdiff_ray.cli.run import main
from netdiff_ray.packets import CaptureReader
from netdiff_ray.storage.manifest import PCAP_DATASET, commit
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import open_store

NAMESPACES = f"netdiff-send-{os.getpid()}", f"netdiff-take-{os.getpid()}"
TOOLS = "ip", "tcpdump"


def run(*arguments):
    """Run a command that has to succeed."""
    subprocess.run(arguments, check=True, capture_output=True)


@pytest.fixture
def wire():
    """Yield two namespaces that a veth pair joins, with nothing of their own on it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    send, take = NAMESPACES
    try:
        made = subprocess.run(
            ["ip", "netns", "add", send], check=False, capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        run("ip", "netns", "add", take)
        for name in NAMESPACES:
            for family in ("all", "default"):
                setting = f"net.ipv6.conf.{family}.disable_ipv6=1"
                run("ip", "netns", "exec", name, "sysctl", "-qw", setting)
        run("ip", "link", "add", "v0", "netns", send, "type", "veth", "peer", "v1", "netns", take)
        for name, device in ((send, "v0"), (take, "v1")):
            run("ip", "-n", name, "link", "set", device, "mtu", "1500", "arp", "off", "up")
        yield send, take
    finally:
        for name in NAMESPACES:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def packets_of(path):
    """Return [bytes] and (P,) times in nanoseconds of a capture."""
    chunks = [(t.packet(k), int(t.ts_ns[k])) for t in CaptureReader(path) for k in range(len(t))]
    return [packet for packet, _ in chunks], np.array([ts_ns for _, ts_ns in chunks])


def replayed(wire, tmp_path, *arguments, num_packets):
    """Replay into a wire; return what `netdiff replay` did and what tcpdump took at the end."""
    send, take = wire
    taken = tmp_path / "taken.pcap"
    listener = subprocess.Popen(
        ["ip", "netns", "exec", take, "tcpdump", "-i", "v1", "-Q", "in", "-s", "0", "-U",
         "--immediate-mode", "--nano", "-B", "65536", "-w", taken],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while "listening on" not in listener.stderr.readline():
            assert listener.poll() is None
        done = subprocess.run(
            ["ip", "netns", "exec", send, sys.executable, "-m", "netdiff_ray.cli", "replay",
             *map(str, arguments), "--interface", "v0"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and len(packets_of(taken)[0]) < num_packets:
            time.sleep(0.05)
    finally:
        listener.send_signal(signal.SIGINT)
        listener.wait(10)
        listener.stderr.close()
    return done, *packets_of(taken)


@pytest.fixture(params=["socket", "tcpreplay"])
def sender(request):
    """Yield each of the senders that there are."""
    if request.param == "tcpreplay" and not shutil.which("tcpreplay"):
        pytest.skip("needs tcpreplay")
    return request.param


@pytest.mark.slow
def test_shards_arrive_merged_as_they_were_written(wire, tmp_path, sender):
    store = open_store(tmp_path / "d")
    names = ["flows/part-00000.parquet", "flows/part-00001.parquet"]
    for number in range(2):
        write_shard(store, made_shard(tmp_path, number, order="interleaved", num_flows=30), CONFIG)
    commit(store, PCAP_DATASET, CONFIG, names)
    sent, times = [], []
    for number in range(2):
        packets, ts_ns = packets_of(store.path(f"label=web/part-{number:05d}.pcap"))
        sent += packets
        times.append(ts_ns)
    order = np.argsort(np.concatenate(times), kind="stable")
    done, arrived, _ = replayed(
        wire, tmp_path, tmp_path / "d", "--speed", "1e4", "--sender", sender, num_packets=len(sent)
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(sent):,} packets, {sum(map(len, sent)):,} bytes" in done.stdout
    assert arrived == [sent[k] for k in order]
    assert len({len(packet) for packet in sent}) > 10


def test_a_capture_takes_as_long_as_its_speed_says(wire, tmp_path, sender):
    frames = [tcp4(0x18, bytes(k)) for k in range(0, 1400, 100)] + [udp4(bytes(2000))]
    capture = tmp_path / "c.pcap"
    capture.write_bytes(pcap([(10 + k, 0, frame) for k, frame in enumerate(frames)]))
    done, arrived, ts_ns = replayed(
        wire, tmp_path, capture, "--speed", "20", "--sender", sender, num_packets=len(frames) - 1
    )
    assert arrived == frames[:-1]
    assert done.returncode == 1
    assert "larger than the MTU of v0 (1,500" in done.stderr
    assert "1 packets" in done.stderr
    assert ts_ns[-1] - ts_ns[0] >= 0.9 * (len(arrived) - 1) / 20 * 1e9


def test_refusals_name_what_would_be_right(tmp_path, capsys, monkeypatch):
    capture = tmp_path / "c.pcap"
    capture.write_bytes(pcap([(1, 0, udp4(b"x"))]))
    assert main(["replay", str(capture), "--interface", "none0"]) == 2
    assert "interface none0: there is none; choose one of" in capsys.readouterr().err
    assert main(["replay", str(capture), "--interface", "lo", "--speed", "0"]) == 2
    assert "speed is 0.0; it must be a number above 0" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    with_tool = ["--interface", "lo", "--sender", "tcpreplay"]
    assert main(["replay", str(capture), *with_tool]) == 2
    assert "not installed; install it, or choose the sender socket" in capsys.readouterr().err


def test_without_the_right_to_send_the_refusal_says_which(tmp_path):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv, to give the right up")
    capture = tmp_path / "c.pcap"
    capture.write_bytes(pcap([(1, 0, udp4(b"x"))]))
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", sys.executable, "-m",
         "netdiff_ray.cli", "replay", capture, "--interface", "lo"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "CAP_NET_RAW" in done.stderr


def test_other_link_types_are_refused(tmp_path, wire):
    capture = tmp_path / "raw.pcap"
    capture.write_bytes(pcap([(1, 0, udp4(b"x")[14:])], link_type=101))
    done, arrived, _ = replayed(wire, tmp_path, capture, num_packets=0)
    assert done.returncode == 2
    assert "packets of link type RAW, where Ethernet is sent" in done.stderr
    assert not arrived
