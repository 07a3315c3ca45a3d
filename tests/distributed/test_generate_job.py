"""Generating on Ray: the same bytes on any number of workers, whoever dies; refusals."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from fs_helpers import content_of, wait_until
from paths import ROOT
from ray import cloudpickle
from ray.cluster_utils import Cluster
from tiny_models import LABELS, TOY

from netdiff_ray.cli import main
from netdiff_ray.config import GenerateConfig
from netdiff_ray.config.diffusion import BaseSettings, DrawSettings
from netdiff_ray.diffusion.adapter import read_adapter
from netdiff_ray.diffusion.base import load_base
from netdiff_ray.diffusion.denoise import draw
from netdiff_ray.diffusion.lora import load_adapter
from netdiff_ray.distributed import generate as generate_module
from netdiff_ray.distributed.columns import ErrorColumns
from netdiff_ray.distributed.drawn_flows import DrawingProgress, DrawnFlowsSender, following
from netdiff_ray.distributed.generate import generate
from netdiff_ray.errors import ModelError
from netdiff_ray.generation.shard_builder import build_planned_shard
from netdiff_ray.generation.shard_plan import ShardSettings, plan_shards, windows_to_draw
from netdiff_ray.pretraining.nano import build
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import open_store

pytestmark = pytest.mark.usefixtures("local_ray")

FLOWS = ("--flows", 12, "--flows-per-shard", 4, "--steps", 2, "--batch-size", 4, "--keep-drawn")
NUM_SHARDS = 9


def run(*arguments):
    """Return the exit code of the command line."""
    return main(["generate", *map(str, arguments)])


def config_of(adapter, target, **more):
    """Return the configuration of FLOWS."""
    return GenerateConfig(
        adapter=str(adapter), target=str(target), flows=12, flows_per_shard=4,
        keep_drawn=True, draw=DrawSettings(steps=2, batch_size=4), **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn_alone(adapter_directory, toy_directory):
    """Return the shards by plain functions, each window drawn by itself, so in other batches."""
    base = load_base(BaseSettings(base=str(toy_directory), device="cpu"))
    adapter = read_adapter(adapter_directory)
    load_adapter(base, adapter)
    settings = ShardSettings(
        seed=0, payload="dialogue", order="sequential", flows_per_second=10.0, keep_drawn=True
    )
    shards = []
    for plan in plan_shards(dict.fromkeys(LABELS, 12), 4):
        samples = [s for flow in windows_to_draw(adapter.metadata, plan, 0) for s in flow]
        drawn = [
            next(draw(base, adapter, [sample], DrawSettings(steps=2, batch_size=4))).nprint
            for sample in samples
        ]
        shards.append(build_planned_shard(adapter.metadata, plan, np.concatenate(drawn), settings))
    return shards


@pytest.fixture(scope="module")
def whole(adapter_directory, drawn_alone, local_ray, tmp_path_factory):
    """Return a dataset that four denoisers made undisturbed; repair is compiled by now."""
    target = tmp_path_factory.mktemp("generated") / "whole"
    assert (
        run(adapter_directory, target, *FLOWS, "--denoisers", 4, 4, "--max-quarantined-share", 1)
        == 0
    )
    return target


def test_a_dataset_is_whole_and_what_plain_functions_make(whole, drawn_alone, tmp_path):
    assert main(["verify", str(whole)]) == 0
    manifest = json.loads((whole / "manifest.json").read_text())
    counts = manifest["counts"]
    assert counts["parts"] == NUM_SHARDS
    assert counts["flows"] == 12 * len(LABELS)
    store = open_store(tmp_path)
    for shard in drawn_alone:
        write_shard(store, shard, manifest["config"])
    plain = content_of(tmp_path)
    assert {name: data for name, data in content_of(whole).items() if name in plain} == plain
    assert len(plain) == 4 * NUM_SHARDS


def test_one_denoiser_makes_the_same_bytes_as_four(whole, adapter_directory, tmp_path):
    assert (
        run(adapter_directory, tmp_path, *FLOWS, "--denoisers", 1, 1, "--max-quarantined-share", 1)
        == 0
    )
    assert content_of(tmp_path) == content_of(whole)


@pytest.fixture(autouse=True)
def all_given_back(local_ray):
    """Assert that workers have gone when a job has ended, however they died."""
    yield
    wait_until(lambda: local_ray.available_resources().get("CPU") == 4, 180)


def test_flows_are_told_while_their_shard_is_drawn():
    told = []
    with following(told.append, cpus=1.0, gpus=0.0) as drawn_flows:
        DrawnFlowsSender(drawn_flows).send(3, 5)
        wait_until(lambda: DrawingProgress({3: 5}, "") in told, 60)


@ray.remote(num_cpus=4)
class Holder:
    """Holds all CPUs."""

    def holds(self): ...


def test_a_run_without_room_says_what_it_waits_for_and_goes_on_when_it_can(
    adapter_directory, tmp_path
):
    holder = Holder.remote()
    ray.get(holder.holds.remote())
    config = GenerateConfig(
        adapter=str(adapter_directory), target=str(tmp_path), flows=1, denoisers=(1, 1),
        draw=DrawSettings(steps=1, batch_size=4),
    )  # fmt: skip
    reports = []
    running = threading.Thread(target=generate, args=(config, lambda *r: reports.append(r)))
    running.start()
    try:
        short = "needs 0.9 CPUs; the cluster has 4 CPUs, all taken"
        wait_until(lambda: reports and reports[-1][2]["waits_for"] == short, 120)
    finally:
        ray.kill(holder)
        running.join()
    done, total, details = reports[-1]
    assert done == total == details["flows_repaired"] == len(LABELS)
    assert details["waits_for"] == ""
    assert details["packets"] > 0
    assert (tmp_path / "manifest.json").exists()


def processes_below(pid, words):
    """Return the processes below one, in whose command line the words stand."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if words in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_missing_shard_alone_is_made_again(whole, adapter_directory, tmp_path, capsys):
    target = tmp_path / "again"
    shutil.copytree(whole, target)
    (target / "flows" / "part-00004.parquet").unlink()
    before = {p: p.stat().st_mtime_ns for p in (target / "flows").iterdir()}
    assert (
        run(adapter_directory, target, *FLOWS, "--denoisers", 1, 1, "--max-quarantined-share", 1)
        == 0
    )
    assert content_of(target) == content_of(whole)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "generated 32 of 36 flows"
    assert said[-1].startswith("generated 36 of 36 flows, ")

    assert run(adapter_directory, target, *FLOWS, "--seed", 1) == 2
    assert "holds another run: draw.seed is 0 there and 1 requested" in capsys.readouterr().err


