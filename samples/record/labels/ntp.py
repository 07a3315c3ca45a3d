"""Clocks set by NTP: chrony answers chrony and ntpdig."""

import random
from pathlib import Path

from act import ActContext, Run
from scenario import Server
from testbed import Testbed

DEBIAN = {"chronyd": "chrony", "ntpdig": "ntpsec-ntpdig"}
PYPI: dict[str, str] = {}
FILTER = "udp port 123"
SNAP_BYTES = 96
PORTS = (123,)
FLOWS_PER_ACT = 1.6
AT_ONCE = 24
PAUSE_S = 0.8


def prepare(shared: Path, rng: random.Random) -> None:
    """Do nothing: the machine has a clock."""


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start a chrony that answers everybody and leaves this machine's clock alone."""
    conf = work / "chrony.conf"
    conf.write_text(
        f"local stratum {2 + server.index % 6}\nallow all\ncmdport 0\npidfile {work}/pid\n"
        f"user root\n"
    )
    testbed.start(server, ["chronyd", "-d", "-x", "-f", str(conf)], log=work / "log.txt")


def act(context: ActContext) -> list[Run]:
    """Query the time with a program, once or until it is sure; set nothing."""
    rng = context.rng
    kind = rng.random()
    if kind < 0.35:
        return [
            Run(argv=["ntpdig", f"-{context.family}", "-t", "3", context.address], after_s=after_s)
            for after_s in [0.0, rng.uniform(0.2, 2.0)][: rng.randint(1, 2)]
        ]
    version, polls = rng.choice((3, 4, 4)), rng.randint(1, 3)
    source = f"server {context.address} version {version} maxsamples {polls} minpoll 0 maxpoll 1"
    port = rng.randint(20_000, 30_000)
    rest = ["cmdport 0", "user root", f"pidfile {context.work}/client-{context.number}"]
    if kind < 0.6:
        return [Run(argv=["chronyd", "-d", "-Q", "-t", "8", f"{source} iburst", *rest])]
    burst = rng.choice(("iburst", "iburst xleave", ""))
    seconds = str(rng.choice((2, 4, 8, 16)))
    argv = ["chronyd", "-d", "-x", "-t", seconds, f"{source} {burst}", "port 0", *rest]
    return [Run(argv=[*argv, f"acquisitionport {port}"])]
