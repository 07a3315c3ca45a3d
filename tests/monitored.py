"""A Ray whose metrics can be scraped, with work on it; run by test_monitoring.py.

    python tests/monitored.py FOLDER ADAPTER METRICS_PORT SERVE_PORT KIND ...

Does the work of each KIND, prints a JSON line with the session's folder and address, and goes on
until its standard input closes.
"""

import itertools
import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import ray
from packet_builders import pcap, udp4
from ray import serve

from netdiff_ray.config import EncodeConfig, GenerateConfig
from netdiff_ray.config.diffusion import DrawSettings
from netdiff_ray.distributed import metrics
from netdiff_ray.distributed.encode import encode
from netdiff_ray.distributed.generate import generate


def a_run(folder, adapter, _port):
    """Encode a collection of which a capture is damaged, then generate without end."""
    captures = folder / "captures" / "web"
    captures.mkdir(parents=True)
    (captures / "a.pcap").write_bytes(pcap([udp4(sport=k) for k in range(1, 9)]))
    (captures / "b.pcap").write_bytes(pcap([udp4()])[:-3])
    encode(EncodeConfig(source=str(folder / "captures"), target=str(folder / "encoded")))

    config = GenerateConfig(
        adapter=adapter, target=str(folder), flows=12,
        flows_per_shard=6, draw=DrawSettings(steps=1, batch_size=4), denoisers=(1, 1),
    )  # fmt: skip
    running = threading.Thread(target=runs_without_end, args=(config,), daemon=True)
    running.start()

    def goes_on():
        assert running.is_alive()

    return goes_on


def runs_without_end(config):
    """Run what ends, as those of nights do, each as soon as the last."""
    for number in itertools.count():
        generate(replace(config, target=f"{config.target}/{number}/drawn"))


@serve.deployment(name="Endpoint", ray_actor_options={"num_cpus": 0})
class Answer:
    """Answers, and tells what the endpoint tells."""

    def __call__(self, _request):
        metrics.set_streams_open(1)
        metrics.set_queue_length("draw", 2)
        for outcome in ("ok", "rejected", "server_error"):
            for route in ("/v1/flows", "/healthz"):
                metrics.observe_request(route, outcome, 0.2)
        metrics.observe_drawing(metrics.ENDPOINT, 0.1, [0.5])
        metrics.count_flows(metrics.ENDPOINT, "repair", "web", flows=1, packets=9)
        return "answer"


def an_endpoint(_folder, _adapter, port):
    """Return a deployment that is called through Serve's proxy."""
    import httpx

    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Answer.bind(), name="netdiff")
    return lambda: httpx.get(f"http://127.0.0.1:{port}/", timeout=60).raise_for_status()


WORK = {"run": a_run, "endpoint": an_endpoint}


def main(folder, adapter, metrics_port, serve_port, *kinds):
    ray.init(
        address="local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False,
        log_to_driver=False, _metrics_export_port=int(metrics_port),
    )  # fmt: skip
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = 300
    work = [WORK[kind](Path(folder), adapter, int(serve_port)) for kind in kinds]
    node = ray._private.worker._global_node
    about = {"session": node.get_session_dir_path(), "address": node.gcs_address}
    print(json.dumps(about), flush=True)
    closed = []
    threading.Thread(target=lambda: closed.append(sys.stdin.read()), daemon=True).start()
    while not closed:
        for one in work:
            one()
        time.sleep(1)
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
