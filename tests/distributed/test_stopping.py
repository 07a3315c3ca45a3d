"""Verbs on Ray while they run: whom they listen to, and how SIGTERM ends them."""

import signal
import subprocess
import time

import psutil
import pytest
from head_node import NETDIFF, environment, free_port
from paths import ROOT

from netdiff_ray.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

TRAIN, HELDOUT = ROOT / "samples" / "train", ROOT / "samples" / "heldout"
HINT = "netdiff: stopped; run the same command again to go on"
SECONDS = 10


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, local_ray):
    """Samples of one label, encoded."""
    out = tmp_path_factory.mktemp("stopping") / "encoded"
    assert main(["encode", str(TRAIN / "dns"), str(out), "--height", "32"]) == 0
    return out


@pytest.fixture
def command(request, tmp_path, encoded, toy_directory, adapter_directory, local_ray):
    """The command line of a verb that goes on for long. Some start a Ray, which has to end too."""
    cluster = ("--address", local_ray.get_runtime_context().gcs_address)
    training = ("--base", toy_directory, "--batch-size", 2)
    return {
        "encode": ("encode", TRAIN, tmp_path / "out"),
        "train": ("train", encoded, tmp_path / "out", *training, "--steps", 100_000, *cluster),
        "generate": (
            "generate", adapter_directory, tmp_path / "out", "--flows", 5_000,
            "--flows-per-shard", 5_000, "--steps", 4, "--denoisers", 1, 1,
        ),
        "evaluate": (
            "evaluate", "--real", HELDOUT, "--synthetic", TRAIN, "--out", tmp_path / "out",
            *cluster,
        ),
        "pipeline": (
            "pipeline", TRAIN / "dns", tmp_path / "out", *training, "--height", 32,
            "--train-steps", 100_000,
        ),
        "serve": ("serve", adapter_directory, "--port", free_port()),
    }[request.param]  # fmt: skip


def hosts_listened_on(processes):
    """Addresses on which TCP connections to processes are accepted, as ss -ltnp shows them."""
    pids = {process.pid for process in processes}
    return {
        connection.laddr.ip.removeprefix("::ffff:")  # IPv4 in a socket of IPv6
        for connection in psutil.net_connections("tcp")
        if connection.pid in pids and connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.parametrize(
    ("command", "begun", "last"),
    [
        ("encode", "encoded 0 of", HINT),
        ("train", "trained 20 of", HINT),
        ("generate", "/s, ", HINT),  # before the first shard is drawn
        ("evaluate", "read and checked", "netdiff: stopped"),
        ("pipeline", "trained 20 of", HINT),
        ("serve", " ok", "netdiff: stopped"),
    ],
    indirect=["command"],
)
def test_a_verb_listens_on_loopback_and_sigterm_ends_it_as_ctrl_c_does(
    command, begun, last, short_home
):
    with subprocess.Popen(
        [str(word) for word in (*NETDIFF, *command)], env=environment(short_home), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        said = ""
        while begun not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        below = psutil.Process(process.pid).children(recursive=True)
        listening = hosts_listened_on([process, *below])
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said += process.stdout.read()
        process.wait()
        seconds = time.monotonic() - began
    if "--address" not in command:
        assert listening <= {"127.0.0.1", "::1"}
    assert process.returncode == 143, said
    assert said.splitlines()[-1] == last
    assert "Traceback" not in said
    assert "SIGTERM" not in said  # of Ray's native handler
    assert seconds < SECONDS
    assert psutil.wait_procs(below, timeout=60)[1] == []
