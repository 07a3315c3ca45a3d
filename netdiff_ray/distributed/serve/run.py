"""Running the endpoint: on a local Ray or a cluster, until it is stopped."""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace

from ray import serve
from ray.serve.api import RunTarget

from netdiff_ray.config import ServeConfig
from netdiff_ray.distributed.cluster import cluster_address, connected
from netdiff_ray.distributed.serve.application import application
from netdiff_ray.errors import ConfigError
from netdiff_ray.serving import slow_clients

APP = "netdiff"
_SECONDS_BETWEEN_CHECKS = 2.0


def listen(host: str, port: int, *, everywhere: bool = False) -> None:
    """Let Serve listen on the connected Ray, on its head or on every node."""
    serve.start(
        proxy_location="EveryNode" if everywhere else "HeadOnly",
        http_options={"host": host, "port": port},
    )


def start(applications: Mapping[str, tuple[str, serve.Application]]) -> None:
    """Start applications without waiting for their resources.

    Args:
        applications: name to (route prefix, application).
    """
    targets = [
        RunTarget(target=app, name=name, route_prefix=prefix)
        for name, (prefix, app) in applications.items()
    ]
    serve.run_many(targets, wait_for_applications_running=False)


def serve_until_stopped(config: ServeConfig, say: Callable[[str], None]) -> None:
    """Run the endpoint until KeyboardInterrupt.

    Args:
        say: called with its health, in a line, each time that changes.

    Raises:
        ConfigError: the port is taken.
        ClusterError: no cluster answers.
    """
    is_local = cluster_address(config.address) is None
    if is_local:
        _check_port(config)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # A loaded machine takes longer than the 5 s after which Serve starts a proxy anew.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    for name, value in slow_clients.CALLBACK.items():
        os.environ.setdefault(name, value)
    config, headers = _admitting_itself(config)
    with connected(config.address, dashboard=True):
        try:
            listen(config.host, config.port, everywhere=not is_local)
            start({APP: ("/", application(config))})
            _say_health(config, headers, say)
        finally:
            if is_local:
                serve.shutdown()
            else:
                serve.delete(APP)


def _admitting_itself(config: ServeConfig) -> tuple[ServeConfig, dict[str, str]]:
    """Return a configuration of an endpoint that also tells this process its health in detail,
    and the headers to ask it with."""
    if not config.tokens:
        return config, {}
    token = secrets.token_hex(32)
    digest = hashlib.sha256(token.encode()).hexdigest()
    config = replace(config, tokens=(*config.tokens, f"{digest}:draw"))
    return config, {"Authorization": f"Bearer {token}"}


def _say_health(
    config: ServeConfig, headers: Mapping[str, str], say: Callable[[str], None]
) -> None:
    """Say the endpoint's health each time that it changes, for ever."""
    url = f"http://{config.host}:{config.port}/"
    say(f"{url} is starting; Ctrl-C ends it")
    before = None
    while True:
        health = _health(config, headers)
        if health != before:
            reasons = "".join(f"; {reason}" for reason in health["reasons"])
            say(f"{url} {health['status']}{reasons}")
        before = health
        time.sleep(_SECONDS_BETWEEN_CHECKS)


def _check_port(config: ServeConfig) -> None:
    """Raise ConfigError unless the endpoint can listen on its port."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host} port {config.port}: {error.strerror}; choose another "
            "port"
        ) from None


def _health(config: ServeConfig, headers: Mapping[str, str]) -> dict:
    """Return the answer of /healthz, as this machine gets it."""
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    host = f"[{host}]" if ":" in host else host
    request = urllib.request.Request(f"http://{host}:{config.port}/healthz", headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with contextlib.suppress(ValueError):
            return {"status": "starting", "reasons": [], **json.load(error)}
        return {"status": "starting", "reasons": []}
    except OSError:
        return {"status": "starting", "reasons": []}
