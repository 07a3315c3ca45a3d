"""What tshark and its companions say of a capture."""

import subprocess
from collections import Counter
from pathlib import Path

CHECKSUMS = [
    part
    for layer in ("ip", "tcp", "udp")
    for part in ("-o", f"{layer}.check_checksum:TRUE")
]  # fmt: skip
DRAWN_FLAGS = ("window_update", "keep_alive", "keep_alive_ack")
"""Analysis marks that are no fault: they say what a packet is for."""
_ERROR, _WARNING = 8_388_608, 6_291_456


def tshark_complaints(capture: Path) -> tuple[Counter, Counter]:
    """What tshark holds against a capture, and what it only remarks: marks with counts.

    Complaints: bad checksums, malformed packets, expert items of severity error or warning,
    TCP analysis flags. Remarks: RSTs, window updates, keep-alives.
    """
    fields = ["_ws.expert.message", "_ws.expert.severity", "_ws.malformed", "ip.checksum.status",
              "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status",
              "icmpv6.checksum.status", "frame.protocols"]  # fmt: skip
    command = ["tshark", "-n", "-r", str(capture), *CHECKSUMS, "-T", "fields",
               "-E", "separator=\t", "-E", "aggregator=|", "-Y",
               "_ws.expert.severity >= 6291456 || _ws.malformed || tcp.analysis.flags || "
               "ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 || "
               "icmp.checksum.status == 0 || icmpv6.checksum.status == 0"]  # fmt: skip
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    complaints, remarks = Counter(), Counter()
    for line in done.stdout.splitlines():
        message, severity, malformed, *statuses, protocols = line.split("\t")
        for field, status in zip(fields[3:8], statuses, strict=True):
            if "0" in status.split("|"):
                complaints[f"{field} bad"] += 1
        if malformed:
            complaints[f"malformed {protocols}"] += 1
        for text, level in zip(message.split("|"), severity.split("|"), strict=False):
            if "(RST)" in text or "TCP window update" in text or "keep-alive" in text:
                remarks[text.split(" (")[0]] += 1
            elif level and int(level) >= _WARNING:
                complaints[f"{protocols}: {text}"] += 1
            elif "Duplicate" in text or "etransmission" in text or "uplicate" in text:
                complaints[text.split("#")[0]] += 1
    return complaints, remarks


def tshark_analysis(capture: Path) -> Counter:
    """TCP analysis flags by name."""
    names = ("lost_segment", "out_of_order", "retransmission", "fast_retransmission",
             "spurious_retransmission", "duplicate_ack", "ack_lost_segment", "zero_window",
             "zero_window_probe", "window_full", "reused_ports", *DRAWN_FLAGS)  # fmt: skip
    command = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-Y", "tcp.analysis.flags",
               "-E", "separator=\t"]  # fmt: skip
    for name in names:
        command += ["-e", f"tcp.analysis.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = Counter()
    for line in done.stdout.splitlines():
        held = [name for name, cell in zip(names, line.split("\t"), strict=False) if cell]
        found.update(held or ["other"])
    return found
