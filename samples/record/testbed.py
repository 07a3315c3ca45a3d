"""The network of one recording: hosts and routers in namespaces, the link emulator between.

    client --(emulated link)-- router --(emulated link)-- server

Every server has a router, where the kernel forwards and tcpdump listens: what is
captured is seen from the middle of the way.
"""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
from ipaddress import ip_address
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

from emulator import Direction, emulate, open_tun
from scenario import Client, Server, Stack

OUTER = "wan0"
"""A host's device; on a router, the device towards the clients."""
INNER = "lan0"
"""A router's device towards its server."""
AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def sysctls(stack: Stack) -> list[str]:
    """Return the `name=value` settings that make a host's kernel behave like `stack`."""
    return [
        f"net.ipv4.ip_default_ttl={stack.ttl}",
        f"net.ipv6.conf.{OUTER}.hop_limit={stack.ttl}",
        f"net.ipv4.tcp_timestamps={int(stack.timestamps)}",
        f"net.ipv4.tcp_sack={int(stack.sack)}",
        f"net.ipv4.tcp_window_scaling={int(stack.window_scaling)}",
        f"net.ipv4.tcp_rmem=4096 {stack.rmem_default_bytes} {stack.rmem_max_bytes}",
        f"net.ipv4.tcp_ecn={stack.ecn}",
        "net.ipv4.tcp_no_metrics_save=1",
        f"net.ipv4.ip_local_port_range={stack.first_port} {stack.first_port + 11000}",
        "net.ipv4.ping_group_range=0 2147483647",
    ]


def route_options(stack: Stack) -> list[str]:
    """Return the options of a host's default route."""
    options = ["initcwnd", str(stack.initcwnd_packets)]
    if stack.advmss_bytes:
        options += ["advmss", str(stack.advmss_bytes)]
    if stack.quickack:
        options += ["quickack", "1"]
    if stack.congestion in AVAILABLE.read_text().split():
        options += ["congctl", stack.congestion]
    return options


