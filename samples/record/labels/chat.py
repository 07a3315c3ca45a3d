"""Chat over WebSocket: websockets and aiohttp serve, websockets, aiohttp and Node talk."""

import random
from pathlib import Path

from act import PROGRAMS, Place, Run, python
from scenario import Server
from testbed import World

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
    """Nothing: people write what they say."""


def serve(world: World, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """A chat room, plain on 8080 and with TLS on 8443."""
    library = ("websockets", "aiohttp")[server.index % 2]
    world.start(
        server,
        python(
            "chat_server.py", library, tls / f"s{server.index}.pem", tls / f"s{server.index}.key"
        ),
        log=work / "log.txt",
    )


def act(place: Place) -> list[Run]:
    """One user enters the room a few times and talks with who is there."""
    rng = place.rng
    secure = rng.random() < TLS_SHARE
    port, scheme = (8443, "wss") if secure else (8080, "ws")
    url = f"{scheme}://{place.name}:{port}/room/{rng.choice(('lobby', 'news', 'team-7', 'q'))}"
    if rng.random() < 0.4:
        url += "?token=" + "".join(rng.choices("abcdef0123456789", k=rng.randint(8, 200)))
    library = rng.choice(("websockets", "websockets", "aiohttp", "node"))
    if library != "node" or secure:
        return [
            Run(
                argv=python(
                    "chat_client.py",
                    library.replace("node", "websockets"),
                    place.ca,
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
