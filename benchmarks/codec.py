"""Measure reading and encoding beside other tools, in the same run.

    python benchmarks/codec.py [--captures DIR ...] [--packets N]

Captures are joined and repeated into one file of at least N packets. Figures are CPU
seconds of one process after a warm-up; the cost of first use (compilation, cached on disk
afterwards) is printed separately. Prints a table and writes benchmarks/out/codec.json.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from netdiff_ray.flows import assemble_flows
from netdiff_ray.local.inspect import captures_in
from netdiff_ray.nprint import LAYOUTS, encode
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT
from netdiff_ray.nprint.text import NprintWriter
from netdiff_ray.packets import CaptureReader, header_rows
from netdiff_ray.packets.writer import CaptureWriter
from netdiff_ray.raster import from_rgb, to_rgb

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
TARGETS = {
    "record scan, headers located": 5e6,
    "capture to stateful int8, flows assembled": 1.5e6,
    "capture to .nprint text": 430e3,
}
"""Packets per second, the project's targets."""


def joined_capture(captures: list[Path], num_packets: int, path: Path) -> int:
    """Write a capture of at least `num_packets`; copies follow each other in time.

    Returns the number of packets written.
    """
    parts = []
    link_type = None  # a pcap has a single link type: that of the first record
    for capture in captures:
        for table in CaptureReader(capture):
            link_type = int(table.link_type[0]) if link_type is None else link_type
            same = table.link_type == link_type
            parts.append((
                table.data.copy(), table.start[same], table.caplen[same], table.wirelen[same],
                table.ts_ns[same],
            ))  # fmt: skip
    count = 0
    with open(path, "wb") as file:
        writer = CaptureWriter(file, "pcap")
        copy_ns = 0
        while count < num_packets:
            for data, start, caplen, wirelen, ts_ns in parts:
                ts = np.maximum(ts_ns + copy_ns, 0)
                writer.write(data, start, caplen, wirelen, ts, link_type)
                count += len(start)
            copy_ns += 3600 * 10**9
    return count


def scan(path: Path) -> int:
    """Return the number of records, their headers located."""
    return sum(len(table) for table in CaptureReader(path))


def to_default(path: Path) -> int:
    """Assemble flows and encode them into a reused buffer; return the number of packets."""
    layout = LAYOUTS[DEFAULT_LAYOUT]
    buffer = np.empty((0, layout.width), np.int8)
    reader = CaptureReader(path)
    count = 0
    for w in assemble_flows((header_rows(t) for t in reader), reader.fingerprint):
        for at in range(0, len(w.rows), 8192):
            part = slice(at, at + 8192)
            if len(buffer) < 8192:
                buffer = np.empty((8192, layout.width), np.int8)
            encode(
                w.rows[part], layout, direction=w.direction[part],
                interarrival_ns=w.interarrival_ns[part], state=w.state[part], out=buffer,
            )  # fmt: skip
        count += len(w.rows)
    return count


def to_text(path: Path) -> int:
    """Write .nprint text to the null device; return the number of packets."""
    layout = LAYOUTS["nprint"]
    count = 0
    with open(os.devnull, "wb") as sink:
        writer = NprintWriter(sink, layout)
        buffer = np.empty((1 << 15, layout.width), np.int8)
        for table in CaptureReader(path):
            rows = header_rows(table)
            writer.write(encode(rows, layout, out=buffer), rows)
            count += len(rows)
    return count


def with_dpkt(path: Path) -> int:
    """Parse with dpkt in a loop; return the number of packets."""
    import dpkt

    count = 0
    with open(path, "rb") as file:
        reader = dpkt.pcap.Reader(file)
        is_ethernet = reader.datalink() == dpkt.pcap.DLT_EN10MB
        for _, frame in reader:
            with contextlib.suppress(dpkt.UnpackError):
                if is_ethernet:
                    dpkt.ethernet.Ethernet(frame)
                elif frame[0] >> 4 == 4:
                    dpkt.ip.IP(frame)
                else:
                    dpkt.ip6.IP6(frame)
            count += 1
    return count


