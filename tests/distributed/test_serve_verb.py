"""`netdiff serve`: what it refuses, and its jobs, on a cluster."""

import contextlib
import dataclasses
import hashlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from head_node import BIN, free_port, run
from paths import ROOT
from tiny_models import LABELS

from netdiff_ray.cli import main, parsed
from netdiff_ray.config import ServeConfig
from netdiff_ray.config.diffusion import DrawSettings, Lora
from netdiff_ray.config.pins import PlanPins
from netdiff_ray.distributed.serve import build
from netdiff_ray.distributed.serve.jobs import job_command
from netdiff_ray.errors import ConfigError
from netdiff_ray.generation.shard_plan import apportion
from netdiff_ray.serving.catalogue import OfferedAdapter
from netdiff_ray.serving.requests import JobRequest

HASH = hashlib.sha256(b"secret").hexdigest()

SERVE_FILE = ROOT / "cluster" / "kubernetes" / "components" / "endpoint" / "serve.yaml"


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (["--host", "0.0.0.0"], "host 0.0.0.0 is reachable by others, and there are no tokens"),
        (["--host", "::"], "is reachable by others"),
        (["--host", "192.0.2.1"], "is reachable by others"),
        (["--tokens", "secret:draw"], "64 hex digits of a token's SHA-256"),
        (["--tokens", f"{HASH}:admin"], "draw or submit"),
        (["--port", "0"], "port is 0; it must be from 1 to 65535"),
        (["--limits.streams", "0"], "limits.streams is 0; it must be above 0"),
        (["--denoisers", "2", "1"], "denoisers is (2, 1); it must be the fewest"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_sentence(wanted, sentence, capsys):
    assert main(["serve", "adapter", *wanted]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "secret:draw" not in said


def test_a_port_in_use_is_refused(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "adapter", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"adaptors": ["x"]}, "unknown: adaptors"),
        ({"port": "many"}, "port:"),
        ({"limits": {"streams": 0}}, "limits.streams is 0; it must be above 0"),
    ],
)
def test_a_wrong_serve_config_is_refused_with_a_sentence(args, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(args)


def test_a_job_makes_as_many_flows_of_each_label_as_were_asked_for():
    counts = {"chat": 3, "näme/odd": 1, "a=b": 100_003}
    pins = {
        "service": "tcp-443", "ip_version": 6, "min_packets": 2, "max_packets": 9,
        "client_net": ["2001:db8::/64"], "server_net": ["fd09::/64", "fd0a::/64"], "start": "17",
        "rtt_ms": "20:80",
        "loss": "0:1",
    }  # fmt: skip
    asked = JobRequest(labels=counts, seed=5, order="interleaved", flows_per_second=2.5, **pins)
    adapter = OfferedAdapter(name="toy", uri="/adapters/toy")
    command = job_command(ServeConfig(adapters=("x",)), adapter, asked, "s3://bucket/netdiff-1")
    assert command[:3] == [sys.executable, "-m", "netdiff_ray.cli"]
    config = parsed(command[3:])
    assert apportion(config.flows, config.weights()) == counts
    assert config.adapter == "/adapters/toy"
    assert config.target == "s3://bucket/netdiff-1"
    assert (config.draw.seed, config.order, config.flows_per_second) == (5, "interleaved", 2.5)
    assert config.address == "auto"
    assert config.pins == PlanPins(**pins)


def test_a_job_draws_as_the_endpoint_does():
    draw = DrawSettings(
        seed=3, steps=5, guidance=2.0, shift=2.5, scheduler="FlowMatchHeunDiscreteScheduler",
        control_scale=0.5, batch_size=4, hold_plan=False, shared_first_step=True,
        loras=(Lora(source="/few.safetensors"), Lora(source="a/b", revision="0" * 40, scale=0.5)),
    )  # fmt: skip
    plain = DrawSettings()
    names = [field.name for field in dataclasses.fields(draw)]
    assert all(getattr(draw, name) != getattr(plain, name) for name in names)
    adapter = OfferedAdapter(name="toy", uri="/adapters/toy")
    of_base = {
        "base": "/base", "dtype": "bfloat16", "controlnet": "a", "controlnet_revision": "1" * 40,
        "control_image": "edges", "control_pixels": "normalised", "slice_vae": True,
        "tile_vae": True,
    }  # fmt: skip
    served = ServeConfig(adapters=("x",), draw=draw, **of_base)
    config = parsed(job_command(served, adapter, JobRequest(labels={"chat": 3}), "/out")[3:])
    assert config.draw_settings() == draw
    settings = vars(served.base_settings("/other", None, "cpu"))
    assert {name: getattr(config, name) for name in of_base} == of_base
    assert {name: settings[name] for name in of_base} == of_base


@pytest.mark.slow
def test_the_file_for_serve_deploy_serves(head, adapter_directory, tmp_path):
    config = yaml.safe_load(SERVE_FILE.read_text())
    port = config["http_options"]["port"] = free_port()
    config["applications"][0]["args"] |= {
        "adapters": [str(adapter_directory)], "draw": {"steps": 2, "batch_size": 4},
        "cpus_per_denoiser": 0.1, "cpus_per_repairer": 0.1,
    }  # fmt: skip
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    on_head = ["--address", head.dashboard]
    deployed = run([BIN / "serve", "deploy", file, *on_head], head.env)
    assert deployed.returncode == 0, deployed.stderr
    try:
        end = time.monotonic() + 300
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            while not is_ready(client):
                assert time.monotonic() < end, run([BIN / "serve", "status", *on_head], head.env)
                time.sleep(1)
            drawn = client.post("/v1/flows", json={"labels": {LABELS[0]: 1}, "format": "png"})
            assert (drawn.status_code, drawn.headers["content-type"]) == (200, "image/png")
    finally:
        ended = run([BIN / "serve", "shutdown", "--yes", *on_head], head.env)
    assert ended.returncode == 0, ended.stderr


def is_ready(client):
    """Return whether an endpoint says that it is."""
    with contextlib.suppress(httpx.TransportError):
        return client.get("/healthz").status_code == 200
    return False


@pytest.mark.slow
def test_a_job_waits_for_cpus_says_so_and_makes_a_dataset_when_it_has_them(
    head, adapter_directory, tmp_path
):
    on_head, holder = ["--address", head.dashboard], f"holder-{tmp_path.name}"
    held = run(
        [BIN / "ray", "job", "submit", *on_head, "--no-wait", "--submission-id", holder,
         "--entrypoint-num-cpus", "4", "--", "sleep", "600"],
        head.env,
    )  # fmt: skip
    assert held.returncode == 0, held.stderr
    port, token = 23_600, "a word"
    digest = hashlib.sha256(token.encode()).hexdigest()
    process = subprocess.Popen(
        [sys.executable, "-m", "netdiff_ray.cli", "serve", str(adapter_directory), "--steps", "2",
         "--batch-size", "4", "--denoisers", "0", "1", "--repairers", "0", "1",
         "--port", str(port), "--tokens", f"{digest}:submit", "--jobs-target", str(tmp_path),
         "--address", head.address],
        env=head.env,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert "is starting" in process.stdout.readline()
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60
        ) as client:
            end = time.monotonic() + 300
            asked = {"labels": {LABELS[0]: 5, LABELS[2]: 2}, "seed": 3}
            while (answer := client.post("/v1/jobs", json=asked)).status_code != 202:
                assert time.monotonic() < end, answer.text
                time.sleep(1)
            location = answer.headers["location"]
            assert location == f"/v1/jobs/{answer.json()['id']}"
            while (job := client.get(location).json())["state"] != "waiting":
                assert time.monotonic() < end, job
                time.sleep(1)
            assert job["reason"] == "needs 0.9 CPUs; the cluster has 4 CPUs, all taken"
            assert job["progress"] | {"flows": 7, "flows_drawn": 0} == job["progress"]
            run([BIN / "ray", "job", "stop", holder, *on_head], head.env)
            while (job := client.get(location).json())["state"] in ("waiting", "running"):
                assert time.monotonic() < end, job
                time.sleep(1)
            progress = job["progress"]
            assert [progress[f"flows{more}"] for more in ("", "_drawn", "_repaired")] == [7, 7, 7]
            # Toys draw much that repair sets aside, which a job reports as done in part.
            assert job["counts"]["flows"] + job["counts"]["quarantined"] == 7, job
            assert Path(job["dataset"]).parent == tmp_path
            assert main(["verify", job["dataset"]]) == 0
    finally:
        run([BIN / "ray", "job", "stop", holder, *on_head], head.env)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
