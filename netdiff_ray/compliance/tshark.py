"""Counts of tshark on the headers of a capture: one pass, application layers switched off.

A packet is invalid to tshark if it carries an expert item of severity error or warning on a
link, network or transport header, its sequence analysis apart: that is about what the network
lost (a hole, a reset, a full window), not about the packet, and is counted separately.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from netdiff_ray.compliance.read import DAMAGED, open_compressed
from netdiff_ray.errors import CaptureError

PROTOCOLS = (
    "frame", "eth", "ethertype", "vlan", "ieee8021ad", "mpls", "pppoes", "ppp", "chdlc", "null",
    "sll", "raw", "ip", "ipv6", "ipv6.hopopts", "ipv6.routing", "ipv6.fraghdr", "ipv6.dstopts",
    "tcp", "udp", "icmp", "icmpv6",
)  # fmt: skip
ANALYSIS = (
    "ack_lost_segment", "duplicate_ack", "fast_retransmission", "keep_alive", "keep_alive_ack",
    "lost_segment", "out_of_order", "retransmission", "reused_ports", "spurious_retransmission",
    "window_full", "window_update", "zero_window", "zero_window_probe", "zero_window_probe_ack",
)  # fmt: skip
WARNING, ERROR = 0x600000, 0x800000
CHECKSUM, SEQUENCE, MALFORMED = 0x01000000, 0x02000000, 0x07000000
BETWEEN = "\x1f"


@dataclass
class Tshark:
    """Counts of one or more captures, and the messages of each invalid packet."""

    version: str = ""
    errors: int = 0
    warnings: int = 0
    bad_checksums: int = 0
    malformed: int = 0
    analysis: Counter[str] = field(default_factory=Counter)
    invalid: dict[int, tuple[str, ...]] = field(default_factory=dict)
    distinct: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    """The messages in `invalid`, each once: many packets are invalid alike."""

    def add(self, other: "Tshark") -> None:
        """Add the counts of another capture."""
        self.version = other.version
        self.errors += other.errors
        self.warnings += other.warnings
        self.bad_checksums += other.bad_checksums
        self.malformed += other.malformed
        self.analysis += other.analysis

    def as_dict(self) -> dict:
        """Return plain numbers by name."""
        return {
            "version": self.version,
            "errors": self.errors,
            "warnings": self.warnings,
            "bad_checksums": self.bad_checksums,
            "malformed": self.malformed,
            "analysis": dict(sorted(self.analysis.items())),
        }


def tshark_installed() -> bool:
    """Return whether tshark can be run here."""
    return shutil.which("tshark") is not None


def run_tshark(path: Path | str, name: str | None = None) -> Tshark:
    """Run tshark on a capture and return its counts.

    Args:
        path: of the capture.
        name: what errors call it; the path if not given.

    Raises:
        CaptureError: tshark does not read it to the end.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _run(_readable(path, Path(folder, "capture")), Path(folder), name or str(path))


def _readable(path: Path | str, copy: Path) -> Path:
    """Return the path of a capture that tshark reads: a decompressed copy, or `path`."""
    with open(path, "rb") as file:
        stream, is_compressed = open_compressed(file)
        if not is_compressed:
            return Path(path)
        try:
            with open(copy, "wb") as target:
                shutil.copyfileobj(stream, target)
        except DAMAGED:
            pass  # tshark judges what comes before the damage
    return copy


def _run(path: Path, folder: Path, name: str) -> Tshark:
    """Run tshark with a profile in `folder` that switches the other protocols off."""
    command = ["tshark", "-n", "-r", str(path)]
    for layer in ("ip", "tcp", "udp"):
        command += ["-o", f"{layer}.check_checksum:TRUE"]
    command += ["-T", "fields", "-E", "occurrence=a", "-E", f"aggregator={BETWEEN}"]
    fields = ["frame.number"] + [f"_ws.expert.{n}" for n in ("severity", "group", "message")]
    fields += [f"tcp.analysis.{kind}" for kind in ANALYSIS]
    for field_name in fields:
        command += ["-e", field_name]
    counts = Tshark(_version())
    with open(folder / "stderr", "w+") as errors:
        (folder / "disabled_protos").write_text(_other_protocols())
        environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(folder)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace",
            env=environment,
        ) as process:  # fmt: skip
            for line in process.stdout:
                _packet(line.rstrip("\n").split("\t"), counts)
        errors.seek(0)
        lines = errors.read().strip().splitlines() or ["stopped without a message"]
    if process.returncode:
        raise CaptureError(name, f"tshark: {lines[-1].removeprefix('tshark: ')}")
    return counts


@cache
def _other_protocols() -> str:
    """Return every protocol of this tshark but those judged here, one a line."""
    listed = subprocess.run(
        ["tshark", "-G", "protocols"], capture_output=True, text=True, check=True
    )
    names = {line.split("\t")[2] for line in listed.stdout.splitlines()}
    return "\n".join(sorted(names.difference(PROTOCOLS))) + "\n"


@cache
def _version() -> str:
    """Return the version of tshark."""
    done = subprocess.run(["tshark", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].removeprefix("TShark (Wireshark) ").split(" ")[0]


def _packet(values: list[str], counts: Tshark) -> None:
    """Count the expert items and the analysis of a packet, from a line of tshark's fields."""
    number, severities, groups, messages, *analysis = values
    counts.analysis.update(n for n, v in zip(ANALYSIS, analysis, strict=True) if v)
    bad = []
    for severity, group, message in _experts(severities, groups, messages):
        if severity < WARNING or group == SEQUENCE:
            continue
        counts.errors += severity >= ERROR
        counts.warnings += severity < ERROR
        counts.bad_checksums += group == CHECKSUM
        counts.malformed += group == MALFORMED
        bad.append(re.sub(r"0x[0-9a-f]+", "#", message))
    if bad:
        messages = tuple(bad)
        counts.invalid[int(number)] = counts.distinct.setdefault(messages, messages)


def _experts(severities: str, groups: str, messages: str) -> Iterator[tuple[int, int, str]]:
    if not severities:
        return
    columns = (severities.split(BETWEEN), groups.split(BETWEEN), messages.split(BETWEEN))
    for severity, group, message in zip(*columns, strict=False):
        yield int(severity, 0), int(group, 0), message