def command(arguments: list[str]) -> Callable[[Path], int]:
    """Return a function that runs `arguments` with the capture's name and returns 0."""

    def run(path: Path) -> int:
        names = [str(path) if word == "CAPTURE" else word for word in arguments]
        subprocess.run(names, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return 0

    return run


def cpu_seconds() -> float:
    """Return user and system seconds of this process and its ended children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usages)


def measure(function: Callable[[Path], int], path: Path, repeats: int) -> tuple[float, int]:
    """Return the least CPU seconds of `repeats` runs, and what the function returned."""
    best, result = float("inf"), 0
    for _ in range(repeats):
        begin = cpu_seconds()
        result = function(path)
        best = min(best, cpu_seconds() - begin)
    return best, result


def raster_ms() -> float:
    """Return milliseconds for a 1,024 x 1,088 nprint to a raster and back."""
    nprint = np.random.default_rng(0).integers(-1, 2, (1024, 1088)).astype(np.int8)
    from_rgb(to_rgb(nprint))
    best = float("inf")
    for _ in range(10):
        begin = time.process_time()
        back, _ = from_rgb(to_rgb(nprint))
        best = min(best, time.process_time() - begin)
    assert (back == nprint).all()
    return best * 1e3


def first_use_seconds(path: Path) -> float:
    """Return the seconds of a first capture in a process with an empty compilation cache."""
    code = "import sys; sys.argv[0] = sys.argv[1]; from pathlib import Path; "
    code += f"sys.path.insert(0, {str(HERE)!r}); import codec; codec.to_default(Path(sys.argv[1]))"
    with tempfile.TemporaryDirectory() as cache:
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "NUMBA_CACHE_DIR": cache}, check=True,
        )  # fmt: skip
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captures", type=Path, nargs="+", default=[HERE.parent / "samples"])
    parser.add_argument("--packets", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    captures, _ = captures_in(tuple(options.captures))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joined.pcap"
        num_packets = joined_capture(captures, options.packets, path)
        size_mb = path.stat().st_size / 1e6
        print(f"{num_packets:,} packets, {size_mb:,.0f} MB, of {len(captures)} captures\n")
        first_use = first_use_seconds(captures[0])
        jobs: dict[str, Callable[[Path], int]] = {
            "record scan, headers located": scan,
            "capture to stateful int8, flows assembled": to_default,
            "capture to .nprint text": to_text,
            "dpkt, every layer it knows, in a loop": with_dpkt,
        }
        if shutil.which("tcpdump"):
            jobs["tcpdump -r -w /dev/null"] = command(
                ["tcpdump", "-r", "CAPTURE", "-w", "/dev/null"]
            )
        if shutil.which("tshark"):
            jobs["tshark -n, summary lines"] = command(["tshark", "-n", "-r", "CAPTURE"])
        for function in (scan, to_default, to_text):
            function(captures[0])
        results = []
        for name, function in jobs.items():
            slow = name.startswith(("dpkt", "tshark"))
            seconds, _ = measure(function, path, 1 if slow else options.repeats)
            results.append({
                "job": name, "cpu_s": seconds, "packets_per_cpu_s": num_packets / seconds,
                "target": TARGETS.get(name),
            })  # fmt: skip
    raster = raster_ms()
    print(f"{'job':42} {'CPU s':>8} {'packets / CPU s':>16} {'target':>12}")
    for r in results:
        target = f"{r['target']:,.0f}" if r["target"] else ""
        print(f"{r['job']:42} {r['cpu_s']:8.3f} {r['packets_per_cpu_s']:16,.0f} {target:>12}")
    print(f"\n1,024 x 1,088 nprint to raster and back: {raster:.2f} ms (target: under 10)")
    print(f"first use, empty compilation cache: {first_use:.1f} s")
    OUT.mkdir(exist_ok=True)
    (OUT / "codec.json").write_text(json.dumps({
        "num_packets": num_packets, "size_mb": size_mb, "results": results, "raster_ms": raster,
        "first_use_s": first_use,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
