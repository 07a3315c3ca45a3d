"""Echo requests and their answers, by iputils ping, fping, traceroute -I and mtr."""

import random
from pathlib import Path

from act import ActContext, Run
from scenario import Server
from testbed import Testbed

DEBIAN = {"ping": "iputils-ping", "fping": "fping", "traceroute": "traceroute", "mtr": "mtr-tiny"}
PYPI: dict[str, str] = {}
FILTER = "icmp or (icmp6 and (ip6[40] = 128 or ip6[40] = 129))"
SNAP_BYTES = 100
PORTS = ()
FLOWS_PER_ACT = 1.0
AT_ONCE = 24
PAUSE_S = 0.5


def prepare(shared: Path, rng: random.Random) -> None:
    """Do nothing: the kernel answers."""


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Do nothing: the kernel answers."""


def act(context: ActContext) -> list[Run]:
    """Return the process of a pinging program with options as users give them."""
    rng = context.rng
    room = context.client.stack.mtu_bytes - 48
    size = rng.choice((56, 56, 32, 32, 32, 172, 172, rng.randint(16, 300), rng.randint(16, room)))
    count = rng.choice((1, 1, 1, 2, 4, 5, rng.randint(2, 30)))
    gap_s = rng.choice((1.0, 0.2, 0.02, round(0.01 * 100 ** rng.random(), 3)))
    count = min(count, 1 + int(8 / gap_s))
    kind = rng.random()
    if kind < 0.70:
        argv = [
            "ping",
            f"-{context.family}",
            "-n",
            "-c",
            str(count),
            "-s",
            str(size),
            "-i",
            str(gap_s),
            "-W",
            "2",
        ]
        if rng.random() < 0.3:
            argv += ["-Q", str(rng.choice((0x20, 0x48, 0x88, 0xB8, 0xE0)))]
        if rng.random() < 0.2:
            argv += ["-t", str(rng.choice((40, 60, 100, 200)))]
    elif kind < 0.84:
        argv = [
            "fping",
            f"-{context.family}",
            "-c",
            str(count),
            "-b",
            str(size),
            "-p",
            str(int(gap_s * 1000)),
        ]
    elif kind < 0.93:
        argv = [
            "traceroute",
            f"-{context.family}",
            "-I",
            "-n",
            "-w",
            "1",
            "-q",
            str(rng.randint(1, 3)),
        ]
    else:
        argv = [
            "mtr",
            f"-{context.family}",
            "-n",
            "-r",
            "-c",
            str(min(count, 5)),
            "-s",
            str(max(size, 28) + 28),
        ]
    return [Run(argv=[*argv, context.address])]