class Testbed:
    """The running network of a label's recording; leaving the context takes it down."""

    def __init__(
        self, *, name: str, seed: str, clients: list[Client], servers: list[Server], work: Path
    ):
        self.name = name
        self.seed = seed
        self.clients = clients
        self.servers = servers
        self.work = work
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(work),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }
        """What every program gets; the user's own settings and proxies stay outside."""
        self._namespaces: list[str] = []
        self._fds: dict[str, int] = {}
        self._orders: Connection | None = None
        self._emulator: multiprocessing.Process | None = None
        self._children: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self) -> None:
        for host in [*self.clients, *self.servers]:
            self._add_host(host)
        for server in self.servers:
            self._add_router(server)
        self._orders, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self._emulator = context.Process(
            target=_emulator_process, daemon=True, args=(self._orders, self._ways(), theirs)
        )
        self._emulator.start()
        theirs.close()
        for tun_fd in self._fds.values():
            os.close(tun_fd)

    def _ways(self) -> dict[int, dict[bytes, tuple[int, Direction]]]:
        """Return for each TUN descriptor, by destination, the target and the link."""
        ways: dict[int, dict[bytes, tuple[int, Direction]]] = {fd: {} for fd in self._fds.values()}

        def connect(host: Client | Server, host_fd: int, peers: list[tuple[int, Client | Server]]):
            for rate_kbit, from_host in ((host.link.up_kbit, True), (host.link.down_kbit, False)):
                way = Direction(
                    host.link,
                    rate_kbit,
                    random.Random(f"{self.seed}/{self.namespace(host)[-3:]}{from_host}"),
                )
                for peer_fd, peer in peers:
                    source, target, end = (
                        (host_fd, peer_fd, peer) if from_host else (peer_fd, host_fd, host)
                    )
                    for text in (end.v4, end.v6):
                        ways[source][ip_address(text).packed] = target, way

        outer = [(self._fds[f"{self.router(server)}/{OUTER}"], server) for server in self.servers]
        for client in self.clients:
            connect(client, self._fds[f"{self.namespace(client)}/{OUTER}"], outer)
        for server in self.servers:
            inner_fd = self._fds[f"{self.router(server)}/{INNER}"]
            connect(
                server,
                self._fds[f"{self.namespace(server)}/{OUTER}"],
                [(inner_fd, client) for client in self.clients],
            )
        return ways

    def _add_namespace(self, namespace: str, devices: tuple[str, ...]) -> None:
        """Add a namespace with TUN devices, without IPv6 autoconfiguration."""
        _run(["ip", "netns", "add", namespace])
        self._namespaces.append(namespace)
        for device in devices:
            outside = f"nd{os.getpid() % 10**6}d{len(self._fds)}"
            self._fds[f"{namespace}/{device}"] = open_tun(outside)
            _run(["ip", "link", "set", outside, "netns", namespace, "name", device])
            _run(
                [
                    "ip",
                    "netns",
                    "exec",
                    namespace,
                    "sysctl",
                    "-qw",
                    f"net.ipv6.conf.{device}.addr_gen_mode=1",
                    f"net.ipv6.conf.{device}.router_solicitations=0",
                ]
            )
        _run(["ip", "-n", namespace, "link", "set", "lo", "up"])

    def _add_host(self, host: Client | Server) -> None:
        namespace = self.namespace(host)
        etc = Path("/etc/netns", namespace)
        etc.mkdir(parents=True)
        (etc / "hosts").write_text(self._hosts_file())
        (etc / "resolv.conf").write_text(self._resolv_file(host))
        self._add_namespace(namespace, (OUTER,))
        _run(["ip", "netns", "exec", namespace, "sysctl", "-qw", *sysctls(host.stack)])
        route = ["route", "add", "default", "dev", OUTER, *route_options(host.stack)]
        for arguments in (
            ["link", "set", OUTER, "mtu", str(host.stack.mtu_bytes), "up"],
            ["-4", "addr", "add", f"{host.v4}/32", "dev", OUTER],
            ["-6", "addr", "add", f"{host.v6}/128", "dev", OUTER, "nodad"],
            ["-4", *route, "src", host.v4],
            ["-6", *route, "src", host.v6],
        ):
            _run(["ip", "-n", namespace, *arguments])

    def _add_router(self, server: Server) -> None:
        namespace = self.router(server)
        self._add_namespace(namespace, (OUTER, INNER))
        _run(
            [
                "ip",
                "netns",
                "exec",
                namespace,
                "sysctl",
                "-qw",
                "net.ipv4.ip_forward=1",
                "net.ipv6.conf.all.forwarding=1",
                "net.ipv4.conf.all.rp_filter=0",
            ]
        )
        for arguments in (
            ["link", "set", OUTER, "up"],
            ["link", "set", INNER, "up"],
            ["-4", "addr", "add", f"10.255.{server.index}.1/32", "dev", OUTER],
            ["-6", "addr", "add", f"fdff::{server.index + 1:x}/128", "dev", OUTER, "nodad"],
            ["-4", "route", "add", "default", "dev", OUTER],
            ["-6", "route", "add", "default", "dev", OUTER],
            ["-4", "route", "add", f"{server.v4}/32", "dev", INNER],
            ["-6", "route", "add", f"{server.v6}/128", "dev", INNER],
        ):
            _run(["ip", "-n", namespace, *arguments])

    def _hosts_file(self) -> str:
        lines = ["127.0.0.1 localhost"]
        for server in self.servers:
            lines += [f"{server.v4} {name}" for name in server.names_v4]
            lines += [f"{server.v6} {name}" for name in server.names_v6]
        return "\n".join(lines) + "\n"

    def _resolv_file(self, host: Client | Server) -> str:
        server = self.servers[host.index % len(self.servers)]
        return f"nameserver {server.address(6 if host.index % 5 in (1, 3) else 4)}\n"

    def namespace(self, host: Client | Server) -> str:
        """Return the name of the host's network namespace."""
        return f"{self.name}-{'c' if isinstance(host, Client) else 's'}{host.index:02}"

    def router(self, server: Server) -> str:
        """Return the name of the network namespace of the router in front of a server."""
        return f"{self.name}-r{server.index:02}"

    def start(
        self,
        host: Client | Server,
        argv: list[str],
        *,
        log: Path,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen:
        """Start a program on that host, in a new process group."""
        return self.start_in(self.namespace(host), argv, log=log, env=env)

    def start_in(
        self, namespace: str, argv: list[str], *, log: Path, env: dict[str, str] | None = None
    ) -> subprocess.Popen:
        """Start a program in that namespace, in a new process group."""
        with open(log, "ab") as out:
            child = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=self.work,
                env={**self.environment, **(env or {})},
            )
        self._children.append(child)
        return child

    def cut(self, client: Client) -> None:
        """Cut the client's link: nothing passes any more."""
        self._orders.send(self._fds[f"{self.namespace(client)}/{OUTER}"])

    def check(self) -> None:
        """Raise OSError if the emulator has ended."""
        if not self._emulator.is_alive():
            raise OSError(f"the link emulator of {self.name} ended; its error stands above")

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            kill_group(child)
        for namespace in self._namespaces:
            pids = subprocess.run(
                ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False
            )
            for pid in pids.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        if self._emulator is not None:
            self._orders.close()
            self._emulator.join(timeout=5)
            self._emulator.kill()
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "del", namespace], check=False)
            shutil.rmtree(Path("/etc/netns", namespace), ignore_errors=True)
        self._namespaces.clear()


def _emulator_process(mine: Connection, ways: dict, orders: Connection) -> None:
    mine.close()
    emulate(ways, orders)


def kill_group(child: subprocess.Popen, number: int = signal.SIGKILL) -> None:
    """Send a signal to the child's process group and reap it."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
    child.wait()


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{json.dumps(argv)} failed: {done.stderr.strip()}")
