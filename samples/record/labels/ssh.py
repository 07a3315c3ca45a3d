"""Shell sessions typed by hand: OpenSSH serves, OpenSSH and Dropbear connect."""

import json
import random
import subprocess
from pathlib import Path

from act import ActContext, Run, python
from scenario import Server
from testbed import Testbed

DEBIAN = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "dbclient": "dropbear-bin",
    "dropbearconvert": "dropbear-bin",
}
PYPI: dict[str, str] = {}
FILTER = "tcp port 22"
SNAP_BYTES = 100
PORTS = (22,)
FLOWS_PER_ACT = 1.0
AT_ONCE = 16
PAUSE_S = 0.4
SHELL = "env -i PATH=/usr/bin:/bin HOME=/tmp TERM=vt100 PS1='$ ' sh -i"
COMMANDS = (
    "ls",
    "ls /",
    "pwd",
    "id",
    "df",
    "w",
    "seq 9",
    "true",
    "date",
    "uname",
    "sleep 1",
    "who",
    "head /etc/services",
)
CIPHERS = ("chacha20-poly1305@openssh.com", "aes128-ctr", "aes256-gcm@openssh.com")
EXCHANGES = (
    "curve25519-sha256",
    "ecdh-sha2-nistp256",
    "diffie-hellman-group14-sha256",
    "sntrup761x25519-sha512@openssh.com",
)
KEYS = {"user": "ed25519", "user2": "rsa", "host": "ed25519", "host2": "rsa", "host3": "ecdsa"}


def prepare(shared: Path, rng: random.Random) -> None:
    """Make keys for users and hosts."""
    for name, kind in KEYS.items():
        subprocess.run(
            ["ssh-keygen", "-q", "-N", "", "-C", name, "-t", kind, "-f", str(shared / name)],
            check=True,
        )
        subprocess.run(
            [
                "dropbearconvert",
                "openssh",
                "dropbear",
                str(shared / name),
                str(shared / f"{name}.db"),
            ],
            check=True,
            capture_output=True,
        )
    (shared / "authorized").write_text(
        (shared / "user.pub").read_text() + (shared / "user2.pub").read_text()
    )


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start OpenSSH, whose sessions run a plain sh without a profile."""
    Path("/run/sshd").mkdir(exist_ok=True)
    conf = work / "sshd_config"
    conf.write_text(
        f"HostKey {shared}/{('host', 'host2', 'host3')[server.index % 3]}\nPidFile {work}/pid\n"
        f"AuthorizedKeysFile {shared}/authorized\nStrictModes no\nUsePAM no\nPrintMotd no\n"
        f"PermitRootLogin prohibit-password\nForceCommand {SHELL}\nMaxStartups 100\n"
        f"UseDNS no\nPrintLastLog no\n"
    )
    testbed.start(server, ["/usr/sbin/sshd", "-D", "-f", str(conf)], log=work / "log.txt")


def typed(rng: random.Random) -> list[tuple[float, str]]:
    """Return (pause in s, keys) pairs of a short session typed by hand."""
    keys = []
    for _ in range(rng.choice((1, 1, 1, 1, 2))):
        keys.append((rng.uniform(0.1, 1.4), ""))
        for letter in rng.choice(COMMANDS):
            keys.append((rng.lognormvariate(-2.3, 0.6), letter))
            if rng.random() < 0.04:
                keys += [(rng.uniform(0.1, 0.4), "q"), (rng.uniform(0.1, 0.4), "\x7f")]
        keys.append((rng.uniform(0.05, 0.3), "\r"))
    return [*keys, (rng.uniform(0.3, 1.5), "exit\r")]


def act(context: ActContext) -> list[Run]:
    """Return the process of a session."""
    rng = context.rng
    shared = context.work.parent / "shared"
    key = rng.choice(("user", "user", "user2"))
    if rng.random() < 0.25:
        argv = [
            "dbclient",
            "-y",
            "-y",
            "-t",
            "-i",
            str(shared / f"{key}.db"),
            f"root@{context.address}",
        ]
    else:
        argv = [
            "ssh",
            "-F",
            "none",
            "-tt",
            "-i",
            str(shared / key),
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            f"Compression={rng.choice(('yes', 'no', 'no'))}",
        ]
        if rng.random() < 0.4:
            argv += ["-c", rng.choice(CIPHERS)]
        if rng.random() < 0.5:
            argv += ["-o", f"KexAlgorithms={rng.choice(EXCHANGES)}"]
        if rng.random() < 0.3:
            argv += ["-o", f"IPQoS={rng.choice(('none', 'lowdelay', 'ef', 'cs2'))}"]
        argv.append(f"root@{context.address}")
    script = context.work / f"keys-{context.number}.json"
    script.write_text(json.dumps(typed(rng)))
    return [Run(argv=python("type_keys.py", script, *argv))]
