"""Record labelled traffic from real programs: `python record.py --split train --seed 1`.

Needs Linux, root and the programs of the requested labels; says which are missing.
"""

import argparse
import gzip
import importlib.util
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType

from act import ActContext, perform_all
from labels import LABELS
from scenario import Client, Server, draw_clients, draw_servers
from testbed import OUTER, Testbed, kill_group
from tls import make_authority, make_certificate

IPV6_SHARE = 0.5
KILL_SHARE = 0.05
CUT_CLIENTS = 4
"""Every so-manieth client's last act ends with its link cut."""
BASE_BINARIES = {"ip": "iproute2", "sysctl": "procps", "tcpdump": "tcpdump", "openssl": "openssl"}
HIDDEN_BINARIES = ["/usr/sbin", "/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
"""Where Debian keeps servers that are not on a user's PATH."""


def missing(modules: list[ModuleType]) -> tuple[list[str], list[str]]:
    """Return the Debian packages and the PyPI packages that these labels lack here."""
    binaries = dict(BASE_BINARIES)
    pypi: set[str] = set()
    for module in modules:
        binaries |= module.DEBIAN
        pypi |= {
            package
            for name, package in module.PYPI.items()
            if importlib.util.find_spec(name) is None
        }
    debian = {package for binary, package in binaries.items() if not shutil.which(binary)}
    return sorted(debian), sorted(pypi)


def hindrances() -> list[str]:
    """Return why this machine cannot make namespaces and TUN devices; empty if it can."""
    if os.geteuid() != 0:
        return ["network namespaces and TUN devices need root"]
    reasons = []
    if not Path("/dev/net/tun").exists():
        reasons.append("/dev/net/tun does not exist")
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        reasons.append(f"no network namespaces here: {probe.stderr.strip()}")
    return reasons


def draw_acts(
    module: ModuleType,
    *,
    seed: str,
    flows: int,
    clients: list[Client],
    servers: list[Server],
    work: Path,
    ca: Path,
) -> dict[int, list]:
    """Draw for each client's index its acts: (context, processes, ending)."""
    acts: dict[int, list] = {client.index: [] for client in clients}
    count = math.ceil(flows / module.FLOWS_PER_ACT)
    families = [6 if number < count * IPV6_SHARE else 4 for number in range(count)]
    random.Random(f"{seed}/families").shuffle(families)
    for number in range(count):
        rng = random.Random(f"{seed}/act/{number}")
        client = clients[number % len(clients)]
        server = servers[(number // len(clients) + number) % len(servers)]
        context = ActContext(
            client=client,
            server=server,
            family=families[number],
            work=work / f"s{server.index}",
            ca=ca,
            rng=rng,
            number=number,
        )
        last = number + len(clients) >= count
        ending = "kill" if rng.random() < KILL_SHARE else "close"
        if last and client.index % CUT_CLIENTS == 1:
            ending = "cut"
        acts[client.index].append((context, module.act(context), ending))
    return acts


def record_label(label: str, args: argparse.Namespace, tls: Path) -> str:
    """Record a label into `args.out`; return a line that sums it up."""
    module = LABELS[label]
    run_seed = f"{args.split}/{args.seed}"
    clients = draw_clients(run_seed, args.clients)
    servers = draw_servers(run_seed, args.servers)
    work = Path(tempfile.mkdtemp(prefix=f"netdiff-{label}-"))
    work.chmod(0o755)
    begin_s = time.monotonic()
    try:
        with Testbed(
            name=f"nd{os.getpid()}-{label}",
            seed=f"{run_seed}/{label}",
            clients=clients,
            servers=servers,
            work=work,
        ) as testbed:
            start_servers(testbed, module, random.Random(f"{run_seed}/content"), tls)
            dumps = [start_capture(testbed, server, module, work) for server in servers]
            time.sleep(1.0)
            acts = draw_acts(
                module,
                seed=f"{run_seed}/{label}",
                flows=args.flows,
                clients=clients,
                servers=servers,
                work=work,
                ca=tls / "ca.pem",
            )
            perform_all(testbed, acts, module.AT_ONCE, module.PAUSE_S, work / "log.txt")
            time.sleep(2.0)
            for dump in dumps:
                kill_group(dump, signal.SIGINT)
        target = args.out.resolve() / label
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        num_bytes = sum(
            pack(work / f"s{server.index}.pcap", target / f"host-{server.index}.pcap.gz")
            for server in servers
        )
        count = sum(map(len, acts.values()))
        return (
            f"{label}: {count} acts, {num_bytes / 1e3:.0f} kB, {time.monotonic() - begin_s:.0f} s"
        )
    finally:
        if args.keep_logs:
            print(f"{label}: logs in {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)


def start_servers(testbed: Testbed, module: ModuleType, rng: random.Random, tls: Path) -> None:
    """Make the label's content and start its servers; return when all listen."""
    shared = testbed.work / "shared"
    shared.mkdir()
    module.prepare(shared, rng)
    for server in testbed.servers:
        folder = testbed.work / f"s{server.index}"
        folder.mkdir()
        module.serve(testbed, server, folder, shared, tls)
    wait_for_ports(testbed, module.PORTS)


def start_capture(
    testbed: Testbed, server: Server, module: ModuleType, work: Path
) -> subprocess.Popen:
    """Start tcpdump on the router before the server, for the label's packets alone."""
    hosts = f"(host {server.v4} or host {server.v6})"
    return testbed.start_in(
        testbed.router(server),
        [
            "tcpdump",
            "-i",
            OUTER,
            "-n",
            "-s",
            str(module.SNAP_BYTES),
            "-Z",
            "root",
            "-w",
            str(work / f"s{server.index}.pcap"),
            f"{hosts} and ({module.FILTER})",
        ],
        log=work / "tcpdump.txt",
    )


def wait_for_ports(testbed: Testbed, ports: tuple[int, ...]) -> None:
    """Wait until every server listens on all these ports, TCP or UDP."""
    limit_s = time.monotonic() + 30
    for server in testbed.servers:
        while True:
            sockets = subprocess.run(
                ["ip", "netns", "exec", testbed.namespace(server), "ss", "-Hlntu"],
                capture_output=True,
                text=True,
                check=True,
            )
            ports_open = {line.split()[4].rsplit(":", 1)[1] for line in sockets.stdout.splitlines()}
            if {str(port) for port in ports} <= ports_open:
                break
            if time.monotonic() > limit_s:
                raise TimeoutError(
                    f"{testbed.namespace(server)} listens on {sorted(ports_open)}, not on"
                    f" all of {ports}; the servers' logs are in {testbed.work}"
                )
            time.sleep(0.2)


def pack(capture: Path, target: Path) -> int:
    """Write the compressed capture to `target`; return its size in bytes."""
    part = target.with_suffix(".part")
    with (
        open(part, "wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="", compresslevel=9) as out,
    ):
        out.write(capture.read_bytes())
    part.rename(target)
    return target.stat().st_size


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", default="train", help="name of the run's split")
    parser.add_argument("--seed", type=int, default=1, help="decides every draw of the run")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder that gets <label>/*.pcap.gz"
    )
    parser.add_argument("--labels", nargs="+", default=sorted(LABELS), choices=sorted(LABELS))
    parser.add_argument("--flows", type=int, default=310, help="flows to aim at, per label")
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--servers", type=int, default=8)
    parser.add_argument("--parallel", type=int, default=3, help="labels recorded side by side")
    parser.add_argument("--keep-logs", action="store_true", help="keep what the programs said")
    return parser.parse_args(argv)


def record_labels(args: argparse.Namespace, tls: Path) -> list[str]:
    """Record the labels, at most `parallel` at a time; return those that failed."""
    context = multiprocessing.get_context("fork")
    waiting, running, failed = list(args.labels), [], []
    try:
        while waiting or running:
            while waiting and len(running) < args.parallel:
                label = waiting.pop(0)
                running.append(
                    context.Process(target=label_process, args=(label, args, tls), name=label)
                )
                running[-1].start()
            wait([process.sentinel for process in running])
            failed += [process.name for process in running if process.exitcode]
            running = [process for process in running if process.exitcode is None]
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # cleaning up is not interrupted
        for process in running:
            process.terminate()
        for process in running:
            process.join()
    return failed


def end_once(*_: object) -> None:
    """Raise KeyboardInterrupt, but not again while that cleans up."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    raise KeyboardInterrupt


def label_process(label: str, args: argparse.Namespace, tls: Path) -> None:
    """Record a label in a child process; SIGTERM makes it clean up and end.

    An interrupt from the terminal reaches the whole process group; here the parent's SIGTERM
    counts, and only the first.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, end_once)
    try:
        line = record_label(label, args, tls)
    except KeyboardInterrupt:
        sys.exit(130)
    print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Record; return 0, 1 if a label failed, 2 if something is missing here."""
    args = parse(argv)
    os.environ["PATH"] = ":".join([os.environ.get("PATH", ""), *HIDDEN_BINARIES])
    debian, pypi = missing([LABELS[label] for label in args.labels])
    if debian:
        print("missing; as root: apt-get install -y --no-install-recommends", *debian)
    if pypi:
        print("missing: pip install", *pypi)
    reasons = hindrances()
    for reason in reasons:
        print(reason)
    if debian or pypi or reasons:
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="netdiff-tls-") as folder:
        tls = Path(folder)
        tls.chmod(0o755)
        make_authority(tls)
        for server in draw_servers(f"{args.split}/{args.seed}", args.servers):
            make_certificate(tls, server)
        try:
            failed = record_labels(args, tls)
        except KeyboardInterrupt:
            return 130
    if failed:
        print(f"not recorded: {', '.join(failed)}; why stands above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
