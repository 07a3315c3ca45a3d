"""Fixtures of the whole suite."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_sessionstart():
    """Drop compiled kernels that are older than any source: numba looks only at the file of
    the outermost function, and would run what it once compiled of the others."""
    package = ROOT / "netdiff_ray"
    newest = max(path.stat().st_mtime for path in package.rglob("*.py"))
    for kernel in package.rglob("*.nb[ci]"):
        if kernel.stat().st_mtime < newest:
            kernel.unlink(missing_ok=True)


def shared_folder(name: str) -> Path:
    """A folder of real captures beside the checkout; the test is skipped where it is missing."""
    path = ROOT.parent / "shared" / name
    if not path.is_dir():
        pytest.skip(f"needs the capture collection {name}, which is not beside the checkout")
    return path


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The collection of real captures."""
    return shared_folder("corpus")


@pytest.fixture(scope="session")
def golden() -> Path:
    """nPrint's own output for captures of the corpus."""
    shared_folder("corpus")
    return shared_folder("golden")


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory):
    """A local Ray with four CPUs, of which tests may take them all."""
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    ray.init(
        address="local", num_cpus=4, object_store_memory=100 * 2**20, include_dashboard=False,
        log_to_driver=False,
    )  # fmt: skip
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = 60
    yield ray
    ray.shutdown()
