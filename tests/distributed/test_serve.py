"""The endpoint on Ray Serve, asked by real clients."""

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from browser import opened
from fs_helpers import wait_until
from PIL import Image
from tiny_models import LABELS

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings
from netdiff_ray.diffusion.adapter import read_adapter
from netdiff_ray.diffusion.base import load_base
from netdiff_ray.diffusion.denoise import draw
from netdiff_ray.diffusion.lora import load_adapter
from netdiff_ray.distributed.serve import build
from netdiff_ray.distributed.serve.run import listen, start
from netdiff_ray.generation.shard_builder import build_planned_shard
from netdiff_ray.generation.shard_plan import ShardPlan, ShardSettings, windows_to_draw
from netdiff_ray.serving.problems import PROBLEM_TYPE
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import open_store

DRAW = {"steps": 2, "batch_size": 4}
LIMITS = {"streams": 2, "flows": 400, "body_bytes": 4096, "body_seconds": 3.0}
TOKENS = {"draw": "a word to draw", "submit": "a word to submit"}
CHAT = {"labels": {"chat": 3}, "adapter": "toy"}


def free_port():
    """Return a port above those of Ray's workers."""
    for port in range(23_000, 24_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


@pytest.fixture(scope="module")
def adapters(adapter_directory, tmp_path_factory):
    """Return a folder with the toy adapter in it."""
    folder = tmp_path_factory.mktemp("offered")
    shutil.copytree(adapter_directory, folder / "toy")
    return folder


@pytest.fixture(scope="module")
def endpoint(adapters, local_ray, tmp_path_factory):
    """Yield the URL of a Serve with three applications: one that draws, one with tokens, one that
    waits for a GPU and an adapter."""
    from ray import serve

    port = free_port()
    listen("127.0.0.1", port)
    late = str(adapters.parent / "late")
    hashes = [f"{hashlib.sha256(t.encode()).hexdigest()}:{role}" for role, t in TOKENS.items()]
    idle = {"denoisers": [0, 1], "repairers": [0, 1]}
    common = {"adapters": [str(adapters), late], "draw": DRAW, "limits": LIMITS}
    applications = {
        "/": common,
        "/guarded": {**common, "tokens": hashes, **idle, "jobs_target": late},
        "/poor": {"adapters": [late], "gpus_per_denoiser": 1, "repairers": [0, 1]},
    }
    start({f"app{k}": (path, build(args)) for k, (path, args) in enumerate(applications.items())})
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: httpx.get(f"{url}/healthz", timeout=120).status_code == 200, 400)
    yield url
    serve.shutdown()


@pytest.fixture(scope="module")
def client(endpoint):
    with httpx.Client(base_url=endpoint, timeout=240) as client:
        client.post("/v1/flows", json=CHAT).raise_for_status()  # loads and compiles
        yield client


@pytest.fixture(scope="module")
def plain(adapter_directory, toy_directory, tmp_path_factory):
    """Make the capture of flows of one label, as a shard of `netdiff generate` is made."""
    base = load_base(BaseSettings(base=str(toy_directory), device="cpu"))
    adapter = read_adapter(adapter_directory)
    load_adapter(base, adapter)

    def capture(label, count, seed, order):
        plan = ShardPlan(number=0, label=label, first=0, count=count)
        samples = [s for flow in windows_to_draw(adapter.metadata, plan, seed) for s in flow]
        drawn = {
            (one.sample.index, one.sample.window): one.nprint
            for one in draw(base, adapter, samples, DrawSettings(seed=seed, **DRAW))
        }
        settings = ShardSettings(seed=seed, payload="dialogue", order=order, flows_per_second=10.0)
        cells = np.concatenate([drawn[s.index, s.window] for s in samples])
        shard = build_planned_shard(adapter.metadata, plan, cells, settings)
        folder = tmp_path_factory.mktemp("plain")
        write_shard(open_store(folder), shard, {})
        (path,) = folder.rglob("*.pcap")
        return path.read_bytes()

    return capture


