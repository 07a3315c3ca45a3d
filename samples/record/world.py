"""The network of one recording: a namespace for every host, and the link emulator between."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

from draw import Client, Server, Stack
from emulator import emulate, open_tun

DEVICE = "wan0"
AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def sysctls(stack: Stack) -> list[str]:
    """The `name=value` settings that make a host's kernel behave like `stack`."""
    return [
        f"net.ipv4.ip_default_ttl={stack.ttl}",
        f"net.ipv6.conf.all.hop_limit={stack.ttl}",
        f"net.ipv6.conf.default.hop_limit={stack.ttl}",
        "net.ipv6.conf.default.router_solicitations=0",
        "net.ipv6.conf.default.accept_ra=0",
        "net.ipv6.conf.default.addr_gen_mode=1",
        f"net.ipv4.tcp_timestamps={int(stack.timestamps)}",
        f"net.ipv4.tcp_sack={int(stack.sack)}",
        f"net.ipv4.tcp_window_scaling={int(stack.window_scaling)}",
        f"net.ipv4.tcp_rmem=4096 {stack.rmem_default_bytes} {stack.rmem_max_bytes}",
        f"net.ipv4.tcp_ecn={stack.ecn}",
        "net.ipv4.tcp_no_metrics_save=1",
        f"net.ipv4.ip_local_port_range={stack.first_port} {stack.first_port + 11000}",
        "net.ipv4.ping_group_range=0 2147483647",
    ]


class World:
    """The running network of one label's recording. Leaving it takes everything down."""

    def __init__(self, *, name: str, seed: str, clients: list[Client], servers: list[Server],
                 work: Path):
        self.name = name
        self.seed = seed
        self.clients = clients
        self.servers = servers
        self.work = work
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(work), "LANG": "C.UTF-8",
                            "TERM": "dumb"}
        """What every program gets; the user's own settings and proxies stay outside."""
        self.namespaces: list[str] = []
        self._client_fds: dict[int, int] = {}
        self._orders = None
        self._emulator = None
        self._children: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self) -> None:
        client_ports, server_ports = {}, {}
        for host in [*self.clients, *self.servers]:
            tun_fd = self._add_host(host)
            if isinstance(host, Client):
                self._client_fds[host.index] = tun_fd
                client_ports[tun_fd] = (host.link, [host.v4, host.v6])
            else:
                server_ports[tun_fd] = [host.v4, host.v6]
        mine, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self._emulator = context.Process(target=_emulator_process, daemon=True, args=(
            mine, client_ports, server_ports, self.seed, theirs))
        self._emulator.start()
        theirs.close()
        self._orders = mine
        for tun_fd in [*client_ports, *server_ports]:
            os.close(tun_fd)

    def _add_host(self, host: Client | Server) -> int:
        namespace = self.namespace(host)
        _run(["ip", "netns", "add", namespace])
        self.namespaces.append(namespace)
        etc = Path("/etc/netns", namespace)
        etc.mkdir(parents=True)
        (etc / "hosts").write_text(self._hosts_file())
        (etc / "resolv.conf").write_text(self._resolv_file(host))
        outside = f"nd{os.getpid() % 10**6}{'c' if isinstance(host, Client) else 's'}{host.index}"
        tun_fd = open_tun(outside)
        _run(["ip", "link", "set", outside, "netns", namespace, "name", DEVICE])
        route = ["dev", DEVICE, "initcwnd", str(host.stack.initcwnd_packets)]
        if host.stack.congestion in AVAILABLE.read_text().split():
            route += ["congctl", host.stack.congestion]
        _run(["ip", "netns", "exec", namespace, "sysctl", "-qw", *sysctls(host.stack),
              f"net.ipv6.conf.{DEVICE}.hop_limit={host.stack.ttl}",
              f"net.ipv6.conf.{DEVICE}.addr_gen_mode=1",
              f"net.ipv6.conf.{DEVICE}.router_solicitations=0"])
        for arguments in (
            ["link", "set", "lo", "up"],
            ["link", "set", DEVICE, "mtu", str(host.stack.mtu_bytes), "up"],
            ["-4", "addr", "add", f"{host.v4}/32", "dev", DEVICE],
            ["-6", "addr", "add", f"{host.v6}/128", "dev", DEVICE, "nodad"],
            ["-4", "route", "add", "default", *route, "src", host.v4],
            ["-6", "route", "add", "default", *route, "src", host.v6],
        ):
            _run(["ip", "-n", namespace, *arguments])
        return tun_fd

    def _hosts_file(self) -> str:
        lines = ["127.0.0.1 localhost"]
        for server in self.servers:
            lines += [f"{server.v4} {name}" for name in server.names_v4]
            lines += [f"{server.v6} {name}" for name in server.names_v6]
        return "\n".join(lines) + "\n"

    def _resolv_file(self, host: Client | Server) -> str:
        server = self.servers[host.index % len(self.servers)]
        return f"nameserver {server.address(6 if host.index % 3 == 2 else 4)}\n"

    def namespace(self, host: Client | Server) -> str:
        """The name of the host's network namespace."""
        return f"{self.name}-{'c' if isinstance(host, Client) else 's'}{host.index}"

    def start(self, host: Client | Server, argv: list[str], *, log: Path,
              env: dict[str, str] | None = None) -> subprocess.Popen:
        """The process of a program started on that host, in a process group of its own."""
        with open(log, "ab") as out:
            child = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace(host), *argv], stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, start_new_session=True, cwd=self.work,
                env={**self.environment, **(env or {})})
        self._children.append(child)
        return child

    def cut(self, client: Client) -> None:
        """Cut the client's link: nothing passes any more."""
        self._orders.send(("cut", self._client_fds[client.index]))

    def check(self) -> None:
        """Raise OSError if the emulator is no more."""
        if not self._emulator.is_alive():
            raise OSError(f"the link emulator of {self.name} ended; its error stands above")

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            kill_group(child)
        for namespace in self.namespaces:
            found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True,
                                   text=True, check=False)
            for pid in found.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        if self._orders is not None:
            self._orders.close()
            self._emulator.join(timeout=5)
            self._emulator.kill()
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "del", namespace], check=False)
            shutil.rmtree(Path("/etc/netns", namespace), ignore_errors=True)
        self.namespaces.clear()


def _emulator_process(mine, client_ports, server_ports, seed, orders) -> None:
    mine.close()
    emulate(client_ports, server_ports, seed, orders)


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
