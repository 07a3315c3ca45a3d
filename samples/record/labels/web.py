"""Pages over TLS, HTTP/1.1 and HTTP/2: nginx to curl, wget, httpx and Node's fetch."""

import json
import random
from pathlib import Path

from act import ActContext, Run, python
from nginx import serve_nginx
from scenario import WORDS, Server
from testbed import Testbed

DEBIAN = {"nginx": "nginx", "curl": "curl", "wget": "wget", "node": "nodejs"}
PYPI = {"httpx": "httpx[http2]", "h2": "httpx[http2]"}
FILTER = "tcp port 443"
SNAP_BYTES = 100
PORTS = (443,)
FLOWS_PER_ACT = 1.5
AT_ONCE = 10
PAUSE_S = 1.0
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
        " Chrome/126.0.0.0 Safari/537.36"
    ),
    "feed-reader/2.1",
    "",
)


def prepare(shared: Path, rng: random.Random) -> None:
    """Write a site of 60 pages, pictures and scripts of many sizes."""
    (shared / "files.json").write_text(json.dumps(make_site(shared / "site", rng)))


def make_site(root: Path, rng: random.Random) -> list[str]:
    """Write a site's files under `root`; return their paths."""
    root.mkdir()
    paths = []
    for number in range(60):
        suffix = rng.choice(("html", "html", "jpg", "js", "css", "json", "woff2"))
        path = f"{'-'.join(rng.sample(WORDS, rng.randint(1, 3)))}-{number}.{suffix}"
        size = int(min(90_000, rng.lognormvariate(8.0, 1.3)))
        if suffix in ("jpg", "woff2"):
            content = rng.randbytes(size)
        else:
            content = " ".join(rng.choices(WORDS, k=size // 6 + 1)).encode()
        (root / path).write_bytes(content)
        paths.append(path)
    return paths


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start an nginx over the site."""
    serve_nginx(testbed, server, work, shared / "site", tls)


def act(context: ActContext) -> list[Run]:
    """Return the process of a user who reads a page or a few."""
    rng = context.rng
    paths = json.loads((context.work.parent / "shared" / "files.json").read_text())
    chosen = rng.sample(paths, rng.choice((1, 1, 2, 3, 5)))
    name = context.name
    urls = [f"https://{name}/{path}" for path in chosen]
    cookie = "".join(rng.choices("abcdef0123456789", k=rng.choice((0, 32, 90, 400))))
    agent = rng.choice(AGENTS)
    kind = rng.random()
    if kind < 0.62:
        argv = [
            "curl",
            "-s",
            "--cacert",
            str(context.ca),
            "-A",
            agent,
            "--http1.1" if rng.random() < 0.4 else "--http2",
            "-m",
            "20",
        ]
        argv += ["-b", f"session={cookie}"] if cookie else []
        argv += ["--compressed"] if rng.random() < 0.4 else []
        argv += ["-Z"] if rng.random() < 0.4 else []
        argv += ["--tls-max", "1.2"] if rng.random() < 0.15 else []
        if rng.random() < 0.15:
            argv += ["-d", "x" * int(rng.lognormvariate(6, 1.5)), f"https://{name}/form"]
            return [Run(argv=argv)]
        outputs = [part for url in urls for part in ("-o", "/dev/null", url)]
        return [Run(argv=argv + outputs)]
    if kind < 0.74:
        return [
            Run(
                argv=[
                    "wget",
                    "-q",
                    "-T",
                    "15",
                    "-t",
                    "1",
                    f"--ca-certificate={context.ca}",
                    f"-{context.family}",
                    "-O",
                    "/dev/null",
                    *urls,
                ]
            )
        ]
    if kind < 0.88:
        return [
            Run(
                argv=python(
                    "browse.py", context.ca, rng.random() < 0.7, round(rng.uniform(0, 2), 2), *urls
                )
            )
        ]
    script = (
        "(async()=>{for(const u of process.argv.slice(1))"
        "await fetch(u).then(r=>r.arrayBuffer());process.exit()})()"
    )
    return [Run(argv=["node", "-e", script, *urls], env={"NODE_EXTRA_CA_CERTS": str(context.ca)})]
