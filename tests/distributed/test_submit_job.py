"""Jobs of a real cluster: every file of jobs/ by Ray's own command, and `netdiff submit`."""

import json
import shutil
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import ray
from head_node import BIN, NETDIFF, free_port, run
from paths import ROOT
from ray.job_submission import JobDetails, JobStatus, JobType

from netdiff_ray.cli import main
from netdiff_ray.config import SubmitConfig
from netdiff_ray.distributed import submit
from netdiff_ray.distributed.cluster import cluster_address

TRAINING = ("--steps", 2, "--batch-size", 2, "--warmup-steps", 0, "--rank", 16, "--alpha", 16)
DRAWING = ("--flows", 6, "--flows-per-shard", 6, "--steps", 2, "--denoisers", 1, 1)


def captures(folder, side):
    """Return a folder of one capture each of two labels."""
    for label in ("dns", "ping"):
        (folder / side / label).mkdir(parents=True)
        name = f"{label}/host-0.pcap.gz"
        shutil.copy(ROOT / "samples" / side / name, folder / side / name)
    return folder / side


@pytest.mark.slow
def test_every_job_runs_on_the_cluster_it_is_submitted_to(head, toy_directory, tmp_path):
    address, env = head.dashboard, head.env
    train, heldout = captures(tmp_path, "train"), captures(tmp_path, "heldout")
    out = tmp_path / "out"
    done = {name: out / name for name in ("encoded", "adapter", "dataset")}
    # What the pipeline has made, the jobs of its steps find whole; without held-out flows it judges
    # nothing.
    jobs = {
        "pipeline": (
            train, out, "--base", toy_directory, "--height", 32, "--train-steps", 2,
            "--batch-size", 2, "--flows", 6, "--flows-per-shard", 6, "--draw-steps", 2,
            "--max-quarantined-share", 1,
        ),
        "encode": (train, done["encoded"], "--height", 32),
        "train": (done["encoded"], done["adapter"], "--base", toy_directory, *TRAINING),
        "generate": (
            done["adapter"], done["dataset"], *DRAWING, "--keep-drawn",
            "--max-quarantined-share", 1,
        ),
        "augment": (
            done["encoded"], tmp_path / "augmented", "--to-balance", "--adapter", done["adapter"],
            "--draw-steps", 2, "--max-quarantined-share", 1,
        ),
        "evaluate": (
            "--real", heldout, "--synthetic", done["dataset"], "--out", tmp_path / "report",
            "--seeds", 1,
        ),
    }  # fmt: skip
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"pretrain"} == set(jobs)
    # Kernels are compiled anew in every copy of the package: but for one, jobs send their files
    # alone, and run the package of the cluster.
    alone = tmp_path / "alone"
    shutil.copytree(ROOT / "jobs", alone / "jobs")
    for name, arguments in jobs.items():
        sent = ROOT if name == "encode" else alone
        submit = [BIN / "ray", "job", "submit", "--address", address, "--working-dir", sent]
        done = run([*submit, "--", "python", f"jobs/{name}.py", *arguments], env, seconds=900)
        said = done.stdout + done.stderr
        # Six flows a label are too few for every part of a report: exit code 1.
        assert done.returncode == 0 or ("not available" in said and "report.html" in said), said
    counts = json.loads((out / "dataset" / "manifest.json").read_text())["counts"]
    assert counts["flows"] + counts["quarantined"] == 12
    assert (tmp_path / "report" / "report.html").exists()
    assert (tmp_path / "augmented" / "augmented").is_dir()


