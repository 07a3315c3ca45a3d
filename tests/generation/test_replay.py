"""A shard goes over a real wire with tcpreplay and arrives as it was written."""

import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from storage.dataset_builders import CONFIG, made_shard

from netdiff_ray.packets import CaptureReader
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import open_store

NAMESPACES = "netdiff-send", "netdiff-take"
TOOLS = "ip", "tcpreplay", "tcpdump"


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
        for name in NAMESPACES:
            run("ip", "netns", "add", name)
            for family in ("all", "default"):
                setting = f"net.ipv6.conf.{family}.disable_ipv6=1"
                run("ip", "netns", "exec", name, "sysctl", "-qw", setting)
        run("ip", "link", "add", "v0", "netns", send, "type", "veth", "peer", "v1", "netns", take)
        for name, device in ((send, "v0"), (take, "v1")):
            run("ip", "-n", name, "link", "set", device, "mtu", "65535", "arp", "off", "up")
        yield send, take
    finally:
        for name in NAMESPACES:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.slow
def test_tcpreplay_puts_a_shard_on_a_wire(wire, tmp_path):
    send, take = wire
    store = open_store(tmp_path / "d")
    write_shard(store, made_shard(tmp_path, 0, order="interleaved", num_flows=60), CONFIG)
    path = store.path("label=web/part-00000.pcap")
    sent = [t.packet(k) for t in CaptureReader(path) for k in range(len(t))]
    taken = tmp_path / "taken.pcap"
    listener = subprocess.Popen(
        ["ip", "netns", "exec", take, "tcpdump", "-i", "v1", "-Q", "in", "-s", "0", "-U",
         "--immediate-mode", "-B", "65536", "-w", taken],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while "listening on" not in listener.stderr.readline():
            assert listener.poll() is None
        run("ip", "netns", "exec", send, "tcpreplay", "-q", "-i", "v0", "--pps=2000", path)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            arrived = [t.packet(k) for t in CaptureReader(taken) for k in range(len(t))]
            if len(arrived) == len(sent):
                break
            time.sleep(0.1)
    finally:
        listener.send_signal(signal.SIGINT)
        listener.wait(10)
        listener.stderr.close()
    assert arrived == sent
    assert len(np.unique([len(p) for p in sent])) > 10
