"""Device monitoring by SNMP: Net-SNMP's agent, and its get, walk and bulk commands."""

import random
from pathlib import Path

from act import ActContext, Run
from scenario import Server
from testbed import Testbed

DEBIAN = {"snmpd": "snmpd", "snmpget": "snmp", "snmpbulkwalk": "snmp"}
PYPI: dict[str, str] = {}
FILTER = "udp port 161"
SNAP_BYTES = 64
PORTS = (161,)
FLOWS_PER_ACT = 1.5
AT_ONCE = 12
PAUSE_S = 0.6
PASSWORD = "no secret here"
USER = ("-u", "watcher", "-a", "SHA", "-A", PASSWORD, "-x", "AES", "-X", PASSWORD)
SYSTEM, INTERFACES, ADDRESSES, UDP = ".1.1", ".1.2.2.1", ".1.4", ".1.7"
"""Below mib-2 (RFC 1213)."""


def prepare(shared: Path, rng: random.Random) -> None:
    """Do nothing: the agent describes its host."""


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start an agent for everybody who knows its community or its user."""
    conf = work / "snmpd.conf"
    conf.write_text(
        f"rocommunity public\nrocommunity6 public\n"
        f'createUser watcher SHA "{PASSWORD}" AES\nrouser watcher\n'
        f"sysDescr router\nsysName {server.names_v4[2]}\nsysLocation {server.names_v4[0]}\n"
        f"sysContact admin@{server.names_v4[1]}\n"
    )
    argv = ["snmpd", "-f", "-Lo", "-C", "-c", str(conf), "-p", str(work / "pid"), "udp:161"]
    testbed.start(
        server, [*argv, "udp6:161"], log=work / "log.txt", env={"SNMP_PERSISTENT_DIR": str(work)}
    )


def act(context: ActContext) -> list[Run]:
    """Return the processes of a command, or of the same again after a while."""
    rng = context.rng
    plain = [["-v", version, "-c", "public"] for version in ("1", "2c", "2c")]
    who = rng.choice((*plain, ["-v", "3", "-l", "authPriv", *USER]))
    transport = "udp" if context.family == 4 else "udp6"
    address = context.address if context.family == 4 else f"[{context.address}]"
    target = [f"{transport}:{address}:161"]
    common = ["-On", "-r", "1", "-t", "2", *who, *target]
    tree = f".1.3.6.1.2{rng.choice((SYSTEM, SYSTEM, INTERFACES, ADDRESSES, UDP))}"
    kind = rng.random()
    if kind < 0.5:
        oids = [f".1.3.6.1.2.1.1.{rng.randint(1, 7)}.0" for _ in range(rng.choice((1, 1, 2, 5, 9)))]
        argv = [rng.choice(("snmpget", "snmpget", "snmpgetnext")), *common, *oids]
    elif kind < 0.75 or who[1] == "1":
        argv = ["snmpwalk", *common, tree]
    else:
        argv = ["snmpbulkwalk", f"-Cr{rng.choice((4, 8, 12))}", *common, tree]
    times = rng.choice((1, 1, 2))
    return [Run(argv=argv, after_s=number * rng.uniform(0.3, 2)) for number in range(times)]
