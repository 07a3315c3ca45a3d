"""The project as it is installed elsewhere: what a wheel holds, and that it runs."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT

import netdiff_ray

DATA = ("py.typed", "evaluate/report.css", "serving/index.html", "nano/model_index.json")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_dependency_has_a_lower_bound_that_is_tested():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): pin for name, pin in pins.items()}
    for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]):
        requirement = Requirement(text)
        (bound,) = requirement.specifier
        pin = pins[canonicalize_name(requirement.name)]
        assert bound.operator == ">=", text
        assert re.match(rf"{re.escape(bound.version)}(\.|$)", pin), f"{text}, tested with {pin}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return a wheel built from a copy of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "netdiff_ray", folder / "netdiff_ray", ignore=shutil.ignore_patterns("__pycache__")
    )
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    pip("wheel", *options, "--wheel-dir", folder / "dist", folder)
    (path,) = (folder / "dist").iterdir()
    return path


def pip(*arguments):
    """Run pip of this Python."""
    subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], check=True)


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("netdiff_ray/**/*.py")}
    nano = {str(p.relative_to(ROOT)) for p in ROOT.glob("netdiff_ray/nano/**/*") if p.is_file()}
    assert len(nano) > 10
    assert sources | nano | {f"netdiff_ray/{name}" for name in DATA} <= names
    assert not [name for name in names if name.startswith(("tests/", "samples/"))]


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Return an environment with the wheel, in which this one's packages can be imported too."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel)
    (site,) = (folder / "lib").glob("python*/site-packages")
    # A path in a .pth file is not searched for further .pth files, such as that of the checkout.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    take_kernels_along(site)
    return folder


def take_kernels_along(site):
    """Give the installed package the kernels that this one has compiled, which takes minutes.

    Numba knows a source by its size and time.
    """
    for source in ROOT.glob("netdiff_ray/**/*.py"):
        shutil.copystat(source, site / source.relative_to(ROOT))
    for kernel in ROOT.glob("netdiff_ray/**/*.nb[ci]"):
        target = site / kernel.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(kernel, target)


@pytest.mark.slow
def test_the_pipeline_runs_where_only_the_wheel_is(environment, toy_directory, tmp_path):
    for label in ("dns", "ping"):
        (tmp_path / "captures" / label).mkdir(parents=True)
        shutil.copy(
            ROOT / "samples" / "train" / label / "host-0.pcap.gz", tmp_path / "captures" / label
        )
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ = {**inherited, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}

    def run(*arguments):
        return subprocess.run(
            [environment / "bin" / arguments[0], *map(str, arguments[1:])],
            cwd=tmp_path, env=environ, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    where = run("python", "-c", "import netdiff_ray; print(netdiff_ray.__file__)")
    assert Path(where).is_relative_to(environment)
    assert run("netdiff", "--version") == f"netdiff {netdiff_ray.__version__}"
    run(
        "netdiff", "pipeline", "captures", "out", "--base", toy_directory, "--height", 32,
        "--train-steps", 2, "--batch-size", 2, "--flows", 4, "--flows-per-shard", 4,
        "--draw-steps", 1, "--max-quarantined-share", 1,
    )  # fmt: skip
    assert "whole" in run("netdiff", "verify", "out/dataset")
