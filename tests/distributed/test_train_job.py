"""TrainState on Ray: one adapter for any number of workers, whoever dies; refusals in words."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import diffusers
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from paths import ROOT
from safetensors.numpy import load_file
from tiny_models import quiet

from netdiff_ray.cli import main
from netdiff_ray.config import TrainConfig
from netdiff_ray.config.diffusion import BaseSettings, OptimizationSettings, TrainSettings
from netdiff_ray.diffusion.adapter import LORA_FILE, read_adapter
from netdiff_ray.diffusion.base import load_base
from netdiff_ray.diffusion.train import train as train_alone
from netdiff_ray.distributed.train import train
from netdiff_ray.encoding.collection import list_captures
from netdiff_ray.encoding.encode import EncodeSettings, encode_part, encoded_part_name, plan_parts
from netdiff_ray.encoding.windows import labelled_windows
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.storage.manifest import ENCODED_DATASET, commit
from netdiff_ray.storage.store import open_store

HEIGHT = 32
STEPS = 60
FLAGS = (
    "--steps", STEPS, "--batch-size", 3, "--warmup-steps", 2, "--learning-rate", 1e-3,
    "--checkpoint-every", 10, "--report-every", 5, "--rank", 2, "--cpus-per-worker", 1,
)  # fmt: skip


def run(*arguments):
    """Return the exit code of the command line."""
    return main(["train", *map(str, arguments)])


def config_of(encoded, target, base, **chosen):
    """Return what FLAGS mean."""
    optimization = OptimizationSettings(
        steps=STEPS, batch_size=3, warmup_steps=2, learning_rate=1e-3, checkpoint_every=10,
        report_every=5,
    )  # fmt: skip
    return TrainConfig(
        source=str(encoded), target=str(target), base=BaseSettings(base=str(base)),
        settings=TrainSettings(rank=2, optimization=optimization), cpus_per_worker=1, **chosen,
    )  # fmt: skip


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Return windows of two labels, in as many parts, by plain functions."""
    folder = tmp_path_factory.mktemp("encoded")
    config = {"layout": "stateful", "height": HEIGHT, "idle_timeout_s": 60.0}
    source, captures, _ = list_captures(str(ROOT / "samples" / "train" / "*" / "host-0.pcap.gz"))
    captures = [c for c in captures if c.label in ("ping", "dns")]
    target = open_store(folder)
    for number, part in enumerate(plan_parts(captures, 1)):
        encode_part(source, part, target, number, EncodeSettings(**config), config)
    commit(target, ENCODED_DATASET, config, [encoded_part_name(k) for k in range(len(captures))])
    return folder


@pytest.fixture(scope="module")
def alone(encoded, toy_directory, tmp_path_factory):
    """Return the adapter of the plain function."""
    tables = [pq.read_table(path) for path in sorted(encoded.glob("**/*.parquet"))]
    windows = labelled_windows(pa.concat_tables(tables), layout_named("stateful"))
    config = config_of(encoded, "unused", toy_directory)
    settings = TrainSettings(rank=2, max_height=HEIGHT, optimization=config.settings.optimization)
    base = load_base(BaseSettings(base=str(toy_directory), device="cpu"))
    return train_alone(base, windows, tmp_path_factory.mktemp("alone"), settings, quiet)


def assert_same_adapter(alone, other):
    one, many = load_file(alone / LORA_FILE), load_file(other / LORA_FILE)
    assert one.keys() == many.keys()
    assert all(np.allclose(one[k], many[k], rtol=0, atol=1e-5) for k in one)
    assert any(np.abs(w).max() > 1e-3 for k, w in many.items() if "lora_B" in k)
    first, second = read_adapter(alone), read_adapter(other)
    assert first.metadata.labels == second.metadata.labels
    assert first.metadata.trained["steps"] == second.metadata.trained["steps"] == STEPS


def has_checkpoint(target):
    """Return whether a checkpoint has been recorded, so that a training goes on from there."""
    snapshot = target / "run" / "checkpoint_manager_snapshot.json"
    return snapshot.exists() and '"checkpoint_2' in snapshot.read_text()


