"""HTTP/3 over QUIC: aioquic and Caddy (quic-go) serve, aioquic and niquests (qh3) ask."""

import json
import random
from pathlib import Path

from act import ActContext, Run, python
from scenario import Server
from testbed import Testbed

from labels.web import make_site

DEBIAN = {"caddy": "caddy"}
PYPI = {"aioquic": "aioquic", "niquests": "niquests", "qh3": "qh3"}
FILTER = "udp port 443"
SNAP_BYTES = 72
PORTS = (443,)
FLOWS_PER_ACT = 1.9
AT_ONCE = 6
PAUSE_S = 1.0
CADDYFILE = """
{{
  auto_https off
  admin off
}}
https://:443 {{
  tls {tls}/s{index}.pem {tls}/s{index}.key
  root * {root}
  file_server
}}
"""


def prepare(shared: Path, rng: random.Random) -> None:
    """Write a site of the same kind as `web`'s."""
    (shared / "files.json").write_text(json.dumps(make_site(shared / "site", rng)))


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start Caddy on every third host, aioquic on the others."""
    if server.index % 3 == 1:
        conf = work / "Caddyfile"
        conf.write_text(CADDYFILE.format(tls=tls, index=server.index, root=shared / "site"))
        argv = ["caddy", "run", "--adapter", "caddyfile", "--config", str(conf)]
        testbed.start(server, argv, log=work / "log.txt")
        return
    argv = python(
        "quic_server.py",
        tls / f"s{server.index}.pem",
        tls / f"s{server.index}.key",
        shared / "site",
    )
    testbed.start(server, argv, log=work / "log.txt")


def act(context: ActContext) -> list[Run]:
    """Return the process of a user who opens a few connections in turn."""
    rng = context.rng
    paths = json.loads((context.work.parent / "shared" / "files.json").read_text())
    visits = []
    for _ in range(rng.choice((1, 2, 3))):
        chosen = rng.sample(paths, rng.choice((1, 1, 2, 4)))
        visits.append(f"https://{context.name}/" + ",".join(chosen))
    if rng.random() < 0.3:
        return [Run(argv=python("quic_niquests.py", context.ca, *visits))]
    return [
        Run(
            argv=python(
                "quic_client.py",
                context.ca,
                rng.choice((1200, 1200, 1252, 1350)),
                rng.random() < 0.5,
                round(rng.uniform(0, 1.5), 2),
                *visits,
            )
        )
    ]
