"""Generating on a cluster that has no worker yet: its autoscaler adds nodes and takes them away."""

import contextlib
import json
import subprocess
import tempfile
import time
from types import SimpleNamespace

import psutil
import pytest
import ray
from fs_helpers import content_of, wait_until
from head_node import BIN, NETDIFF, environment, free_port, kill_with_all_below, run
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

MOST_NODES = 2
SECONDS = 180
QUICK = {
    "RAY_DATA_CLUSTER_UTIL_AVG_WINDOW_S": "2", "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "1",
}  # fmt: skip
"""Ray Data asks for nodes after seconds of work, as the job takes no longer."""
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD = "ray.head.default"  # as the simulated provider has it
STEPS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray",
         "worker_start_ray")  # fmt: skip


def config_of(address):
    """Describe a head without CPUs, and up to MOST_NODES nodes of a CPU that go after 3 s idle."""
    worker = {"CPU": 1, "object_store_memory": 100 * 2**20}
    return {
        "cluster_name": "simulated", "max_workers": MOST_NODES, "idle_timeout_minutes": 0.05,
        "provider": {"type": "external", "module": PROVIDER, "gcs_address": address,
                     "head_node_id": FAKE_HEAD_NODE_ID, "launch_multiple": True},
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "min_workers": 0,
                       "max_workers": MOST_NODES},
        },
        "auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [],
        "rsync_exclude": [], "rsync_filter": [], **{f"{step}_commands": [] for step in STEPS},
    }  # fmt: skip


@pytest.fixture
def simulated(tmp_path):
    """Yield a cluster whose nodes are processes of this machine: `address`, `env` to reach it in,
    and `nodes()`, how many there are."""
    with tempfile.TemporaryDirectory(prefix="nr") as home, (tmp_path / "head").open("w") as log:
        address = f"{ray.util.get_node_ip_address()}:{free_port()}"
        (tmp_path / "autoscaling.json").write_text(json.dumps(config_of(address)))
        env = environment(home)
        command = [
            BIN / "ray", "start", "--head", "--block", "--num-cpus=0", "--include-dashboard=false",
            f"--port={address.rpartition(':')[2]}", f"--dashboard-agent-listen-port={free_port()}",
            f"--ray-client-server-port={free_port()}", "--object-store-memory=100000000",
            f"--autoscaling-config={tmp_path / 'autoscaling.json'}",
        ]  # fmt: skip
        head = psutil.Popen(
            command, stdout=log, stderr=log, start_new_session=True,
            env={**env, "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1",
                 "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
                 "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID},
        )  # fmt: skip

        def nodes():
            assert head.is_running(), (tmp_path / "head").read_text()
            names = []
            for process in head.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    # What a raylet forks has its name until it runs something else.
                    names.append((process.name(), process.parent().name()))
            return sum(own == "raylet" != above for own, above in names)

        try:
            wait_until(lambda: nodes() == 1, SECONDS)
            yield SimpleNamespace(address=address, env=env, nodes=nodes)
        finally:
            kill_with_all_below(head)


@pytest.mark.slow
def test_the_pool_asks_for_nodes_and_gives_them_back(adapter_directory, tmp_path, simulated):
    flags = [
        "--flows",
        12,
        "--flows-per-shard",
        1,
        "--steps",
        80,
        "--batch-size",
        2,
        "--max-quarantined-share",
        1,
    ]
    wanted = [*NETDIFF, "generate", adapter_directory, tmp_path / "out", *flags]
    wanted += ["--denoisers", 0, MOST_NODES, "--cpus-per-denoiser", 0.9]
    most = 0
    with subprocess.Popen(
        [str(word) for word in [*wanted, "--address", simulated.address]],
        env={**simulated.env, **QUICK}, stderr=subprocess.PIPE, text=True,
    ) as job:  # fmt: skip
        until = time.monotonic() + 2 * SECONDS
        while job.poll() is None:
            most = max(most, simulated.nodes())
            if time.monotonic() > until:
                job.kill()
            time.sleep(0.2)
        said = job.stderr.read()
    assert job.returncode == 0, said
    # The head has no CPU. Whether a second node comes before the job ends depends on how fast
    # the first is.
    assert 1 < most <= 1 + MOST_NODES
    wait_until(lambda: simulated.nodes() == 1, SECONDS)
    # A cluster that is there from the begin makes the same.
    alone = [*NETDIFF, "generate", adapter_directory, tmp_path / "alone", *flags]
    ended = run([*alone, "--denoisers", 1, 1], simulated.env)
    assert ended.returncode == 0, ended.stderr
    assert content_of(tmp_path / "out") == content_of(tmp_path / "alone")
