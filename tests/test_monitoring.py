"""A real Prometheus scrapes a real Ray: every panel and every alert has something to show."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from fs_helpers import wait_until
from paths import ROOT
from test_cluster_files import CLUSTER, OTHERS_METRICS, alerts, named_by, panels

pytestmark = pytest.mark.slow

SHOWN = {"run": ["run"], "endpoint": ["endpoint", "run"]}
"""Dashboard to the kinds of work (`monitored.WORK`) that all its panels need."""


@pytest.fixture(scope="module")
def free_ports():
    """Return the ports outside the range of Ray's workers."""
    found = []
    for port in range(20_000 + os.getpid() % 5_000, 30_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == 4:
            return found
    pytest.fail("no free ports")


@pytest.fixture(scope="module")
def monitored(free_ports, adapter_directory, tmp_path_factory):
    """Yield session folder and address of a Ray that does every kind of work while tests run."""
    metrics_port, autoscaler_port, serve_port, _ = free_ports
    folder = tmp_path_factory.mktemp("monitored")
    environment = {
        **os.environ, "HOME": str(folder), "RAY_AUTH_MODE": "disabled",
        "RAY_LOGGING_CONFIG_ENCODING": "JSON",
        # Busy machines take their time to start a proxy.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
        "AUTOSCALER_METRIC_PORT": str(autoscaler_port),
        "RAY_metrics_report_interval_ms": "1000",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }  # fmt: skip
    kinds = sorted({kind for own in SHOWN.values() for kind in own})
    command = [sys.executable, ROOT / "tests" / "monitored.py", folder, adapter_directory]
    command += [metrics_port, serve_port]
    with (folder / "errors.txt").open("w") as errors:
        running = subprocess.Popen(
            [str(word) for word in (*command, *kinds)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
    line = next((one for one in running.stdout if one.startswith('{"session"')), None)
    assert line, (folder / "errors.txt").read_text()[-3000:]
    yield json.loads(line)
    running.stdin.close()
    running.wait(timeout=60)


@pytest.fixture(scope="module")
def session(monitored):
    """Return the session folder of that Ray."""
    return Path(monitored["session"])


@pytest.fixture(scope="module")
def prometheus(session, free_ports, tmp_path_factory):
    """Yield the address of a Prometheus with the project's rules that scrapes that Ray."""
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus")
    metrics_port, autoscaler_port, _, port = free_ports
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (found_by,) = config["scrape_configs"][0]["file_sd_configs"]
    found_by["files"] = [str(folder / "nodes.json")]
    config["rule_files"] = [str(CLUSTER / "rules.yml")]
    targets = [f"127.0.0.1:{metrics_port}", f"127.0.0.1:{autoscaler_port}"]
    (folder / "nodes.json").write_text(json.dumps([{"targets": targets, "labels": {}}]))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    running = subprocess.Popen(
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    )  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    running.terminate()
    running.wait(timeout=30)


def found(prometheus, expression):
    """Return the series that an expression gives now; none while Prometheus starts."""
    query = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"{prometheus}/api/v1/query?{query}", timeout=10) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        pytest.fail(f"{expression}: {error.read().decode()}")
    except OSError:
        return []


def without_data(prometheus, expressions, patience_s=300):
    """Return those of (where, expression) that still give nothing when patience ends."""
    end = time.monotonic() + patience_s
    missing = list(expressions)
    while missing := [one for one in missing if not found(prometheus, one[1])]:
        if time.monotonic() > end:
            return missing
        time.sleep(1)
    return []


@pytest.mark.parametrize("dashboard", sorted(SHOWN))
def test_every_panel_shows_data(prometheus, dashboard):
    expressions = [
        (title, re.sub(r"\$(run|route)\b", ".*", e).replace("$__rate_interval", "1m"))
        for title, e in panels(CLUSTER / "grafana" / f"{dashboard}.json")
    ]
    assert without_data(prometheus, expressions) == []


def test_every_alert_watches_data(prometheus):
    watched = [
        (name, re.fullmatch(r"(.*) [<>] [\d.]+", e, re.DOTALL)[1])
        for name, e in alerts()
        if not named_by(e) & OTHERS_METRICS
    ]
    assert len(watched) > 10
    assert without_data(prometheus, watched) == []


BUCKET = "s3://bucket/"
DRIVER = """
import os, signal, sys
import ray
from netdiff_ray.distributed.metrics import RunProgress, set_dataset_time

address, run, end = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
with RunProgress(run, "generate", done=1, planned=3) as progress:
    sys.stdin.readline()
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "failed":
        raise SystemExit(2)
    progress.set(3)
    set_dataset_time(run)
"""


def ends_seen(prometheus, expression):
    """Return the ends of the drivers' runs of which an expression has a series."""
    named = [series["metric"]["run"] for series in found(prometheus, expression)]
    return {name.removeprefix(BUCKET) for name in named if name.startswith(BUCKET)}


def test_runs_are_told_apart_by_how_they_end(monitored, prometheus):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    runs = {end: f"s3://key:secret@bucket/{end}" for end in ("done", "failed", "killed")}
    drivers = {
        end: subprocess.Popen(
            [sys.executable, "-c", DRIVER, monitored["address"], run, end], env=environment,
            stdin=subprocess.PIPE, text=True,
        )
        for end, run in runs.items()
    }  # fmt: skip
    wait_until(lambda: ends_seen(prometheus, "ray_netdiff_run_planned") == set(runs), 120)
    for driver in drivers.values():
        driver.stdin.write("\n")
        driver.stdin.close()
    assert {end: driver.wait(timeout=120) for end, driver in drivers.items()} == {
        "done": 0, "failed": 2, "killed": -9,
    }  # fmt: skip
    (failed,) = (expression for name, expression in alerts() if name == "NetdiffRunFailed")
    drawn = "last_over_time(ray_netdiff_dataset_time_seconds[7d])"
    expected = {(failed, "failed"), (failed, "killed"), (drawn, "done")}

    def seen():
        return {(e, end) for e in (failed, drawn) for end in ends_seen(prometheus, e)}

    wait_until(lambda: seen() == expected, 120)


@pytest.mark.parametrize(
    ("message", "folder"), [("part encoded", "encoded"), ("shard written", "drawn")]
)
def test_the_log_says_which_run_and_shard(session, message, folder):
    lines = [
        json.loads(line)
        for path in (session / "logs").glob("worker-*.err")
        for line in path.read_text().splitlines()
        if f'"{message}"' in line
    ]
    assert 0 in {line["shard"] for line in lines}
    for line in lines:
        assert line["run"].endswith(f"/{folder}")
        assert {"node_id", "worker_id", "task_id"} <= line.keys()
