"""Chat over WebSocket: websockets and aiohttp serve, websockets, aiohttp and Node talk."""

import random
from pathlib import Path

from act import PROGRAMS, ActContext, Run, python
from scenario import Server
from testbed import Testbed

DEBIAN = {"node": "nodejs"}
PYPI = {"websockets": "websockets", "aiohttp": "aiohttp"}
FILTER = "tcp port 8080 or tcp port 8443"
SNAP_BYTES = 100
PORTS = (8080, 8443)
FLOWS_PER_ACT = 1.95
AT_ONCE = 12
PAUSE_S = 0.6
TLS_SHARE = 0.02


def prepare(shared: Path, rng: random.Random) -> None:
    """Do nothing: the clients make the messages."""


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start a chat room, plain on 8080 and with TLS on 8443."""
    library = ("websockets", "aiohttp")[server.index % 2]
    testbed.start(
        server,
        python(
            "chat_server.py", library, tls / f"s{server.index}.pem", tls / f"s{server.index}.key"
        ),
        log=work / "log.txt",
    )


def act(context: ActContext) -> list[Run]:
    """Return the process of a user who enters the room a few times and talks."""
    rng = context.rng
    secure = rng.random() < TLS_SHARE
    port, scheme = (8443, "wss") if secure else (8080, "ws")
    url = f"{scheme}://{context.name}:{port}/room/{rng.choice(('lobby', 'news', 'team-7', 'q'))}"
    if rng.random() < 0.4:
        url += "?token=" + "".join(rng.choices("abcdef0123456789", k=rng.randint(8, 200)))
    library = rng.choice(("websockets", "websockets", "aiohttp", "node"))
    if library != "node" or secure:
        return [
            Run(
                argv=python(
                    "chat_client.py",
                    library.replace("node", "websockets"),
                    context.ca,
                    rng.random(),
                    rng.randint(1, 3),
                    url,
                )
            )
        ]
    return [
        Run(
            argv=[
                "node",
                "--experimental-websocket",
                "--no-warnings",
                str(PROGRAMS / "chat_node.js"),
                url,
                str(rng.randint(1, 6)),
                str(rng.randint(200, 1200)),
                str(rng.randint(5, 300)),
            ]
        )
    ]