@pytest.mark.parametrize("order", ["sequential", "interleaved"])
def test_a_request_gives_the_bytes_of_a_generated_shard_each_time(client, plain, order):
    asked = {"labels": {"video call": 6}, "adapter": "toy", "seed": 9, "order": order}
    first, second = (client.post("/v1/flows", json=asked) for _ in range(2))
    assert first.status_code == 200, first.text
    assert first.headers["content-type"] == "application/vnd.tcpdump.pcap"
    assert first.content == second.content == plain("video call", 6, 9, order)
    report = client.get(f"/v1/streams/{first.headers['netdiff-stream']}").json()
    assert report["state"] == "complete"
    assert report["done"] == report["flows"] == 6


def test_requests_that_share_batches_get_their_own_flows(client, plain):
    answers = {}

    def ask(seed):
        asked = {"labels": {"chat": 5}, "adapter": "toy", "seed": seed}
        while (answer := client.post("/v1/flows", json=asked)).status_code == 429:
            time.sleep(0.1)
        answers[seed] = answer.content

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {seed: plain("chat", 5, seed, "sequential") for seed in (1, 2)}


@pytest.mark.parametrize(("form", "order"), [("pcap", "interleaved"), ("pcapng", "sequential")])
def test_tshark_accepts_what_curl_downloads(client, tmp_path, form, order):
    if not (shutil.which("tshark") and shutil.which("curl")):
        pytest.skip("needs curl and tshark")
    asked = {"labels": dict.fromkeys(LABELS, 3), "adapter": "toy", "format": form, "order": order}
    path = tmp_path / f"flows.{form}"
    subprocess.run(
        ["curl", "-sS", "--fail-with-body", "-o", path, "--json", json.dumps(asked),
         f"{client.base_url}/v1/flows"],
        check=True,
    )  # fmt: skip
    listed = subprocess.run(
        ["tshark", "-r", path, "-o", "tcp.reassemble_out_of_order:TRUE", "-T", "fields",
         "-e", "frame.time_epoch", "-e", "_ws.malformed"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    times = [line.split("\t") for line in listed.stdout.splitlines()]
    assert len(times) > 9
    assert not any(malformed for _, malformed in times)
    assert sorted(time for time, _ in times) == [time for time, _ in times]


def test_drawings_come_as_what_repair_takes(client, tmp_path):
    from netdiff_ray.cli import main

    one = client.post("/v1/flows", json={**CHAT, "labels": {"chat": 1}, "format": "png"})
    assert one.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(one.content)).width == 704
    labels = {"chat": 2, "näme/odd": 1}
    for form in ("png", "nprint"):
        many = client.post("/v1/flows", json={**CHAT, "labels": labels, "format": form})
        assert many.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(many.content)) as archive:
            names = archive.namelist()
            archive.extractall(tmp_path / form)
        assert sorted(n.split("/")[0] for n in names) == ["chat", "chat", "n%C3%A4me%2Fodd"]
        assert all(name.endswith(form) for name in names)
        target = str(tmp_path / f"{form}.pcap")
        assert main(["repair", str(tmp_path / form), target, "--max-quarantined-share", "1"]) == 0