def test_nothing_is_started_when_nothing_is_missing(whole, adapter_directory, capsys):
    assert (
        run(
            adapter_directory, whole, *FLOWS, "--max-quarantined-share", 1, "--address", "nowhere:1"
        )
        == 0
    )
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (("--labels", "ftp"), "does not know label 'ftp'; it knows chat, näme/odd, video call"),
        (("--mix", "chat=2", "ftp=1"), "does not know label 'ftp'"),
        (("--mix", "chat"), "mix is 'chat'; it must be a label, = and a weight"),
        (("--denoisers", 5, 5), "5 denoisers need 5 CPUs"),
        (("--gpus-per-denoiser", 1), "the cluster has 4 CPUs and 0 GPUs"),
        (("--scheduler", "Nothing"), "scheduler is 'Nothing'; it must be one of FlowMatch"),
    ],
)
def test_mistakes_end_the_job_with_a_sentence(
    adapter_directory, tmp_path, capsys, wanted, sentence
):
    assert run(adapter_directory, tmp_path / "out", *FLOWS, "--denoisers", 1, 1, *wanted) == 2
    said = capsys.readouterr().err.splitlines()
    assert sentence in said[-1]
    assert said[-1].startswith("netdiff: ")
    assert not any("Traceback" in line for line in said)
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_missing_adapter_and_another_base_are_refused(
    adapter_directory, tmp_path, capsys, local_ray
):
    assert run(tmp_path, tmp_path / "out") == 2
    assert "adapter.json is missing" in capsys.readouterr().err
    build(tmp_path / "base", TOY, seed=2)
    wanted = (*FLOWS, "--denoisers", 1, 1, "--base", tmp_path / "base")
    assert run(adapter_directory, tmp_path / "out", *wanted) == 2
    assert "the adapter was trained on" in capsys.readouterr().err.splitlines()[-1]


def test_an_error_of_a_worker_keeps_its_class(adapter_directory, tmp_path):
    build(tmp_path / "base", TOY, seed=2)
    config = config_of(
        adapter_directory, tmp_path / "out", base=str(tmp_path / "base"), denoisers=(1, 1)
    )
    with pytest.raises(ModelError, match="the adapter was trained on"):
        generate(config)


class DiesOnce(generate_module.WriteStage):
    """A writer of which one dies, once, when it is about to write."""

    def write_row(self, row):
        mark = Path(self.target.root) / "died"
        if row["number"] == 5 and not mark.exists():
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write_row(row)


