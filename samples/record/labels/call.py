"""Video calls: WebRTC by aiortc on both sides: ICE, DTLS, and RTP both ways."""

import random
from pathlib import Path

from act import ActContext, Run, python
from scenario import Server
from testbed import Testbed

DEBIAN: dict[str, str] = {}
PYPI = {"aiortc": "aiortc"}
FILTER = "udp"
SNAP_BYTES = 64
PORTS = ()
FLOWS_PER_ACT = 2.0
AT_ONCE = 4
PAUSE_S = 0.8


def prepare(shared: Path, rng: random.Random) -> None:
    """Do nothing: the picture and the sound are made while calling."""


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start a peer that takes every call."""
    testbed.start(
        server, python("call_peer.py", "answer", work / "peer.sock"), log=work / "log.txt"
    )


def act(context: ActContext) -> list[Run]:
    """Return the process of a few calls in turn; offers travel outside the network."""
    rng = context.rng
    address = context.client.v4 if context.family == 4 else context.client.v6
    return [
        Run(
            argv=python(
                "call_peer.py",
                "call",
                context.work / "peer.sock",
                address,
                context.address,
                rng.random(),
                rng.randint(1, 3),
            )
        )
    ]