BAD_BODIES = {
    "no JSON": (b"labels", {}, 400),
    "not UTF-8": (b'{"labels": {"\xff": 1}}', {}, 400),
    "deeply nested": (b"[" * 2000, {}, 400),
    "deeply nested labels": (b'{"labels":' * 300 + b"1" + b"}" * 300, {}, 422),
    "half a surrogate": (b'{"labels": {"\\ud800": 1}}', {}, 422),
    "infinity": (b'{"labels": {"chat": 1}, "flows_per_second": Infinity}', {}, 400),
    "a list": (b"[]", {}, 422),
    "no labels": (b'{"labels": {}}', {}, 422),
    "text for a number": (b'{"labels": {"chat": "1"}}', {}, 422),
    "no flows": (b'{"labels": {"chat": 0}}', {}, 422),
    "a huge number": (b'{"labels": {"chat": 1' + b"0" * 4000 + b"}}", {}, 422),
    "too many flows": (b'{"labels": {"chat": 401}, "adapter": "toy"}', {}, 422),
    "too many steps": (b'{"labels": {"chat": 1}, "steps": 101}', {}, 422),
    "an unknown field": (b'{"labels": {"chat": 1}, "path": "/etc"}', {}, 422),
    "an unknown form": (b'{"labels": {"chat": 1}, "format": "exe"}', {}, 422),
    "no adapter named": (b'{"labels": {"chat": 1}}', {}, 422),
    "a path": (b'{"labels": {"chat": 1}, "adapter": "../offered/toy"}', {}, 404),
    "an absolute path": (b'{"labels": {"chat": 1}, "adapter": "/etc/passwd"}', {}, 404),
    "dots": (b'{"labels": {"chat": 1}, "adapter": ".."}', {}, 404),
    "a NUL": (b'{"labels": {"chat": 1}, "adapter": "toy\\u0000"}', {}, 404),
    "an unknown label": (b'{"labels": {"ftp": 1}, "adapter": "toy"}', {}, 404),
    "an unknown service": (
        b'{"labels": {"chat": 1}, "adapter": "toy", "service": "tcp-80"}',
        {},
        422,
    ),
    "fewest above most": (
        b'{"labels": {"chat": 1}, "adapter": "toy", "min_packets": 3, "max_packets": 2}',
        {},
        422,
    ),
    "too large": (b" " * 5000, {}, 413),
    "a form": (b"labels=chat", {"content-type": "text/plain"}, 415),
    "another host": (b"{}", {"host": "evil.example"}, 421),
}


def assert_problem(answer, status):
    """Assert that it is a problem detail of that status."""
    assert answer.status_code == status, answer.content[:300]
    assert answer.headers["content-type"] == PROBLEM_TYPE
    problem = answer.json()
    assert problem["status"] == status
    assert len(problem["detail"]) > 10
    return problem


@pytest.mark.parametrize("case", BAD_BODIES)
def test_bad_bodies_get_a_clear_problem(client, case):
    body, headers, status = BAD_BODIES[case]
    headers = {"content-type": "application/json", **headers}
    assert_problem(client.post("/v1/flows", content=body, headers=headers), status)


def test_a_large_body_is_refused_while_it_is_read(client):
    def parts():
        for _ in range(100):
            yield b" " * 65_536

    headers = {"content-type": "application/json"}
    assert_problem(client.post("/v1/flows", content=parts(), headers=headers), 413)


