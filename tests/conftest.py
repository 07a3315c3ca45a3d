"""Fixtures of the whole suite."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest
from paths import ROOT, shared_folder
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ("tiny_models", "head_node")

SHARE_A_HEAD = (
    "tests/distributed/test_autoscaling.py",
    "tests/distributed/test_serve_verb.py",
    "tests/distributed/test_stopping.py",
    "tests/distributed/test_submit_job.py",
    "tests/test_cluster_files.py",
)
"""Where the tests are that use `head`."""
SHARE_A_RAY = "tests/distributed/"
"""Where those are that use `local_ray`, and no others."""

# Toys are so small that threads wait for each other; what tests start inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers, of niceness 15 else, would wait for the tests of the other process.
os.environ.update(RAY_worker_niceness="0")

# A loaded machine, and a kernel that is compiled in an example, take longer than any deadline.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")


# Shells ignore SIGINT in what they start in the background, which is inherited; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session):
    """Drop compiled kernels that are older than any source: numba looks only at the file of
    the outermost function, and would run what it once compiled of the others."""
    if hasattr(session.config, "workerinput"):  # of pytest-xdist, whose first process has done it
        return
    package = ROOT / "netdiff_ray"
    newest = max(path.stat().st_mtime for path in package.rglob("*.py"))
    for kernel in package.rglob("*.nb[ci]"):
        if kernel.stat().st_mtime < newest:
            kernel.unlink(missing_ok=True)


def pytest_xdist_make_scheduler(config, log):
    """Give all tests that share a Ray or a head to the same process of pytest-xdist."""

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            if nodeid.startswith(SHARE_A_HEAD):
                return "head"
            return "ray" if nodeid.startswith(SHARE_A_RAY) else nodeid.partition("::")[0]

    return Scheduler(config, log)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Return the collection of real captures."""
    return shared_folder("corpus")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return nPrint's own output for captures of the corpus."""
    shared_folder("corpus")
    return shared_folder("golden")


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory):
    """Yield a local Ray with four CPUs, of which tests may take them all."""
    import ray

    from netdiff_ray.serving import slow_clients

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"
    os.environ.update(slow_clients.CALLBACK)  # as `netdiff serve` and the image do
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"  # each poll takes one report
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    ray.init(
        address="local", num_cpus=4, object_store_memory=100 * 2**20, include_dashboard=False,
        log_to_driver=False,
    )  # fmt: skip
    context = ray.data.DataContext.get_current()
    context.execution_no_progress_timeout_s = 600
    context.max_hash_shuffle_aggregators = 2  # processes, started for each shuffle
    yield ray
    ray.shutdown()


@pytest.fixture
def bucket_uri():
    """Yield the URI of a folder in an empty bucket of a local S3 server, `{}` for its name.

    What takes credentials from the environment would need them before the session's Ray began,
    so they stand in the URI.
    """
    import pyarrow.fs as pafs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    uri = (
        f"s3://testing:testing@flows/{{}}?endpoint_override={host}:{port}&scheme=http"
        "&allow_bucket_creation=true&region=us-east-1"
    )
    filesystem, _ = pafs.FileSystem.from_uri(uri.format(""))
    filesystem.create_dir("flows")
    yield uri
    server.stop()
