"""What tshark says of a capture."""

import subprocess
from collections import Counter
from collections.abc import Collection
from pathlib import Path

WARNING = 0x600000
"""Least severity, as Wireshark counts it, of a warning; an error's is higher."""
_CHECKED = ("ip", "tcp", "udp")
_STATUS = [f"{layer}.checksum.status" for layer in (*_CHECKED, "icmp", "icmpv6")]
_FLAGS = (
    "lost_segment", "out_of_order", "retransmission", "fast_retransmission",
    "spurious_retransmission", "duplicate_ack", "ack_lost_segment", "zero_window",
    "zero_window_probe", "zero_window_probe_ack", "window_full", "reused_ports",
)  # fmt: skip
_OF_LOSSES = _FLAGS[: _FLAGS.index("zero_window")]
_LOSSES = ("(suspected)", "Previous segment(s) not captured", "ACKed segment that wasn't captured")
_HARMLESS = (
    "Connection reset (RST)", "TCP window update", "keep-alive segment",
    "Secrets are not available", "Missing TLS handshake", "(checktag) failed", "Decoded ",
)  # fmt: skip
"""Marks that say what a packet is for, or that what is sealed cannot be read, as of real ones."""


def tshark_complaints(
    capture: Path, *, checksums: bool = True, lossy: Collection[int] = ()
) -> Counter:
    """Return what tshark holds against a capture: bad checksums, malformed packets, expert items of
    severity error or warning, and TCP analysis flags, but for RSTs, window updates and keep-alives.

    Args:
        capture: its path.
        checksums: whether to check these.
        lossy: numbers of frames, from 1, whose flows are drawn with losses: what tells of losses
            is none there.
    """
    shown = " || ".join(
        [f"_ws.expert.severity >= {WARNING}", "_ws.malformed", "tcp.analysis.flags"]
        + [f"{status} == 0" for status in _STATUS * checksums]
    )
    fields = ["frame.number", "frame.protocols", "_ws.expert.message", "_ws.expert.severity",
              *_STATUS, *(f"tcp.analysis.{flag}" for flag in _FLAGS)]  # fmt: skip
    command = ["tshark", "-n", "-r", str(capture), "-Y", shown, "-T", "fields",
               "-o", "tcp.reassemble_out_of_order:TRUE",
               "-E", "separator=/t", "-E", "aggregator=|"]  # fmt: skip
    for layer in _CHECKED * checksums:
        command += ["-o", f"{layer}.check_checksum:TRUE"]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    complaints = Counter()
    for line in done.stdout.splitlines():
        number, protocols, messages, severities, *cells = line.split("\t")
        is_lossy = int(number) in lossy
        statuses, flags = cells[: len(_STATUS)], cells[len(_STATUS) :]
        for status, cell in zip(_STATUS, statuses, strict=True):
            if checksums and "0" in cell.split("|"):
                complaints[f"{status} is bad"] += 1
        for flag, cell in zip(_FLAGS, flags, strict=True):
            if cell and not (is_lossy and flag in _OF_LOSSES):
                complaints[flag] += 1
        for message, severity in zip(messages.split("|"), severities.split("|"), strict=False):
            marks = _HARMLESS + _LOSSES * is_lossy
            harmless = any(mark in message for mark in marks)
            # Messages of multicast DNS have no identifiers (RFC 6762 section 18.1).
            harmless |= protocols.endswith("mdns") and "retransmission" in message
            if severity and int(severity) >= WARNING and not harmless:
                complaints[f"{protocols}: {message}"] += 1
    return complaints