def test_a_slow_body_is_refused(endpoint):
    host, port = endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(
            b"POST /v1/flows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert b" 408 " in slow.recv(4096).splitlines()[0]


def test_a_head_that_drips_is_cut_off(endpoint):
    host, port = endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")

        def is_cut_off():
            try:
                slow.sendall(b"x")
            except OSError:
                return True
            return False

        wait_until(is_cut_off, 30)


def test_other_paths_and_methods_get_a_problem(client):
    assert_problem(client.get("/v1/nothing"), 404)
    assert_problem(client.get("/v1/streams/nothing"), 404)
    assert_problem(client.get("/v1/jobs/..%2f..%2fetc"), 404)
    assert_problem(client.get("/v1/jobs/netdiff-0000000000000000"), 404)
    assert "allow" in client.delete("/v1/flows").headers
    assert_problem(client.delete("/v1/flows"), 405)
    assert_problem(client.post("/v1/jobs", json=CHAT), 404)


@pytest.mark.parametrize(
    ("token", "path", "status"),
    [
        (None, "/v1/flows", 401),
        ("", "/v1/flows", 401),
        ("a word to  draw", "/v1/flows", 401),
        ("ä", "/v1/flows", 401),
        (hashlib.sha256(TOKENS["draw"].encode()).hexdigest(), "/v1/flows", 401),
        (None, "/v1/jobs", 401),
        (TOKENS["draw"], "/v1/jobs", 403),
        (TOKENS["draw"], "/v1/flows", 422),
        (TOKENS["submit"], "/v1/flows", 422),
        (TOKENS["submit"], "/v1/jobs", 422),
    ],
)
def test_a_token_of_the_role_is_needed(client, token, path, status):
    headers = {} if token is None else {"authorization": f"Bearer {token}".strip().encode()}
    answer = client.post(f"/guarded{path}", json={}, headers=headers)
    assert_problem(answer, status)
    assert ("www-authenticate" in answer.headers) == (status in (401, 403))


def test_with_tokens_nothing_is_told_without_one(client):
    for path in ("/v1/labels", "/v1/model", "/metrics", "/v1/streams/x", "/v1/jobs/x"):
        assert_problem(client.get(f"/guarded{path}"), 401)
        answer = client.get(f"/guarded{path}", headers={"authorization": "bearer a word to draw"})
        assert answer.status_code in (200, 404)
    assert client.get("/guarded/").status_code == 200
    health = client.get("/guarded/healthz").json()
    assert health == {"status": "degraded", "reasons": ["an adapter cannot be used"]}
    told = client.get("/guarded/healthz", headers={"authorization": "bearer a word to draw"})
    assert "/late: neither an adapter nor" in told.json()["reasons"][0]


def test_it_tells_what_it_can_draw(client):
    toy = client.get("/v1/labels").json()["adapters"][0]
    assert toy["name"] == "toy"
    assert {label["label"] for label in toy["labels"]} == set(LABELS)
    model = client.get("/v1/model").json()
    assert model["adapters"][0]["layout"] == "stateful"
    assert model["defaults"] == {"seed": 0, "steps": 2}
    document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/flows"]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["examples"]


def test_it_shows_metrics(client):
    names = ("requests_total", "streams_open", "denoiser_busy_seconds_total", "repair_distance_sum")

    def there():
        text = client.get("/metrics").text
        return all(f"ray_netdiff_{name}" in text for name in names)

    wait_until(there, 60)
    assert 'route="/v1/flows"' in client.get("/metrics").text


def test_a_cluster_without_the_resources_is_told(client):
    health = client.get("/poor/healthz")
    assert health.status_code == 503
    reasons = " ".join(health.json()["reasons"])
    assert "the Denoiser needs 1 CPU and 1 GPU; the cluster has 4 CPUs, " in reasons
    assert "free, and no GPU" in reasons
    assert "neither an adapter nor a folder of adapters is there" in reasons
    answer = client.post("/poor/v1/flows", json={"labels": {"chat": 1}})
    assert "late" in assert_problem(answer, 503)["detail"]
    assert answer.headers["retry-after"]


def poor_detail(client):
    """Return why the application without resources draws nothing."""
    answer = client.post("/poor/v1/flows", json={"labels": {"chat": 1}})
    return assert_problem(answer, 503)["detail"]


def test_an_adapter_is_taken_up_when_it_comes_and_dropped_when_it_goes(client, adapters):
    late = adapters.parent / "late"
    asked = {"labels": {"chat": 1}, "adapter": "late"}
    assert client.get("/healthz").json()["status"] == "degraded"
    assert "late" in assert_problem(client.post("/v1/flows", json=asked), 503)["detail"]
    shutil.copytree(adapters / "toy", late)
    wait_until(lambda: client.get("/healthz").json()["status"] == "ok", 10)
    assert client.post("/v1/flows", json=asked).status_code == 200
    # Another process, which looks for adapters at times of its own.
    wait_until(lambda: "the Denoiser needs" in poor_detail(client), 10)
    shutil.rmtree(late)
    wait_until(lambda: client.get("/healthz").json()["status"] == "degraded", 10)


def test_a_browser_draws_and_downloads_a_capture(client, plain, tmp_path):
    if not (shutil.which("chromium") and shutil.which("tshark")):
        pytest.skip("needs chromium and tshark")
    url = str(client.base_url)
    with opened(url, tmp_path) as page:
        page.wait("document.querySelectorAll('#labels input').length")
        fits = "document.documentElement.scrollWidth <= innerWidth"
        assert page.run(fits)
        page.run(
            "for (const i of document.querySelectorAll('#labels input'))"
            " i.value = i.dataset.label === 'video call' ? 4 : 0;"
            "document.getElementById('seed').value = 9;"
            "document.getElementById('stop').previousElementSibling.focus()"
        )
        page.press("Enter", 13)
        page.wait("!document.getElementById('raster').hidden")
        assert page.run("document.getElementById('progress').value") == 4
        assert page.run("document.getElementById('raster').naturalWidth") == 704
        assert page.run("document.getElementById('problem').textContent") == ""
        rows = page.run("document.querySelectorAll('#packets tr').length")
        first = page.run("document.querySelector('#packets tr').innerText").split("\t")
        assert page.run(fits)
        page.run("document.getElementById('download').click()")
        path = tmp_path / "flows.pcap"
        page.wait("true")
        wait_until(path.exists, 20)
        assert page.errors == []
        assert all(asked.startswith((url, "blob:", "data:")) for asked in page.requests)
    assert path.read_bytes() == plain("video call", 4, 9, "sequential")
    listed = subprocess.run(
        ["tshark", "-r", path, "-T", "fields", "-E", "occurrence=f", "-e", "ip.src",
         "-e", "ipv6.src", "-e", "frame.len"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert len(listed) == rows
    v4, v6, length = listed[0].split("\t")
    assert first[2] == (v4 or v6)
    assert first[5] == length


LONG = {"labels": {"chat": 400}, "adapter": "toy", "steps": 8}


def test_overload_is_answered_at_once_and_clients_that_go_free_their_work(client):
    with (
        client.stream("POST", "/v1/flows", json=LONG) as one,
        client.stream("POST", "/v1/flows", json={**LONG, "seed": 1}) as two,
    ):
        parts = [answer.iter_raw() for answer in (one, two)]
        assert all(next(own) for own in parts)
        seconds = []
        for _ in range(10):
            began = time.monotonic()
            refused = client.post("/v1/flows", json=CHAT)
            seconds.append(time.monotonic() - began)
            assert_problem(refused, 429)
            assert int(refused.headers["retry-after"]) > 0
        assert min(seconds) < 0.1
        ids = [answer.headers["netdiff-stream"] for answer in (one, two)]
    wait_until(lambda: client.post("/v1/flows", json=CHAT).status_code == 200, 15)
    reports = [client.get(f"/v1/streams/{id}").json() for id in ids]
    assert [report["state"] for report in reports] == ["gone", "gone"]
    assert all(report["done"] < 400 for report in reports)


def actors(name):
    """Process ids of the replicas of a deployment of the application that draws."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if f"ServeReplica:app0:{name}".encode() in line:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_whatever_is_asked_the_endpoint_does_not_fail(client):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    headers = {"authorization": f"Bearer {TOKENS['submit']}"}

    def ask_all(operation, prefix):
        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case):
            asked = case.as_transport_kwargs(
                base_url=f"{str(client.base_url).rstrip('/')}{prefix}", headers=headers
            )
            kept = ("method", "url", "params", "headers", "json", "data")
            answer = client.request(**{name: asked[name] for name in kept if name in asked})
            assert answer.status_code < 500, answer.content[:300]

        ask()

    for prefix in ("", "/guarded"):
        for operation in schema.get_all_operations():
            ask_all(operation.ok(), prefix)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Denoiser", "Repairer"])
def test_a_replica_that_dies_loses_nothing(client, plain, name):
    asked = {"labels": {"chat": 40}, "adapter": "toy", "seed": 3}
    with client.stream("POST", "/v1/flows", json=asked) as answer:
        parts = answer.iter_raw()
        content = next(parts)
        for pid in actors(name):
            os.kill(pid, signal.SIGKILL)
        content += b"".join(parts)
    assert content == plain("chat", 40, 3, "sequential")


@pytest.mark.slow
def test_an_endpoint_that_dies_cuts_its_answers_and_comes_back(client):
    with client.stream("POST", "/v1/flows", json=LONG) as answer:
        parts = answer.iter_raw()
        next(parts)
        (pid,) = actors("Endpoint")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(httpx.RemoteProtocolError):
            b"".join(parts)

    def answers():
        try:
            return client.post("/v1/flows", json=CHAT).status_code == 200
        except httpx.HTTPError:
            return False

    assert wait_until(answers, 60) < 15
