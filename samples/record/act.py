"""One act: what a user does once with a program, as processes on a client (and a server)."""

import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from scenario import Client, Server
from testbed import Testbed, kill_group

PROGRAMS = Path(__file__).parent / "programs"
LIMIT_S = 40.0
"""No process of an act lives longer."""


@dataclass(frozen=True, kw_only=True)
class ActContext:
    """The hosts, names and random draws from which a label's `act` makes its command lines."""

    client: Client
    server: Server
    family: int
    """4 or 6."""
    work: Path
    """The directory that the server's `serve` was given."""
    ca: Path
    """The certificate authority every program trusts."""
    rng: random.Random
    number: int
    """Number of this act in its recording."""

    @property
    def address(self) -> str:
        """The server's address."""
        return self.server.address(self.family)

    @property
    def name(self) -> str:
        """One of the server's names."""
        return self.rng.choice(self.server.names(self.family))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process of an act."""

    argv: list[str]
    on_server: bool = False
    after_s: float = 0.0
    """Starts that long after the act begins."""
    env: dict[str, str] | None = None


def python(program: str, *arguments: object) -> list[str]:
    """Return the command line of a program in this recorder's `programs/`."""
    return [sys.executable, str(PROGRAMS / program), *map(str, arguments)]


def perform(testbed: Testbed, context: ActContext, runs: list[Run], ending: str, log: Path) -> None:
    """Run the processes of one act to their end.

    Args:
        ending: `close`, the programs end by themselves; `kill`, the client's are killed in
            the middle; `cut`, the client's link is cut in the middle and never mended.
    """
    begin_s = time.monotonic()
    middle_s = {
        "close": LIMIT_S,
        "kill": context.rng.uniform(0.4, 3.0),
        "cut": context.rng.uniform(1.0, 4.0),
    }[ending]
    children: list[subprocess.Popen] = []
    waiting = sorted(runs, key=lambda run: run.after_s)
    while waiting or any(child.poll() is None for child in children):
        now_s = time.monotonic() - begin_s
        if now_s >= middle_s:
            break
        if waiting and waiting[0].after_s <= now_s:
            run = waiting.pop(0)
            host = context.server if run.on_server else context.client
            children.append(testbed.start(host, run.argv, log=log, env=run.env))
            continue
        time.sleep(0.02)
    if ending == "cut" and any(child.poll() is None for child in children):
        testbed.cut(context.client)
        time.sleep(context.rng.uniform(2.0, 6.0))
    for child in children:
        kill_group(child)


def perform_all(
    testbed: Testbed,
    acts: dict[int, list[tuple[ActContext, list[Run], str]]],
    at_once: int,
    pause_s: float,
    log: Path,
) -> None:
    """Perform each client's acts in turn, the clients side by side.

    Args:
        acts: for each client's index its acts.
        at_once: how many acts run at the same time.
        pause_s: mean pause between a client's acts.
    """
    slots = threading.Semaphore(at_once)
    stop = threading.Event()

    def live(mine: list[tuple[ActContext, list[Run], str]]) -> None:
        for context, runs, ending in mine:
            if stop.wait(context.rng.uniform(0, 2 * pause_s)):
                return
            with slots:
                if not stop.is_set():
                    perform(testbed, context, runs, ending, log)

    threads = [threading.Thread(target=live, args=(mine,)) for mine in acts.values()]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            testbed.check()
            time.sleep(0.2)
    finally:
        stop.set()
