"""Verbs on Ray while they run: whom they listen to, and how SIGTERM ends them."""

import signal
import subprocess
import time

import psutil
import pytest
from head_node import NETDIFF, environment, free_port, run
from paths import ROOT

pytestmark = pytest.mark.slow

TRAIN, HELDOUT = ROOT / "samples" / "train", ROOT / "samples" / "heldout"
HINT = "netdiff: stopped; run the same command again to go on"
SECONDS, SECONDS_TO_START = 30, 60
"""Until a verb has ended: 30 s is Kubernetes' patience (a verb takes less than 10 on an idle
machine); Ray cannot be stopped while it starts."""


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, head):
    """Return the samples of one label, encoded."""
    out = tmp_path_factory.mktemp("stopping") / "encoded"
    command = ("encode", TRAIN / "dns", out, "--height", 32, "--address", head.address)
    done = run([*NETDIFF, *command], head.env)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def command(request, tmp_path, encoded, toy_directory, adapter_directory, head):
    """Return the command line of a verb that takes long. Some start a Ray, which has to end too."""
    cluster = ("--address", head.address)
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


LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
HARD_CODED = ("ray::ServeReplica", "ray::RayTrainWorker")
"""Processes with a socket whose address is no setting: Serve's for calls among its replicas, and
the store of torch's process group."""


def listening_to_all(processes):
    """Return the processes that other machines can connect to, as `ss -ltnp` shows them."""
    by_pid = {process.pid: process for process in processes}
    return [
        " ".join(by_pid[connection.pid].cmdline())
        for connection in psutil.net_connections("tcp")
        if connection.pid in by_pid
        and connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip not in LOOPBACK
    ]


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
        connected = begun != "encoded 0 of"
        driver = psutil.Process(process.pid)
        below = driver.children(recursive=True)
        listening = listening_to_all([driver, *below])
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said += process.stdout.read()
        process.wait()
        seconds = time.monotonic() - began
    if "--address" not in command:
        assert [name for name in listening if not name.startswith(HARD_CODED)] == []
    assert process.returncode == 143, said
    assert said.splitlines()[-1] == last
    assert "Traceback" not in said
    assert "SIGTERM" not in said  # of Ray's native handler
    assert seconds < (SECONDS if connected else SECONDS_TO_START)
    assert psutil.wait_procs(below, timeout=60)[1] == []
