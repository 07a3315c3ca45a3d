"""Video calls: WebRTC by aiortc on both sides: ICE, DTLS, and RTP both ways."""

import random
from pathlib import Path

from act import Place, Run, python
from scenario import Server
from testbed import World

DEBIAN: dict[str, str] = {}
PYPI = {"aiortc": "aiortc"}
FILTER = "udp"
SNAP_BYTES = 64
PORTS = ()
FLOWS_PER_ACT = 2.0
AT_ONCE = 4
PAUSE_S = 0.8


def prepare(shared: Path, rng: random.Random) -> None:
    """Nothing: the picture and the sound are made while calling."""


def serve(world: World, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """A peer that takes every call."""
    world.start(server, python("call_peer.py", "answer", work / "peer.sock"), log=work / "log.txt")


def act(place: Place) -> list[Run]:
    """A few calls, one after another; offers travel outside the recorded network."""
    rng = place.rng
    own = place.client.v4 if place.family == 4 else place.client.v6
    return [
        Run(
            argv=python(
                "call_peer.py",
                "call",
                place.work / "peer.sock",
                own,
                place.address,
                rng.random(),
                rng.randint(1, 3),
            )
        )
    ]