@contextmanager
def a_worker_killed_after_a_checkpoint_in(target):
    """Kill a training worker of this process in a block; yield a list that gets its process id."""
    killed, ended = [], threading.Event()

    def kill():
        while not ended.wait(0.05):
            if has_checkpoint(target):
                below = psutil.Process().children(recursive=True)
                worker = next(p for p in below if "RayTrainWorker" in " ".join(p.cmdline()))
                worker.kill()
                killed.append(worker.pid)
                return

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
def test_two_workers_of_which_one_dies_make_the_adapter_of_one_process(
    local_ray, encoded, toy_directory, alone, tmp_path, capsys
):
    arguments = (encoded, tmp_path / "out", "--base", toy_directory, *FLAGS, "--workers", 1, 2)
    with a_worker_killed_after_a_checkpoint_in(tmp_path / "out") as killed:
        assert run(*arguments, "--json") == 0
    assert killed
    said = capsys.readouterr()
    assert json.loads(said.out)["steps"] == STEPS
    lines = [json.loads(ln) for ln in said.err.splitlines() if ln.startswith('{"progress": "tr')]
    assert lines[-1]["done"] == lines[-1]["total"] == STEPS
    assert any("windows_per_s" in line for line in lines)
    assert "Traceback" not in said.err
    assert_same_adapter(alone, tmp_path / "out")
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(toy_directory)
    pipeline.load_lora_weights(tmp_path / "out")
    assert pipeline.get_active_adapters()
    capsys.readouterr()

    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    assert run(*arguments) == 0
    said = capsys.readouterr()
    assert f"for 2 labels, {STEPS} steps" in said.out
    assert said.out.endswith("it was finished already\n")
    assert said.err == ""
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == written
    assert run(*arguments, "--seed", 1) == 2
    assert (
        "holds another run: settings.optimization.seed is 0 there and 1 requested"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_job_stopped_by_ctrl_c_goes_on(local_ray, encoded, toy_directory, alone, tmp_path):
    config = config_of(encoded, tmp_path / "out", toy_directory)
    command = [sys.executable, ROOT / "jobs" / "train.py", config.source, config.target]
    command += ["--base", toy_directory, *FLAGS]
    with subprocess.Popen(
        [str(part) for part in command], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""}, start_new_session=True,
    ) as job:  # fmt: skip
        try:
            while not has_checkpoint(tmp_path / "out"):
                assert job.poll() is None, job.stderr.read()
                time.sleep(0.05)
            os.killpg(job.pid, signal.SIGINT)  # as a terminal does
            said = job.communicate(timeout=300)[1]
        finally:
            job.kill()
    assert job.returncode == 130, said
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    steps = []
    train(config, lambda values: steps.append(values["step"]))
    assert steps[0] > 10
    assert_same_adapter(alone, tmp_path / "out")


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_said_once(local_ray, encoded, toy_directory, tmp_path, capsys):
    flags = ("--base", toy_directory, "--steps", 5, "--batch-size", 2, "--warmup-steps", 0)
    assert run(encoded, tmp_path, *flags, "--learning-rate", 1e30, "--cpus-per-worker", 1) == 2
    said = capsys.readouterr().err
    assert "lower learning_rate" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--labels", "dns", "mail"), "has no label mail; it has dns, ping"),
        (("--batch-size", 5000), "fewer than a batch of 5,000"),
        (("--max-height", 64), "was encoded with height 32"),
        (("--workers", 3, 2), "workers is (3, 2); it must be"),
        (("--workers", 0), "workers is (0,); it must be"),
        (("--workers", 2, "--cpus-per-worker", 3), "needs 6 CPUs at a time; the cluster has 4"),
        (("--gpus-per-worker", 1), "needs 1 GPUs at a time; the cluster has 0"),
        (("--base", "/no/such/base"), "/no/such/base: no such directory"),
        (("--base", "some/hub-name"), "at revision None can change at any time"),
    ],
)
def test_mistakes_get_a_sentence(local_ray, encoded, toy_directory, tmp_path, capsys, flags, said):
    assert run(encoded, tmp_path / "out", "--base", toy_directory, *flags) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_places_that_will_not_do(encoded, toy_directory, alone, tmp_path, capsys):
    assert run(tmp_path, tmp_path / "out", "--base", toy_directory) == 2
    assert "no _manifest.json" in capsys.readouterr().err
    assert run(encoded, alone, "--base", toy_directory, *FLAGS) == 2
    assert "adapter that another job made" in capsys.readouterr().err


def test_a_run_that_never_began_gives_its_place_up(
    local_ray, encoded, toy_directory, tmp_path, capsys
):
    for seed in (0, 1):
        flags = ("--base", toy_directory, "--seed", seed, "--workers", 2, "--cpus-per-worker", 3)
        assert run(encoded, tmp_path, *flags) == 2
        assert "needs 6 CPUs" in capsys.readouterr().err
