"""A Ray head of its own beside the tests' Ray, as `ray start` makes it."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from paths import ROOT

BIN = Path(sys.executable).parent
NETDIFF = (sys.executable, "-m", "netdiff_ray.cli")


def free_port():
    """Return a port of this machine above those of Ray's workers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(home):
    """Return the environment of a user who has set nothing, with a home folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {
        "HOME": str(home), "RAY_TMPDIR": str(home), "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0",
    }  # fmt: skip


def run(command, env, seconds=300):
    """Return a finished command."""
    return subprocess.run(
        [str(word) for word in command], env=env, cwd=ROOT, capture_output=True, text=True,
        timeout=seconds, check=False,
    )  # fmt: skip


def answers(url):
    """Return whether something answers there with success."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status == 200
    except OSError:
        return False


def kill_with_all_below(process):
    """Kill a process and those that it has started, at once: Ray takes half a minute to
    end on its own."""
    try:
        head = psutil.Process(process.pid)
        below = [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:  # it has ended, which the caller's check says
        return
    for one in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(below, timeout=60)


@pytest.fixture
def short_home():
    """Yield a folder with a path so short that Ray's sockets fit in it."""
    with tempfile.TemporaryDirectory(prefix="nr") as home:
        yield home


@pytest.fixture(scope="session")
def head():
    """Yield a head that runs in the foreground: its `dashboard`, its `address`, and `env`, an
    environment to reach it in."""
    with tempfile.TemporaryDirectory(prefix="nr") as home:
        env = environment(home)
        ports = free_port(), free_port(), free_port()
        command = [
            BIN / "ray", "start", "--head", "--block", "--num-cpus=4",
            f"--port={ports[0]}", f"--dashboard-port={ports[1]}", "--dashboard-host=127.0.0.1",
            # That of every Ray on a machine is the same, and a node without it takes no jobs.
            f"--dashboard-agent-listen-port={ports[2]}", "--object-store-memory=100000000",
        ]  # fmt: skip
        with subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:  # fmt: skip
            dashboard = f"http://127.0.0.1:{ports[1]}"
            try:
                for _ in range(120):
                    if answers(f"{dashboard}/api/jobs/"):
                        break
                    assert process.poll() is None
                    time.sleep(1)
                # The dashboard answers before a node takes jobs, which `netdiff submit` waits for.
                first = run([*NETDIFF, "submit", "info", home, "--address", dashboard], env)
                assert first.stderr.startswith("job raysubmit_"), first.stderr
                yield SimpleNamespace(dashboard=dashboard, address=f"127.0.0.1:{ports[0]}", env=env)
            finally:
                kill_with_all_below(process)