class Poisoned(generate_module.DrawStage):
    """A denoiser to which one shard is deadly, and another a mistake; it loads what it draws
    with when it does."""

    def __init__(self, *arguments):
        self._arguments, self._fault, self._base = arguments, ErrorColumns(), None

    def cells(self, plan):
        if plan.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if plan.number == 2:
            raise ZeroDivisionError("two")
        if self._base is None:
            super().__init__(*self._arguments)
        return super().cells(plan)


@pytest.fixture
def by_value():
    """Let workers get what this module defines, which they cannot import, with their tasks."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_killed_denoiser_and_a_killed_repair_worker_change_nothing(
    whole, adapter_directory, tmp_path, monkeypatch, by_value
):
    monkeypatch.setattr(generate_module, "WriteStage", DiesOnce)
    killed = []

    def kill(done, _total, _more):
        if done and not killed:
            killed.extend(processes_below(os.getpid(), "DrawStage")[:1])
            killed[0].kill()

    generate(config_of(adapter_directory, tmp_path, denoisers=(2, 2)), kill)
    assert killed
    (tmp_path / "died").unlink()
    assert content_of(tmp_path) == content_of(whole)


def test_a_deadly_shard_is_quarantined_and_the_job_ends(
    whole, adapter_directory, tmp_path, monkeypatch, by_value, capsys
):
    monkeypatch.setattr(generate_module, "DrawStage", Poisoned)
    wanted = (*FLOWS, "--labels", LABELS[0], "--denoisers", 1, 1, "--max-quarantined-share", 0.1)
    assert run(adapter_directory, tmp_path, *wanted) == 1
    assert "8 flows in quarantine" in capsys.readouterr().out
    records = [json.loads(r) for r in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    reasons = {record["shard"]: record["reason"] for record in records}
    assert "died each time" in reasons[1]
    assert reasons[2] == "drawing failed: ZeroDivisionError: two"
    assert main(["verify", str(tmp_path)]) == 0
    good = f"label={LABELS[0]}/part-00000.pcap"
    assert (tmp_path / good).read_bytes() == (whole / good).read_bytes()


def started(adapter, target, *more):
    """Return `netdiff generate` in a process of its own."""
    wanted = [
        "generate",
        adapter,
        target,
        *FLOWS,
        "--denoisers",
        1,
        1,
        "--max-quarantined-share",
        1,
        *more,
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "netdiff_ray.cli", *map(str, wanted)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_shards(target, count, process):
    """Return when there are so many shards; the process has not ended by then."""
    while len(list(target.glob("flows/*.parquet"))) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def test_stopped_and_killed_and_run_again_it_makes_the_same_bytes(
    whole, adapter_directory, tmp_path, capsys, local_ray
):
    """Stopped by Ctrl-C with a Ray of its own, killed on a cluster that goes on."""
    process = started(adapter_directory, tmp_path)
    wait_for_shards(tmp_path, 1, process)
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "netdiff: stopped; run the same command again to go on"
    assert "Traceback" not in said
    assert "core_worker" not in said  # a warning of Ray's native part
    assert psutil.wait_procs(below, timeout=60)[1] == []

    cluster = local_ray.get_runtime_context().gcs_address
    process = started(adapter_directory, tmp_path, "--address", cluster)
    wait_for_shards(tmp_path, 4, process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "manifest.json").exists()

    assert (
        run(adapter_directory, tmp_path, *FLOWS, "--denoisers", 1, 1, "--max-quarantined-share", 1)
        == 0
    )
    said = capsys.readouterr().err.splitlines()
    assert not said[0].startswith("generated 0 of")
    assert said[-1].startswith("generated 36 of 36 flows, ")
    assert content_of(tmp_path) == content_of(whole)


@pytest.fixture
def nodes(local_ray):
    """Yield further nodes for the session's Ray, which has its own four CPUs afterwards."""
    cluster = Cluster()
    cluster.head_node = ray._private.worker._global_node
    cluster.redis_address = cluster.head_node.redis_address
    yield cluster
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)


def test_a_lost_node_changes_nothing(whole, adapter_directory, tmp_path, nodes):
    # Of two denoisers of three CPUs each, the added node holds one.
    first = nodes.add_node(num_cpus=4)
    lost = []

    def remove(done, _total, _more):
        if done and not lost:
            lost.append(done)
            nodes.remove_node(first, allow_graceful=False)
            nodes.add_node(num_cpus=4)

    config = config_of(adapter_directory, tmp_path, denoisers=(2, 2), cpus_per_denoiser=3)
    generate(config, remove)
    assert lost[0] < 12 * len(LABELS)
    assert content_of(tmp_path) == content_of(whole)