@pytest.mark.slow
def test_netdiff_submit_prints_the_log_and_gives_the_exit_code(head, tmp_path):
    address, env = head.dashboard, head.env
    train, out = captures(tmp_path, "train"), tmp_path / "out"
    done = run([*NETDIFF, "submit", "encode", train, out, "--json", "--address", address], env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["captures"] == 2
    assert done.stderr.startswith("job raysubmit_")
    wrong = run([*NETDIFF, "submit", "--address", address, "encode", tmp_path / "no", out], env)
    assert wrong.returncode == 2
    assert "no captures there" in wrong.stdout


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running(head, tmp_path):
    address, env = head.dashboard, head.env
    train = captures(tmp_path, "train")
    command = [*NETDIFF, "submit", "encode", train, tmp_path / "out", "--address", address]
    with subprocess.Popen(
        [str(word) for word in command], env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        job = process.stderr.readline().split()[1]
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert f"ray job stop --address {address} {job}" in said
    for _ in range(120):
        status = run([BIN / "ray", "job", "status", "--address", address, job], env).stdout
        if "succeeded" in status:
            return
        assert "stopped" not in status
        time.sleep(1)
    pytest.fail("the job did not end")


def test_ctrl_c_while_a_job_is_handed_over_says_where_to_look(monkeypatch, capsys):
    class Interrupted:
        def submit_job(self, **_):
            raise KeyboardInterrupt

        def get_address(self):
            return "http://head:8265"

    monkeypatch.setattr(submit, "_client", lambda _: Interrupted())
    assert submit.submit(SubmitConfig(verb=("info", "x"))) == 130
    assert "ray job list --address http://head:8265" in capsys.readouterr().err


def test_without_an_address_a_job_runs_on_the_cluster_that_it_was_submitted_to(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(None) == "10.0.0.1:6379"
    assert cluster_address("auto") == "auto"


class _Unauthorized(BaseHTTPRequestHandler):
    """A dashboard that wants a token."""

    def do_GET(self):
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"Unauthorized: Missing authentication token")

    def log_message(self, *_):
        return


def test_what_refuses_gets_a_sentence(capsys, monkeypatch):
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert main(["submit", "info", "x", "--address", nowhere]) == 2
    assert f"no dashboard of a Ray cluster answers at {nowhere}" in capsys.readouterr().err
    assert main(["submit", "info", "x", "--address", "head:6379"]) == 2
    assert "as in http://head:8265" in capsys.readouterr().err
    with HTTPServer(("127.0.0.1", 0), _Unauthorized) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert main(["submit", "info", "x", "--address", address]) == 2
        server.shutdown()
    assert "wants a token" in capsys.readouterr().err


class _Full(BaseHTTPRequestHandler):
    """A dashboard that takes no folder, as Ray's answers one that is too large."""

    def do_GET(self):
        version = {"version": "4", "ray_version": ray.__version__, "ray_commit": ""}
        self.send_response(404 if "packages" in self.path else 200)
        self.end_headers()
        self.wfile.write(json.dumps(version).encode())

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(500)
        self.end_headers()
        self.wfile.write(b"Package size (612.00MiB) exceeds the maximum size of 500.00MiB.")

    def log_message(self, *_):
        return


def test_a_folder_that_is_too_large_is_told_what_to_exclude(tmp_path, capsys):
    for name, size in (("data", 5_000_000), ("venv", 3_000_000), ("code", 10), ("ignored", 9_999)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(size))
    (tmp_path / ".rayignore").write_text("ignored\n")
    with HTTPServer(("127.0.0.1", 0), _Full) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        command = ["submit", "info", "x", "--address", address, "--working-dir", str(tmp_path)]
        assert main(command) == 2
        server.shutdown()
    said = capsys.readouterr().err
    assert f"working_dir {tmp_path}: 8 MB are more than the cluster takes" in said
    assert "data (5 MB), venv (3 MB), " in said
    assert f"{tmp_path}/.rayignore" in said
    assert "ignored (" not in said


def test_a_cluster_without_the_package_is_told_to_be_sent_it(monkeypatch, capsys):
    class Lacking:
        """A cluster whose Python does not find this package."""

        def submit_job(self, **_):
            return "raysubmit_1"

        def get_address(self):
            return "http://head:8265"

        async def tail_job_logs(self, _):
            yield "/usr/bin/python: Error while finding module specification for "
            yield "'netdiff_ray.cli' (ModuleNotFoundError: No module named 'netdiff_ray')\n"

        def get_job_info(self, _):
            return JobDetails(
                type=JobType.SUBMISSION, entrypoint="", status=JobStatus.FAILED, driver_exit_code=1
            )

    monkeypatch.setattr(submit, "_client", lambda _: Lacking())
    assert main(["submit", "info", "x"]) == 2
    assert "netdiff: the cluster lacks the package: give working_dir" in capsys.readouterr().err


def test_mistakes_are_said_before_anything_is_submitted(capsys):
    for arguments, words in (
        ((), "name a verb"),
        (("convert", "a", "b"), "submit convert: one of encode"),
        (("generate", "A", "B", "--flows", "0", "--address", "http://x:1"), "flows is 0"),
    ):
        assert main(["submit", *arguments]) == 2
        assert words in capsys.readouterr().err
