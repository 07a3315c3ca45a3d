"""Name lookups: dnsmasq answers dig, glibc's resolver, Node's resolver and dnspython."""

import random
from pathlib import Path

from act import ActContext, Run, python
from scenario import Server, draw_name
from testbed import Testbed

DEBIAN = {
    "dnsmasq": "dnsmasq-base",
    "dig": "bind9-dnsutils",
    "getent": "libc-bin",
    "node": "nodejs",
}
PYPI = {"dns": "dnspython"}
FILTER = "port 53"
SNAP_BYTES = 128
PORTS = (53,)
FLOWS_PER_ACT = 1.2
AT_ONCE = 12
PAUSE_S = 0.8


def prepare(shared: Path, rng: random.Random) -> None:
    """Write a zone with answers of many sizes, and the list of its names."""
    lines, names = [], []
    for number in range(300):
        name = draw_name(rng)
        names.append(name)
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            lines.append(
                f"host-record={name},10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.7,"
                f"fd00:{rng.randint(1, 65535):x}::{number + 1:x}"
            )
        if rng.random() < 0.4:
            text = " ".join(draw_name(rng) for _ in range(rng.randint(1, 12)))
            lines.append(f'txt-record={name},"v=spf1 {text[:240]}","{text[240:480]}"')
        if rng.random() < 0.3:
            for preference in range(rng.randint(1, 4)):
                lines.append(f"mx-host={name},mx{preference}.{draw_name(rng)},{preference * 10}")
        if rng.random() < 0.25:
            lines.append(f"cname=alias-{number}.{name},{name}")
            names.append(f"alias-{number}.{name}")
    (shared / "zone.conf").write_text("\n".join(lines) + "\n")
    (shared / "names.txt").write_text("\n".join(dict.fromkeys(names)) + "\n")


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start a dnsmasq that knows the zone and forwards nothing."""
    testbed.start(
        server,
        [
            "dnsmasq",
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            f"--conf-file={shared / 'zone.conf'}",
            f"--pid-file={work / 'pid'}",
            "--log-facility=-",
            "--local=/example/",
            f"--edns-packet-max={(1232, 4096, 512)[server.index % 3]}",
        ],
        log=work / "log.txt",
    )
    (work / "names.txt").write_text((shared / "names.txt").read_text())


def act(context: ActContext) -> list[Run]:
    """Return the processes of a few lookups by a resolver."""
    rng = context.rng
    zone_names = (context.work / "names.txt").read_text().split()
    names = [
        rng.choice(zone_names) if rng.random() < 0.85 else draw_name(rng)
        for _ in range(rng.choice((1, 1, 1, 2, 4)))
    ]
    kind = rng.random()
    if kind < 0.25:
        return [Run(argv=dig(context, names))]
    if kind < 0.45:
        return [
            Run(argv=["getent", "ahosts", name], after_s=number * rng.uniform(0, 0.6))
            for number, name in enumerate(names)
        ]
    if kind < 0.65:
        script = (
            "const d=require('dns').promises,r=new d.Resolver();"
            f"r.setServers(['{bracketed(context)}']);"
            "Promise.allSettled(process.argv.slice(1).flatMap("
            "n=>[r.resolve4(n),r.resolve6(n)]))"
        )
        return [Run(argv=["node", "-e", script, *names])]
    return [Run(argv=python("lookup.py", context.address, rng.random() < 0.3, *names))]


def bracketed(context: ActContext) -> str:
    """Return the server's address as Node writes it."""
    return context.address if context.family == 4 else f"[{context.address}]"


def dig(context: ActContext, names: list[str]) -> list[str]:
    """Return a dig command line with options as users give them."""
    rng = context.rng
    argv = ["dig", f"@{context.address}", "+tries=2", "+timeout=2"]
    argv += rng.choice(
        (
            [],
            ["+dnssec"],
            ["+nocookie"],
            ["+noedns"],
            ["+nsid", "+bufsize=1232"],
            ["+padding=128"],
            ["+padding=256"],
            ["+subnet=10.0.0.0/24"],
        )
    )
    if rng.random() < 0.06:
        argv.append("+tcp")
    for name in names:
        argv += [name, rng.choice(("A", "A", "AAAA", "MX", "TXT", "TXT", "ANY", "HTTPS", "NS"))]
    if rng.random() < 0.1:
        argv += ["-x", f"10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.7"]
    return argv
