"""Kill something at random in every run of `netdiff generate`, and compare the datasets.

    python benchmarks/chaos.py [--rounds N] [--first K] [--seed S] [--adapter DIR] [--flows N]

A first run is left alone. In each further one, on a Ray of its own and into a folder of its own,
a process is killed at a random time after the run begins: the driver, a denoiser, a task that
repairs and writes, the raylet or the GCS; by SIGKILL or SIGTERM, each pair in turn. A run that
does not end with exit code 0 is started again by the same command, as its user would. Whatever
was killed, the dataset has to have the bytes of the first. The adapter is one that is trained for a
few steps on two labels of samples/, unless given.

Prints a line a round and writes benchmarks/out/chaos.json; the exit code is 1 if bytes differ.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "out"
NETDIFF = (sys.executable, "-m", "netdiff_ray.cli")
LABELS = ("dns", "ping")
VICTIMS = {
    "driver": None,
    "denoiser": "DrawStage",
    "writer": "WriteStage",
    "raylet": "raylet/raylet",
    "GCS": "gcs/gcs_server",
}
"""What stands in the command line of each; the driver is the command itself."""
MARK = "NETDIFF_CHAOS"
"""Environment variable that a run and all that it starts have."""
MOST_STARTS = 4
SECONDS_OF_A_START = 600.0
SHARE_OF_A_RUN = 0.7
"""Of the time between the first shard and the end of a run, in which something is killed: Ray's
end takes the rest."""


@dataclass(frozen=True)
class Round:
    """What happened in a run."""

    victim: str
    signal: str
    killed_after_s: float | None
    """Since the first shard was written; None if the victim did not exist until the run ended."""
    exit_codes: list[int]
    """Of the starts."""
    seconds: float
    same_bytes: bool


def digest_of(folder: Path) -> str:
    """Return the SHA-256 of names and contents of all files in a dataset."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()


def train_adapter(folder: Path) -> Path:
    """Train an adapter of nano for a few steps; what it draws need not be good."""
    captures = folder / "captures"
    for label in LABELS:
        (captures / label).mkdir(parents=True)
        for path in (ROOT / "samples" / "train" / label).iterdir():
            (captures / label / path.name).symlink_to(path)
    encoded, adapter = folder / "encoded", folder / "adapter"
    training = ("--steps", "2", "--batch-size", "2", "--warmup-steps", "0")
    commands = [
        ["encode", captures, encoded, "--height", "64"],
        ["train", encoded, adapter, "--base", "nano", *training],
    ]
    for command in commands:
        subprocess.run([*NETDIFF, *map(str, command)], cwd=ROOT, check=True)
    return adapter


def victim_of(process: subprocess.Popen, words: str | None) -> int | None:
    """Return the process to kill, None if there is none now."""
    if words is None:
        return process.pid
    with contextlib.suppress(psutil.NoSuchProcess):
        for other in psutil.Process(process.pid).children(recursive=True):
            if words in " ".join(other.cmdline()):
                return other.pid
    return None


def wait_for_shard(process: subprocess.Popen, target: Path) -> float:
    """Wait until a run has written a shard, or ended, and return the time."""
    while process.poll() is None and not list(target.glob("flows/*.parquet")):
        time.sleep(0.05)
    return time.monotonic()


def kill_after(
    process: subprocess.Popen, target: Path, words: str | None, number: int, delay: float
) -> float | None:
    """Wait for the first shard of a run, then `delay` seconds, then for a victim, and kill it.

    Returns:
        The seconds since the first shard; None if the run ended before.
    """
    began = wait_for_shard(process, target)
    while process.poll() is None:
        if time.monotonic() - began >= delay:
            pid = victim_of(process, words)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                    return time.monotonic() - began
        time.sleep(0.01)
    return None


def start(command: list[str], log: Path) -> subprocess.Popen:
    """Start a run; what it prints is appended to a log."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, MARK: str(log)},
        )  # fmt: skip


def started_with(log: Path) -> list[psutil.Process]:
    """Return the processes of the runs with a log, also of those whose parents have died."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(log):
                found.append(process)
    return found


def end(process: subprocess.Popen, log: Path) -> int:
    """Wait for a run and return its exit code; kill one that hangs, and what outlives it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_OF_A_START)
    left = started_with(log)
    for other in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            other.kill()
    psutil.wait_procs(left, timeout=60)
    return process.wait()


def run_round(
    command: list[str], target: Path, victim: str, number: signal.Signals, delay: float, whole: str
) -> Round:
    """Run a command, kill a victim in it, and run it again until it ends well."""
    began, log = time.monotonic(), target.with_suffix(".log")
    process = start(command, log)
    killed_after = kill_after(process, target, VICTIMS[victim], number, delay)
    codes = [end(process, log)]
    while codes[-1] != 0 and len(codes) < MOST_STARTS:
        codes.append(end(start(command, log), log))
    return Round(
        victim=victim, signal=number.name, killed_after_s=killed_after, exit_codes=codes,
        seconds=time.monotonic() - began, same_bytes=digest_of(target) == whole,
    )  # fmt: skip


def main() -> int:
    """Run the rounds and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--flows", type=int, default=200, help="of each label")
    arguments = parser.parse_args()
    kinds = list(itertools.product(VICTIMS, (signal.SIGKILL, signal.SIGTERM)))
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="chaos") as name:
        folder = Path(name)
        adapter = arguments.adapter or train_adapter(folder)

        def command(target: Path) -> list[str]:
            drawing = ["--flows", arguments.flows, "--flows-per-shard", 10, "--steps", 2]
            pool = ["--max-quarantined-share", 1]
            return [*NETDIFF, *map(str, ["generate", adapter, target, *drawing, *pool])]

        began = time.monotonic()
        log = folder / "whole.log"
        process = start(command(folder / "whole"), log)
        first_shard = wait_for_shard(process, folder / "whole")
        code = end(process, log)
        if code:
            print(log.read_text(), file=sys.stderr)
            return code
        seconds, from_shard = time.monotonic() - began, time.monotonic() - first_shard
        whole = digest_of(folder / "whole")
        print(f"undisturbed: {seconds:.0f} s, {from_shard:.0f} s from its first shard, "
              f"sha256 {whole[:12]}", flush=True)  # fmt: skip
        for number in range(arguments.first, arguments.first + arguments.rounds):
            victim, signum = kinds[number % len(kinds)]
            chance = random.Random(f"{arguments.seed} {number}")
            delay = chance.uniform(0, SHARE_OF_A_RUN * from_shard)
            target = folder / f"round-{number}"
            rounds.append(run_round(command(target), target, victim, signum, delay, whole))
            print(json.dumps(asdict(rounds[-1])), flush=True)
    same = sum(r.same_bytes for r in rounds)
    killed = sum(r.killed_after_s is not None for r in rounds)
    print(f"{same} of {len(rounds)} datasets have the same bytes; something was killed in {killed}")
    OUT.mkdir(exist_ok=True)
    result = {
        "undisturbed_s": seconds,
        "from_shard_s": from_shard,
        "rounds": [asdict(r) for r in rounds],
    }
    (OUT / "chaos.json").write_text(json.dumps(result, indent=1))
    return 0 if same == len(rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
